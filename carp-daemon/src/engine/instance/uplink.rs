//! The link, the datapath and the source address of a virtual host, as its core was last told.

use std::net::{IpAddr, Ipv4Addr};

use carp_common::proto::{DatapathState, LinkState};

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::Identity;
use super::source::FixedSource;
use crate::io::netlink::Link;

/// News of an interface.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// As it is now; `None`: it is gone.
    pub link: Option<&'a Link>,
    /// The first address of its own.
    pub source: Option<Ipv4Addr>,
    /// It has another MAC address.
    pub moved: bool,
}

/// What the core was last told.
#[derive(Debug)]
pub struct Uplink {
    link: LinkState,
    datapath: DatapathState,
    source: Option<Ipv4Addr>,
    fixed: FixedSource,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            link: LinkState::Down,
            datapath: DatapathState::Works,
            source: None,
            fixed: FixedSource::default(),
        }
    }
}

impl Uplink {
    /// The source address.
    pub const fn source(&self) -> Option<Ipv4Addr> {
        self.source
    }

    /// Whether the address that `--srcip` names was here and is gone.
    pub const fn lacks_fixed_source(&self) -> bool {
        self.fixed.is_gone()
    }

    /// The core hears of this link. Returns whether that is news.
    pub fn set_link(&mut self, link: LinkState) -> bool {
        std::mem::replace(&mut self.link, link) != link
    }

    /// The core hears of this datapath. Returns whether that is news.
    pub fn set_datapath(&mut self, datapath: DatapathState) -> bool {
        std::mem::replace(&mut self.datapath, datapath) != datapath
    }

    /// The core hears of this source. Returns whether that is news.
    pub fn set_source(&mut self, source: Option<Ipv4Addr>) -> bool {
        std::mem::replace(&mut self.source, source) != source
    }

    /// The source that a virtual host has now.
    pub fn look<E: Effects>(
        &mut self,
        who: &Identity,
        news: News<'_>,
        site: &mut Site<'_, E>,
    ) -> Option<Ipv4Addr> {
        match (who.config.source, news.link) {
            (Some(fixed), _) => self.fixed.look(who, fixed, site),
            (None, Some(_)) => news.source,
            (None, None) => self.source,
        }
    }

    /// The address that only we send from: none while there is none, or while it is a virtual address of the interface,
    /// which a peer may send from as well.
    pub fn own_source(&self, interface: &Interface) -> Option<IpAddr> {
        let source = IpAddr::from(self.source?);
        (!interface.is_virtual(source)).then_some(source)
    }
}

/// Whether frames can flow: through a link that is up, has a carrier unless that does not matter, and is its own.
pub fn is_usable(who: &Identity, link: &Link) -> bool {
    let has_carrier = link.running || who.config.ignore_carrier;
    link.admin_up && has_carrier && link.upper.is_none()
}
