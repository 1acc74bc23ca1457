//! A network interface, which is known by its name and may come and go.

use std::collections::HashSet;
use std::net::IpAddr;

use carp_common::proto::per_family::PerFamily;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::namespace::Namespace;
use crate::api::Place;
use crate::config::{ADDRESS_PROTOCOL, VhostConfig};
use crate::io::netlink::Address;

/// Whether the advertisements of an interface reach us.
#[derive(Debug, Default)]
pub struct Hearing {
    /// They do not, so its virtual hosts are in INIT.
    pub lost: bool,
    /// When it was last checked.
    pub looked_at: Instant,
    /// When the attachment was last lost and renewed.
    pub mended_at: Option<Instant>,
    /// Limits the log lines about losses.
    pub limit: RateLimit,
}

/// Addresses that dead processes left and that could not be removed.
#[derive(Debug, Default)]
pub struct Strangers {
    /// The kernel refused to remove one. That is tried again with everything else that failed.
    pub are_refused: bool,
    /// Limits the log lines about that.
    pub limit: RateLimit,
}

/// One interface that virtual hosts live on: its names, and what is known about it.
#[derive(Debug)]
pub struct Interface {
    /// The configured name.
    pub name: String,
    /// The present name. An interface stays the same when it is renamed.
    pub current_name: String,
    /// The index, while it exists and could be opened.
    pub ifindex: Option<u32>,
    /// The set of virtual hosts that watch their neighbours has changed, and the filters have not.
    pub watched_changed: bool,
    /// The virtual addresses may precede the host's own, or lack a route.
    pub unplaced: bool,
    /// Whether advertisements can be received.
    pub hearing: Hearing,
    /// Leftovers of dead processes there.
    pub strangers: Strangers,
    /// carpd has logged that the interface exists and cannot be opened.
    pub said_closed: bool,
    /// carpd has warned that the interface has no address to send from.
    pub said_sourceless: PerFamily<bool>,
    /// The interface that it is a port of, according to the last warning.
    pub upper: Option<u32>,
    virtual_addresses: HashSet<IpAddr>,
}

impl Interface {
    /// Returns an interface without virtual hosts that has not been looked for yet.
    pub fn new(name: String) -> Self {
        Self {
            current_name: name.clone(),
            name,
            ifindex: None,
            watched_changed: false,
            unplaced: false,
            hearing: Hearing::default(),
            strangers: Strangers::default(),
            said_closed: false,
            said_sourceless: PerFamily::default(),
            upper: None,
            virtual_addresses: HashSet::new(),
        }
    }

    /// Returns the place of events about it.
    pub fn place(&self) -> Place {
        Place::Interface(self.current_name.clone())
    }

    /// Notes which virtual hosts live here.
    pub fn serve<'a>(&mut self, configs: impl Iterator<Item = &'a VhostConfig>) {
        let addresses = configs.flat_map(|config| &config.addresses);
        self.virtual_addresses = addresses.map(|address| address.address).collect();
    }

    /// Returns whether an address is a virtual address of the virtual hosts here.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.virtual_addresses.contains(&address)
    }

    /// Returns the addresses to send from: in each family the first that is no virtual address. A link-local IPv6 address
    /// precedes all others, because it stays when the network is renumbered. An address that another host may have is not used.
    ///
    /// Our virtual addresses are known by configuration, those of another carpd by their protocol number. There is no
    /// fallback to the virtual address, as in the BSDs, because two hosts would advertise from one address.
    pub fn sources(&self, addresses: &[Address]) -> PerFamily<Option<IpAddr>> {
        let mut sources = PerFamily::default();
        let mut beyond_link = None;
        for address in addresses {
            let ip = address.address;
            if address.protocol == ADDRESS_PROTOCOL || self.is_virtual(ip) {
                continue;
            }
            let source = match ip {
                IpAddr::V4(_) => &mut sources.inet,
                IpAddr::V6(_) if !address.is_usable() => continue,
                IpAddr::V6(v6) if v6.is_unicast_link_local() => &mut sources.inet6,
                IpAddr::V6(_) => &mut beyond_link,
            };
            source.get_or_insert(ip);
        }
        sources.inet6 = sources.inet6.or(beyond_link);
        sources
    }

    /// Returns the host's own IPv4 addresses on the interface.
    pub fn own_addresses(&self, namespace: &Namespace) -> Vec<Address> {
        let here = self
            .ifindex
            .map_or(&[][..], |ifindex| namespace.on(ifindex));
        here.iter()
            .filter(|address| self.is_own(address))
            .copied()
            .collect()
    }

    /// Returns whether an address is one of the host's own IPv4 addresses.
    pub fn is_own(&self, address: &Address) -> bool {
        address.protocol != ADDRESS_PROTOCOL
            && address.address.is_ipv4()
            && !self.is_virtual(address.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::netlink::AddressFlags;

    fn address(address: &str, protocol: u8) -> Address {
        Address::new(2, address.parse().unwrap(), 24, protocol)
    }

    #[test]
    fn the_source_is_the_first_address_that_is_not_virtual() {
        let mut interface = Interface::new("eth0".into());
        interface
            .virtual_addresses
            .insert("10.0.0.100".parse().unwrap());
        let addresses = [
            address("fe80::1", 3),
            address("10.0.0.100", 0),
            address("10.0.0.101", ADDRESS_PROTOCOL),
            address("10.0.0.2", 0),
            address("10.0.0.3", 0),
        ];
        let inet = |addresses| interface.sources(addresses).inet;
        assert_eq!(inet(&addresses), Some([10, 0, 0, 2].into()));
        assert_eq!(inet(&addresses[..3]), None);
    }

    #[test]
    fn the_ipv6_source_is_link_local_if_possible_and_no_other_host_has_it() {
        let mut interface = Interface::new("eth0".into());
        let virtual_one = "2001:db8::100".parse().unwrap();
        interface.virtual_addresses.insert(virtual_one);
        let unusable = |text, flags| address(text, 0).with_flags(flags);
        let addresses = [
            address("2001:db8::100", 0),
            address("2001:db8::101", ADDRESS_PROTOCOL),
            address("10.0.0.2", 0),
            unusable("2001:db8::1", AddressFlags::Tentative),
            unusable("2001:db8::2", AddressFlags::Dadfailed),
            address("2001:db8::3", 0),
            unusable("fe80::1", AddressFlags::Tentative),
            address("fe80::2", 0),
            address("fe80::3", 0),
        ];
        let inet6 = |count| interface.sources(&addresses[..count]).inet6;
        let ip = |text: &str| Some(text.parse().unwrap());
        assert_eq!((inet6(5), inet6(7)), (None, ip("2001:db8::3")));
        assert_eq!((inet6(8), inet6(9)), (ip("fe80::2"), ip("fe80::2")));
    }
}
