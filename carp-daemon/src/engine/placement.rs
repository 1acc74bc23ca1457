//! Where the virtual addresses stand among the host's own.
//!
//! The kernel sends from the first address of an interface what leaves through it, unless a route says otherwise. So the
//! virtual ones come after the host's own: where an own one is added later, they are deleted and added again behind it, in
//! one order of two, which takes microseconds.
//!
//! The prefix that a virtual address is given says which subnet it is in. An own address in that subnet has brought a
//! route to it. Without one, carpd adds the route, with the virtual address as its source, because there is no other; it
//! has the last of all metrics, so that any other goes first, and goes with the address, also when a lease ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use carp_common::time::Instant;
use tracing::{debug, error, warn};

use super::addresses::Holding;
use super::{AT_ONCE, Engine};
use crate::config::{ADDRESS_PROTOCOL, Ownership, Subnet};
use crate::io::netlink::{Address, Order, Route};
use crate::io::port::Port;

impl Engine {
    /// Puts the virtual addresses of interfaces whose own ones changed into their places.
    pub(super) fn place_addresses(&mut self, now: Instant) {
        for interface in 0..self.interfaces.len() {
            if std::mem::take(&mut self.interfaces[interface].unplaced) {
                self.put_behind(interface, now);
                for vhost in self.interfaces[interface].vhosts.clone() {
                    for index in 0..self.vhosts[vhost].holdings.len() {
                        self.place(vhost, index);
                    }
                }
            }
        }
    }

    /// Puts those virtual addresses that come before the first own one behind the last.
    fn put_behind(&mut self, interface: usize, now: Instant) {
        let held = self.held(interface);
        let own = self.host_addresses(interface);
        let Some(ifindex) = self.interfaces[interface].port.as_ref().map(Port::ifindex) else {
            return;
        };
        if held.is_empty() || !own.iter().any(|own| own.primary) {
            return;
        }
        // The order that counts is the kernel's.
        let Ok(listed) = self.netlink.addresses() else {
            // As if notifications were lost: everything is listed again, as often as it takes, and this comes after it.
            self.changes.overrun = true;
            return;
        };
        let here: Vec<&Address> = listed
            .iter()
            .filter(|listed| listed.ifindex == ifindex)
            .collect();
        let leads = |listed: &&&Address| listed.primary && self.is_own(interface, listed);
        let Some(first) = here.iter().position(|listed| leads(&listed)) else {
            return;
        };
        let ahead: Vec<&Address> = here[..first]
            .iter()
            .copied()
            .filter(|listed| held.contains_key(&listed.address) && !self.is_theirs(listed))
            .collect();
        // The others in the next turn.
        self.interfaces[interface].unplaced = ahead.len() > AT_ONCE;
        self.busy |= ahead.len() > AT_ONCE;
        let mut moved = Vec::new();
        let mut orders = Vec::new();
        for address in ahead.into_iter().take(AT_ONCE) {
            let (vhost, index) = held[&address.address];
            let ours = self.native_addresses(vhost)[index];
            if address.is_same(&ours) {
                moved.push((vhost, index, ours));
                orders.extend([Order::Delete(ours), Order::Add(ours, self.lease(vhost))]);
            }
        }
        let outcomes = self.netlink.give_all(&orders);
        self.look_back();
        for ((vhost, index, address), outcome) in moved.into_iter().zip(outcomes.chunks(2)) {
            let served = &mut self.vhosts[vhost];
            let label = &served.label;
            served.routes[index] = None;
            match &outcome[1] {
                Ok(()) => debug!(
                    "{label}: put {} behind the host's own addresses",
                    address.address
                ),
                Err(error) => {
                    served.holdings[index] = if error.kind() == io::ErrorKind::TimedOut {
                        Holding::Ordered
                    } else {
                        error!("{label}: failed to add {} again: {error}", address.address);
                        Holding::None
                    };
                    served.guard.incomplete(now);
                    self.schedule_chores(vhost);
                }
            }
        }
    }

    /// The virtual addresses that we hold on an interface, each with its virtual host and its number there.
    fn held(&self, interface: usize) -> BTreeMap<IpAddr, (usize, usize)> {
        let mut held = BTreeMap::new();
        for &vhost in &self.interfaces[interface].vhosts {
            let served = &self.vhosts[vhost];
            let holdings = served.holdings.iter().enumerate();
            for (index, _) in holdings.filter(|(_, holding)| **holding == Holding::Ours) {
                held.insert(served.config.addresses[index].address, (vhost, index));
            }
        }
        held
    }

    /// Sees to the route to the subnet of an address that we hold. Warns, held or not, once until it changes, where an
    /// address does not fit the host's own ones.
    pub(super) fn place(&mut self, vhost: usize, index: usize) {
        let served = &self.vhosts[vhost];
        let address = &served.config.addresses[index];
        let IpAddr::V4(ip) = address.address else {
            return;
        };
        let is_held = served.holdings[index] == Holding::Ours;
        let (prefix, interface) = (address.prefix, served.interface);
        let own = self.host_addresses(interface);
        let neighbours = own.iter().filter(|own| meets(own, ip, prefix));
        let neighbour = neighbours.min_by_key(|own| own.prefix);
        let route = self.route(vhost, index);
        let name = self.interfaces[interface].current_name.clone();
        let wanted = neighbour.is_none();
        if let Some(route) = route
            && is_held
            && served.routes[index] != Some(wanted)
        {
            self.set_route(vhost, index, route, wanted);
        }
        let complaint = match (neighbour, route) {
            (Some(own), Some(route)) if own.prefix > prefix => Some(format!(
                "no route to {}/{prefix} is added, because {}/{} of this host is in that subnet: the two prefix lengths \
                 should be the same",
                route.subnet, own.address, own.prefix
            )),
            // They may be on their way; until then there is another warning.
            (None, _) if own.is_empty() && !is_held => None,
            (None, Some(route)) => Some(format!(
                "this host has no address of its own in {}/{prefix}{}: as MASTER it sends from {ip} what goes there; add an \
                 address of that subnet to {name}, or correct --addr",
                route.subnet,
                listed(&own)
            )),
            (None, None) if own.is_empty() => Some(format!(
                "this host has no address of its own on {name}: as MASTER it sends from {ip} what leaves there; add one"
            )),
            (None, None) => Some(format!(
                "this host has no address of its own in the subnet of {ip}{}: hosts on {name} do not ask for {ip}, unless \
                 they have a route to it; add an address of that subnet to {name}, or correct --addr",
                listed(&own)
            )),
            (Some(_), _) => None,
        };
        let served = &mut self.vhosts[vhost];
        let said = std::mem::replace(&mut served.said_placement, complaint.is_some());
        if let Some(complaint) = complaint.filter(|_| !said) {
            warn!("{}: {complaint}", served.label);
        }
    }

    /// The kernel drops the routes of an interface that goes down, and it may be up again before we look.
    pub(super) fn doubt_routes(&mut self, interface: usize) {
        let wanted = &mut self.interfaces[interface];
        for &vhost in &wanted.vhosts {
            for route in &mut self.vhosts[vhost].routes {
                wanted.unplaced |= route.take_if(|is_there| *is_there).is_some();
            }
        }
    }

    /// Removes the route to the subnet of an address.
    pub(super) fn remove_route(&mut self, vhost: usize, index: usize) {
        if let Some(route) = self.route(vhost, index)
            && self.vhosts[vhost].routes[index] != Some(false)
        {
            self.set_route(vhost, index, route, false);
        }
    }

    fn set_route(&mut self, vhost: usize, index: usize, route: Route, wanted: bool) {
        let order = if wanted {
            Order::AddRoute(route)
        } else {
            Order::DeleteRoute(route)
        };
        let outcome = self.netlink.give(order);
        let served = &mut self.vhosts[vhost];
        let label = &served.label;
        let Route { subnet, prefix, .. } = route;
        match outcome {
            Ok(()) => debug!("{label}: route to {subnet}/{prefix} wanted: {wanted}"),
            // It was so already.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ESRCH)) => {}
            Err(error) => {
                error!("{label}: failed to change the route to {subnet}/{prefix}: {error}");
                return;
            }
        }
        served.routes[index] = Some(wanted);
    }

    /// The route to the subnet that the prefix of an address tells, where addresses are ours to add.
    fn route(&self, vhost: usize, index: usize) -> Option<Route> {
        let served = &self.vhosts[vhost];
        if served.config.ownership != Ownership::Native {
            return None;
        }
        let port = self.interfaces[served.interface].port.as_ref()?;
        let address = &served.config.addresses[index];
        let IpAddr::V4(source) = address.address else {
            return None;
        };
        let subnet = Subnet {
            address: source,
            prefix: address.prefix,
        };
        (1..32).contains(&address.prefix).then(|| Route {
            ifindex: port.ifindex(),
            subnet: subnet.network(),
            prefix: address.prefix,
            source,
            protocol: ADDRESS_PROTOCOL,
        })
    }

    /// The host's own IPv4 addresses on an interface.
    fn host_addresses(&self, interface: usize) -> Vec<Address> {
        let port = self.interfaces[interface].port.as_ref();
        let here = port.and_then(|port| self.addresses.get(&port.ifindex()));
        let here = here.map_or(&[][..], Vec::as_slice).iter();
        here.filter(|address| self.is_own(interface, address))
            .copied()
            .collect()
    }

    fn is_own(&self, interface: usize, address: &Address) -> bool {
        address.protocol != ADDRESS_PROTOCOL
            && address.address.is_ipv4()
            && !self.interfaces[interface].is_virtual(address.address)
    }
}

/// Whether an own address is in the subnet of a virtual one, or the virtual one in its.
fn meets(own: &Address, ip: Ipv4Addr, prefix: u8) -> bool {
    let wider = Subnet {
        address: ip,
        prefix: own.prefix.min(prefix),
    };
    matches!(own.address, IpAddr::V4(address) if wider.contains(address))
}

/// The subnets that the host's own addresses are in, as the rest of a sentence.
fn listed(own: &[Address]) -> String {
    let subnets = own.iter().filter_map(|own| match own.address {
        IpAddr::V4(address) => Some(Subnet {
            address,
            prefix: own.prefix,
        }),
        IpAddr::V6(_) => None,
    });
    let subnets: BTreeSet<String> = subnets.map(|subnet| subnet.to_string()).collect();
    match subnets.is_empty() {
        true => String::new(),
        false => format!(", only in {}", Vec::from_iter(subnets).join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(address: [u8; 4], prefix: u8) -> Address {
        Address {
            ifindex: 2,
            address: address.into(),
            prefix,
            protocol: 0,
            primary: true,
        }
    }

    #[test]
    fn an_own_address_counts_when_either_is_in_the_others_subnet() {
        let ip = Ipv4Addr::new(10, 77, 0, 201);
        for (address, own_prefix, prefix, expected) in [
            ([10, 77, 0, 1], 24, 24, true),
            ([10, 77, 0, 1], 24, 32, true),
            ([10, 77, 0, 1], 16, 24, true),
            ([10, 77, 0, 1], 25, 24, true),
            ([10, 77, 0, 1], 25, 32, false),
            ([10, 77, 0, 1], 32, 24, true),
            ([10, 77, 1, 1], 24, 24, false),
            ([192, 0, 2, 1], 24, 24, false),
            ([192, 0, 2, 1], 0, 24, true),
        ] {
            assert_eq!(
                meets(&own(address, own_prefix), ip, prefix),
                expected,
                "{address:?}/{own_prefix} and {ip}/{prefix}"
            );
        }
    }
}
