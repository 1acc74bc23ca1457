//! Faults, and their ends.

use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::Family;

use super::super::attacker::Ahead;
use super::super::duty;
use super::super::host::{Control, Ended, Host};
use super::super::machine::{Machine, others};
use super::super::model::{Model, Setup, index};
use super::super::packet::{FAMILIES, Packet};
use super::super::scenario::{Fault, Finale, Implementation, Theme};
use super::super::station::Body;
use super::super::watch::{Provenance, Violation};
use super::{Event, World};
use super::{mishaps, requests};

/// The time after which a supervisor restarts a carpd that failed.
pub(super) const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Begins the quiet period: everything that can be repaired is repaired.
pub(super) fn quiet(world: &mut World<'_>) -> Result<(), Violation> {
    world
        .trace
        .note(world.now, "world", || "quiet from here on".into());
    apply(world, Fault::Heal)?;
    apply(world, Fault::Loss(0))?;
    for number in 0..world.stations.len() {
        if !world.scenario.members[number].mortal {
            apply(world, Fault::Start(number))?;
        }
        mishaps::mend(world, number);
        mishaps::add_second(world, number);
        apply(world, Fault::LinkUp(number))?;
        for family in FAMILIES {
            apply(world, Fault::SourceBack(number, family))?;
        }
        apply(world, Fault::SendsAgain(number))?;
        apply(world, Fault::Resume(number))?;
        if world.scenario.undo_demotion {
            apply(world, Fault::Demote(number, 0))?;
        }
    }
    Ok(())
}

/// Crashes or stops the only master.
pub(super) fn finale(world: &mut World<'_>) -> Result<(), Violation> {
    world.check_addresses()?;
    let Some(fault) = world.scenario.finale else {
        return Ok(());
    };
    match (world.calm.master(), fault) {
        (Some(master), Finale::Crash) => apply(world, Fault::Crash(master)),
        (Some(master), Finale::Stop) => apply(world, Fault::Stop(master)),
        (None, _) => Ok(()),
    }
}

pub(super) fn apply(world: &mut World<'_>, fault: Fault) -> Result<(), Violation> {
    if let Fault::Inject(number) = fault {
        inject(world, number);
        return Ok(());
    }
    if let Fault::Stroke(plan) = fault {
        stroke(world, plan);
        return Ok(());
    }
    let left = if let Fault::Crash(number) = fault {
        leaves(world, number, false)
    } else if let Fault::Stop(number) = fault {
        leaves(world, number, bows_out(world, number))
    } else {
        false
    };
    if !left {
        world.calm.disturb(world.now);
    }
    world
        .trace
        .note(world.now, "world", || format!("{fault:?}"));
    let now = world.now;
    match fault {
        Fault::Start(number) => start(world, number),
        Fault::Crash(number) => crash(world, number)?,
        Fault::Stop(number) => stop(world, number),
        Fault::Hang(number) => hang(world, number),
        Fault::Pause(number) => {
            world.stations[number].hung = true;
            world.stations[number].paused = true;
        }
        Fault::Resume(number) => {
            mishaps::expect_repair(world, number);
            world.stations[number].hung = false;
            world.stations[number].paused = false;
            world.stations[number].wake_at = None;
            if let Some(machine) = world.stations[number].machine() {
                machine.advance(now);
                machine.catch_up();
            }
            world.wake_soon(number);
        }
        Fault::LinkDown(number) => set_link(world, number, false),
        Fault::LinkUp(number) => set_link(world, number, true),
        Fault::SourceLost(number, family) => set_source(world, number, family, false),
        Fault::SourceBack(number, family) => set_source(world, number, family, true),
        Fault::SendErrors(number) => set_send_errors(world, number, true),
        Fault::SendsAgain(number) => set_send_errors(world, number, false),
        Fault::Demote(number, demotion) => demote(world, number, demotion),
        Fault::StepDown(number) => mishaps::command(world, number, Control::StepDown),
        Fault::Mishap(number, mishap) => mishaps::mishap(world, number, mishap),
        Fault::Remove(number) => mishaps::remove_second(world, number),
        Fault::Add(number) => mishaps::add_second(world, number),
        Fault::Cut(family, from, to) => {
            for cut in FAMILIES
                .into_iter()
                .filter(|each| family.is_none_or(|only| only == *each))
            {
                world.network.set_cut(cut, from, to, true);
            }
        }
        Fault::Partition(mask) => partition(world, mask),
        Fault::Heal => world.network.heal(),
        Fault::Loss(permille) => world.network.set_loss(permille),
        Fault::Inject(_) | Fault::Stroke(_) => unreachable!("handled above"),
    }
    if !matches!(fault, Fault::Mishap(..)) {
        world.count_by_name(&fault);
    }
    Ok(())
}

fn set_send_errors(world: &mut World<'_>, number: usize, fails: bool) {
    let station = &mut world.stations[number];
    station.send_errors = fails;
    if let Some(machine) = station.machine() {
        machine.sabotage.sending = fails;
    }
}

fn leaves(world: &mut World<'_>, number: usize, bows_out: bool) -> bool {
    let checked = world
        .calm
        .leaves(world.now, number, bows_out, &world.stations);
    if checked {
        world.count(if bows_out {
            "looked at who follows a stop"
        } else {
            "looked at who follows a crash"
        });
    }
    checked
}

/// Whether a host's bow-out is believed. ucarp and FreeBSD fall silent when they are stopped. An OpenBSD that was
/// restarted more than once, and hardly heard in between, is taken for one whose counter moves, so its bow-out is
/// taken for a forgery; a NetBSD that hears no host has a new counter each time.
fn bows_out(world: &World<'_>, number: usize) -> bool {
    match world.scenario.members[number].program {
        Implementation::Carpd(_) => true,
        Implementation::Model(dialect) => {
            dialect.bows_out() && world.stations[number].incarnation < 3
        }
    }
}

fn hang(world: &mut World<'_>, number: usize) {
    let station = &mut world.stations[number];
    station.hung = true;
    match &mut station.body {
        Body::Carpd(host) => host.stop(world.now),
        Body::Model(_) | Body::Dead => {}
    }
}

fn partition(world: &mut World<'_>, mask: u8) {
    let inside = |number: usize| mask >> number & 1 == 1;
    for from in 0..world.stations.len() {
        for to in 0..world.stations.len() {
            for family in FAMILIES {
                if inside(from) != inside(to) {
                    world.network.set_cut(family, from, to, true);
                }
            }
        }
    }
}

/// Kills a process.
fn crash(world: &mut World<'_>, number: usize) -> Result<(), Violation> {
    let station = &mut world.stations[number];
    let was_alive = matches!(station.body, Body::Carpd(_));
    station.die();
    station.restarts = false;
    if let Some(machine) = station.machine()
        && was_alive
    {
        machine.advance(world.now);
        let name = machine.name.clone();
        duty::check_killed(machine, &world.scenario.members[number])
            .map_err(|what| format!("{name}: {what}"))?;
    }
    Ok(())
}

fn set_link(world: &mut World<'_>, number: usize, up: bool) {
    let station = &mut world.stations[number];
    if let Some(machine) = station.machine() {
        let index = machine.ifindex.unwrap_or_default();
        machine.advance(world.now);
        machine
            .namespace
            .change(index, |link| link.running = up && link.admin_up);
        mishaps::follow_kernel(world, number);
        return;
    }
    if station.link == up {
        return;
    }
    station.link = up;
    match &mut station.body {
        Body::Model(model) if up => model.start(world.now),
        Body::Model(model) => model.link_down(),
        Body::Carpd(_) | Body::Dead => {}
    }
    world.model_acted(number, Vec::new());
}

fn set_source(world: &mut World<'_>, number: usize, family: Family, there: bool) {
    let had = &mut world.stations[number].sources[index(family)];
    if *had == there {
        return;
    }
    *had = there;
    if let Some(machine) = world.stations[number].machine() {
        machine.advance(world.now);
        others::set_source(machine, family, there);
        mishaps::follow_kernel(world, number);
    }
}

fn demote(world: &mut World<'_>, number: usize, demotion: u8) {
    let station = &mut world.stations[number];
    if station.hung && matches!(station.body, Body::Model(_)) {
        // A paused machine receives no command.
        return;
    }
    station.demotion = demotion;
    match &mut station.body {
        Body::Model(model) => {
            let mut out = Vec::new();
            model.demote(world.now, demotion, &mut out);
            world.model_acted(number, out);
        }
        Body::Carpd(_) => mishaps::command(world, number, Control::Demotion(demotion)),
        Body::Dead => {}
    }
}

fn stop(world: &mut World<'_>, number: usize) {
    let hung = world.stations[number].hung;
    if let Body::Model(model) = &mut world.stations[number].body {
        let mut out = Vec::new();
        if !hung {
            model.stop(&mut out);
        }
        world.model_acted(number, out);
        world.stations[number].die();
    }
    mishaps::command(world, number, Control::Shutdown);
}

pub(super) fn start(world: &mut World<'_>, number: usize) {
    match &world.stations[number].body {
        Body::Dead => {}
        // A start waits for a process that is ending.
        Body::Carpd(host) => {
            world.stations[number].restarts = host.is_ending();
            return;
        }
        Body::Model(_) => return,
    }
    let member = &world.scenario.members[number];
    let rng = world.rng.fork();
    let station = &mut world.stations[number];
    station.sent.restart(world.scenario.theme == Theme::Strict);
    station.incarnation += 1;
    station.demotion = 0;
    station.wake_at = None;
    match member.program {
        Implementation::Carpd(_) => start_engine(world, number),
        Implementation::Model(dialect) => {
            let mut model = Model::new(
                Setup {
                    dialect,
                    group: world.scenario.group.clone(),
                    advbase: member.advbase,
                    advskew: member.advskew,
                    deadratio: member.deadratio,
                    preempt: member.preempt,
                    sources: member.sources,
                },
                rng,
            );
            if station.link {
                model.start(world.now);
            }
            station.body = Body::Model(Box::new(model));
            world.model_acted(number, Vec::new());
        }
    }
}

fn start_engine(world: &mut World<'_>, number: usize) {
    let first = world.scenario.config(number);
    let configs = std::iter::once(first).chain(world.scenario.second_config(number));
    let station = &mut world.stations[number];
    let Some(mut machine) = station.machine.take() else {
        return;
    };
    machine.advance(world.now);
    machine.sabotage.sending = station.send_errors;
    match Host::start(configs.collect(), *machine) {
        Ok(host) => {
            station.body = Body::Carpd(Box::new(host));
            world.wake(number, world.now);
        }
        // The supervisor tries again.
        Err(failed) => {
            let (machine, why) = *failed;
            world.trace.note(world.now, &station.name, || {
                format!("does not start: {why}")
            });
            station.machine = Some(Box::new(machine));
            world.push(
                world.now + RESTART_AFTER,
                Event::Fault(Fault::Start(number)),
            );
        }
    }
    requests::take_requests(world, number);
}

fn inject(world: &mut World<'_>, number: u64) {
    let attacker = world.attacker.as_ref();
    if let Some(sent) = attacker.and_then(|attacker| attacker.strikes(world.now, number)) {
        world.count("Inject");
        attack(world, sent);
    }
}

fn stroke(world: &mut World<'_>, plan: usize) {
    let attacker = world.attacker.as_mut();
    if let Some(sent) = attacker.and_then(|attacker| attacker.carries_on(world.now, plan)) {
        let ploy = format!("{:?}", world.scenario.plans[plan].ploy);
        world.count(ploy.split(['(', ' ']).next().unwrap_or_default());
        attack(world, sent);
    }
}

fn attack(world: &mut World<'_>, (packet, targets): (Packet, u64)) {
    world
        .trace
        .packet(world.now, "attacker", "injects", &packet);
    is_attacked(world, world.now);
    for to in 0..world.stations.len() {
        if targets >> to & 1 == 1 {
            world.push(
                world.now,
                Event::Arrives {
                    to,
                    packet: packet.clone(),
                    provenance: Provenance::Dubious,
                },
            );
        }
    }
}

/// Notes that the attacker disturbs the hosts until then.
fn is_attacked(world: &mut World<'_>, until: Instant) {
    if !world.scenario.attacker_is_powerless() {
        world.calm.disturb(until);
    }
}

/// Lets the attacker's packet arrive before a frame that reaches the host after this time.
pub(super) fn overtake(world: &mut World<'_>, to: usize, after: Duration, ahead: &Ahead) {
    if ahead.targets >> to & 1 == 0 {
        return;
    }
    let at = world.now + after.saturating_sub(ahead.by);
    world
        .trace
        .packet(at, "attacker", "is first with", &ahead.packet);
    is_attacked(world, world.now + after);
    world.count("Overtake");
    world.push(
        at,
        Event::Arrives {
            to,
            packet: ahead.packet.clone(),
            provenance: Provenance::Dubious,
        },
    );
}

/// Ends a process that was told to end, once its scripts have ended.
pub(super) fn try_to_end(world: &mut World<'_>, number: usize) -> Result<(), Violation> {
    let station = &mut world.stations[number];
    let body = std::mem::replace(&mut station.body, Body::Dead);
    let Body::Carpd(host) = body else {
        station.body = body;
        return Ok(());
    };
    match host.end() {
        Ended::NotYet(host) => {
            station.body = Body::Carpd(host);
            return Ok(());
        }
        Ended::Gone(machine, harm) => {
            station.machine = Some(machine);
            if let Some(what) = harm {
                return Err(format!("{}: {what}", station.name));
            }
        }
    }
    world
        .trace
        .note(world.now, &station.name, || "exits".into());
    let fails = |machine: &Machine| machine.sabotage.prevents_repair();
    if let Some(machine) = &station.machine
        && station.repaired_by < world.now
        && !fails(machine)
        && !machine.was_never_found()
    {
        for group in world.scenario.groups() {
            duty::check_nothing_left(machine, &group)
                .map_err(|what| format!("{}: {what}", station.name))?;
        }
    }
    if std::mem::take(&mut station.restarts) {
        world.calm.disturb(world.now);
        start(world, number);
    }
    Ok(())
}
