//! The state changes of a virtual host in words: which are said, since when it has its state, and why.

use std::time::Duration;

use carp_common::proto::{Notice, Reason, Transition, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::State;
use tracing::{error, info, warn};

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::{Identity, Instance};
use crate::log;

/// Transitions of one virtual host that are logged within [`TRANSITIONS_WINDOW`]. Nobody reads more; and beside an OpenBSD
/// a stranger who captured one advertisement can cause as many as he likes.
const TRANSITIONS_MAX: u32 = 60;
const TRANSITIONS_WINDOW: Duration = Duration::from_secs(60);

/// Which of a virtual host's transitions are said.
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

/// Why a virtual host is in INIT although its link is up.
pub const DEAF: &str = "advertisements cannot be received";

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
    fn note(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        transition: Transition,
        now: Instant,
    ) {
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
            warn!(
                "{}: nobody took over after SIGUSR2: no host had the address for {:.1} s",
                who.label,
                now.saturating_duration_since(left).as_secs_f64()
            );
        }
    }
}

impl Instance {
    /// ucarp's line, which people grep for, and why.
    pub(super) fn report<E: Effects>(&mut self, transition: Transition, site: &Site<'_, E>) {
        let now = site.cx.now;
        self.story.note(&self.who, &self.machine, transition, now);
        let reason = self.reason(transition.reason, site.interface);
        let Some(suppressed) = self.story.transitions.admit(now) else {
            return;
        };
        let interface = &site.interface.current_name;
        let vhid = self.who.config.election.vhid;
        info!(target: log::NOTICE, %interface, %vhid, from = %transition.from, reason, suppressed,
            "Switching to state: {}", transition.to);
    }

    /// Why it is in the state that it is in. Where its interface is gone or a port, or it is deaf, the core heard of a
    /// link that is down.
    pub fn reason(&self, reason: Reason, interface: &Interface) -> &'static str {
        let is_link = reason == Reason::LinkDown;
        if is_link && interface.ifindex.is_none() {
            "the interface is gone"
        } else if is_link && interface.upper.is_some() {
            "the interface is a port of another one"
        } else if is_link && self.is_deaf(interface) {
            DEAF
        } else if reason == Reason::NoSourceAddress && self.lacks_fixed_source() {
            "the --srcip address is gone"
        } else {
            self::reason(reason)
        }
    }
}

/// Says something that is not a transition; rate-limited by the core.
pub fn say(label: &str, notice: Notice) {
    match notice {
        Notice::BadDigest { source, suppressed } => warn!(
            suppressed,
            "Bad digest - {label}: advertisement from {source}. Check vhid, password and virtual IP address"
        ),
        Notice::EqualSettings { source } => warn!(
            "{label}: {source} advertises the same advbase and advskew; give the hosts different ones, so that \
             it is clear who is to be MASTER"
        ),
        Notice::OwnEcho { source, suppressed } => warn!(
            suppressed,
            "{label}: our own advertisement came back (source {source}): the switch, bond or bridge reflects it, \
             somebody replays it, or another host sends from our address"
        ),
        Notice::WorseMasterAdvertised { source, suppressed } => {
            warn!(
                suppressed,
                "{label}: {source} is MASTER too, with a worse priority; we stay"
            );
        }
        Notice::Tampered { source, suppressed } => warn!(
            suppressed,
            "{label}: an advertisement from {source} was altered on its way or replayed with another priority"
        ),
        Notice::StaleCounter { source, suppressed } => {
            warn!(
                suppressed,
                "{label}: replayed advertisement, source {source}: its counter did not rise"
            );
        }
        Notice::Unproven { source, suppressed } => warn!(
            suppressed,
            "{label}: took over although {source} advertises: its counters were heard before, so it may be a \
             recording of a dead MASTER; a living one that is better answers, and this host yields"
        ),
        Notice::Unanswered { source, suppressed } => warn!(
            suppressed,
            "{label}: {source} claims to be a better MASTER and does not answer our advertisements: a recording, or \
             a host that does not hear this one"
        ),
        Notice::Suppressed => {
            error!(
                "{label}: advertisements cannot be sent: advertising a worse priority until they can"
            );
        }
        Notice::Unsuppressed => info!("{label}: advertisements can be sent again"),
    }
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Started => "link and source address are there",
        Reason::MasterTimedOut => "no MASTER was heard for the master-down time",
        Reason::PreemptingWorseMaster => "preempting a worse MASTER",
        Reason::PreemptingMoreDemotedMaster => "preempting a more demoted MASTER",
        Reason::MasterWillTimeOut => "the MASTER bowed out or advertises too rarely",
        Reason::BetterMasterAdvertised => "a better MASTER advertised",
        Reason::TieLost => "an equal MASTER advertised and won the tie",
        Reason::Requested => "SIGUSR2 asked for it",
        Reason::LinkDown => "link down",
        Reason::NoSourceAddress => "no source address",
        Reason::Shutdown => "shutting down",
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
