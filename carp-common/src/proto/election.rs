//! The comparison of two advertisers, as pure functions.
//!
//! Source: OpenBSD `ip_carp.c` r1.370 and FreeBSD 14 `ip_carp.c`,
//! `carp_input_c`; ucarp 1.5.2 `carp.c`, `packethandler`.

use core::cmp::Ordering;
use core::net::IpAddr;

use crate::units::{AdvBase, DeadRatio, Demotion, Priority, Profile};

/// One side of the comparison, as it advertises itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertiser {
    /// The advertised advbase and advskew.
    pub priority: Priority,
    /// OpenBSD's demotion, in byte 4. ucarp and FreeBSD always send 0.
    pub demotion: Demotion,
}

/// The decision of a BACKUP about a valid advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupDecision {
    /// The MASTER stays, and its timer is restarted.
    Stay,
    /// Take over, because we preempt and the MASTER is worse.
    PreemptWorse,
    /// Take over, because the MASTER is more demoted than we are.
    PreemptMoreDemoted,
    /// Take over, because the MASTER is going to time out. Every BACKUP on the link decides so at the same moment.
    MasterWillTimeOut,
}

/// Returns the decision of a BACKUP.
///
/// `deadratio` is the configured one. `ours` is what this host would advertise, with its demotion.
#[must_use]
pub fn as_backup(
    ours: Advertiser,
    theirs: Advertiser,
    preempt: bool,
    deadratio: DeadRatio,
) -> BackupDecision {
    let demotion = ours.demotion.cmp(&theirs.demotion);
    let will_time_out = will_time_out(ours.priority, theirs.priority, deadratio);
    if will_time_out && theirs.priority == Priority::BOW_OUT {
        // This also applies with preemption, because after a bow-out the hosts take over in the order of their rank.
        BackupDecision::MasterWillTimeOut
    } else if preempt && ours.priority < theirs.priority && demotion != Ordering::Greater {
        BackupDecision::PreemptWorse
    } else if demotion == Ordering::Less {
        BackupDecision::PreemptMoreDemoted
    } else if will_time_out {
        BackupDecision::MasterWillTimeOut
    } else {
        BackupDecision::Stay
    }
}

/// Returns whether the advertiser's interval is longer than we wait. With advbase 0 here every peer's interval would be longer,
/// so only an explicit bow-out counts then.
fn will_time_out(ours: Priority, theirs: Priority, deadratio: DeadRatio) -> bool {
    if ours.advbase == AdvBase(0) {
        return theirs == Priority::BOW_OUT;
    }
    let patience = u16::from(ours.advbase.0) * u16::from(deadratio.get());
    (patience, ours.advskew) < (u16::from(theirs.advbase.0), theirs.advskew)
}

/// The decision of a MASTER about a valid advertisement of another MASTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterDecision {
    /// Stay and reassert, because we are better or won the tie.
    Stay,
    /// Yield, because the other one is better.
    YieldToBetter,
    /// Yield, because the other one is equal and won the tie.
    YieldOnTie,
}

/// Returns the decision of a MASTER.
#[must_use]
pub fn as_master(
    ours: Advertiser,
    theirs: Advertiser,
    tie: Tie,
    profile: Profile,
) -> MasterDecision {
    let ranking = (ours.demotion, ours.priority).cmp(&(theirs.demotion, theirs.priority));
    match ranking {
        Ordering::Less => MasterDecision::Stay,
        Ordering::Greater => MasterDecision::YieldToBetter,
        Ordering::Equal if tie.is_won(profile) => MasterDecision::Stay,
        Ordering::Equal => MasterDecision::YieldOnTie,
    }
}

/// The values that decide between equal advertisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// Our source address in the family of the advertisement; `None` if there is none.
    pub ours: Option<IpAddr>,
    /// The source of the advertisement.
    pub theirs: IpAddr,
    /// Whether we serve addresses of both families and the advertisement is an IPv6 one. The two families could have
    /// different winners, so that each host yields to the other. Therefore IPv4 alone decides.
    pub inet_decides: bool,
    /// Whether we can send in IPv4.
    pub inet_works: bool,
}

impl Tie {
    /// Returns whether we stay MASTER. The BSDs never do. Among ucarps the host with the lower source address does.
    ///
    /// Without two different sources to compare, each host yields to the first one that it hears, as the BSDs do.
    #[must_use]
    pub fn is_won(self, profile: Profile) -> bool {
        match profile {
            Profile::FreeBsd | Profile::OpenBsd => false,
            Profile::Ucarp if self.inet_decides => self.inet_works,
            Profile::Ucarp => match (self.ours, self.theirs) {
                (Some(IpAddr::V4(ours)), IpAddr::V4(theirs)) => raw_word(ours) < raw_word(theirs),
                (Some(IpAddr::V6(ours)), IpAddr::V6(theirs)) => ours < theirs,
                (Some(IpAddr::V4(_) | IpAddr::V6(_)) | None, _) => false,
            },
        }
    }
}

/// Returns an address as the number that ucarp compares. It compares `s_addr` as it is in memory, so on little-endian hosts the
/// *last* octet counts most. carpd does the same on hosts of every byte order.
fn raw_word(address: core::net::Ipv4Addr) -> u32 {
    u32::from_le_bytes(address.octets())
}

#[cfg(test)]
mod tests {
    use super::BackupDecision::{MasterWillTimeOut, PreemptMoreDemoted, PreemptWorse};
    use super::*;
    use crate::units::AdvSkew;

    const UCARP: Profile = Profile::Ucarp;
    const FREEBSD: Profile = Profile::FreeBsd;
    const OPENBSD: Profile = Profile::OpenBsd;

    fn advertiser((advbase, advskew, demotion): (u8, u8, u8)) -> Advertiser {
        let priority = Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        };
        Advertiser {
            priority,
            demotion: Demotion(demotion),
        }
    }

    #[test]
    fn a_backup_decides_by_the_table() {
        const STAY: BackupDecision = BackupDecision::Stay;
        // The columns are ours, theirs, and the decisions without and with preemption.
        let table = [
            ((1, 100, 0), (1, 50, 0), STAY, STAY),
            ((1, 100, 0), (1, 100, 0), STAY, STAY),
            ((1, 100, 0), (1, 101, 0), STAY, PreemptWorse),
            ((1, 100, 0), (2, 0, 0), STAY, PreemptWorse),
            // Demotion outranks everything else in every profile.
            (
                (1, 100, 0),
                (1, 50, 1),
                PreemptMoreDemoted,
                PreemptMoreDemoted,
            ),
            ((1, 100, 0), (1, 200, 1), PreemptMoreDemoted, PreemptWorse),
            ((1, 100, 1), (1, 200, 0), STAY, STAY),
            ((1, 100, 1), (1, 200, 1), STAY, PreemptWorse),
            // Patience ends at deadratio * advbase, advskew.
            ((1, 100, 0), (3, 100, 0), STAY, PreemptWorse),
            ((1, 100, 0), (3, 101, 0), MasterWillTimeOut, PreemptWorse),
            ((1, 100, 0), (4, 0, 0), MasterWillTimeOut, PreemptWorse),
            (
                (1, 100, 0),
                (255, 255, 0),
                MasterWillTimeOut,
                MasterWillTimeOut,
            ),
            (
                (1, 100, 9),
                (255, 255, 0),
                MasterWillTimeOut,
                MasterWillTimeOut,
            ),
            (
                (84, 255, 0),
                (255, 255, 0),
                MasterWillTimeOut,
                MasterWillTimeOut,
            ),
            (
                (85, 254, 0),
                (255, 255, 0),
                MasterWillTimeOut,
                MasterWillTimeOut,
            ),
            ((85, 255, 0), (255, 255, 0), STAY, PreemptWorse),
            ((255, 0, 0), (255, 255, 0), STAY, PreemptWorse),
            // With advbase 0 every other host would look too slow.
            ((0, 100, 0), (1, 0, 0), STAY, PreemptWorse),
            (
                (0, 100, 0),
                (255, 255, 0),
                MasterWillTimeOut,
                MasterWillTimeOut,
            ),
        ];
        for (ours, theirs, patient, preempting) in table {
            for (preempt, expected) in [(false, patient), (true, preempting)] {
                let (a, b) = (advertiser(ours), advertiser(theirs));
                let decision = as_backup(a, b, preempt, DeadRatio::default());
                assert_eq!(decision, expected, "{ours:?} {theirs:?} {preempt}");
            }
        }
    }

    #[test]
    fn patience_grows_with_deadratio() {
        let (ours, theirs) = (advertiser((1, 0, 0)), advertiser((5, 0, 0)));
        for (deadratio, expected) in [
            (1, MasterWillTimeOut),
            (4, MasterWillTimeOut),
            (5, BackupDecision::Stay),
        ] {
            let deadratio = DeadRatio::new(deadratio).unwrap();
            assert_eq!(
                as_backup(ours, theirs, false, deadratio),
                expected,
                "{deadratio:?}"
            );
        }
    }

    fn tie(ours: Option<&str>, theirs: &str) -> Tie {
        Tie {
            ours: ours.map(|text| text.parse().unwrap()),
            theirs: theirs.parse().unwrap(),
            inet_decides: false,
            inet_works: true,
        }
    }

    #[test]
    fn a_master_decides_by_the_table() {
        use MasterDecision::{Stay, YieldOnTie, YieldToBetter};
        // The columns are ours, theirs, and the decisions of ucarp with the lower and the higher address, FreeBSD, OpenBSD.
        let table = [
            ((1, 100, 0), (1, 99, 0), [YieldToBetter; 4]),
            ((1, 0, 0), (0, 255, 0), [YieldToBetter; 4]),
            ((1, 100, 0), (1, 101, 0), [Stay; 4]),
            ((1, 255, 0), (2, 0, 0), [Stay; 4]),
            ((1, 100, 0), (255, 255, 0), [Stay; 4]),
            (
                (1, 100, 0),
                (1, 100, 0),
                [Stay, YieldOnTie, YieldOnTie, YieldOnTie],
            ),
            ((1, 100, 0), (1, 50, 1), [Stay; 4]),
            ((1, 100, 0), (1, 100, 1), [Stay; 4]),
            ((1, 100, 1), (1, 200, 0), [YieldToBetter; 4]),
            ((1, 100, 1), (1, 100, 0), [YieldToBetter; 4]),
            (
                (1, 100, 1),
                (1, 100, 1),
                [Stay, YieldOnTie, YieldOnTie, YieldOnTie],
            ),
            ((1, 100, 1), (1, 50, 1), [YieldToBetter; 4]),
        ];
        let lower = tie(Some("10.0.0.1"), "10.0.0.2");
        let higher = tie(Some("10.0.0.2"), "10.0.0.1");
        for (ours, theirs, expected) in table {
            let columns = [
                (lower, UCARP),
                (higher, UCARP),
                (lower, FREEBSD),
                (lower, OPENBSD),
            ];
            for ((tie, profile), expected) in columns.into_iter().zip(expected) {
                let decision = as_master(advertiser(ours), advertiser(theirs), tie, profile);
                assert_eq!(
                    decision, expected,
                    "{ours:?} {theirs:?} {tie:?} {profile:?}"
                );
            }
        }
    }

    #[test]
    fn two_ucarps_agree_who_stays_and_the_last_octet_counts_most() {
        for (winner, loser) in [
            ("10.9.0.1", "10.9.0.2"),
            ("10.9.1.0", "10.9.0.1"),
            ("200.0.0.1", "1.0.0.2"),
            ("10.8.0.1", "10.9.0.1"),
            ("fe80::1", "fe80::2"),
            ("fe80::1:2", "fe80::2:1"),
        ] {
            assert!(tie(Some(winner), loser).is_won(UCARP), "{winner} {loser}");
            assert!(!tie(Some(loser), winner).is_won(UCARP), "{loser} {winner}");
            for profile in [FREEBSD, OPENBSD] {
                assert!(
                    !tie(Some(winner), loser).is_won(profile),
                    "{winner} {loser}"
                );
            }
        }
    }

    #[test]
    fn without_a_difference_in_address_everybody_yields() {
        assert!(!tie(Some("10.9.0.1"), "10.9.0.1").is_won(UCARP));
        assert!(!tie(Some("fe80::1"), "fe80::1").is_won(UCARP));
        assert!(!tie(None, "10.9.0.1").is_won(UCARP));
        assert!(!tie(Some("fe80::1"), "10.9.0.1").is_won(UCARP));
    }

    #[test]
    fn in_a_dual_stack_group_ipv4_alone_decides_a_tie() {
        for (ours, theirs) in [("fe80::1", "fe80::2"), ("fe80::2", "fe80::1")] {
            let dual = Tie {
                inet_decides: true,
                ..tie(Some(ours), theirs)
            };
            assert!(
                dual.is_won(UCARP),
                "the IPv4 advertisement is going to decide"
            );
            assert!(
                !Tie {
                    inet_works: false,
                    ..dual
                }
                .is_won(UCARP),
                "we cannot serve all of it"
            );
            assert!(!dual.is_won(FREEBSD));
        }
    }
}
