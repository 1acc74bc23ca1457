//! The identity of a virtual host, and the requests of its rooms to the core.

use std::net::IpAddr;

use carp_common::proto::FAMILIES;
use carp_common::units::Family;
use carp_common::wire::advertisement::GROUP_INET6;

use super::super::interface::Interface;
use super::super::namespace::Namespace;
use super::super::registry::InstanceId;
use crate::api::Place;
use crate::config::{ADDRESS_PROTOCOL, VhostConfig};
use crate::io::netlink::{Address, AddressFlags};
use crate::lock::Wanted;

/// The identity of a virtual host.
#[derive(Debug)]
pub struct Identity {
    /// Its id, which stays the same as long as it is served.
    pub id: InstanceId,
    /// Its configuration, from which the password has been removed.
    pub config: VhostConfig,
    /// The place of its events.
    pub place: Place,
}

impl Identity {
    /// Returns the families that it has addresses in, and therefore advertises in.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let settings = &self.config.election;
        FAMILIES.into_iter().filter(|family| settings.uses(*family))
    }

    /// Returns whether it needs an address of the interface to send from in this family.
    pub fn needs_source(&self, family: Family) -> bool {
        let is_fixed = family == Family::Inet && self.config.source.is_some();
        self.config.election.uses(family) && !is_fixed
    }

    /// Returns the destination of its advertisements in this family.
    pub const fn group(&self, family: Family) -> IpAddr {
        match family {
            Family::Inet => IpAddr::V4(self.config.group),
            Family::Inet6 => IpAddr::V6(GROUP_INET6),
        }
    }

    /// Returns the groups that its interface must join. There are none if the frames are broadcasts.
    pub fn groups(&self) -> impl Iterator<Item = IpAddr> {
        let families = self.families().filter(|_| !self.config.broadcast);
        families.map(|family| self.group(family))
    }

    /// Notes the present name of the interface.
    pub fn call(&mut self, interface: &str) {
        self.place = place(interface, &self.config);
    }

    /// Returns its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = self.config.addresses.iter();
        addresses.map(|virtual_one| virtual_one.address)
    }

    /// Returns the locks that it needs on an interface.
    pub fn locks<'a>(&self, ifindex: u32, interface: &'a str) -> Wanted<'a> {
        Wanted {
            ifindex,
            interface,
            vhid: self.config.election.vhid,
            addresses: self.addresses().collect(),
        }
    }

    /// Returns its addresses on an interface that carry carpd's protocol number, with any prefix length. Those on other
    /// interfaces may belong to another carpd that is alive.
    pub fn leftovers(&self, ifindex: Option<u32>, namespace: &Namespace) -> Vec<Address> {
        let here = ifindex.map_or(&[][..], |ifindex| namespace.on(ifindex));
        let is_ours = |address: &&Address| {
            let mut virtual_ones = self.config.addresses.iter();
            address.protocol == ADDRESS_PROTOCOL
                && virtual_ones.any(|virtual_one| virtual_one.address == address.address)
        };
        here.iter().filter(is_ours).copied().collect()
    }

    /// Returns the addresses that native mode assigns. There are none while the interface is absent.
    pub fn native_addresses(&self, interface: &Interface) -> Vec<Address> {
        let Some(ifindex) = interface.ifindex else {
            return Vec::new();
        };
        let assign = |virtual_one: &crate::config::VirtualAddress| {
            let ip = virtual_one.address;
            let address = Address::new(ifindex, ip, host_prefix(ip), ADDRESS_PROTOCOL);
            match ip {
                IpAddr::V4(_) => address,
                // The election has decided which host owns it, so duplicate address detection would only delay its use.
                IpAddr::V6(_) => address.with_flags(AddressFlags::Nodad),
            }
        };
        self.config.addresses.iter().map(assign).collect()
    }
}

/// Returns the place of a virtual host's events.
pub fn place(interface: &str, config: &VhostConfig) -> Place {
    Place::VirtualHost {
        interface: interface.to_owned(),
        vhid: config.election.vhid,
    }
}

/// Returns the prefix length of one address alone.
const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The requests of a room to the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct CoreRequests {
    /// Whether the host is demoted because it cannot serve its addresses. `None` if that has not changed.
    pub demoted: Option<bool>,
    /// Whether the addresses are there now.
    pub claimed: bool,
}
