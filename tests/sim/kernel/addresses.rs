//! The table of addresses, in the kernel's order (`__inet_insert_ifa`, `__inet_del_ifa`, Linux 6.12).

use std::net::{IpAddr, Ipv4Addr};

use carp_common::time::Instant;
use carp_daemon::io::netlink::{Address, AddressFlags};

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The address as the kernel reports it.
    pub address: Address,
    /// When it expires; `None`: never.
    pub ends: Option<Instant>,
    /// Protocol number and end as a program other than carpd set them; `None`: the address is carpd's.
    pub foreign: Option<(u8, Option<Instant>)>,
}

impl Assigned {
    /// Whether it belongs to another program, and carpd changed its number or made it end earlier. What carpd gives back
    /// does not end, because its tables have no lifetimes.
    #[must_use]
    pub fn is_altered(&self) -> bool {
        self.foreign.is_some_and(|(protocol, was)| {
            let is_earlier = |ends| was.is_none_or(|was| ends < was);
            protocol != self.address.protocol || self.ends.is_some_and(is_earlier)
        })
    }
}

/// All addresses of the host; those of one link are in the kernel's order.
#[derive(Debug)]
pub struct Addresses {
    table: Vec<Assigned>,
    /// `net.ipv4.conf.*.promote_secondaries`: whether a secondary becomes primary instead of being removed with its
    /// primary.
    promotes: bool,
}

impl Addresses {
    /// Creates an empty table.
    #[must_use]
    pub const fn new(promotes: bool) -> Self {
        Self {
            table: Vec::new(),
            promotes,
        }
    }

    /// Returns every address.
    pub fn iter(&self) -> impl Iterator<Item = &Assigned> {
        self.table.iter()
    }

    /// Returns the address that the kernel takes for this one.
    pub fn find(&mut self, wanted: &Address) -> Option<&mut Assigned> {
        self.table
            .iter_mut()
            .find(|known| known.address.is_same(wanted))
    }

    /// Whether the host has the address, with any prefix length.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.table.iter().any(|known| known.address.address == ip)
    }

    /// Inserts a new address, and returns it as the table stores it.
    pub fn insert(&mut self, mut new: Assigned) -> Address {
        let on_link = |known: &Assigned| {
            known.address.ifindex == new.address.ifindex && known.address.address.is_ipv4()
        };
        let is_secondary = self.table.iter().any(|known| {
            on_link(known)
                && known.address.is_primary()
                && shares_subnet(&known.address, &new.address)
        });
        new.address.flags.set(AddressFlags::Secondary, is_secondary);
        let last_primary = self
            .table
            .iter()
            .rposition(|known| on_link(known) && known.address.is_primary());
        match last_primary {
            Some(place) if new.address.is_primary() => self.table.insert(place + 1, new),
            Some(_) | None => self.table.push(new),
        }
        new.address
    }

    /// Removes an address and those that are removed with it. Returns the removed ones first, in the order in which
    /// the kernel reports them, and then the address that becomes a primary.
    pub fn remove(&mut self, wanted: &Address) -> (Vec<Assigned>, Option<Address>) {
        let Some(place) = self
            .table
            .iter()
            .position(|known| known.address.is_same(wanted))
        else {
            return (Vec::new(), None);
        };
        let gone = self.table.remove(place);
        if !gone.address.is_primary() {
            return (vec![gone], None);
        }
        let follows = |known: &Assigned| {
            known.address.ifindex == gone.address.ifindex
                && !known.address.is_primary()
                && shares_subnet(&known.address, &gone.address)
        };
        if self.promotes {
            let heir = self.table.iter().position(follows);
            let promoted = heir.map(|heir| {
                let heir = self.table.remove(heir);
                self.insert(heir)
            });
            return (vec![gone], promoted);
        }
        let (mut with_it, rest) = self.table.drain(..).partition(follows);
        self.table = rest;
        with_it.push(gone);
        (with_it, None)
    }

    /// Returns the expired addresses.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Vec<Address> {
        let over = |known: &&Assigned| known.ends.is_some_and(|ends| ends <= now);
        self.table
            .iter()
            .filter(over)
            .map(|it| it.address)
            .collect()
    }

    /// Returns when the next one expires.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.table.iter().filter_map(|known| known.ends).min()
    }
}

/// Whether the kernel treats one of them as a secondary of the other: same prefix length, same subnet.
fn shares_subnet(one: &Address, other: &Address) -> bool {
    let (IpAddr::V4(first), IpAddr::V4(second)) = (one.address, other.address) else {
        return false;
    };
    one.prefix == other.prefix && network(first, one.prefix) == network(second, one.prefix)
}

fn network(address: Ipv4Addr, prefix: u8) -> u32 {
    let host_bits = 32 - u32::from(prefix.min(32));
    address.to_bits().checked_shr(host_bits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(last: u8, prefix: u8) -> Assigned {
        Assigned {
            address: Address::new(2, [10, 0, 0, last].into(), prefix, 0),
            ends: None,
            foreign: None,
        }
    }

    fn order(addresses: &Addresses) -> Vec<(IpAddr, bool)> {
        addresses
            .iter()
            .map(|it| (it.address.address, it.address.is_primary()))
            .collect()
    }

    fn filled(promotes: bool) -> Addresses {
        let mut addresses = Addresses::new(promotes);
        for (last, prefix) in [(1, 24), (2, 24), (100, 32)] {
            let _ = addresses.insert(assigned(last, prefix));
        }
        addresses
    }

    #[test]
    fn a_host_address_is_a_primary_and_comes_before_the_secondaries() {
        let places = [(1, true), (100, true), (2, false)];
        let expected = places.map(|(last, primary)| ([10, 0, 0, last].into(), primary));
        assert_eq!(order(&filled(false)), expected);
    }

    #[test]
    fn a_primary_takes_its_secondaries_along_unless_they_are_promoted() {
        let mut addresses = filled(false);
        let (gone, promoted) = addresses.remove(&assigned(1, 24).address);
        assert_eq!((gone.len(), promoted), (2, None));
        assert_eq!(order(&addresses), [([10, 0, 0, 100].into(), true)]);
        let mut addresses = filled(true);
        let (gone, promoted) = addresses.remove(&assigned(1, 24).address);
        assert_eq!(gone.len(), 1);
        assert_eq!(promoted, Some(assigned(2, 24).address));
        let expected = [100, 2].map(|last| ([10, 0, 0, last].into(), true));
        assert_eq!(order(&addresses), expected);
    }

    #[test]
    fn an_address_ends_at_its_time() {
        let end = Instant::from_nanos(5);
        let mut addresses = Addresses::new(false);
        let lent = Assigned {
            ends: Some(end),
            ..assigned(1, 32)
        };
        let _ = addresses.insert(lent);
        let _ = addresses.insert(assigned(2, 32));
        assert_eq!(addresses.next_end(), Some(end));
        assert_eq!(addresses.expired(Instant::from_nanos(4)), []);
        assert_eq!(addresses.expired(end), [lent.address]);
    }
}
