//! The virtual addresses in the order of the digest.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every virtual address of a group in the form that the digest covers. Each family is in ascending numeric order without
/// duplicates, and IPv6 link-local addresses have no scope. Prefix lengths are not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    inet: Vec<Ipv4Addr>,
    inet6: Vec<Ipv6Addr>,
}

impl AddressSet {
    /// Creates a set from addresses in any order.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut set = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(address) => set.inet.push(address),
                IpAddr::V6(address) => set.inet6.push(without_scope(address)),
            }
        }
        set.inet.sort_unstable();
        set.inet.dedup();
        set.inet6.sort_unstable();
        set.inet6.dedup();
        set
    }

    /// Returns whether the set contains an address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.inet.contains(&address),
            IpAddr::V6(address) => self.inet6.contains(&address),
        }
    }

    /// Returns the IPv4 addresses in ascending order.
    #[must_use]
    pub fn inet(&self) -> &[Ipv4Addr] {
        &self.inet
    }

    /// Returns the IPv6 addresses in ascending order.
    #[must_use]
    pub fn inet6(&self) -> &[Ipv6Addr] {
        &self.inet6
    }
}

/// Returns an address without its scope. The BSDs keep the interface index of a link-local address in its second 16 bits, and
/// clear it before hashing.
fn without_scope(address: Ipv6Addr) -> Ipv6Addr {
    if !address.is_unicast_link_local() {
        return address;
    }
    let mut octets = address.octets();
    octets[2] = 0;
    octets[3] = 0;
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> AddressSet {
        AddressSet::new(addresses.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn addresses_are_sorted_as_numbers_and_each_is_kept_once() {
        let set = set(&[
            "192.0.2.10",
            "10.0.0.2",
            "192.0.2.9",
            "10.0.0.2",
            "2001:db8::2",
            "2001:db8::1",
            "2001:db8::2",
        ]);
        assert_eq!(
            set.inet(),
            [[10, 0, 0, 2], [192, 0, 2, 9], [192, 0, 2, 10]].map(Ipv4Addr::from)
        );
        assert_eq!(
            set.inet6(),
            ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<Ipv6Addr>().unwrap())
        );
    }

    #[test]
    fn the_scope_of_a_link_local_address_does_not_count() {
        assert_eq!(set(&["fe80:3::1", "fe80:4::1"]), set(&["fe80::1"]));
        assert_ne!(set(&["2001:3::1"]), set(&["2001::1"]));
    }
}
