//! The link, the datapath and the source addresses of a virtual host, as its core was last told.

use std::io;
use std::net::IpAddr;

use carp_common::proto::per_family::PerFamily;
use carp_common::proto::{DatapathState, LinkState, Reason, SendOutcome};
use carp_common::units::Family;
use carp_common::wire::advertisement::HEADER_LEN;

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::identity::Identity;
use super::source::FixedSource;
use crate::api::event::election::{Cause, Transmit};
use crate::io::datapath::Endpoints;
use crate::io::netlink::Link;
use crate::io::port::{Addressing, Envelope};

/// Changes of an interface.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// The interface as it is now. `None` means that it is gone.
    pub link: Option<&'a Link>,
    /// The first of its own addresses in each family.
    pub sources: PerFamily<Option<IpAddr>>,
    /// Whether it has another MAC address.
    pub moved: bool,
}

/// The link, the datapath and the sources, as the core was last told.
#[derive(Debug)]
pub struct Uplink {
    link: LinkState,
    datapath: DatapathState,
    /// The source address in each family. There is none in a family without virtual addresses.
    sources: PerFamily<Option<IpAddr>>,
    fixed: FixedSource,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            link: LinkState::Down,
            datapath: DatapathState::Works,
            sources: PerFamily::default(),
            fixed: FixedSource::default(),
        }
    }
}

impl Uplink {
    /// Returns the source address in each family.
    pub const fn sources(&self) -> PerFamily<Option<IpAddr>> {
        self.sources
    }

    /// Returns whether the address that `--srcip` names was here and is gone.
    pub const fn lacks_fixed_source(&self) -> bool {
        self.fixed.is_gone()
    }

    /// Notes that the core is told this link. Returns whether that is new.
    pub fn set_link(&mut self, link: LinkState) -> bool {
        std::mem::replace(&mut self.link, link) != link
    }

    /// Notes that the core is told this datapath. Returns whether that is new.
    pub fn set_datapath(&mut self, datapath: DatapathState) -> bool {
        std::mem::replace(&mut self.datapath, datapath) != datapath
    }

    /// Notes that the core is told this source. Returns whether that is new.
    pub fn set_source(&mut self, family: Family, source: Option<IpAddr>) -> bool {
        std::mem::replace(&mut self.sources[family], source) != source
    }

    /// Returns the sources that a virtual host has now, in the families that it has addresses in.
    pub fn look<E: Effects>(
        &mut self,
        who: &Identity,
        news: News<'_>,
        site: &mut Site<'_, E>,
    ) -> PerFamily<Option<IpAddr>> {
        let mut sources = PerFamily::default();
        for family in who.families() {
            let fixed = who.config.source.filter(|_| family == Family::Inet);
            sources[family] = match (fixed, news.link) {
                (Some(fixed), _) => self.fixed.look(who, fixed, site).map(IpAddr::V4),
                (None, Some(_)) => news.sources[family],
                (None, None) => self.sources[family],
            };
        }
        sources
    }

    /// Returns the addresses between which the advertisements of a family are sent. The own address is one from which only this
    /// host sends. There is none without a source, or if the source is a virtual address of the interface, because a peer may
    /// send from that too.
    pub fn endpoints(&self, who: &Identity, family: Family, interface: &Interface) -> Endpoints {
        Endpoints {
            group: who.group(family),
            own: self.sources[family].filter(|source| !interface.is_virtual(*source)),
        }
    }

    /// Returns the cause of a state. If the interface is gone or a port of another one, the core only knows that the link is
    /// down.
    pub fn cause(&self, reason: Reason, interface: &Interface) -> Cause {
        let is_cut = matches!(reason, Reason::LinkDown | Reason::DatapathRefused);
        if is_cut && interface.ifindex.is_none() {
            Cause::InterfaceGone
        } else if is_cut && interface.upper.is_some() {
            Cause::PortOfAnother
        } else if reason == Reason::NoSourceAddress && self.lacks_fixed_source() {
            Cause::FixedSourceGone
        } else {
            Cause::Election(reason)
        }
    }

    /// Sends an advertisement.
    pub fn advertise<E: Effects>(
        &self,
        who: &Identity,
        family: Family,
        payload: &[u8; HEADER_LEN],
        site: &mut Site<'_, E>,
    ) -> SendOutcome {
        let config = &who.config;
        let addressing =
            self.sources[family].and_then(|source| Addressing::new(source, who.group(family)));
        let sent = match (addressing, site.interface.ifindex) {
            (Some(addressing), Some(ifindex)) => {
                let envelope = Envelope {
                    vhid: config.election.vhid,
                    own_mac: config.own_mac,
                    profile: config.election.profile,
                    addressing,
                    broadcast: config.broadcast,
                };
                site.cx.effects.advertise(ifindex, &envelope, payload)
            }
            (None, _) | (_, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        match sent {
            Ok(()) => SendOutcome::Sent,
            Err(error) => {
                let outcome = match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => SendOutcome::NoMemory,
                    _ => SendOutcome::Failed,
                };
                let error = error.to_string();
                let failed = Transmit::AdvertisementFailed { error };
                site.cx.tell(&who.place, failed);
                outcome
            }
        }
    }
}

/// Returns whether frames can flow: the link is up, has a carrier unless that is ignored, and is not a port of another one.
pub fn is_usable(who: &Identity, link: &Link) -> bool {
    let has_carrier = link.running || who.config.ignore_carrier;
    link.admin_up && has_carrier && link.upper.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_what_is_behind_a_link_that_is_down() {
        let uplink = Uplink::default();
        let mut interface = Interface::new("eth0".to_owned());
        let cause = |interface: &Interface, reason| uplink.cause(reason, interface);
        let (down, refused) = (Reason::LinkDown, Reason::DatapathRefused);
        assert_eq!(cause(&interface, down), Cause::InterfaceGone);
        interface.ifindex = Some(2);
        assert_eq!(cause(&interface, down), Cause::Election(down));
        assert_eq!(cause(&interface, refused), Cause::Election(refused));
        interface.upper = Some(3);
        assert_eq!(cause(&interface, down), Cause::PortOfAnother);
        assert_eq!(cause(&interface, refused), Cause::PortOfAnother);
        for reason in [Reason::Shutdown, Reason::NoSourceAddress] {
            assert_eq!(cause(&interface, reason), Cause::Election(reason));
        }
    }
}
