//! Events of the election: states, the other hosts of the group, sending, and other stations that use our addresses.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::conflict::Claimant;
use carp_common::proto::{Notice, Reason};
use carp_common::units::State;
use carp_common::wire::ether::MacAddress;

use super::{Event, Place, events};

/// The reason why a virtual host is in its state.
///
/// The core only knows that a link is down or a source is missing. The other reasons are more precise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The core's own reason.
    Election(Reason),
    /// The interface is gone.
    InterfaceGone,
    /// The interface became a port of a bridge, bond or switch.
    PortOfAnother,
    /// The address that `--srcip` names is no longer on this host.
    FixedSourceGone,
}

events! {
    /// States, and the other hosts of the group.
    Election
    /// The state changed.
    StateChanged {
        /// State before.
        from: State,
        /// State after.
        to: State,
        /// Why.
        cause: Cause,
    } => Notice "state-changed",
    /// ucarp's "Bad digest": password, vhid or virtual addresses differ between hosts.
    BadDigest {
        /// The sender.
        source: IpAddr,
    } => Warning "bad-digest",
    /// Another host advertises the same advbase and advskew.
    EqualSettings {
        /// The other host.
        source: IpAddr,
    } => Warning "equal-settings",
    /// An advertisement of ours came back.
    OwnEcho {
        /// The source address that it carried.
        source: IpAddr,
    } => Warning "own-echo",
    /// A worse MASTER advertised while this host is MASTER.
    WorseMaster {
        /// The other MASTER.
        source: IpAddr,
    } => Warning "worse-master",
    /// The priority changed under one replay counter.
    Tampered {
        /// The source address that it carried, which may be forged.
        source: IpAddr,
    } => Warning "advertisement-tampered",
    /// With strict counters: the replay counter did not rise.
    StaleCounter {
        /// The source address that it carried, which may be forged.
        source: IpAddr,
    } => Warning "stale-counter",
    /// This host took over although advertisements arrive, because their counters were heard before.
    Unproven {
        /// The source address that they carried, which may be forged.
        source: IpAddr,
    } => Warning "master-unproven",
    /// Another host claims to be better and does not answer our advertisements.
    Unanswered {
        /// The source address that it carried, which may be forged.
        source: IpAddr,
    } => Warning "challenge-unanswered",
    /// Send errors reached the limit. The virtual host is demoted.
    SendingFails => Error "sending-fails",
    /// Advertisements can be sent again.
    SendingWorks => Info "sending-works",
    /// SIGUSR2 reached a MASTER that never heard another host.
    SteppingDownAlone {
        /// The time that no host has the address unless another one takes over.
        lasts: Duration,
    } => Warning "stepping-down-alone",
    /// No host took over after SIGUSR2.
    NobodyTookOver {
        /// The time for which no host had the address.
        lasted: Duration,
    } => Warning "nobody-took-over",
    /// A virtual host was to begin when the one whose place it takes had ended, and cannot.
    NotServed {
        /// The error.
        error: String,
    } => Error "not-served",
    /// The scripts leave the address on a host that hands over and stops.
    AddressStays => Warning "address-stays",
}

impl Event {
    /// Converts a notice of the core.
    #[must_use]
    pub fn of_notice(place: Place, notice: Notice) -> Self {
        let (what, suppressed) = match notice {
            Notice::BadDigest { source, suppressed } => {
                (Election::BadDigest { source }, suppressed)
            }
            Notice::EqualSettings { source } => (Election::EqualSettings { source }, 0),
            Notice::OwnEcho { source, suppressed } => (Election::OwnEcho { source }, suppressed),
            Notice::WorseMasterAdvertised { source, suppressed } => {
                (Election::WorseMaster { source }, suppressed)
            }
            Notice::Tampered { source, suppressed } => (Election::Tampered { source }, suppressed),
            Notice::StaleCounter { source, suppressed } => {
                (Election::StaleCounter { source }, suppressed)
            }
            Notice::Unproven { source, suppressed } => (Election::Unproven { source }, suppressed),
            Notice::Unanswered { source, suppressed } => {
                (Election::Unanswered { source }, suppressed)
            }
            Notice::Suppressed => (Election::SendingFails, 0),
            Notice::Unsuppressed => (Election::SendingWorks, 0),
        };
        Self::new(place, what).after(suppressed)
    }
}

events! {
    /// Sending of our advertisements and announcements.
    Transmit
    /// One advertisement was not sent.
    AdvertisementFailed {
        /// The error.
        error: String,
    } => Debug "advertisement-failed",
    /// One address was not announced, by gratuitous ARP or an unsolicited neighbour advertisement.
    AnnouncementFailed {
        /// The virtual address.
        address: IpAddr,
        /// The error.
        error: String,
    } => Debug "announcement-failed",
}

/// The possible reason for its missing advertisements if none was ever heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// A port on the way may only pass frames from a network card's own MAC address.
    PortSecurity,
    /// This host already sends from its own MAC address (`--own-mac`). The other one may not.
    PeerWithoutOwnMac,
}

events! {
    /// Other stations that use our addresses.
    Conflict
    /// Another station answers ARP or neighbour discovery for a virtual address of this MASTER.
    Claimed {
        /// The virtual address.
        address: IpAddr,
        /// The station.
        station: MacAddress,
        /// The kind of the station.
        claimant: Claimant,
        /// Why none of its advertisements may have been heard. `None` if some were.
        unheard: Option<Unheard>,
    } => Warning "address-conflict",
    /// An ARP request or a neighbour solicitation for a virtual address was not sent.
    ProbeFailed {
        /// The virtual address.
        address: IpAddr,
        /// The error.
        error: String,
    } => Debug "arp-probe-failed",
    /// ARP or neighbour discovery could not be received.
    ReceiveFailed {
        /// The error.
        error: String,
    } => Debug "arp-receive-failed",
    /// The filter for received ARP or neighbour discovery could not be changed.
    WatchFailed {
        /// The error.
        error: String,
    } => Warning "arp-watch-failed",
}
