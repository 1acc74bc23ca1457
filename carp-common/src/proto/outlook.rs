//! The next decision of a virtual host, as things stand.
//!
//! This is for status output, which must not repeat the rules. Everything here comes from the timers that are set and from
//! the comparisons that decide the election.

use crate::time::Duration;
use crate::units::{AdvBase, AdvSkew, Priority};

use super::Reason;
use super::election::{BackupDecision, MasterDecision};

/// The next decision in the current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// In INIT: the host becomes BACKUP when nothing is lacking any more.
    Start {
        /// The first thing that is lacking.
        lacks: Lack,
    },
    /// In BACKUP: the host becomes MASTER after some time, or at once because of an advertisement.
    TakeOver {
        /// Time until it takes over if it hears no advertisement that prevents that.
        after: Duration,
        /// The reason for that takeover.
        reason: Reason,
        /// Time for which it does not take over at all, because an operator stepped it down.
        held: Duration,
        /// The kind of MASTER that it takes over from although that one advertises; `None` if there is none.
        at_once: Option<AtOnce>,
        /// The decision about the host that it heard last, if that one advertised the same again.
        heard: Option<BackupDecision>,
    },
    /// In MASTER: the host becomes BACKUP when a better host advertises.
    Yield {
        /// It yields to every MASTER with a better priority than this. A MASTER with the same priority may win the tie.
        better_than: Priority,
        /// The decision about the host that it heard last, if that one advertised the same again.
        heard: Option<MasterDecision>,
    },
}

/// A precondition that a virtual host in INIT waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A link that is up.
    Link,
    /// A kernel side that works and delivers advertisements.
    Datapath,
    /// A source address in a family that has virtual addresses.
    Source,
    /// The virtual host was shut down and never leaves INIT.
    Stopped,
}

/// The kind of MASTER that a BACKUP takes over from although that one advertises, provided that both have the same demotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtOnce {
    /// The worst priority with which a MASTER stays MASTER. It is replaced with any worse one.
    pub above: Priority,
    /// The decision about a MASTER with the next worse priority.
    pub decision: BackupDecision,
}

/// Returns the best priority for which `holds` is true. It must be true for every worse priority as well.
pub(super) fn best(holds: impl Fn(Priority) -> bool) -> Option<Priority> {
    let (mut best, mut end) = (0, u32::from(u16::MAX) + 1);
    while best < end {
        let middle = best.midpoint(end);
        if holds(of_rank(middle)?) {
            end = middle;
        } else {
            best = middle + 1;
        }
    }
    of_rank(best)
}

/// Returns the next better priority.
pub(super) fn next_better(priority: Priority) -> Option<Priority> {
    let rank = u16::from_be_bytes([priority.advbase.0, priority.advskew.0]);
    of_rank(u32::from(rank.checked_sub(1)?))
}

/// Returns the priority with this many better ones.
fn of_rank(rank: u32) -> Option<Priority> {
    let [advbase, advskew] = u16::try_from(rank).ok()?.to_be_bytes();
    Some(Priority {
        advbase: AdvBase(advbase),
        advskew: AdvSkew(advskew),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(advbase: u8, advskew: u8) -> Priority {
        Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        }
    }

    #[test]
    fn the_best_priority_for_which_something_holds_is_found() {
        for wanted in [
            priority(0, 0),
            priority(0, 1),
            priority(0, 255),
            priority(1, 0),
            priority(3, 100),
            priority(255, 254),
            priority(255, 255),
        ] {
            assert_eq!(best(|it| it >= wanted), Some(wanted));
        }
        assert_eq!(best(|_| false), None);
    }

    #[test]
    fn better_priorities_come_one_before_the_other() {
        assert_eq!(next_better(priority(0, 0)), None);
        assert_eq!(next_better(priority(1, 0)), Some(priority(0, 255)));
        assert_eq!(next_better(priority(255, 255)), Some(priority(255, 254)));
    }
}
