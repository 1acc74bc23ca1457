//! Texts of events about interfaces.

use std::fmt::{Display, Formatter, Result};

use carp_common::units::Family;

use super::Lead;
use crate::api::event::Place;
use crate::api::event::interface::{Datapath, Link, Loss, Source, Upper};

impl Display for Loss {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Receive(error) => write!(f, "failed to receive advertisements ({error})"),
            Self::Detached => {
                f.write_str("another process detached carpd's program from the interface")
            }
            Self::Replaced => f.write_str("another process replaced carpd's program"),
        }
    }
}

pub(super) fn datapath(f: &mut Formatter<'_>, place: &Place, it: &Datapath) -> Result {
    let lead = Lead(place);
    match it {
        Datapath::Attached { summary } | Datapath::FellBack { summary } => f.write_str(summary),
        Datapath::Refused { rung, error } => {
            let rung = rung.as_deref().unwrap_or("none");
            write!(f, "{lead}datapath {rung}: {error}")
        }
        Datapath::Left => write!(
            f,
            "{lead}stopping, although the kernel still refuses to update the fence around its addresses: this host may be \
             silent about them until a carpd starts again"
        ),
        Datapath::EntryChanged => write!(
            f,
            "{lead}another process removed or changed its entry in the kernel's map: writing it again"
        ),
        Datapath::Lost { loss } => write!(f, "{lead}{loss}: attaching again"),
        Datapath::LostAgain { loss } => write!(f, "{lead}{loss} again: in INIT for a moment"),
        Datapath::ReattachFailed { error } => write!(
            f,
            "{lead}in INIT until advertisements can be received, trying again: {error}"
        ),
        Datapath::VrrpSameVhid { shares_mac } => {
            let shared_mac = match shares_mac {
                true => ", and both use the virtual MAC address 00:00:5e:00:01:VRID",
                false => "",
            };
            write!(
                f,
                "{lead}a VRRP router uses a VRID that is also a vhid here: carpd's advertisements delay those of \
                 keepalived{shared_mac}; give one of them another id, or carpd another multicast group (--mcast)"
            )
        }
        Datapath::UnicastPeer => write!(
            f,
            "{lead}a peer sends its advertisements for a vhid of this host by unicast, which carpd does not hear yet: both \
             would be MASTER; remove the peer's unicast setting (`peer` of FreeBSD and pfSense, `carppeer` of OpenBSD)"
        ),
    }
}

pub(super) fn link(f: &mut Formatter<'_>, place: &Place, it: &Link) -> Result {
    match it {
        Link::OtherName { configured } => write!(f, "{configured} is another name of {place}"),
        Link::Awaited => write!(f, "interface {place} does not exist: waiting for it"),
        Link::Gone { awaited } => {
            write!(f, "interface {place} is gone: waiting for {awaited}")
        }
        Link::Unservable { error } => write!(f, "cannot serve {place} yet, trying again: {error}"),
        Link::Down => write!(f, "{place} is down: in INIT until it comes up"),
        Link::MacChanged { mac } => write!(f, "{place} has another MAC address: {mac}"),
        Link::Renamed { name } => {
            write!(f, "interface {place} was renamed to {name}: still served")
        }
        Link::Enslaved { upper } => {
            let (kind, name) = match upper {
                Upper::Known { kind, name } => (kind.as_str(), name.clone()),
                Upper::Unknown(index) => ("interface", format!("number {index}")),
            };
            let instead = match kind {
                // The device that lists the ports does not carry traffic itself.
                "openvswitch" => "an internal port of the switch",
                _ => &name,
            };
            write!(
                f,
                "{place} is a port of {kind} {name}, which takes all that arrives there: in INIT until it leaves; run carpd \
                 on {instead} instead"
            )
        }
        Link::Released => write!(
            f,
            "{place} is no longer a port of another interface: served again"
        ),
    }
}

pub(super) fn source(f: &mut Formatter<'_>, place: &Place, it: &Source) -> Result {
    let lead = Lead(place);
    match it {
        Source::Missing {
            family: Family::Inet,
        } => write!(
            f,
            "{place} has no IPv4 address to send from (virtual ones do not count): in INIT until it has one; or give --srcip"
        ),
        Source::Missing {
            family: Family::Inet6,
        } => write!(
            f,
            "{place} has no IPv6 address to send from (virtual ones do not count): no advertisements over IPv6 until it has \
             one"
        ),
        Source::FixedAbsent { source } => write!(
            f,
            "{lead}--srcip {source} is on no interface of this host: advertisements carry it all the same; leave --srcip out \
             to send from the first address of {}",
            place.interface().unwrap_or_default()
        ),
        Source::FixedGone { source } => write!(
            f,
            "{lead}{source}, given with --srcip, is no longer on this host: in INIT until it is back"
        ),
        Source::FixedBack { source } => {
            write!(f, "{lead}{source}, given with --srcip, is back")
        }
    }
}
