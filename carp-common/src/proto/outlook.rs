//! What a virtual host would do next, as things stand.
//!
//! For status output, which must not repeat the rules: everything here comes from the timers that are set and from the
//! comparisons that decide the election.

use crate::time::Duration;
use crate::units::{AdvBase, AdvSkew, Priority};

use super::Reason;
use super::election::{BackupDecision, MasterDecision};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// INIT: BACKUP as soon as nothing is lacking.
    Start {
        /// What is lacking first.
        lacks: Lack,
    },
    /// BACKUP: MASTER after a while, or at once on account of an advertisement.
    TakeOver {
        /// When it takes over if nothing that counts is heard before.
        after: Duration,
        /// Why it would.
        reason: Reason,
        /// How long it keeps away by an operator's wish, whatever it hears.
        held: Duration,
        /// From which MASTER it takes over although that one advertises; `None`: from none.
        at_once: Option<AtOnce>,
        /// What it makes of the host that it heard last, should that one say the same again.
        heard: Option<BackupDecision>,
    },
    /// MASTER: BACKUP when a better one advertises.
    Yield {
        /// It yields to every MASTER with a better priority than this. An equal one may have to win the tie.
        better_than: Priority,
        /// What it makes of the host that it heard last, should that one say the same again.
        heard: Option<MasterDecision>,
    },
}

/// What a virtual host in INIT waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A link that is up.
    Link,
    /// A kernel side that delivers advertisements.
    Datapath,
    /// A source address in a family that it has virtual addresses of.
    Source,
    /// Nothing helps: it was shut down.
    Stopped,
}

/// Which MASTER a BACKUP takes over from although that one advertises. The demotion of both is taken to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtOnce {
    /// The worst priority that keeps a MASTER its place: it loses it with any that is worse.
    pub above: Priority,
    /// Why with the next one.
    pub decision: BackupDecision,
}

/// The best priority for which something holds that holds for every worse one too.
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

/// The next better priority.
pub(super) fn next_better(priority: Priority) -> Option<Priority> {
    let rank = u16::from_be_bytes([priority.advbase.0, priority.advskew.0]);
    of_rank(u32::from(rank.checked_sub(1)?))
}

/// The priority that this many others are better than.
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
