//! The requests of processes, and their scripts.

use std::time::Duration;

use carp_common::proto::Reason;
use carp_common::time::Instant;
use carp_common::units::{Family, State};
use carp_daemon::engine::registry::InstanceId;

use super::super::machine::Request;
use super::super::model::index;
use super::super::station::Body;
use super::super::watch::Violation;
use super::owners;
use super::{Event, World};

/// The longest time that a thread which gives orders waits for the kernel.
const ORDERS_TAKE_MS: u64 = 50;

/// The time after too many removals, or if the address could not be added.
pub(super) const RESTORED_AT_LAST: Duration = Duration::from_secs(11);

/// Notes until when the process has nothing left to do.
pub(super) fn sleep(world: &mut World<'_>, number: usize, until: Option<Instant>) {
    if let Some(until) = until {
        let late = world.latency();
        world.wake(number, until + late);
    }
}

/// Carries out the requests of a process, and traces its lines.
pub(super) fn take_requests(world: &mut World<'_>, number: usize) {
    let Some(machine) = world.stations[number].machine() else {
        return;
    };
    let requests = std::mem::take(&mut machine.requests);
    world.trace.absorb(&mut machine.trace);
    for request in requests {
        if let Err(what) = carry_out(world, number, request) {
            world.violation.get_or_insert(what);
        }
    }
    expect_ends(world, number);
}

pub(super) fn carry_out(
    world: &mut World<'_>,
    number: usize,
    request: Request,
) -> Result<(), Violation> {
    let main = world.scenario.group.vhid;
    match request {
        Request::Transmit(packet) => world.transmit(number, packet),
        Request::Refused(packet) if packet.payload.get(1) != Some(&main) => {}
        Request::Refused(packet) => world.remember(number, packet.payload, false),
        Request::ScriptStarted(instance) => script_starts(world, number, instance),
        Request::OrdersGiven => give_orders(world, number),
        Request::Announced(address) if !world.scenario.group.has(address) => {}
        Request::Announced(address) => {
            announced(world, number, Family::of(address));
        }
        Request::Overflowed { was_stopped } => overflowed(world, was_stopped),
        Request::Became(vhid, state, _) if vhid.get() != main => {
            world.count(format!("the second became {state}"));
        }
        Request::Became(_, state, reason) => became(world, number, state, reason)?,
        Request::Demoted => {
            world.calm.disturb(world.now);
            let station = &mut world.stations[number];
            station.repaired_by = station.repaired_by.max(world.now + RESTORED_AT_LAST);
        }
        Request::Programmed(vhid, _) if vhid.get() != main => {}
        Request::Programmed(_, standing) => {
            world.stations[number].owns_until = standing.owns_until;
        }
        Request::StaysAway(hold) => world.calm.disturb(world.now + hold),
    }
    Ok(())
}

pub(super) fn announced(world: &mut World<'_>, number: usize, family: Family) {
    world.stations[number].announced_at[index(family)] = Some(world.now);
    world.announcements.push((world.now, number));
}

pub(super) fn overflowed(world: &mut World<'_>, was_stopped: bool) {
    world.count(if was_stopped {
        "lost packets while hung"
    } else {
        "lost packets while running"
    });
    world.calm.packets_are_lost(world.now);
}

pub(super) fn became(
    world: &mut World<'_>,
    number: usize,
    state: State,
    reason: Reason,
) -> Result<(), Violation> {
    if reason == Reason::MasterTimedOut {
        owners::check_owners(world, number)?;
        world.calm.asks(world.now, number, &world.stations);
    }
    world.stations[number].seen = state;
    world.transitions.push((world.now, number, state));
    if state == State::Master {
        world.new_masters.push(number);
    }
    world.count(format!("carpd became {state}"));
    Ok(())
}

pub(super) fn script_starts(world: &mut World<'_>, station: usize, instance: InstanceId) {
    let end = world.now + world.scenario.members[station].script;
    let incarnation = world.stations[station].incarnation;
    world.push(
        end,
        Event::ScriptEnds {
            station,
            incarnation,
            instance,
        },
    );
}

pub(super) fn script_ends(
    world: &mut World<'_>,
    number: usize,
    incarnation: u32,
    instance: InstanceId,
) {
    let station = &mut world.stations[number];
    if station.incarnation != incarnation {
        return;
    }
    let Body::Carpd(host) = &mut station.body else {
        return;
    };
    host.machine().advance(world.now);
    let another = host.end_script(instance);
    world.wake_soon(number);
    if another {
        script_starts(world, number, instance);
    }
}

/// Gives the orders of a process's thread.
pub(super) fn give_orders(world: &mut World<'_>, number: usize) {
    let incarnation = world.stations[number].incarnation;
    let at = world.now + orders_take(world);
    world.push(
        at,
        Event::Orders {
            station: number,
            incarnation,
        },
    );
}

fn orders_take(world: &mut World<'_>) -> Duration {
    if world.scenario.attacker_is_powerless() {
        return Duration::ZERO;
    }
    Duration::from_millis(world.rng.between(0, ORDERS_TAKE_MS))
}

/// Makes the world look at an address when it expires.
pub(super) fn expect_ends(world: &mut World<'_>, number: usize) {
    let station = &mut world.stations[number];
    let next = station
        .machine_ref()
        .and_then(|machine| machine.namespace.addresses.next_end());
    if let Some(next) = next
        && station.expires_at.is_none_or(|at| next < at)
    {
        station.expires_at = Some(next);
        world.push(next.max(world.now), Event::Expires { station: number });
    }
}
