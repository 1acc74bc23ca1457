//! Texts of the election's events.

use std::fmt::{Formatter, Result};
use std::net::IpAddr;

use carp_common::proto::Reason;
use carp_common::proto::conflict::Claimant;

use super::Lead;
use crate::api::event::Place;
use crate::api::event::election::{Cause, Conflict, Election, Transmit, Unheard};

/// Returns why a virtual host is in its state.
pub(in crate::log) const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::InterfaceGone => "the interface is gone",
        Cause::PortOfAnother => "the interface is a port of another one",
        Cause::FixedSourceGone => "the --srcip address is gone",
        Cause::Election(reason) => match reason {
            Reason::Started => "link and source address are there",
            Reason::MasterTimedOut => "no MASTER was heard for the master-down time",
            Reason::PreemptingWorseMaster => "preempting a worse MASTER",
            Reason::PreemptingMoreDemotedMaster => "preempting a more demoted MASTER",
            Reason::MasterWillTimeOut => "the MASTER bowed out or advertises too rarely",
            Reason::BetterMasterAdvertised => "a better MASTER advertised",
            Reason::TieLost => "an equal MASTER advertised and won the tie",
            Reason::Requested => "SIGUSR2 asked for it",
            Reason::LinkDown => "link down",
            Reason::DatapathRefused => "advertisements cannot be received",
            Reason::NoSourceAddress => "no source address",
            Reason::Shutdown => "shutting down",
        },
    }
}

pub(super) fn election(f: &mut Formatter<'_>, place: &Place, it: &Election) -> Result {
    let lead = Lead(place);
    match it {
        Election::StateChanged { to, .. } => write!(f, "Switching to state: {to}"),
        Election::BadDigest { source } => write!(
            f,
            "Bad digest - {lead}advertisement from {source}. Check vhid, password and virtual IP address"
        ),
        Election::EqualSettings { source } => write!(
            f,
            "{lead}{source} advertises the same advbase and advskew; give the hosts different ones, so that it is clear who \
             is to be MASTER"
        ),
        Election::OwnEcho { source } => write!(
            f,
            "{lead}our own advertisement came back (source {source}): the switch, bond or bridge reflects it, an attacker \
             replays it, or another host sends from our address"
        ),
        Election::WorseMaster { source } => write!(
            f,
            "{lead}{source} is MASTER too, with a worse priority; we stay"
        ),
        Election::Tampered { source } => write!(
            f,
            "{lead}an advertisement from {source} was altered on its way or replayed with another priority"
        ),
        Election::StaleCounter { source } => write!(
            f,
            "{lead}replayed advertisement, source {source}: its counter did not rise"
        ),
        Election::Unproven { source } => write!(
            f,
            "{lead}took over although {source} advertises: its counters were heard before, so it may be a recording of a \
             dead MASTER; a living one that is better answers, and this host yields"
        ),
        Election::Unanswered { source } => write!(
            f,
            "{lead}{source} claims to be a better MASTER and does not answer our advertisements: a recording, or a host \
             that does not hear this one"
        ),
        Election::SendingFails => write!(
            f,
            "{lead}advertisements cannot be sent: advertising a worse priority until they can"
        ),
        Election::SendingWorks => write!(f, "{lead}advertisements can be sent again"),
        Election::SteppingDownAlone { lasts } => write!(
            f,
            "{lead}stepping down, although no other host was ever heard: unless one takes over, nobody has the address for \
             {:.1} s",
            lasts.as_secs_f64()
        ),
        Election::NobodyTookOver { lasted } => write!(
            f,
            "{lead}nobody took over after SIGUSR2: no host had the address for {:.1} s",
            lasted.as_secs_f64()
        ),
        Election::NotServed { error } => write!(
            f,
            "{lead}cannot be served, now that the virtual host before it has ended: {error}"
        ),
        Election::AddressStays => write!(
            f,
            "{lead}the address stays on this host, although another one takes over now: nothing removes it without \
             --shutdown (-z)"
        ),
    }
}

pub(super) fn transmit(f: &mut Formatter<'_>, place: &Place, it: &Transmit) -> Result {
    let lead = Lead(place);
    match it {
        Transmit::AdvertisementFailed { error } => {
            write!(f, "{lead}failed to send an advertisement: {error}")
        }
        Transmit::AnnouncementFailed { address, error } => {
            write!(f, "{lead}failed to announce {address}: {error}")
        }
    }
}

pub(super) fn conflict(f: &mut Formatter<'_>, place: &Place, it: &Conflict) -> Result {
    let lead = Lead(place);
    match it {
        Conflict::Claimed {
            address,
            station,
            claimant,
            unheard,
        } => {
            let who = match claimant {
                Claimant::CarpMaster => "another CARP MASTER",
                Claimant::Other => "another host",
            };
            let why = match unheard {
                None => "",
                Some(Unheard::PortSecurity) => {
                    ", and no advertisement was ever heard here: if it runs CARP, a port on the way lets only the network \
                     card's own MAC address pass, as VMware, Proxmox, Hyper-V and OpenStack do: give every host --own-mac, \
                     or allow forged MAC addresses on its port"
                }
                Some(Unheard::PeerWithoutOwnMac) => {
                    ", and no advertisement was ever heard here: if it runs CARP, give it --own-mac too, and see whether \
                     the port or a firewall drops IP protocol 112"
                }
            };
            let protocol = protocol(*address);
            write!(
                f,
                "{lead}{address} is also at {station}: {who} answers {protocol} for it{why}"
            )
        }
        Conflict::ProbeFailed { address, error } => {
            let question = match address {
                IpAddr::V4(_) => "an ARP request",
                IpAddr::V6(_) => "a neighbour solicitation",
            };
            write!(f, "{lead}failed to send {question} for {address}: {error}")
        }
        Conflict::ReceiveFailed { error } => write!(f, "{lead}failed to receive ARP: {error}"),
        Conflict::WatchFailed { error } => write!(f, "{lead}failed to watch ARP: {error}"),
    }
}

/// Returns the protocol by which hosts find the station of an address.
const fn protocol(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}
