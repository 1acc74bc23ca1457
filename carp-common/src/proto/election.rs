//! Pure comparison of two advertisers.
//!
//! Source: OpenBSD `ip_carp.c` r1.370 and FreeBSD 14 `ip_carp.c`,
//! `carp_input_c`; ucarp 1.5.2 `carp.c`, `packethandler`.

use core::cmp::Ordering;
use core::net::IpAddr;

use crate::units::{AdvBase, DeadRatio, Demotion, Priority, Profile};

/// One side of the comparison, as it advertises itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertiser {
    /// How often it advertises.
    pub priority: Priority,
    /// Byte 4: OpenBSD's demotion. ucarp and FreeBSD always send 0.
    pub demotion: Demotion,
}

/// What a BACKUP makes of a valid advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupDecision {
    /// The MASTER is fine: restart its timer.
    Stay,
    /// Take over: we preempt, and it is worse.
    PreemptWorse,
    /// Take over: it is more demoted than we are.
    PreemptMoreDemoted,
    /// Take over: it is going to time out. Every backup on the link finds so at the same moment.
    MasterWillTimeOut,
}

/// The rules of a BACKUP.
///
/// `deadratio` is the configured one; `ours` is what we would advertise, demotion included.
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
        // Even if we preempt: everybody's turn comes by rank.
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

/// Whether the advertiser's interval is longer than we are going to wait. With our advbase 0 every peer's would be, and
/// only an explicit bow-out counts.
fn will_time_out(ours: Priority, theirs: Priority, deadratio: DeadRatio) -> bool {
    if ours.advbase == AdvBase(0) {
        return theirs == Priority::BOW_OUT;
    }
    let patience = u16::from(ours.advbase.0) * u16::from(deadratio.get());
    (patience, ours.advskew) < (u16::from(theirs.advbase.0), theirs.advskew)
}

/// What a MASTER makes of another MASTER's valid advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterDecision {
    /// Ours is better, or won the tie: stay and reassert.
    Stay,
    /// Theirs is better.
    YieldToBetter,
    /// Equal, and theirs won.
    YieldOnTie,
}

/// The rules of a MASTER.
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

/// What decides between equal advertisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// Our source address in the family of the advertisement, if we have one.
    pub ours: Option<IpAddr>,
    /// The source of the advertisement.
    pub theirs: IpAddr,
    /// We serve IPv4 addresses as well as the IPv6 ones, and this is about an IPv6 advertisement. The two families
    /// could name different winners, so that each host yields to the other: then IPv4 alone decides.
    pub inet_decides: bool,
    /// We can send in IPv4.
    pub inet_works: bool,
}

impl Tie {
    /// Whether we stay MASTER. The BSDs never do; ucarp keeps the lower source address.
    ///
    /// Without a source to compare, or with the same one, everybody yields to whom it hears first, as the BSDs do.
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

/// ucarp compares `s_addr` as it lies in memory, so on the little-endian hosts that run it the *last* octet counts
/// most. We agree with them, whatever our own byte order.
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
        // Ours, theirs; then without and with preemption.
        let table = [
            ((1, 100, 0), (1, 50, 0), STAY, STAY),
            ((1, 100, 0), (1, 100, 0), STAY, STAY),
            ((1, 100, 0), (1, 101, 0), STAY, PreemptWorse),
            ((1, 100, 0), (2, 0, 0), STAY, PreemptWorse),
            // Demotion outranks everything, whoever reads it.
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
            // With advbase 0 everybody would look too slow.
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
        // Ours, theirs; then ucarp with the lower address, ucarp with the higher, FreeBSD, OpenBSD.
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
