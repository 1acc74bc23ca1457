//! The links and addresses of the network namespace, as reported by netlink.
//!
//! Notifications update the tables at once, also in the middle of a turn. Once per turn, the engine compares the tables with
//! its earlier actions and reports. So a lost notification, after which everything is listed again, needs no separate
//! handling.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use super::debts::Debts;
use super::effects::{Links, Netlink};
use crate::config::ADDRESS_PROTOCOL;
use crate::io::netlink::{Address, Link, MonitorDrained, NetlinkEvent};

type Addresses = BTreeMap<u32, Vec<Address>>;

/// The tables, and the changes in them that the engine has not followed yet.
#[derive(Debug, Default)]
pub struct Namespace {
    tables: Tables,
    changes: Changes,
    /// Nothing is watched, because notifications were lost or cannot be read.
    blind: bool,
    /// Notifications were lost, and nothing has been listed since.
    stale: bool,
}

/// The port that notifications name if the kernel acted by itself.
const KERNEL: u32 = 0;

/// The tables.
#[derive(Debug, Default)]
struct Tables {
    links: Links,
    addresses: Addresses,
    /// Addresses of other programs that an order of ours took. The table of addresses shows them as they were.
    debts: Debts,
    /// An address carried a protocol number, so the kernel knows these numbers (Linux 5.18).
    tagged: bool,
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
            tables, changes, ..
        } = self;
        match netlink.notifications(&mut |event| tables.note(ours, event, changes)) {
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
        self.tables.replace(links, addresses);
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

    /// Returns whether there are changes that the engine has not followed yet.
    pub fn has_changes(&self) -> bool {
        self.changes != Changes::default()
    }

    /// Returns the changes since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Returns the addresses of other programs that an order of ours took, and that are to be given back.
    pub const fn debts(&mut self) -> &mut Debts {
        &mut self.tables.debts
    }

    /// Returns every link.
    pub const fn links(&self) -> &Links {
        &self.tables.links
    }

    /// Returns the link that a configured name means now.
    pub fn link_called(&self, name: &str) -> Option<&Link> {
        self.links().values().find(|link| link.is_called(name))
    }

    /// Returns the addresses of an interface.
    pub fn on(&self, ifindex: u32) -> &[Address] {
        let here = self.tables.addresses.get(&ifindex);
        here.map_or(&[], Vec::as_slice)
    }

    /// Returns the addresses of all interfaces.
    pub fn everywhere(&self) -> impl Iterator<Item = &Address> {
        self.tables.addresses.values().flatten()
    }

    /// Returns whether an address is on any interface.
    pub fn has(&self, address: IpAddr) -> bool {
        self.everywhere().any(|known| known.address == address)
    }

    /// Returns whether nothing is known about addresses.
    pub fn is_unknown(&self) -> bool {
        self.tables.addresses.is_empty()
    }

    /// Returns the latest report of netlink about an address with this prefix length.
    pub fn known(&self, wanted: &Address) -> Option<&Address> {
        self.on(wanted.ifindex)
            .iter()
            .find(|known| (known.address, known.prefix) == (wanted.address, wanted.prefix))
    }

    /// Returns whether the kernel reports protocol numbers, as far as is known.
    pub const fn tells_numbers(&self) -> bool {
        self.tables.tagged
    }

    /// Returns whether an address has another protocol number than ours, if the kernel reports these numbers.
    pub fn is_theirs(&self, known: &Address) -> bool {
        self.tables.tagged && known.protocol != ADDRESS_PROTOCOL
    }
}

impl Tables {
    /// Fills the tables anew.
    fn replace(&mut self, links: Vec<Link>, addresses: Vec<Address>) {
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
        self.addresses.clear();
        for address in addresses {
            self.tagged |= has_number(&address);
            let here = self.addresses.entry(address.ifindex);
            here.or_default().push(address);
        }
        self.debts.correct(&self.links, &mut self.addresses);
    }

    /// Updates the tables with one event. Our orders come from port `ours`. A renewed lease changes nothing.
    fn note(&mut self, ours: u32, event: NetlinkEvent, changes: &mut Changes) {
        match event {
            NetlinkEvent::Link(link) => {
                changes.interfaces.insert(link.index);
                changes.links.insert(link.index);
                self.links.insert(link.index, link);
            }
            NetlinkEvent::LinkGone { ifindex } => {
                changes.interfaces.insert(ifindex);
                self.links.remove(&ifindex);
                self.debts.forget(ifindex);
                let gone = self.addresses.remove(&ifindex).unwrap_or_default();
                let gone = gone.iter().map(|address| address.address);
                changes.addresses.extend(gone);
            }
            NetlinkEvent::Address(address) => self.note_address(address, changes),
            NetlinkEvent::AddressGone { address, by } => {
                self.note_removal(address, by, by == ours, changes);
            }
        }
    }

    fn note_address(&mut self, address: Address, changes: &mut Changes) {
        self.tagged |= has_number(&address);
        if address.protocol != ADDRESS_PROTOCOL {
            self.debts.settle(&address);
        } else if let Some(theirs) = self
            .find(&address)
            .filter(|it| it.protocol != ADDRESS_PROTOCOL)
        {
            self.debts.incur(*theirs);
            return;
        }
        self.show(address, changes);
    }

    fn note_removal(&mut self, address: Address, by: u32, is_by_us: bool, changes: &mut Changes) {
        let is_theirs = self.tagged && address.protocol != ADDRESS_PROTOCOL;
        if is_by_us && is_theirs {
            self.debts.incur(address);
            self.show(address, changes);
            return;
        }
        // The lease that our order gave it has ended, or another order of ours has removed it.
        if !is_theirs && (is_by_us || by == KERNEL) && self.debts.include(&address) {
            return;
        }
        self.debts.settle(&address);
        if let Some(here) = self.addresses.get_mut(&address.ifindex) {
            here.retain(|known| !known.is_same(&address));
        }
        changes.note_address(&address);
        changes.note_loss(&address);
    }

    fn find(&self, address: &Address) -> Option<&Address> {
        let here = self.addresses.get(&address.ifindex)?;
        here.iter().find(|known| known.is_same(address))
    }

    /// Enters an address in its table.
    fn show(&mut self, address: Address, changes: &mut Changes) {
        let here = self.addresses.entry(address.ifindex).or_default();
        let before = match here.iter_mut().find(|known| known.is_same(&address)) {
            Some(known) if *known == address => return,
            Some(known) => Some(std::mem::replace(known, address)),
            None => {
                here.push(address);
                None
            }
        };
        changes.note_address(&address);
        let was_ours = before.is_some_and(|before| before.protocol == ADDRESS_PROTOCOL);
        if was_ours && address.protocol != ADDRESS_PROTOCOL {
            changes.note_loss(&address);
        }
    }
}

impl Changes {
    fn note_address(&mut self, address: &Address) {
        self.interfaces.insert(address.ifindex);
        self.addresses.insert(address.address);
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

    impl Tables {
        fn after(&mut self, events: impl IntoIterator<Item = NetlinkEvent>) -> Changes {
            let mut changes = Changes::default();
            for event in events {
                self.note(OURS, event, &mut changes);
            }
            changes
        }

        fn debts_after(&mut self, events: impl IntoIterator<Item = NetlinkEvent>) -> Vec<Address> {
            let _ = self.after(events);
            self.debts.retry();
            std::iter::from_fn(|| self.debts.take_due()).collect()
        }
    }

    #[test]
    fn tables_follow_the_events() {
        let mut tables = Tables::default();
        let (first, second) = (address(1, 0), address(2, 0));
        let changes = tables.after([NetlinkEvent::Link(Link::up(5, "eth0"))]);
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
        assert!(added.own.is_empty() && tables.tagged);
        let replaced = tables.after([NetlinkEvent::Address(theirs)]);
        assert_eq!(replaced.lost, [(5, ours.address, 24)].into());
        assert_eq!(replaced.own, [5].into());
        assert!(tables.debts.are_paid());
    }

    /// Returns tables that show an address of somebody else, which an order of ours took.
    fn indebted() -> Tables {
        let mut tables = Tables::default();
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let renewed_too_late = [
            NetlinkEvent::Address(ours),
            gone(ours, SOMEBODY),
            NetlinkEvent::Address(theirs),
            NetlinkEvent::Address(ours),
        ];
        assert_eq!(tables.debts_after(renewed_too_late), [theirs]);
        assert_eq!(tables.addresses[&5], [theirs]);
        tables
    }

    #[test]
    fn an_address_of_somebody_else_that_an_order_of_ours_met_was_taken() {
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let mut tables = indebted();
        let deleted_too_late = [NetlinkEvent::Address(theirs), gone(theirs, OURS)];
        assert_eq!(tables.debts_after(deleted_too_late), [theirs]);
        assert_eq!(tables.addresses[&5], [theirs]);
        let deleted_by_himself = [NetlinkEvent::Address(theirs), gone(theirs, SOMEBODY)];
        assert_eq!(tables.debts_after(deleted_by_himself), []);
        assert_eq!(tables.addresses[&5], []);
        let added_anew = [
            NetlinkEvent::Address(ours),
            gone(ours, OURS),
            NetlinkEvent::Address(ours),
        ];
        assert_eq!(tables.debts_after(added_anew), []);
        assert_eq!(tables.addresses[&5], [ours]);
    }

    #[test]
    fn an_address_that_was_taken_is_owed_until_it_is_back_or_its_owner_removes_it() {
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let events: [(&[NetlinkEvent], bool); 6] = [
            (&[NetlinkEvent::Address(theirs)], true),
            (&[gone(ours, SOMEBODY)], true),
            (&[NetlinkEvent::LinkGone { ifindex: 5 }], true),
            // With the lease that our order gave it.
            (&[gone(ours, KERNEL)], false),
            (&[gone(ours, OURS)], false),
            (&[gone(ours, KERNEL), NetlinkEvent::Address(theirs)], true),
        ];
        for (events, is_paid) in events {
            let mut tables = indebted();
            let _ = tables.after(events.to_vec());
            assert_eq!(tables.debts.are_paid(), is_paid, "{events:?}");
        }
    }

    #[test]
    fn a_list_shows_what_is_owed_as_it_was() {
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        for (listed, is_paid) in [(vec![ours], false), (vec![], false), (vec![theirs], true)] {
            let mut tables = indebted();
            tables.replace(vec![Link::up(5, "eth0")], listed);
            assert_eq!(tables.addresses[&5], [theirs]);
            assert_eq!(tables.debts.are_paid(), is_paid);
        }
        let mut tables = indebted();
        tables.replace(Vec::new(), Vec::new());
        assert!(tables.debts.are_paid(), "its interface is gone");
    }
}
