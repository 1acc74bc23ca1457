//! The subnets of the virtual addresses, and the routes to them.
//!
//! The prefix of a virtual address says which subnet it is in. If the host has its own address in that subnet, that address
//! has brought a route. Otherwise carpd adds the route, with the virtual address as its source, because there is no other.
//! The route has the highest metric, so that any other is preferred. It goes with the address, also when a lease ends.

use std::net::{IpAddr, Ipv4Addr};

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::identity::Identity;
use crate::api::event::Cidr;
use crate::api::event::address::Placement;
use crate::config::{ADDRESS_PROTOCOL, Ownership, Subnet};
use crate::io::netlink::{Address, Order, Route};

/// The routes of one virtual host.
#[derive(Debug)]
pub struct Routes {
    /// Whether each virtual address has its route to the subnet, as far as is known.
    there: Vec<Option<bool>>,
    /// carpd has warned about the effect of its prefix on other traffic of this host.
    said: bool,
}

impl Routes {
    /// Returns the state in which nothing is known about the routes of so many addresses.
    pub fn new(addresses: usize) -> Self {
        Self {
            there: vec![None; addresses],
            said: false,
        }
    }

    /// Notes that an address was added, and that the kernel may have dropped its route.
    pub fn doubt(&mut self, index: usize) {
        self.there[index] = None;
    }

    /// Notes that the interface was down, when the kernel drops routes. Returns whether one may be missing.
    pub fn doubt_all(&mut self) -> bool {
        let mut doubted = false;
        for route in &mut self.there {
            doubted |= route.take_if(|is_there| *is_there).is_some();
        }
        doubted
    }

    /// Adds the route to the subnet of an address that is held, or removes it if it is not needed. Warns, held or not and
    /// once until it changes, if an address does not fit the host's own ones.
    pub fn place<E: Effects>(
        &mut self,
        who: &Identity,
        index: usize,
        is_held: bool,
        site: &mut Site<'_, E>,
    ) {
        let address = &who.config.addresses[index];
        let IpAddr::V4(ip) = address.address else {
            return;
        };
        let prefix = address.prefix;
        let own = site.interface.own_addresses(&site.cx.namespace);
        let neighbours = own.iter().filter(|own| meets(own, ip, prefix));
        let neighbour = neighbours.min_by_key(|own| own.prefix);
        let route = route(who, index, site.interface);
        let wanted = neighbour.is_none();
        if let Some(route) = route
            && is_held
            && self.there[index] != Some(wanted)
        {
            self.set(who, index, route, wanted, site);
        }
        let address = IpAddr::V4(ip);
        let complaint = match (neighbour, route) {
            (Some(own), Some(route)) if own.prefix > prefix => Some(Placement::PrefixesDiffer {
                subnet: subnet(&route),
                own: own.cidr(),
            }),
            // They may still be added. Until then there is another warning.
            (None, _) if own.is_empty() && !is_held => None,
            (None, Some(route)) => Some(Placement::SubnetWithoutOwn {
                address,
                subnet: subnet(&route),
                own: subnets(&own),
            }),
            (None, None) if own.is_empty() => Some(Placement::InterfaceWithoutOwn { address }),
            (None, None) => Some(Placement::OutsideSubnets {
                address,
                own: subnets(&own),
            }),
            (Some(_), _) => None,
        };
        let said = std::mem::replace(&mut self.said, complaint.is_some());
        if let Some(complaint) = complaint.filter(|_| !said) {
            site.cx.tell(&who.place, complaint);
        }
    }

    /// Removes the route to the subnet of an address.
    pub fn remove<E: Effects>(&mut self, who: &Identity, index: usize, site: &mut Site<'_, E>) {
        if let Some(route) = route(who, index, site.interface)
            && self.there[index] != Some(false)
        {
            self.set(who, index, route, false, site);
        }
    }

    fn set<E: Effects>(
        &mut self,
        who: &Identity,
        index: usize,
        route: Route,
        wanted: bool,
        site: &mut Site<'_, E>,
    ) {
        let order = if wanted {
            Order::AddRoute(route)
        } else {
            Order::DeleteRoute(route)
        };
        let subnet = subnet(&route);
        match site.cx.give(order) {
            Ok(()) => {
                let changed = Placement::RouteChanged { subnet, wanted };
                site.cx.tell(&who.place, changed);
            }
            // Nothing had to be changed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ESRCH)) => {}
            Err(error) => {
                let error = error.to_string();
                let failed = Placement::RouteFailed { subnet, error };
                site.cx.tell(&who.place, failed);
                return;
            }
        }
        self.there[index] = Some(wanted);
    }
}

/// Returns the route to the subnet of an address, if addresses are carpd's to add.
fn route(who: &Identity, index: usize, interface: &Interface) -> Option<Route> {
    if who.config.ownership != Ownership::Native {
        return None;
    }
    let ifindex = interface.ifindex?;
    let address = &who.config.addresses[index];
    let IpAddr::V4(source) = address.address else {
        return None;
    };
    let subnet = Subnet {
        address: source,
        prefix: address.prefix,
    };
    (1..32).contains(&address.prefix).then(|| Route {
        ifindex,
        subnet: subnet.network().into(),
        prefix: address.prefix,
        source: Some(source.into()),
        protocol: ADDRESS_PROTOCOL,
    })
}

/// Returns whether one of the host's own addresses is in the subnet of a virtual one, or the virtual one is in its subnet.
fn meets(own: &Address, ip: Ipv4Addr, prefix: u8) -> bool {
    let wider = Subnet {
        address: ip,
        prefix: own.prefix.min(prefix),
    };
    matches!(own.address, IpAddr::V4(address) if wider.contains(address))
}

/// Returns the subnet that a route leads to.
const fn subnet(route: &Route) -> Cidr {
    Cidr {
        address: route.subnet,
        prefix: route.prefix,
    }
}

/// Returns the subnets that the host's own addresses are in.
fn subnets(own: &[Address]) -> Vec<Cidr> {
    let subnets = own.iter().filter_map(|own| match own.address {
        IpAddr::V4(address) => Some(Subnet {
            address,
            prefix: own.prefix,
        }),
        IpAddr::V6(_) => None,
    });
    let cidr = |subnet: Subnet| Cidr {
        address: subnet.network().into(),
        prefix: subnet.prefix,
    };
    subnets.map(cidr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(address: [u8; 4], prefix: u8) -> Address {
        Address::new(2, address.into(), prefix, 0)
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
