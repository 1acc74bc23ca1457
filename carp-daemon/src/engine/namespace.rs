//! The links and addresses of the network namespace, as reported by netlink.
//!
//! Notifications update the tables at once, also in the middle of a turn. Once per turn, the engine compares the tables with
//! its earlier actions and reports. So a lost notification, after which everything is listed again, needs no separate
//! handling.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use super::effects::{Links, Netlink};
use crate::config::ADDRESS_PROTOCOL;
use crate::io::netlink::{Address, Link, MonitorDrained, NetlinkEvent};

type Addresses = BTreeMap<u32, Vec<Address>>;

/// The tables, and the changes in them that the engine has not followed yet.
#[derive(Debug, Default)]
pub struct Namespace {
    links: Links,
    addresses: Addresses,
    /// An address carried a protocol number, so the kernel knows these numbers (Linux 5.18).
    tagged: bool,
    changes: Changes,
    /// Nothing is watched, because notifications were lost or cannot be read.
    blind: bool,
    /// Notifications were lost, and nothing has been listed since.
    stale: bool,
}

/// The changes to be followed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Interfaces with a change of any kind.
    pub interfaces: BTreeSet<u32>,
    /// Interfaces that went up or down, perhaps both, or changed otherwise.
    pub links: BTreeSet<u32>,
    /// Interfaces on which an IPv4 address with another protocol number than ours came, changed or went.
    pub own: BTreeSet<u32>,
    /// Addresses that came or went anywhere.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses that went, or that belong to another program now.
    pub lost: BTreeSet<(u32, IpAddr, u8)>,
    /// Addresses of other programs, as they were, that an order of ours changed or deleted because they were added at the
    /// same moment.
    pub taken: Vec<Address>,
    /// An address carried a protocol number, so the kernel knows these numbers (Linux 5.18).
    pub tagged: bool,
    /// Notifications were lost, so everything must be listed.
    pub overrun: bool,
    /// Everything was listed, so anything may have changed.
    pub listed: bool,
}

impl Namespace {
    /// Updates the tables with the changes that netlink has reported. Returns whether more waits.
    ///
    /// # Errors
    /// Returns why nothing can be watched. Everything must be listed again then.
    pub fn listen(&mut self, netlink: &mut impl Netlink) -> io::Result<bool> {
        if self.blind {
            return Ok(false);
        }
        let ours = netlink.port();
        let Self {
            links,
            addresses,
            changes,
            ..
        } = self;
        let heard = netlink.notifications(&mut |event| changes.note(links, addresses, ours, event));
        self.tagged |= changes.tagged;
        match heard {
            Ok(MonitorDrained::All) => Ok(false),
            Ok(MonitorDrained::More) => Ok(true),
            Ok(MonitorDrained::Overrun) => {
                // The waiting notifications are older than the lost ones. After a new list they would count as news.
                (self.blind, self.stale) = (true, true);
                changes.overrun = true;
                Ok(true)
            }
            Err(error) => {
                (self.blind, self.stale) = (true, true);
                changes.overrun = true;
                Err(error)
            }
        }
    }

    /// Lists everything.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn list(&mut self, netlink: &mut impl Netlink) -> io::Result<()> {
        // Watching begins before listing, so that no change falls between the two.
        if self.stale {
            netlink.watch_anew()?;
            self.blind = false;
        }
        let links = netlink.links()?;
        let addresses = netlink.addresses()?;
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
        self.addresses.clear();
        for address in addresses {
            self.tagged |= has_number(&address);
            self.addresses
                .entry(address.ifindex)
                .or_default()
                .push(address);
        }
        self.stale = false;
        Ok(())
    }

    /// Returns whether notifications were lost and nothing has been listed since.
    pub const fn is_stale(&self) -> bool {
        self.stale
    }

    /// Makes the engine follow everything again, as if notifications had been lost.
    pub fn doubt(&mut self) {
        self.changes.overrun = true;
    }

    /// Returns the changes since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Returns the addresses of other programs that an order of ours took since the last call. None if the kernel does not
    /// report protocol numbers.
    pub fn take_taken(&mut self) -> Vec<Address> {
        let taken = std::mem::take(&mut self.changes.taken);
        if self.tagged { taken } else { Vec::new() }
    }

    /// Returns every link.
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Returns the link that a configured name means now.
    pub fn link_called(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.is_called(name))
    }

    /// Returns the addresses of an interface.
    pub fn on(&self, ifindex: u32) -> &[Address] {
        self.addresses.get(&ifindex).map_or(&[], Vec::as_slice)
    }

    /// Returns the addresses of all interfaces.
    pub fn everywhere(&self) -> impl Iterator<Item = &Address> {
        self.addresses.values().flatten()
    }

    /// Returns whether an address is on any interface.
    pub fn has(&self, address: IpAddr) -> bool {
        self.everywhere().any(|known| known.address == address)
    }

    /// Returns whether nothing is known about addresses.
    pub fn is_unknown(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Returns the latest report of netlink about an address with this prefix length.
    pub fn known(&self, wanted: &Address) -> Option<&Address> {
        self.on(wanted.ifindex)
            .iter()
            .find(|known| (known.address, known.prefix) == (wanted.address, wanted.prefix))
    }

    /// Returns whether the kernel reports protocol numbers, as far as is known.
    pub const fn tells_numbers(&self) -> bool {
        self.tagged
    }

    /// Returns whether an address has another protocol number than ours, if the kernel reports these numbers.
    pub fn is_theirs(&self, known: &Address) -> bool {
        self.tagged && known.protocol != ADDRESS_PROTOCOL
    }
}

impl Changes {
    /// Updates the tables with one event. Our orders come from port `ours`. A renewed lease changes nothing.
    fn note(
        &mut self,
        links: &mut Links,
        addresses: &mut Addresses,
        ours: u32,
        event: NetlinkEvent,
    ) {
        match event {
            NetlinkEvent::Link(link) => {
                self.interfaces.insert(link.index);
                self.links.insert(link.index);
                links.insert(link.index, link);
            }
            NetlinkEvent::LinkGone { ifindex } => {
                self.interfaces.insert(ifindex);
                links.remove(&ifindex);
                let gone = addresses.remove(&ifindex).unwrap_or_default();
                self.addresses
                    .extend(gone.iter().map(|address| address.address));
            }
            NetlinkEvent::Address(address) => {
                let here = addresses.entry(address.ifindex).or_default();
                let known = here.iter_mut().find(|known| known.is_same(&address));
                let before = match known {
                    Some(known) if *known == address => return,
                    Some(known) => Some(std::mem::replace(known, address)),
                    None => {
                        here.push(address);
                        None
                    }
                };
                self.note_address(&address);
                match before {
                    Some(before) if before.protocol == address.protocol => {}
                    Some(before) if before.protocol == ADDRESS_PROTOCOL => self.note_loss(&address),
                    Some(before) if address.protocol == ADDRESS_PROTOCOL => {
                        self.taken.push(before);
                    }
                    Some(_) | None => {}
                }
            }
            NetlinkEvent::AddressGone { address, by } => {
                if by == ours && address.protocol != ADDRESS_PROTOCOL {
                    self.taken.push(address);
                }
                if let Some(here) = addresses.get_mut(&address.ifindex) {
                    here.retain(|known| !known.is_same(&address));
                }
                self.note_address(&address);
                self.note_loss(&address);
            }
        }
    }

    fn note_address(&mut self, address: &Address) {
        self.interfaces.insert(address.ifindex);
        self.addresses.insert(address.address);
        self.tagged |= has_number(address);
        if address.protocol != ADDRESS_PROTOCOL && address.address.is_ipv4() {
            self.own.insert(address.ifindex);
        }
    }

    fn note_loss(&mut self, address: &Address) {
        self.lost
            .insert((address.ifindex, address.address, address.prefix));
    }
}

/// Returns whether an address carries a protocol number. The kernel gives numbers of its own to those that it adds itself, such
/// as 127.0.0.1, so it need not have added one of ours yet.
const fn has_number(address: &Address) -> bool {
    address.protocol != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8, protocol: u8) -> Address {
        Address::new(5, [10, 0, 0, last].into(), 24, protocol)
    }

    const OURS: u32 = 77;
    const SOMEBODY: u32 = 78;

    fn gone(address: Address, by: u32) -> NetlinkEvent {
        NetlinkEvent::AddressGone { address, by }
    }

    #[derive(Default)]
    struct Tables {
        links: Links,
        addresses: Addresses,
    }

    impl Tables {
        fn after(&mut self, events: impl IntoIterator<Item = NetlinkEvent>) -> Changes {
            let mut changes = Changes::default();
            for event in events {
                changes.note(&mut self.links, &mut self.addresses, OURS, event);
            }
            changes
        }
    }

    #[test]
    fn tables_follow_the_events() {
        let mut tables = Tables::default();
        let link = Link {
            index: 5,
            name: "eth0".into(),
            other_names: Vec::new(),
            ethernet: true,
            mac: [2, 0, 0, 0, 0, 1],
            admin_up: true,
            running: true,
            upper: None,
            xdp_program: 0,
            kind: String::new(),
        };
        let (first, second) = (address(1, 0), address(2, 0));
        let changes = tables.after([NetlinkEvent::Link(link)]);
        assert_eq!(changes.interfaces, [5].into());
        for new in [first, second] {
            let changes = tables.after([NetlinkEvent::Address(new)]);
            assert_eq!(changes.own, [5].into());
            assert_eq!(changes.addresses, [new.address].into());
        }
        assert_eq!(
            tables.after([NetlinkEvent::Address(first)]),
            Changes::default()
        );
        assert_eq!(tables.addresses[&5], [first, second]);
        let changes = tables.after([gone(first, SOMEBODY)]);
        assert_eq!(changes.lost, [(5, first.address, 24)].into());
        assert_eq!(tables.addresses[&5], [second]);
        let changes = tables.after([NetlinkEvent::LinkGone { ifindex: 5 }]);
        assert_eq!(changes.addresses, [second.address].into());
        assert!(tables.links.is_empty() && tables.addresses.is_empty());
    }

    #[test]
    fn an_address_of_ours_that_gets_another_number_is_lost() {
        let mut tables = Tables::default();
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let added = tables.after([NetlinkEvent::Address(ours)]);
        assert!(added.own.is_empty() && added.tagged);
        let replaced = tables.after([NetlinkEvent::Address(theirs)]);
        assert_eq!(replaced.lost, [(5, ours.address, 24)].into());
        assert_eq!(replaced.own, [5].into());
        assert!(replaced.taken.is_empty());
    }

    #[test]
    fn an_address_of_somebody_else_that_an_order_of_ours_met_was_taken() {
        let mut tables = Tables::default();
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let renewed_too_late = [
            NetlinkEvent::Address(ours),
            gone(ours, SOMEBODY),
            NetlinkEvent::Address(theirs),
            NetlinkEvent::Address(ours),
        ];
        assert_eq!(tables.after(renewed_too_late).taken, [theirs]);
        let deleted_too_late = [
            NetlinkEvent::Address(ours),
            NetlinkEvent::Address(theirs),
            gone(theirs, OURS),
        ];
        assert_eq!(tables.after(deleted_too_late).taken, [theirs]);
        let deleted_by_himself = [NetlinkEvent::Address(theirs), gone(theirs, SOMEBODY)];
        assert!(tables.after(deleted_by_himself).taken.is_empty());
        let added_anew = [
            NetlinkEvent::Address(ours),
            gone(ours, OURS),
            NetlinkEvent::Address(ours),
        ];
        assert!(tables.after(added_anew).taken.is_empty());
    }
}
