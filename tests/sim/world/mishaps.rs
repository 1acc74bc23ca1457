//! Mishaps below a carpd, and their consequences.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::units::Family;
use carp_common::wire::ether::MacAddress;
use carp_daemon::io::neighbour_watch::NeighbourClaim;

use super::super::host::Control;
use super::super::machine::{Machine, others};
use super::super::model::index;
use super::super::packet::{FAMILIES, Group};
use super::super::scenario::mishap::{MENDING, Mishap};
use super::super::station::Body;
use super::World;
use super::requests;
use super::requests::RESTORED_AT_LAST;

/// A refused order is repeated after a second; a loss is found within one, and repaired within another.
const MENDED_WITHIN: Duration = Duration::from_millis(2_500);

/// The time within which a removed address is restored.
const RESTORED_WITHIN: Duration = Duration::from_millis(50);

/// The host's own address in the subnet of the virtual ones.
const OWN: [u8; 4] = [192, 0, 2, 50];

/// Undoes everything that another program did and that does not end by itself.
pub(super) fn mend(world: &mut World<'_>, number: usize) {
    for mishap in MENDING {
        apply(world, number, mishap);
    }
    world.calm.disturb(world.now + MENDED_WITHIN);
}

/// Lets a mishap happen to a host's kernel.
pub(super) fn mishap(world: &mut World<'_>, number: usize, mishap: Mishap) {
    if world.stations[number].machine_ref().is_none() {
        return;
    }
    world.count_by_name(&mishap);
    apply(world, number, mishap);
    let member = &world.scenario.members[number];
    let mended = if mishap == Mishap::RemoveEntry {
        // The carpd shows at least this often that it lives, and writes the entry again.
        member.interval(true).max(member.master_down()) * 2 + world.scenario.latency
    } else {
        MENDED_WITHIN
    };
    world.calm.disturb(world.now + mended);
}

fn apply(world: &mut World<'_>, number: usize, mishap: Mishap) {
    let now = world.now;
    let is_native = world.scenario.members[number].script.is_zero();
    let groups = world.scenario.groups();
    let vips: Vec<IpAddr> = groups.iter().flat_map(Group::addresses).collect();
    let station = &mut world.stations[number];
    for there in &mut station.sources {
        *there &= mishap != Mishap::Flush;
    }
    station.is_renamed |= mishap == Mishap::Rename;
    station.is_renamed &= mishap != Mishap::RenameBack;
    let (sources, is_hung) = (station.sources, station.hung);
    let Some(machine) = station.machine() else {
        return;
    };
    machine.advance(now);
    let failed = machine.sabotage.prevents_repair();
    befall(machine, mishap, &vips, sources, is_native);
    // The thread that gives the orders is stopped together with its process.
    if mishap == Mishap::OrdersQuick && !is_hung {
        machine.catch_up();
    }
    is_disturbed(world, number, failed);
    follow_kernel(world, number);
}

/// Notes that a host's addresses may be missing, or may be there, for a moment. `failed` means that carpd could not
/// repair anything until now.
fn is_disturbed(world: &mut World<'_>, number: usize, failed: bool) {
    let now = world.now;
    let latency = world.scenario.latency;
    let station = &mut world.stations[number];
    let Some(machine) = station.machine() else {
        return;
    };
    machine.disturbed_at = Some(now);
    let gives_way = machine.seen.values().any(|it| it.watch.is_suppressed());
    let restored = if failed || gives_way || machine.sabotage.prevents_repair() {
        RESTORED_AT_LAST
    } else {
        RESTORED_WITHIN + 4 * latency
    };
    station.repaired_by = station.repaired_by.max(now + restored);
}

/// Notes that an address expired that another program had added.
pub(super) fn note_lapse(world: &mut World<'_>, number: usize) {
    let now = world.now;
    let lapsed = world.stations[number].machine().is_some_and(|machine| {
        machine.advance(now);
        std::mem::take(&mut machine.namespace.has_lapsed)
    });
    if lapsed {
        is_disturbed(world, number, false);
        world.calm.disturb(now + MENDED_WITHIN);
    }
}

/// Wakes the process of a host whose kernel changed.
pub(super) fn follow_kernel(world: &mut World<'_>, number: usize) {
    let station = &mut world.stations[number];
    let Some(machine) = station.machine() else {
        return;
    };
    let (readable, linked) = (machine.is_readable(), machine.is_linked());
    let suspects_at = machine.suspects_at;
    station.link = linked;
    if matches!(station.body, Body::Carpd(_)) {
        if readable {
            world.wake_soon(number);
        }
        requests::sleep(world, number, suspects_at);
    }
    requests::take_requests(world, number);
}

pub(super) fn orders(world: &mut World<'_>, number: usize, incarnation: u32) {
    let station = &mut world.stations[number];
    if station.incarnation != incarnation || !matches!(station.body, Body::Carpd(_)) {
        return;
    }
    if station.hung {
        // The thread is stopped as well.
        requests::give_orders(world, number);
        return;
    }
    if let Some(machine) = station.machine() {
        machine.advance(world.now);
        machine.catch_up();
    }
    follow_kernel(world, number);
}

pub(super) fn expires(world: &mut World<'_>, number: usize) {
    let station = &mut world.stations[number];
    if station.expires_at.is_none_or(|at| at > world.now) {
        return;
    }
    station.expires_at = None;
    note_lapse(world, number);
    follow_kernel(world, number);
}

/// Makes a process stop serving the second virtual host.
pub(super) fn remove_second(world: &mut World<'_>, number: usize) {
    if let Some(second) = &world.scenario.second {
        command(world, number, Control::Remove(second.vhid));
    }
}

/// Makes a process serve the second virtual host again.
pub(super) fn add_second(world: &mut World<'_>, number: usize) {
    let Some(config) = world.scenario.second_config(number) else {
        return;
    };
    // Nothing happens if it is served already.
    command(world, number, Control::Add(Box::new(config)));
}

/// Lets a process that was stopped discover what is missing.
pub(super) fn expect_repair(world: &mut World<'_>, number: usize) {
    let station = &mut world.stations[number];
    let repaired = world.now + RESTORED_AT_LAST;
    station.repaired_by = station.repaired_by.max(repaired);
}

/// Delivers a request of the operator to a process.
pub(super) fn command(world: &mut World<'_>, number: usize, control: Control) {
    let station = &mut world.stations[number];
    if let Body::Carpd(host) = &mut station.body {
        world
            .trace
            .note(world.now, &station.name, || format!("{control:?}"));
        host.control(control);
        world.wake_soon(number);
    }
}

/// Applies a mishap to the machine.
fn befall(
    machine: &mut Machine,
    mishap: Mishap,
    vips: &[IpAddr],
    sources: [bool; 2],
    is_native: bool,
) {
    let ifindex = machine.ifindex.unwrap_or_default();
    let change = |machine: &mut Machine, change: fn(&mut carp_daemon::io::netlink::Link)| {
        machine.namespace.change(ifindex, change);
    };
    match mishap {
        Mishap::Remove => {
            others::meddle(machine);
            vips.iter().for_each(|ip| others::remove(machine, *ip));
        }
        Mishap::Flush => {
            others::meddle(machine);
            vips.iter().for_each(|ip| others::remove(machine, *ip));
            for family in FAMILIES {
                others::set_source(machine, family, false);
            }
        }
        // A host with scripts for the addresses does not add them itself.
        Mishap::Take(prefix) if is_native => {
            if let Some(ip) = vips.first() {
                others::assign(machine, *ip, prefix);
            }
        }
        Mishap::GiveUp if is_native => others::remove_foreign(machine, vips),
        Mishap::Take(_) | Mishap::GiveUp => {}
        Mishap::AddOwn(prefix) if sources[0] => others::assign(machine, OWN.into(), prefix),
        Mishap::AddOwn(_) => {}
        Mishap::RemoveOwn => others::remove(machine, OWN.into()),
        Mishap::Down => {
            others::note_flush(machine);
            change(machine, |link| {
                (link.admin_up, link.running) = (false, false)
            });
        }
        Mishap::Up => {
            change(machine, |link| (link.admin_up, link.running) = (true, true));
            if sources[index(Family::Inet6)] {
                others::set_source(machine, Family::Inet6, true);
            }
        }
        Mishap::Delete => {
            others::meddle(machine);
            others::delete_interface(machine);
        }
        Mishap::Recreate if machine.ifindex.is_none() => {
            others::create_interface(machine);
            for (family, there) in FAMILIES.into_iter().zip(sources) {
                if there {
                    others::set_source(machine, family, true);
                }
            }
        }
        Mishap::Recreate => {}
        Mishap::Rename => change(machine, |link| link.name = "lan".to_owned()),
        Mishap::RenameBack => change(machine, |link| {
            link.name = super::super::machine::INTERFACE.to_owned()
        }),
        Mishap::Enslave => change(machine, |link| link.upper = Some(1)),
        Mishap::Free => change(machine, |link| link.upper = None),
        Mishap::ChangeMac(last) => {
            machine.namespace.change(ifindex, |link| link.mac[2] = last);
        }
        Mishap::Claim(is_marked) => {
            for ip in vips {
                others::is_claimed(machine, claim(*ip, is_marked));
            }
        }
        Mishap::Overrun => machine.namespace.monitor.overrun(),
        Mishap::TakeOff => others::take_program_off(machine),
        Mishap::RemoveEntry => machine.program.damage_entries(),
        Mishap::OrdersFail(errno) => machine.sabotage.orders = Some(errno),
        Mishap::OrdersWork => machine.sabotage.orders = None,
        Mishap::OrdersSlow => machine.sabotage.is_slow = true,
        Mishap::OrdersQuick => machine.sabotage.is_slow = false,
        Mishap::ListsFail => {
            machine.sabotage.lists = true;
            machine.namespace.monitor.overrun();
        }
        Mishap::ListsWork => machine.sabotage.lists = false,
        Mishap::LocksTaken => machine.sabotage.locks = true,
        Mishap::LocksFree => machine.sabotage.locks = false,
        Mishap::ChangesRefused => machine.sabotage.changes = true,
        Mishap::ChangesAccepted => machine.sabotage.changes = false,
        Mishap::RemovalsRefused => machine.sabotage.removals = true,
        Mishap::RemovalsAccepted => machine.sabotage.removals = false,
        // A host with scripts for the addresses does not add them itself.
        Mishap::Lend(seconds) if is_native => {
            if let Some(ip) = vips.first() {
                others::lend(machine, *ip, Duration::from_secs(seconds.into()));
            }
        }
        Mishap::Lend(_) => {}
        Mishap::AttachFails => machine.sabotage.attaching = true,
        Mishap::AttachWorks => machine.sabotage.attaching = false,
        Mishap::TablesFull => machine.sabotage.tables = true,
        Mishap::TablesWork => machine.sabotage.tables = false,
        Mishap::ScriptsFail => machine.sabotage.scripts = true,
        Mishap::ScriptsWork => machine.sabotage.scripts = false,
    }
}

const fn claim(address: IpAddr, is_marked: bool) -> NeighbourClaim {
    NeighbourClaim {
        address,
        station: MacAddress([2, 0, 0, 0, 0, 0xee]),
        is_marked,
    }
}
