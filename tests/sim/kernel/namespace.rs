//! Links, addresses and routes of one host, and the orders that change them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;
use carp_daemon::io::netlink::{Address, Link, NetlinkEvent, Order, Route};

use super::Actor;
use super::addresses::{Addresses, Assigned};
use super::monitor::Monitor;

/// Error numbers of Linux.
pub mod errno {
    /// No such route.
    pub const ESRCH: i32 = 3;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// The object exists already.
    pub const EEXIST: i32 = 17;
    /// No such interface.
    pub const ENODEV: i32 = 19;
    /// The preferred source is not an address of this host.
    pub const EINVAL: i32 = 22;
    /// The name of a socket is in use.
    pub const EADDRINUSE: i32 = 98;
    /// The interface does not have the address.
    pub const EADDRNOTAVAIL: i32 = 99;
    /// The interface is down.
    pub const ENETDOWN: i32 = 100;
    /// No room for the order or for its answer.
    pub const ENOBUFS: i32 = 105;
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    links: BTreeMap<u32, Link>,
    next_index: u32,
    /// The addresses.
    pub addresses: Addresses,
    routes: Vec<(Route, Actor)>,
    /// The monitor, which receives notifications.
    pub monitor: Monitor,
    /// Addresses of other programs that a carpd removed and has to restore.
    owed: Vec<Assigned>,
    /// Whether an address of another program expired since the world last looked.
    pub has_lapsed: bool,
    /// The harm that a carpd did and cannot repair.
    damage: Option<String>,
}

impl Namespace {
    /// Creates a namespace without links, whose notifications have room for this many.
    #[must_use]
    pub fn new(room: usize, promotes: bool) -> Self {
        Self {
            links: BTreeMap::new(),
            next_index: 2,
            addresses: Addresses::new(promotes),
            routes: Vec::new(),
            monitor: Monitor::new(room),
            owed: Vec::new(),
            has_lapsed: false,
            damage: None,
        }
    }

    /// Returns every link, by index.
    #[must_use]
    pub const fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// Returns the routes that carpd added.
    pub fn routes_of_carpd(&self) -> impl Iterator<Item = &Route> {
        let ours = self.routes.iter().filter(|(_, by)| by.is_carpd());
        ours.map(|(route, _)| route)
    }

    /// Creates an Ethernet interface that is up, and returns its index.
    pub fn create(&mut self, name: &str, mac: [u8; 6]) -> u32 {
        let index = self.next_index;
        self.next_index += 1;
        let link = Link {
            index,
            name: name.to_owned(),
            other_names: Vec::new(),
            ethernet: true,
            mac,
            admin_up: true,
            running: true,
            upper: None,
            xdp_program: 0,
            kind: String::new(),
        };
        self.links.insert(index, link.clone());
        self.monitor.tell(NetlinkEvent::Link(link));
        index
    }

    /// Deletes an interface and what was configured on it.
    pub fn delete(&mut self, index: u32) {
        let here: Vec<Address> = self.on(index).map(|it| it.address).collect();
        for address in here {
            self.drop_address(&address, Actor::Kernel);
        }
        self.routes.retain(|(route, _)| route.ifindex != index);
        if self.links.remove(&index).is_some() {
            self.monitor.tell(NetlinkEvent::LinkGone { ifindex: index });
        }
    }

    /// Changes a link. A link that is set down loses its routes and its IPv6 addresses (`keep_addr_on_down` is 0).
    pub fn change(&mut self, index: u32, change: impl FnOnce(&mut Link)) {
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let before = link.clone();
        change(link);
        if *link == before {
            return;
        }
        let (link, up) = (link.clone(), link.admin_up);
        self.monitor.tell(NetlinkEvent::Link(link));
        if !up {
            self.routes.retain(|(route, _)| route.ifindex != index);
            let inet6 = self.on(index).filter(|it| it.address.address.is_ipv6());
            let inet6: Vec<Address> = inet6.map(|it| it.address).collect();
            for address in inet6 {
                self.drop_address(&address, Actor::Kernel);
            }
        }
    }

    /// Carries out an order.
    ///
    /// # Errors
    /// Returns the kernel's error number.
    pub fn carry_out(&mut self, now: Instant, order: &Order, by: Actor) -> Result<(), i32> {
        match *order {
            Order::Add(address, lease) => self.add(now, address, lease, by),
            Order::Renew(address, lease) => self.renew(now, address, lease, by),
            Order::Delete(address) => self.remove(&address, by),
            Order::AddRoute(route) => self.add_route(route, by),
            Order::DeleteRoute(route) => self.remove_route(&route),
        }
    }

    /// Lets time pass: expired addresses disappear.
    pub fn advance(&mut self, now: Instant) {
        if self.addresses.next_end().is_some_and(|end| end <= now) {
            for address in self.addresses.expired(now) {
                let known = self.addresses.find(&address);
                self.has_lapsed |= known.is_some_and(|it| it.foreign.is_some());
                self.drop_address(&address, Actor::Kernel);
            }
        }
    }

    /// Whether the host would answer for the address without a fence.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.has(ip)
    }

    /// Returns the addresses of an interface.
    pub fn on(&self, index: u32) -> impl Iterator<Item = &Assigned> {
        let here = move |it: &&Assigned| it.address.ifindex == index;
        self.addresses.iter().filter(here)
    }

    /// Returns what a carpd did that it cannot repair.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damage.clone()
    }

    /// Returns the harm that a carpd did to addresses of other programs and has not repaired.
    #[must_use]
    pub fn harm(&self) -> Option<String> {
        let altered = self.addresses.iter().find(|it| it.is_altered());
        let owed = self.owed.first();
        self.damage()
            .or_else(|| {
                owed.map(|it| format!("removed {:?}, which belongs to another program", it.address))
            })
            .or_else(|| {
                altered
                    .map(|it| format!("changed {:?}, which belongs to another program", it.address))
            })
    }

    /// Notes that the kernel is about to carry out an order of a carpd that could not list anything, or that gave the order
    /// before another program took the address. If the notification that it was taken was lost, no program can know that, and
    /// the order hides it from a later list. The only alternative is to give no order about any address, and then a MASTER
    /// loses its own with their leases, and a BACKUP without a fence goes on answering.
    pub fn excuse(&mut self, order: &Order) {
        if self.is_untold(order)
            && let Order::Renew(address, _) | Order::Delete(address) = order
            && let Some(known) = self.addresses.find(address)
        {
            known.foreign = None;
        }
    }

    /// Whether the process cannot know the latest change of the address that an order changes, unless it lists everything.
    #[must_use]
    pub fn is_untold(&self, order: &Order) -> bool {
        match order {
            Order::Renew(address, _) | Order::Delete(address) => self.monitor.is_untold(address),
            Order::Add(..) | Order::AddRoute(_) | Order::DeleteRoute(_) => false,
        }
    }

    /// Notes that a carpd was killed before it could repair what it had done in that moment.
    pub fn forgive(&mut self) {
        self.owed.clear();
        let altered: Vec<Assigned> = self
            .addresses
            .iter()
            .filter(|it| it.is_altered())
            .copied()
            .collect();
        for address in altered {
            if let Some(known) = self.addresses.find(&address.address) {
                known.foreign = None;
            }
        }
    }

    fn add(
        &mut self,
        now: Instant,
        address: Address,
        lease: Option<Duration>,
        by: Actor,
    ) -> Result<(), i32> {
        if !self.links.contains_key(&address.ifindex) {
            return Err(errno::ENODEV);
        }
        if self.addresses.find(&address).is_some() {
            return Err(errno::EEXIST);
        }
        let ends = lease.map(|lease| now + lease);
        let foreign = self.ownership(&address, ends, by);
        let told = self.addresses.insert(Assigned {
            address,
            ends,
            foreign,
        });
        self.monitor.tell(NetlinkEvent::Address(told));
        Ok(())
    }

    /// Returns the owner of an address that is added now: a carpd that restores what it removed adds it for its
    /// owner.
    fn ownership(
        &mut self,
        address: &Address,
        ends: Option<Instant>,
        by: Actor,
    ) -> Option<(u8, Option<Instant>)> {
        let owed = self.owed.iter().position(|it| it.address.is_same(address));
        let owed = owed.map(|place| self.owed.swap_remove(place));
        match (owed, by) {
            (Some(owed), Actor::Carpd(_)) => owed.foreign,
            (_, Actor::Kernel | Actor::Somebody) => Some((address.protocol, ends)),
            (None, Actor::Carpd(_)) => None,
        }
    }

    fn renew(
        &mut self,
        now: Instant,
        address: Address,
        lease: Option<Duration>,
        by: Actor,
    ) -> Result<(), i32> {
        let ends = lease.map(|lease| now + lease);
        let Some(known) = self.addresses.find(&address) else {
            return self.add(now, address, lease, by);
        };
        known.address.protocol = address.protocol;
        known.ends = ends;
        if !by.is_carpd() {
            known.foreign = Some((address.protocol, ends));
        }
        let told = known.address;
        self.monitor.tell(NetlinkEvent::Address(told));
        Ok(())
    }

    fn remove(&mut self, address: &Address, by: Actor) -> Result<(), i32> {
        if !self.links.contains_key(&address.ifindex) {
            return Err(errno::ENODEV);
        }
        if self.addresses.find(address).is_none() {
            return Err(errno::EADDRNOTAVAIL);
        }
        self.drop_address(address, by);
        Ok(())
    }

    fn drop_address(&mut self, address: &Address, by: Actor) {
        let (gone, promoted) = self.addresses.remove(address);
        for it in gone {
            let with_another = !it.address.is_same(address);
            if by.is_carpd() && it.foreign.is_some() {
                if with_another {
                    self.damage = Some(format!(
                        "removed {address:?}, and the kernel {:?} with it",
                        it.address
                    ));
                } else {
                    self.owed.push(it);
                }
            }
            self.monitor.tell(NetlinkEvent::AddressGone {
                address: it.address,
                by: by.port(),
            });
            if !self.addresses.has(it.address.address) {
                self.routes
                    .retain(|(route, _)| route.source != Some(it.address.address));
            }
        }
        if let Some(promoted) = promoted {
            self.monitor.tell(NetlinkEvent::Address(promoted));
        }
    }

    fn add_route(&mut self, route: Route, by: Actor) -> Result<(), i32> {
        let Some(link) = self.links.get(&route.ifindex) else {
            return Err(errno::ENODEV);
        };
        if !link.admin_up {
            return Err(errno::ENETDOWN);
        }
        if route
            .source
            .is_some_and(|source| !self.addresses.has(source))
        {
            return Err(errno::EINVAL);
        }
        if self.routes.iter().any(|(known, _)| *known == route) {
            return Err(errno::EEXIST);
        }
        self.routes.push((route, by));
        Ok(())
    }

    fn remove_route(&mut self, route: &Route) -> Result<(), i32> {
        let place = self.routes.iter().position(|(known, _)| known == route);
        let place = place.ok_or(errno::ESRCH)?;
        let (_, by) = self.routes.swap_remove(place);
        if !by.is_carpd() {
            self.damage = Some(format!(
                "removed {route:?}, which belongs to another program"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000);
    const CARPD: Actor = Actor::Carpd(100);

    fn address(last: u8, prefix: u8, protocol: u8) -> Address {
        Address::new(2, [10, 0, 0, last].into(), prefix, protocol)
    }

    fn namespace() -> Namespace {
        let mut namespace = Namespace::new(100, false);
        assert_eq!(namespace.create("eth0", [2, 0, 0, 0, 0, 1]), 2);
        namespace.monitor.watch();
        namespace
    }

    fn told(namespace: &mut Namespace) -> Vec<NetlinkEvent> {
        let mut events = Vec::new();
        let _ = namespace.monitor.drain(&mut |event| events.push(event));
        events
    }

    #[test]
    fn orders_meet_the_errors_of_the_kernel() {
        let mut namespace = namespace();
        let ours = address(100, 32, 112);
        let nowhere = Address { ifindex: 9, ..ours };
        let mut give = |order| namespace.carry_out(NOW, &order, CARPD);
        assert_eq!(give(Order::Add(nowhere, None)), Err(errno::ENODEV));
        assert_eq!(give(Order::Delete(nowhere)), Err(errno::ENODEV));
        assert_eq!(give(Order::Delete(ours)), Err(errno::EADDRNOTAVAIL));
        assert_eq!(give(Order::Add(ours, None)), Ok(()));
        assert_eq!(give(Order::Add(ours, None)), Err(errno::EEXIST));
        let route = Route {
            ifindex: 2,
            subnet: [10, 0, 0, 0].into(),
            prefix: 24,
            source: Some([10, 0, 0, 100].into()),
            protocol: 112,
        };
        let elsewhere = Route {
            source: Some([10, 0, 0, 101].into()),
            ..route
        };
        assert_eq!(give(Order::AddRoute(elsewhere)), Err(errno::EINVAL));
        assert_eq!(give(Order::AddRoute(route)), Ok(()));
        assert_eq!(give(Order::AddRoute(route)), Err(errno::EEXIST));
        assert_eq!(give(Order::DeleteRoute(elsewhere)), Err(errno::ESRCH));
        assert_eq!(give(Order::Delete(ours)), Ok(()));
        assert_eq!(
            give(Order::DeleteRoute(route)),
            Err(errno::ESRCH),
            "it went with the address"
        );
    }

    #[test]
    fn a_lease_ends_by_itself_and_the_kernel_says_so() {
        let mut namespace = namespace();
        let ours = address(100, 32, 112);
        let lease = Some(Duration::from_secs(4));
        let added = namespace.carry_out(NOW, &Order::Add(ours, lease), CARPD);
        assert_eq!(added, Ok(()));
        namespace.advance(NOW + Duration::from_millis(3_999));
        assert!(namespace.has(ours.address));
        namespace.advance(NOW + Duration::from_secs(4));
        assert!(!namespace.has(ours.address));
        let gone = NetlinkEvent::AddressGone {
            address: ours,
            by: 0,
        };
        assert_eq!(told(&mut namespace), [NetlinkEvent::Address(ours), gone]);
    }

    #[test]
    fn an_address_that_carpd_takes_from_another_program_must_be_given_back() {
        let mut namespace = namespace();
        let (theirs, ours) = (address(100, 32, 0), address(100, 32, 112));
        let add = Order::Add(theirs, None);
        assert_eq!(namespace.carry_out(NOW, &add, Actor::Somebody), Ok(()));
        assert_eq!(namespace.harm(), None);
        let lease = Some(Duration::from_secs(4));
        let mut give = |order| {
            assert_eq!(namespace.carry_out(NOW, &order, CARPD), Ok(()));
            namespace.harm().is_some()
        };
        assert!(give(Order::Renew(ours, lease)), "it would end");
        assert!(!give(Order::Renew(theirs, None)), "given back");
        assert!(give(Order::Delete(theirs)));
        assert!(!give(Order::Renew(theirs, None)), "given back");
        let remove = Order::Delete(theirs);
        assert_eq!(namespace.carry_out(NOW, &remove, Actor::Somebody), Ok(()));
        assert_eq!(namespace.harm(), None, "it was his own to remove");
    }

    #[test]
    fn an_address_that_was_taken_unnoticed_is_excused_until_everything_is_listed() {
        for is_listed in [false, true] {
            let mut namespace = namespace();
            let (theirs, ours) = (address(100, 32, 0), address(100, 32, 112));
            let add = Order::Add(theirs, None);
            assert_eq!(namespace.carry_out(NOW, &add, Actor::Somebody), Ok(()));
            namespace.monitor.overrun();
            if is_listed {
                namespace.monitor.is_listed();
            }
            let delete = Order::Delete(ours);
            namespace.excuse(&delete);
            assert_eq!(namespace.carry_out(NOW, &delete, CARPD), Ok(()));
            assert_eq!(namespace.harm().is_some(), is_listed);
        }
    }

    #[test]
    fn a_secondary_that_goes_with_an_address_of_carpd_is_damage() {
        let mut namespace = namespace();
        let add = |address| Order::Add(address, None);
        let ours = address(100, 24, 112);
        assert_eq!(namespace.carry_out(NOW, &add(ours), CARPD), Ok(()));
        let theirs = add(address(1, 24, 0));
        assert_eq!(namespace.carry_out(NOW, &theirs, Actor::Somebody), Ok(()));
        assert_eq!(
            namespace.carry_out(NOW, &Order::Delete(ours), CARPD),
            Ok(())
        );
        assert!(namespace.harm().is_some());
    }

    #[test]
    fn a_link_that_is_set_down_keeps_its_ipv4_addresses_only() {
        let mut namespace = namespace();
        let inet = address(1, 24, 0);
        let inet6 = Address::new(2, [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), 64, 0);
        for address in [inet, inet6] {
            let add = Order::Add(address, None);
            assert_eq!(namespace.carry_out(NOW, &add, Actor::Somebody), Ok(()));
        }
        namespace.change(2, |link| link.running = false);
        assert!(namespace.has(inet6.address));
        namespace.change(2, |link| link.admin_up = false);
        assert!(namespace.has(inet.address) && !namespace.has(inet6.address));
    }

    #[test]
    fn an_interface_takes_everything_along_and_comes_back_with_another_index() {
        let mut namespace = namespace();
        let add = Order::Add(address(1, 24, 0), None);
        assert_eq!(namespace.carry_out(NOW, &add, Actor::Somebody), Ok(()));
        let _ = told(&mut namespace);
        namespace.delete(2);
        let gone = NetlinkEvent::AddressGone {
            address: address(1, 24, 0),
            by: 0,
        };
        assert_eq!(
            told(&mut namespace),
            [gone, NetlinkEvent::LinkGone { ifindex: 2 }]
        );
        assert_eq!(namespace.create("eth0", [2, 0, 0, 0, 0, 1]), 3);
        namespace.change(3, |link| link.admin_up = false);
        namespace.change(3, |link| link.admin_up = false);
        assert_eq!(told(&mut namespace).len(), 2, "created, and down once");
    }
}
