//! Who a virtual host is, and what the core is to hear of from its rooms.

use std::net::{IpAddr, Ipv4Addr};

use super::super::interface::Interface;
use super::super::namespace::Namespace;
use super::super::registry::InstanceId;
use crate::api::Place;
use crate::config::{ADDRESS_PROTOCOL, VhostConfig};
use crate::io::netlink::{Address, AddressFlags};
use crate::lock::Wanted;

/// Who it is.
#[derive(Debug)]
pub struct Identity {
    /// Stays the same for as long as it is served.
    pub id: InstanceId,
    /// What was asked for. The password is not in it any more.
    pub config: VhostConfig,
    /// Where its events happen.
    pub place: Place,
}

impl Identity {
    /// Whether it needs an address of the interface to send from.
    pub const fn needs_source(&self) -> bool {
        self.config.source.is_none()
    }

    /// The interface is called so now.
    pub fn call(&mut self, interface: &str) {
        self.place = place(interface, &self.config);
    }

    /// Its IPv4 addresses.
    pub fn inet_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let addresses = self.config.addresses.iter();
        addresses.filter_map(|virtual_one| match virtual_one.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// Returns the locks that it needs on an interface.
    pub fn locks<'a>(&self, ifindex: u32, interface: &'a str) -> Wanted<'a> {
        Wanted {
            ifindex,
            interface,
            vhid: self.config.election.vhid,
            addresses: self.config.addresses.iter().map(|it| it.address).collect(),
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

    /// What native mode assigns; nothing while the interface is absent.
    pub fn native_addresses(&self, interface: &Interface) -> Vec<Address> {
        let Some(ifindex) = interface.ifindex else {
            return Vec::new();
        };
        let assign = |virtual_one: &crate::config::VirtualAddress| {
            let ip = virtual_one.address;
            let address = Address::new(ifindex, ip, host_prefix(ip), ADDRESS_PROTOCOL);
            match ip {
                IpAddr::V4(_) => address,
                // The election has settled who owns it; duplicate address detection would only delay its use.
                IpAddr::V6(_) => address.with_flags(AddressFlags::Nodad),
            }
        };
        self.config.addresses.iter().map(assign).collect()
    }
}

/// The place of a virtual host's events.
pub fn place(interface: &str, config: &VhostConfig) -> Place {
    Place::VirtualHost {
        interface: interface.to_owned(),
        vhid: config.election.vhid,
    }
}

/// The prefix length of one address alone.
const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// What the core is to hear of, from a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Wishes {
    /// The host cannot serve its addresses, or can again: it advertises a worse priority, or the configured one.
    pub demoted: Option<bool>,
    /// The addresses are there now.
    pub claimed: bool,
}
