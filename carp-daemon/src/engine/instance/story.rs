//! The state changes of a virtual host: which are told, since when it has its state, and why.

use std::time::Duration;

use carp_common::proto::{Reason, Transition, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::State;

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::{Identity, Instance};
use crate::api::event::election::{Cause, Election};

/// Transitions of one virtual host that are logged within [`TRANSITIONS_WINDOW`]. Nobody reads more; and beside an OpenBSD
/// a stranger who captured one advertisement can cause as many as he likes.
const TRANSITIONS_MAX: u32 = 60;
const TRANSITIONS_WINDOW: Duration = Duration::from_secs(60);

/// Which of a virtual host's transitions are told.
#[derive(Debug, Default)]
struct Transitions {
    window_ends: Instant,
    said: u32,
    suppressed: u64,
}

impl Transitions {
    /// `Some` when this one may be said, with the number that were not since the last one that was.
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

/// What became of a virtual host so far.
#[derive(Debug)]
pub struct Story {
    transitions: Transitions,
    /// Since when it has its state.
    pub since: Instant,
    /// Why; `None`: it has just been made.
    pub reason: Option<Reason>,
    /// When an operator last made it step down as MASTER, until that has ended.
    stepped_down: Option<Instant>,
}

impl Story {
    /// Of a virtual host that has just been made.
    pub fn new(now: Instant) -> Self {
        Self {
            transitions: Transitions::default(),
            since: now,
            reason: None,
            stepped_down: None,
        }
    }

    /// An operator makes a MASTER step down.
    pub const fn step_down(&mut self, now: Instant) {
        self.stepped_down = Some(now);
    }

    /// Remembers why, and warns of an interruption that an operator caused.
    fn note<E: Effects>(
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
        // In INIT there is another cause for the interruption.
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

impl Instance {
    /// Tells of a change of state, unless there are too many.
    pub(super) fn report<E: Effects>(&mut self, transition: Transition, site: &mut Site<'_, E>) {
        self.story.note(&self.who, &self.machine, transition, site);
        let Transition { from, to, reason } = transition;
        let cause = self.cause(reason, site.interface);
        if let Some(suppressed) = self.story.transitions.admit(site.cx.now) {
            let changed = Election::StateChanged { from, to, cause };
            site.cx.tell_after(suppressed, &self.who.place, changed);
        }
    }

    /// Why it is in the state that it is in. Where its interface is gone or a port, or it is deaf, the core heard of a
    /// link that is down.
    pub fn cause(&self, reason: Reason, interface: &Interface) -> Cause {
        let is_link = reason == Reason::LinkDown;
        if is_link && interface.ifindex.is_none() {
            Cause::InterfaceGone
        } else if is_link && interface.upper.is_some() {
            Cause::PortOfAnother
        } else if is_link && self.is_deaf(interface) {
            Cause::Deaf
        } else if reason == Reason::NoSourceAddress && self.lacks_fixed_source() {
            Cause::FixedSourceGone
        } else {
            Cause::Election(reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::registry::Registry;
    use super::*;
    use crate::config::example::plain;

    #[test]
    fn the_cause_is_what_is_behind_a_link_that_is_down() {
        let mut registry = Registry::default();
        let place = registry.segment();
        let id = registry.enter(place);
        let instance = Instance::new(id, plain("eth0", 7), 1, Instant::ZERO);
        let mut interface = Interface::new("eth0".to_owned());
        let cause = |interface: &Interface, reason| instance.cause(reason, interface);
        let down = Reason::LinkDown;
        assert_eq!(cause(&interface, down), Cause::InterfaceGone);
        interface.ifindex = Some(2);
        assert_eq!(cause(&interface, down), Cause::Election(down));
        interface.hearing.lost = true;
        assert_eq!(cause(&interface, down), Cause::Deaf);
        interface.upper = Some(3);
        assert_eq!(cause(&interface, down), Cause::PortOfAnother);
        for reason in [Reason::Shutdown, Reason::NoSourceAddress] {
            assert_eq!(cause(&interface, reason), Cause::Election(reason));
        }
    }

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
