//! The MASTER that we would not take over from, and whether it lives.

use super::Origin;
use super::per_family::PerFamily;
use crate::time::Instant;
use crate::units::{Family, Priority};
use core::net::IpAddr;

/// The MASTER in each family that we would not take over from, and until when it need not be heard again.
///
/// While it lives, it deals with a worse MASTER itself. The worse one is about to yield to it and, as ucarp does, sends a last
/// advertisement then. Neither that advertisement nor a bow-out of the worse MASTER may make every BACKUP that preempts
/// take over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BetterMaster(PerFamily<Option<Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    source: IpAddr,
    priority: Priority,
    /// The time at which its next advertisement is due.
    until: Instant,
}

impl BetterMaster {
    /// Remembers a MASTER that advertised, and when it will again.
    pub(super) fn heard(&mut self, family: Family, origin: Origin, priority: Priority) {
        self.0[family] = Some(Known {
            source: origin.source,
            priority,
            until: origin.arrival + priority.interval(),
        });
    }

    /// Returns whether `source` is that MASTER, and its priority is better than `ours`.
    pub(super) fn is(&self, family: Family, source: IpAddr, ours: Priority) -> bool {
        self.0[family].is_some_and(|known| known.source == source && known.priority < ours)
    }

    /// Returns whether it lives while another host advertises. Its own advertisements always count.
    pub(super) fn lives(&self, family: Family, other: Origin) -> bool {
        self.0[family]
            .is_some_and(|known| other.source != known.source && other.arrival < known.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use crate::units::{AdvBase, AdvSkew};
    use core::net::Ipv4Addr;

    fn from(last: u8, millis: u64) -> Origin {
        Origin {
            source: IpAddr::V4(Ipv4Addr::new(10, 9, 0, last)),
            ethernet_source: [0; 6],
            arrival: Instant::ZERO + Duration::from_millis(millis),
        }
    }

    #[test]
    fn a_better_master_lives_for_its_interval_in_its_family_and_against_others() {
        let priority = Priority {
            advbase: AdvBase(1),
            advskew: AdvSkew(128),
        };
        let mut better = BetterMaster::default();
        assert!(!better.lives(Family::Inet, from(2, 0)));
        better.heard(Family::Inet, from(1, 1000), priority);
        assert!(better.lives(Family::Inet, from(2, 1000)));
        assert!(better.lives(Family::Inet, from(2, 2499)));
        assert!(!better.lives(Family::Inet, from(2, 2500)));
        assert!(!better.lives(Family::Inet, from(1, 1001)), "itself");
        assert!(!better.lives(Family::Inet6, from(2, 1000)));
        let advskew = AdvSkew(129);
        let ours = Priority {
            advskew,
            ..priority
        };
        assert!(better.is(Family::Inet, from(1, 0).source, ours));
        assert!(!better.is(Family::Inet, from(1, 0).source, priority));
        assert!(!better.is(Family::Inet, from(2, 0).source, ours));
        assert!(!better.is(Family::Inet6, from(1, 0).source, ours));
    }
}
