//! The duties of one host towards its clients: which host answers for the virtual addresses, and the state that a host
//! leaves behind.
//!
//! The rules are stated from the kernel's side: which addresses it has, and for which of them its program lets the
//! host answer. The belief of the process does not count here.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::VirtualHost;
use carp_common::time::Instant;
use carp_common::units::{State, Vhid};

use super::machine::{Machine, Seen};
use super::packet::Group;
use super::scenario::Member;
use super::watch::Violation;

/// The shortest lease that is given.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// The time within which a host that is not MASTER has removed its addresses after a fault: carpd waits half a second for
/// an order, and repeats it after a second.
const REMOVED_WITHIN: Duration = Duration::from_millis(2_500);

/// The time within which carpd gives back what an order of its took from another program, once the kernel allows that: it
/// tries every second.
pub const GIVEN_BACK_WITHIN: Duration = Duration::from_millis(1_500);

/// Returns the harm that the process did to other programs and has not repaired. No process can repair it while the kernel
/// refuses orders or is busy, so what can be repaired does not count then, nor for so long afterwards.
#[must_use]
pub fn harm(machine: &Machine, patience: Duration) -> Option<Violation> {
    let refused_at = machine.refused_at;
    let is_excused =
        machine.sabotage.is_slow || refused_at.is_some_and(|at| machine.now <= at + patience);
    match is_excused {
        true => machine.namespace.damage(),
        false => machine.namespace.harm(),
    }
}

/// Checks a host whose process has just run and has nothing left to do. If `is_repaired`, nothing has happened to the
/// host for long enough that a MASTER must have its addresses again.
///
/// # Errors
/// The host answers for an address without being MASTER; or it is MASTER and does not answer for one, or lacks one.
pub fn check_living(machine: &Machine, is_repaired: bool) -> Result<(), Violation> {
    machine.seen.values().try_for_each(|seen| {
        check_virtual_host(machine, seen)?;
        let works = is_repaired && !machine.sabotage.prevents_repair();
        match works && seen.watch.state() == State::Master {
            true => check_repaired(machine, seen),
            false => Ok(()),
        }
    })
}

fn check_virtual_host(machine: &Machine, seen: &Seen) -> Result<(), Violation> {
    let state = seen.watch.state();
    if state != State::Init && !machine.holds_lock(seen.watch.vhid()) {
        return Err(format!("is {state} without the lock of its vhid"));
    }
    for (ip, _) in &seen.addresses {
        let is_there = machine.namespace.has(*ip);
        if state != State::Master && machine.answers(*ip) && !may_answer(machine, seen, *ip) {
            return Err(format!("is {state} and answers for {ip}"));
        }
        let silent = is_there && !machine.answers(*ip);
        let hampered =
            machine.refused.contains(&seen.watch.vhid()) || machine.program.is_any_damaged();
        if state == State::Master && silent && !hampered {
            return Err(format!("is MASTER and does not answer for {ip}"));
        }
    }
    let Some(scripts) = &seen.scripts else {
        return Ok(());
    };
    // While no script runs, the addresses are there exactly while the host is MASTER.
    let settled = scripts.is_idle() && !seen.is_meddled_with;
    let held = seen
        .addresses
        .iter()
        .all(|(ip, _)| machine.namespace.has(*ip));
    if settled && held != (state == State::Master) {
        return Err(format!("is {state}, and its scripts left it otherwise"));
    }
    Ok(())
}

/// Whether something may still have to be tried again because of a fault.
fn is_recent(machine: &Machine) -> bool {
    let faults = machine.refused_at.into_iter().chain(machine.disturbed_at);
    faults
        .max()
        .is_some_and(|at| machine.now <= at + REMOVED_WITHIN)
}

/// Whether something of a virtual host that was removed may be left for now, because the kernel refused to remove it, or
/// because carpd does not know whether it is there.
#[must_use]
pub fn may_be_left(machine: &Machine) -> bool {
    let sabotage = &machine.sabotage;
    is_recent(machine) || sabotage.keeps_addresses() || sabotage.changes || sabotage.removals
}

/// Checks that a host that is not MASTER has none of the addresses that carpd itself adds and removes. It removes them
/// before it does anything else. Only a fault may delay that: the kernel refused, or the interface was not usable.
///
/// A BACKUP that has heard no other host keeps what a dead process left, because it may be about to take over.
///
/// # Errors
/// An address is there.
pub fn check_removed(machine: &Machine, seen: &Seen, core: &VirtualHost) -> Result<(), Violation> {
    let state = core.state();
    let is_hampered =
        is_recent(machine) || machine.sabotage.keeps_addresses() || machine.is_renamed();
    let is_undecided = state == State::Backup && core.last_heard().is_none();
    if state == State::Master || seen.scripts.is_some() || is_hampered || is_undecided {
        return Ok(());
    }
    let mut ours = machine.namespace.addresses.iter();
    match ours.find(|it| it.foreign.is_none() && seen.has(it.address.address)) {
        Some(left) => Err(format!("is {state} and still has {:?}", left.address)),
        None => Ok(()),
    }
}

/// Whether the host may answer although it is not MASTER: another program added the address, another process serves the
/// virtual host, the fence is out of order or refused to close, its entry could not be removed and has not ended by
/// itself, or the time of a dead MASTER is not over, because the process waits for a link or does not find the interface
/// under its new name.
fn may_answer(machine: &Machine, seen: &Seen, ip: IpAddr) -> bool {
    (seen.scripts.is_none() && has_foreign(machine, ip))
        || is_served_elsewhere(machine, seen)
        || !machine.program.is_possible
        || machine.program.is_any_lost()
        || machine.is_renamed()
        || machine.program.is_inherited(ip)
        || (machine.unfenced.contains(&ip) && (machine.sabotage.changes || is_recent(machine)))
        || machine.may_outlast(seen.watch.vhid())
}

/// Whether another process held the lock of the virtual host when this one last tried to take it. The fence of the
/// addresses is then that process's, also of those that a script of ours adds which began before the interface was created
/// again. Ours must not touch it.
fn is_served_elsewhere(machine: &Machine, seen: &Seen) -> bool {
    machine.is_locked_out && !machine.holds_lock(seen.watch.vhid())
}

/// Whether a program other than carpd added the address.
fn has_foreign(machine: &Machine, ip: IpAddr) -> bool {
    let mut there = machine.namespace.addresses.iter();
    there.any(|it| it.address.address == ip && it.foreign.is_some())
}

/// Checks a MASTER to which nothing has happened for long enough that everything must be repaired.
fn check_repaired(machine: &Machine, seen: &Seen) -> Result<(), Violation> {
    let mut addresses = seen.addresses.iter();
    match addresses.find(|(ip, _)| !machine.namespace.has(*ip)) {
        Some((ip, _)) if seen.scripts.is_none() => Err(format!("is MASTER and lacks {ip}")),
        Some(_) | None => Ok(()),
    }
}

/// Checks a host whose process was just killed: what it leaves must end by itself.
///
/// # Errors
/// An address of it stays longer than its lease.
pub fn check_killed(machine: &Machine, member: &Member) -> Result<(), Violation> {
    let takeover = Duration::from_secs(u64::from(member.advbase) * u64::from(member.deadratio));
    let lease = (takeover + Duration::from_secs(2)).max(SHORTEST_LEASE);
    let until = machine.now + lease;
    let mut ours = machine.namespace.addresses.iter();
    match ours.find(|it| it.foreign.is_none() && it.ends.is_none_or(|ends| ends > until)) {
        Some(stays) => Err(format!("was killed and leaves {stays:?}, beyond {until:?}")),
        None => Ok(()),
    }
}

/// Checks a host on which a virtual host has been removed.
///
/// # Errors
/// Something of the virtual host is left.
pub fn check_nothing_left(machine: &Machine, group: &Group) -> Result<(), Violation> {
    let vhid = group.vhid;
    let mut addresses = machine.namespace.addresses.iter();
    if let Some(left) = addresses.find(|it| it.foreign.is_none() && group.has(it.address.address)) {
        return Err(format!("vhid {vhid} left {:?}", left.address));
    }
    let mut routes = machine.namespace.routes_of_carpd();
    if let Some(left) = routes.find(|route| route.source.is_some_and(|ip| group.has(ip))) {
        return Err(format!("vhid {vhid} left {left:?}"));
    }
    let is_its = |it: Vhid| it.get() == vhid;
    // What the tables refuse to remove until the process ends stays in them, and is silent: nobody owns it. They refuse the
    // same to the process while it lives, which tries again.
    if machine.sabotage.removals {
        return Ok(());
    }
    let mut fenced = machine.program.fenced().into_iter();
    if let Some(left) = fenced.find(|it| {
        it.owner.is_some_and(|owner| is_its(owner.vhid)) && !machine.namespace.has(it.address)
    }) {
        return Err(format!("vhid {vhid} left {left:?}"));
    }
    // An address of an earlier process that was killed is removed by the next start.
    let mut entries = machine.program.entries.iter();
    match entries.find(|(key, entry)| key.vhid == vhid && entry.is_heard) {
        Some((left, _)) => Err(format!("vhid {vhid} left {left:?}")),
        None => Ok(()),
    }
}

/// Checks a dead or stopped host at the moment when another one takes over that has heard its last advertisement.
///
/// # Errors
/// The host still answers.
pub fn check_succeeded(
    machine: &mut Machine,
    group: &Group,
    is_native: bool,
    now: Instant,
) -> Result<(), Violation> {
    machine.advance(now);
    let machine = &*machine;
    let mut addresses = group.addresses();
    let is_foreign = |ip: IpAddr| is_native && has_foreign(machine, ip);
    let works = machine.program.is_possible && !machine.program.is_any_lost();
    let has_fence = |ip: &IpAddr| works && !machine.unfenced.contains(ip);
    match addresses.find(|ip| has_fence(ip) && machine.answers(*ip) && !is_foreign(*ip)) {
        Some(ip) => Err(format!(
            "still answers for {ip}, although another one has taken over"
        )),
        None => Ok(()),
    }
}
