//! The actions of other programs on a host, and of other hosts.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::units::Family;
use carp_daemon::io::neighbour_watch::NeighbourClaim;
use carp_daemon::io::netlink::{Address, Order};

use super::super::kernel::Actor;
use super::super::model::index;
use super::{INTERFACE, Machine};

/// Returns the prefix length of a host's own address.
const fn own_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 16,
        IpAddr::V6(_) => 64,
    }
}

/// Returns the prefix length of an address alone.
pub const fn host_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Returns the prefix length of an IPv4 address, and for an IPv6 address one of the same kind: an address alone, or one
/// with its subnet.
const fn prefix_for(ip: IpAddr, inet: u8) -> u8 {
    match ip {
        IpAddr::V4(_) => inet,
        IpAddr::V6(_) if inet == 32 => 128,
        IpAddr::V6(_) => 64,
    }
}

/// Creates the interface, without an address.
pub fn create_interface(machine: &mut Machine) {
    let IpAddr::V4(source) = machine.sources[0] else {
        return;
    };
    let [.., third, last] = source.octets();
    if machine.ifindex.is_none() {
        machine.ifindex = Some(
            machine
                .namespace
                .create(INTERFACE, [2, 0, 0, 9, third, last]),
        );
    }
}

/// Deletes the interface.
pub fn delete_interface(machine: &mut Machine) {
    if let Some(index) = machine.ifindex.take() {
        machine.namespace.delete(index);
    }
}

/// Adds the host's own address of a family, or removes every address of that family that is neither carpd's nor virtual.
pub fn set_source(machine: &mut Machine, family: Family, there: bool) {
    let Some(ifindex) = machine.ifindex else {
        return;
    };
    let own = machine.sources[index(family)];
    let own = Address::new(ifindex, own, own_prefix(own), 0);
    if there {
        by_somebody(machine, &Order::Add(own, None));
        return;
    }
    let is_own = |ip: IpAddr| !machine.groups.iter().any(|group| group.has(ip));
    let all: Vec<Address> = machine
        .namespace
        .on(ifindex)
        .map(|it| it.address)
        .filter(|it| is_own(it.address) && Family::of(it.address) == family)
        .collect();
    for address in all {
        by_somebody(machine, &Order::Delete(address));
    }
}

/// Removes an address, whoever added it.
pub fn remove(machine: &mut Machine, ip: IpAddr) {
    let here: Vec<Address> = machine
        .namespace
        .addresses
        .iter()
        .map(|it| it.address)
        .filter(|it| it.address == ip)
        .collect();
    for address in here {
        by_somebody(machine, &Order::Delete(address));
    }
}

/// Removes those of these addresses that were added by `assign`.
pub fn remove_foreign(machine: &mut Machine, ips: &[IpAddr]) {
    let here: Vec<Address> = machine
        .namespace
        .addresses
        .iter()
        .filter(|it| it.foreign.is_some() && ips.contains(&it.address.address))
        .map(|it| it.address)
        .collect();
    for address in here {
        by_somebody(machine, &Order::Delete(address));
    }
}

/// Adds an address to the interface, as another program does.
pub fn assign(machine: &mut Machine, ip: IpAddr, prefix: u8) {
    if let Some(ifindex) = machine.ifindex {
        let address = Address::new(ifindex, ip, prefix_for(ip, prefix), 0);
        by_somebody(machine, &Order::Renew(address, None));
    }
}

/// Adds an address to the interface for a while, as another program does.
pub fn lend(machine: &mut Machine, ip: IpAddr, lifetime: Duration) {
    if let Some(ifindex) = machine.ifindex {
        let address = Address::new(ifindex, ip, host_prefix(ip), 0);
        by_somebody(machine, &Order::Renew(address, Some(lifetime)));
    }
}

/// Notes that another program changes addresses that scripts manage.
pub fn meddle(machine: &mut Machine) {
    for seen in machine.seen.values_mut() {
        seen.is_meddled_with = true;
    }
}

/// Notes that the kernel removes the IPv6 addresses of scripts, because the interface is set down. A process that hangs
/// meanwhile finds the interface up again and remains MASTER, and only logs that such an address is gone.
pub fn note_flush(machine: &mut Machine) {
    let namespace = &machine.namespace;
    for seen in machine.seen.values_mut() {
        let mut addresses = seen.addresses.iter().map(|(ip, _)| *ip);
        seen.is_meddled_with |= addresses.any(|ip| ip.is_ipv6() && namespace.has(ip));
    }
}

/// Detaches the program from the interface, as another program does.
pub fn take_program_off(machine: &mut Machine) {
    if let Some(ifindex) = machine.ifindex {
        machine.program.take_off(ifindex);
        if machine.program.is_any_lost() {
            let after = Duration::from_millis(machine.rng.between(0, 1_000));
            machine.suspects_at.get_or_insert(machine.now + after);
        }
    }
}

/// Delivers a claim of an address by another host.
pub fn is_claimed(machine: &mut Machine, claim: NeighbourClaim) {
    if machine.watched.contains(&claim.address) {
        machine.claims.push(claim);
    }
}

/// Gives an order of another program, which may fail.
fn by_somebody(machine: &mut Machine, order: &Order) {
    let _ = machine.order(order, Actor::Somebody);
}
