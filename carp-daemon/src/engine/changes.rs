//! What netlink told since the last turn: taken into the tables at once, followed once a turn.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use carp_common::time::Instant;
use tracing::error;

use super::Engine;
use super::health::REPORT_INTERVAL;
use super::links::RETRY_INTERVAL;
use crate::config::ADDRESS_PROTOCOL;
use crate::io::netlink::{Address, Event, Heard, Link, Monitor};

/// What is to be followed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Interfaces with a change of any kind.
    pub interfaces: BTreeSet<u32>,
    /// Interfaces that went up or down, perhaps both, or changed otherwise.
    pub links: BTreeSet<u32>,
    /// Interfaces on which an IPv4 address that carries another number than ours came, changed or went.
    pub own: BTreeSet<u32>,
    /// Addresses that came or went anywhere.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses that went, or are somebody else's now.
    pub lost: BTreeSet<(u32, IpAddr, u8)>,
    /// Addresses of somebody else that an order of ours changed or deleted, because he put them there at the same moment.
    /// As they were.
    pub taken: Vec<Address>,
    /// An address carried our number: the kernel knows numbers (Linux 5.18).
    pub tagged: bool,
    /// Notifications were lost: anything may have changed.
    pub overrun: bool,
}

type Links = BTreeMap<u32, Link>;
type Addresses = BTreeMap<u32, Vec<Address>>;

impl Engine {
    /// Takes what netlink told so far into the tables. [`Engine::follow_links`] follows it.
    pub(super) fn listen(&mut self) {
        let Self {
            monitor,
            links,
            addresses,
            changes,
            netlink,
            ..
        } = self;
        let ours = netlink.port();
        let drained = monitor
            .as_mut()
            .map(|monitor| monitor.drain(|event| changes.note(links, addresses, ours, event)));
        self.tagged |= changes.tagged;
        match drained {
            None | Some(Ok(Heard::All)) => {}
            Some(Ok(Heard::More)) => self.busy = true,
            Some(Ok(Heard::Overrun)) => {
                changes.overrun = true;
                self.busy = true;
                // What still waits there is older than what was lost: after a new list it would be taken for news.
                self.monitor = None;
            }
            Some(Err(error)) => {
                changes.overrun = true;
                self.monitor = None;
                self.complain_about_netlink("watch", &error, self.looked_at);
            }
        }
    }

    /// Waits until the kernel has carried out every order, so that no address is left behind, or without its fence before it
    /// is gone.
    pub(super) fn finish_orders(&mut self) {
        self.netlink.finish();
        self.listen();
    }

    /// Lists everything, because notifications are missing; when that fails, again a little later. Returns whether
    /// everything is known anew.
    pub(super) fn list_again(&mut self, now: Instant) -> bool {
        self.resync_at = None;
        // Watched before it is listed, so that no change falls between the two.
        let watched = match &self.monitor {
            Some(_) => Ok(()),
            None => Monitor::new().map(|monitor| self.monitor = Some(monitor)),
        };
        let listed = watched.and_then(|()| self.resync());
        if let Err(error) = &listed {
            self.complain_about_netlink("list", error, now);
            self.resync_at = Some(now + RETRY_INTERVAL);
        }
        listed.is_ok()
    }

    fn complain_about_netlink(&mut self, action: &str, error: &io::Error, now: Instant) {
        if let Some(suppressed) = self.resync_limit.admit(now, REPORT_INTERVAL) {
            error!(
                suppressed,
                "failed to {action} links and addresses: {error}: going on with what was known, trying again"
            );
        }
    }
}

impl Changes {
    /// Takes one event into the tables; our orders come from port `ours`. A renewed lease changes nothing.
    fn note(&mut self, links: &mut Links, addresses: &mut Addresses, ours: u32, event: Event) {
        match event {
            Event::Link(link) => {
                self.interfaces.insert(link.index);
                self.links.insert(link.index);
                links.insert(link.index, link);
            }
            Event::LinkGone { ifindex } => {
                self.interfaces.insert(ifindex);
                links.remove(&ifindex);
                let gone = addresses.remove(&ifindex).unwrap_or_default();
                self.addresses
                    .extend(gone.iter().map(|address| address.address));
            }
            Event::Address(address) => {
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
            Event::AddressGone { address, by } => {
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
        self.tagged |= address.protocol == ADDRESS_PROTOCOL;
        if address.protocol != ADDRESS_PROTOCOL && address.address.is_ipv4() {
            self.own.insert(address.ifindex);
        }
    }

    fn note_loss(&mut self, address: &Address) {
        self.lost
            .insert((address.ifindex, address.address, address.prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8, protocol: u8) -> Address {
        Address {
            ifindex: 5,
            address: [10, 0, 0, last].into(),
            prefix: 24,
            protocol,
            primary: true,
        }
    }

    const OURS: u32 = 77;
    const SOMEBODY: u32 = 78;

    fn gone(address: Address, by: u32) -> Event {
        Event::AddressGone { address, by }
    }

    #[derive(Default)]
    struct Namespace {
        links: Links,
        addresses: Addresses,
    }

    impl Namespace {
        fn after(&mut self, events: impl IntoIterator<Item = Event>) -> Changes {
            let mut changes = Changes::default();
            for event in events {
                changes.note(&mut self.links, &mut self.addresses, OURS, event);
            }
            changes
        }
    }

    #[test]
    fn tables_follow_the_events() {
        let mut namespace = Namespace::default();
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
        let changes = namespace.after([Event::Link(link)]);
        assert_eq!(changes.interfaces, [5].into());
        for new in [first, second] {
            let changes = namespace.after([Event::Address(new)]);
            assert_eq!(changes.own, [5].into());
            assert_eq!(changes.addresses, [new.address].into());
        }
        assert_eq!(namespace.after([Event::Address(first)]), Changes::default());
        assert_eq!(namespace.addresses[&5], [first, second]);
        let changes = namespace.after([gone(first, SOMEBODY)]);
        assert_eq!(changes.lost, [(5, first.address, 24)].into());
        assert_eq!(namespace.addresses[&5], [second]);
        let changes = namespace.after([Event::LinkGone { ifindex: 5 }]);
        assert_eq!(changes.addresses, [second.address].into());
        assert!(namespace.links.is_empty() && namespace.addresses.is_empty());
    }

    #[test]
    fn an_address_of_ours_that_gets_another_number_is_lost() {
        let mut namespace = Namespace::default();
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let added = namespace.after([Event::Address(ours)]);
        assert!(added.own.is_empty() && added.tagged);
        let replaced = namespace.after([Event::Address(theirs)]);
        assert_eq!(replaced.lost, [(5, ours.address, 24)].into());
        assert_eq!(replaced.own, [5].into());
        assert!(replaced.taken.is_empty());
    }

    #[test]
    fn an_address_of_somebody_else_that_an_order_of_ours_met_was_taken() {
        let mut namespace = Namespace::default();
        let (ours, theirs) = (address(1, ADDRESS_PROTOCOL), address(1, 0));
        let renewed_too_late = [
            Event::Address(ours),
            gone(ours, SOMEBODY),
            Event::Address(theirs),
            Event::Address(ours),
        ];
        assert_eq!(namespace.after(renewed_too_late).taken, [theirs]);
        let deleted_too_late = [
            Event::Address(ours),
            Event::Address(theirs),
            gone(theirs, OURS),
        ];
        assert_eq!(namespace.after(deleted_too_late).taken, [theirs]);
        let deleted_by_himself = [Event::Address(theirs), gone(theirs, SOMEBODY)];
        assert!(namespace.after(deleted_by_himself).taken.is_empty());
        let added_anew = [Event::Address(ours), gone(ours, OURS), Event::Address(ours)];
        assert!(namespace.after(added_anew).taken.is_empty());
    }
}
