//! The state changes of a virtual host: which ones are logged, the time of the last one, and its reason.

use std::time::Duration;

use carp_common::proto::{Reason, Transition, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::State;

use super::super::context::Site;
use super::super::effects::Effects;
use super::identity::Identity;
use crate::api::event::election::Election;

/// The number of transitions of one virtual host that are logged within [`TRANSITIONS_WINDOW`]. Nobody reads more, and
/// in a group with an OpenBSD, a stranger who captured one advertisement can cause any number.
const TRANSITIONS_MAX: u32 = 60;
const TRANSITIONS_WINDOW: Duration = Duration::from_secs(60);

/// Limits the transitions of a virtual host that are logged.
#[derive(Debug, Default)]
struct Transitions {
    window_ends: Instant,
    said: u32,
    suppressed: u64,
}

impl Transitions {
    /// Returns `Some` if this transition may be logged, with the number of those that were suppressed before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now >= self.window_ends {
            self.window_ends = now + TRANSITIONS_WINDOW;
            self.said = 0;
        }
        if self.said == TRANSITIONS_MAX {
            self.suppressed += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// The history of a virtual host.
#[derive(Debug)]
pub struct Story {
    transitions: Transitions,
    /// The time of the last change of its state.
    pub since: Instant,
    /// The reason of that change. `None` before the first one.
    pub reason: Option<Reason>,
    /// When an operator last made it step down as MASTER, until the consequences have ended.
    stepped_down: Option<Instant>,
}

impl Story {
    /// Returns the history of a new virtual host.
    pub fn new(now: Instant) -> Self {
        Self {
            transitions: Transitions::default(),
            since: now,
            reason: None,
            stepped_down: None,
        }
    }

    /// Returns `Some` if a change may be logged, with the number of those that were suppressed before it.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        self.transitions.admit(now)
    }

    /// Notes that an operator makes it step down for so long. Warns about a MASTER that never heard another host.
    pub fn step_down<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        hold: Duration,
        site: &mut Site<'_, E>,
    ) {
        if machine.state() != State::Master {
            return;
        }
        self.stepped_down = Some(site.cx.now);
        if machine.last_heard().is_none() {
            let lasts = hold + machine.master_down_time();
            let alone = Election::SteppingDownAlone { lasts };
            site.cx.tell(&who.place, alone);
        }
    }

    /// Remembers the reason, and warns about an interruption that an operator caused.
    pub fn note<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        transition: Transition,
        site: &mut Site<'_, E>,
    ) {
        let now = site.cx.now;
        self.since = now;
        self.reason = Some(transition.reason);
        if transition.to == State::Backup {
            return;
        }
        // In INIT, the interruption has another cause.
        if let Some(left) = self.stepped_down.take()
            && transition.to == State::Master
            && machine
                .last_heard()
                .is_none_or(|heard| heard.arrival < left)
        {
            let lasted = now.saturating_duration_since(left);
            site.cx
                .tell(&who.place, Election::NobodyTookOver { lasted });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_transitions_is_said_in_part_and_counted() {
        let mut transitions = Transitions::default();
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let said = (0..1000)
            .filter(|_| transitions.admit(at(5)).is_some())
            .count();
        assert_eq!(said, TRANSITIONS_MAX as usize);
        assert_eq!(transitions.admit(at(64)), None);
        assert_eq!(transitions.admit(at(65)), Some(941));
        assert_eq!(transitions.admit(at(65)), Some(0));
    }
}
