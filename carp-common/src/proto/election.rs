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
    /// Byte 4; counts in the OpenBSD profile only.
    pub demotion: Demotion,
}

/// What a BACKUP makes of a valid advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupDecision {
    /// The MASTER is fine: restart its timer.
    Stay,
    /// Take over: we preempt, and it is worse.
    PreemptWorse,
    /// Take over: it is more demoted than we are (OpenBSD).
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
    profile: Profile,
) -> BackupDecision {
    let demotion = compare_demotion(ours, theirs, profile);
    if preempt && ours.priority < theirs.priority && demotion != Ordering::Greater {
        BackupDecision::PreemptWorse
    } else if demotion == Ordering::Less {
        BackupDecision::PreemptMoreDemoted
    } else if will_time_out(ours.priority, theirs.priority, deadratio) {
        BackupDecision::MasterWillTimeOut
    } else {
        BackupDecision::Stay
    }
}

/// Whether the advertiser's interval is longer than we are going to wait. With our advbase 0 every peer's would be.
fn will_time_out(ours: Priority, theirs: Priority, deadratio: DeadRatio) -> bool {
    let patience = u16::from(ours.advbase.0) * u16::from(deadratio.get());
    ours.advbase != AdvBase(0)
        && (patience, ours.advskew) < (u16::from(theirs.advbase.0), theirs.advskew)
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
    let ranking = compare_demotion(ours, theirs, profile).then(ours.priority.cmp(&theirs.priority));
    match ranking {
        Ordering::Less => MasterDecision::Stay,
        Ordering::Greater => MasterDecision::YieldToBetter,
        Ordering::Equal if tie.is_won(profile) => MasterDecision::Stay,
        Ordering::Equal => MasterDecision::YieldOnTie,
    }
}

/// Less demoted is less. Only the OpenBSD profile looks at the byte.
fn compare_demotion(ours: Advertiser, theirs: Advertiser, profile: Profile) -> Ordering {
    match profile {
        Profile::OpenBsd => ours.demotion.cmp(&theirs.demotion),
        Profile::Ucarp | Profile::FreeBsd => Ordering::Equal,
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
