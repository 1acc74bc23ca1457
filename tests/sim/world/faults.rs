//! Faults, and their ends.

use std::time::Duration;

use carp_common::proto::LinkState;
use carp_common::time::Instant;
use carp_common::units::Family;

use super::super::attacker::Ahead;
use super::super::bare::{self, Bare, Start};
use super::super::duty;
use super::super::host::{Control, Host};
use super::super::machine::others;
use super::super::model::{Model, Setup, index};
use super::super::packet::Packet;
use super::super::scenario::{Fault, Finale, Program, Theme};
use super::super::station::Body;
use super::super::watch::{Provenance, Violation};
use super::{Event, FAMILIES, World};

/// The time after which a supervisor restarts a carpd that failed.
pub(super) const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The wall clock at the origin of the monotonic clock, in nanoseconds; carpd takes its first replay counter from it.
const WALL_CLOCK_AT_ORIGIN: u64 = 1_700_000_000_000_000_000;

impl World<'_> {
    /// Begins the quiet period: everything that can be repaired is repaired.
    pub(super) fn quiet(&mut self) -> Result<(), Violation> {
        self.trace
            .note(self.now, "world", || "quiet from here on".into());
        self.fault(Fault::Heal)?;
        self.fault(Fault::Loss(0))?;
        for number in 0..self.stations.len() {
            if !self.scenario.members[number].mortal {
                self.fault(Fault::Start(number))?;
            }
            self.mend(number);
            self.add_second(number);
            self.fault(Fault::LinkUp(number))?;
            for family in FAMILIES {
                self.fault(Fault::SourceBack(number, family))?;
            }
            self.fault(Fault::SendsAgain(number))?;
            self.fault(Fault::Resume(number))?;
            if self.scenario.undo_demotion {
                self.fault(Fault::Demote(number, 0))?;
            }
        }
        Ok(())
    }

    /// Crashes or stops the only master.
    pub(super) fn finale(&mut self) -> Result<(), Violation> {
        self.check_addresses()?;
        let Some(fault) = self.scenario.finale else {
            return Ok(());
        };
        match (self.calm.master(), fault) {
            (Some(master), Finale::Crash) => self.fault(Fault::Crash(master)),
            (Some(master), Finale::Stop) => self.fault(Fault::Stop(master)),
            (None, _) => Ok(()),
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if let Fault::Inject(number) = fault {
            self.inject(number);
            return Ok(());
        }
        if let Fault::Stroke(plan) = fault {
            self.stroke(plan);
            return Ok(());
        }
        let left = if let Fault::Crash(number) = fault {
            self.leaves(number, false)
        } else if let Fault::Stop(number) = fault {
            self.leaves(number, self.bows_out(number))
        } else {
            false
        };
        if !left {
            self.calm.disturb(self.now);
        }
        self.trace.note(self.now, "world", || format!("{fault:?}"));
        let now = self.now;
        match fault {
            Fault::Start(number) => self.start(number),
            Fault::Crash(number) => self.crash(number)?,
            Fault::Stop(number) => self.stop(number),
            Fault::Hang(number) => self.hang(number),
            Fault::Pause(number) => {
                self.stations[number].hung = true;
                self.stations[number].paused = true;
            }
            Fault::Resume(number) => {
                self.expect_repair(number);
                self.stations[number].hung = false;
                self.stations[number].paused = false;
                self.stations[number].wake_at = None;
                if let Some(machine) = self.stations[number].machine() {
                    machine.advance(now);
                    machine.catch_up();
                }
                self.wake_soon(number);
            }
            Fault::LinkDown(number) => self.set_link(number, false),
            Fault::LinkUp(number) => self.set_link(number, true),
            Fault::SourceLost(number, family) => self.set_source(number, family, false),
            Fault::SourceBack(number, family) => self.set_source(number, family, true),
            Fault::SendErrors(number) => self.set_send_errors(number, true),
            Fault::SendsAgain(number) => self.set_send_errors(number, false),
            Fault::Demote(number, demotion) => self.demote(number, demotion),
            Fault::StepDown(number, hold) => {
                self.control_bare(number, bare::Control::StepDown(hold));
                self.command(number, Control::StepDown);
            }
            Fault::Mishap(number, mishap) => self.mishap(number, mishap),
            Fault::Remove(number) => self.remove_second(number),
            Fault::Add(number) => self.add_second(number),
            Fault::Cut(family, from, to) => {
                for cut in FAMILIES
                    .into_iter()
                    .filter(|each| family.is_none_or(|only| only == *each))
                {
                    self.network.set_cut(cut, from, to, true);
                }
            }
            Fault::Partition(mask) => self.partition(mask),
            Fault::Heal => self.network.heal(),
            Fault::Loss(permille) => self.network.set_loss(permille),
            Fault::Inject(_) | Fault::Stroke(_) => unreachable!("handled above"),
        }
        if !matches!(fault, Fault::Mishap(..)) {
            self.count_by_name(&fault);
        }
        Ok(())
    }

    /// Counts by the name of its kind.
    pub(super) fn count_by_name(&mut self, what: &impl std::fmt::Debug) {
        let name = format!("{what:?}");
        self.count(name.split(['(', ' ']).next().unwrap_or_default());
    }

    fn set_send_errors(&mut self, number: usize, fails: bool) {
        let station = &mut self.stations[number];
        station.send_errors = fails;
        if let Some(machine) = station.machine() {
            machine.sabotage.sending = fails;
        }
    }

    fn leaves(&mut self, number: usize, bows_out: bool) -> bool {
        let checked = self.calm.leaves(self.now, number, bows_out, &self.stations);
        if checked {
            self.count(if bows_out {
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
    fn bows_out(&self, number: usize) -> bool {
        match self.scenario.members[number].program {
            Program::Carpd(_) => true,
            Program::Model(dialect) => dialect.bows_out() && self.stations[number].incarnation < 3,
        }
    }

    fn hang(&mut self, number: usize) {
        let station = &mut self.stations[number];
        station.hung = true;
        match &mut station.body {
            Body::Carpd(host) => host.stop(self.now),
            Body::Bare(host) => host.stop(),
            Body::Model(_) | Body::Dead => {}
        }
    }

    fn partition(&mut self, mask: u8) {
        let inside = |number: usize| mask >> number & 1 == 1;
        for from in 0..self.stations.len() {
            for to in 0..self.stations.len() {
                for family in FAMILIES {
                    if inside(from) != inside(to) {
                        self.network.set_cut(family, from, to, true);
                    }
                }
            }
        }
    }

    /// Kills a process.
    fn crash(&mut self, number: usize) -> Result<(), Violation> {
        let station = &mut self.stations[number];
        let was_alive = matches!(station.body, Body::Carpd(_));
        station.die();
        station.restarts = false;
        if let Some(machine) = station.machine()
            && was_alive
        {
            machine.advance(self.now);
            let name = machine.name.clone();
            duty::check_killed(machine, &self.scenario.members[number])
                .map_err(|what| format!("{name}: {what}"))?;
        }
        Ok(())
    }

    fn set_link(&mut self, number: usize, up: bool) {
        let station = &mut self.stations[number];
        if let Some(machine) = station.machine() {
            let index = machine.ifindex.unwrap_or_default();
            machine.advance(self.now);
            machine
                .namespace
                .change(index, |link| link.running = up && link.admin_up);
            self.follow_kernel(number);
            return;
        }
        if station.link == up {
            return;
        }
        station.link = up;
        match &mut station.body {
            Body::Model(model) if up => model.start(self.now),
            Body::Model(model) => model.link_down(),
            Body::Carpd(_) | Body::Bare(_) | Body::Dead => {}
        }
        self.model_acted(number, Vec::new());
        self.control_bare(
            number,
            bare::Control::Link(if up { LinkState::Up } else { LinkState::Down }),
        );
    }

    fn set_source(&mut self, number: usize, family: Family, there: bool) {
        let had = &mut self.stations[number].sources[index(family)];
        if *had == there {
            return;
        }
        *had = there;
        self.control_bare(number, bare::Control::Source(family, there));
        if let Some(machine) = self.stations[number].machine()
            && family == Family::Inet
        {
            machine.advance(self.now);
            others::set_source(machine, there);
            self.follow_kernel(number);
        }
    }

    fn demote(&mut self, number: usize, demotion: u8) {
        let station = &mut self.stations[number];
        if station.hung && matches!(station.body, Body::Model(_)) {
            // A paused machine receives no command.
            return;
        }
        station.demotion = demotion;
        match &mut station.body {
            Body::Model(model) => {
                let mut out = Vec::new();
                model.demote(self.now, demotion, &mut out);
                self.model_acted(number, out);
            }
            Body::Carpd(_) => self.command(number, Control::Demotion(demotion)),
            Body::Bare(_) => self.control_bare(number, bare::Control::Demotion(demotion)),
            Body::Dead => {}
        }
    }

    fn stop(&mut self, number: usize) {
        let hung = self.stations[number].hung;
        if let Body::Model(model) = &mut self.stations[number].body {
            let mut out = Vec::new();
            if !hung {
                model.stop(&mut out);
            }
            self.model_acted(number, out);
            self.stations[number].die();
        }
        self.control_bare(number, bare::Control::Shutdown);
        self.command(number, Control::Shutdown);
    }

    pub(super) fn start(&mut self, number: usize) {
        match &self.stations[number].body {
            Body::Dead => {}
            // A start waits for a process that is ending.
            Body::Carpd(host) => {
                self.stations[number].restarts = host.is_ending();
                return;
            }
            Body::Bare(_) | Body::Model(_) => return,
        }
        let member = &self.scenario.members[number];
        let rng = self.rng.fork();
        let station = &mut self.stations[number];
        station.sent.restart(self.scenario.theme == Theme::Strict);
        station.incarnation += 1;
        station.demotion = 0;
        station.wake_at = None;
        match member.program {
            Program::Carpd(_) if station.machine.is_some() => self.start_engine(number),
            Program::Carpd(_) => {
                let start = Start {
                    name: station.name.clone(),
                    settings: self.scenario.settings(number),
                    initial_counter: WALL_CLOCK_AT_ORIGIN + self.now.as_nanos(),
                    group: self.scenario.group.clone(),
                    sources: member.sources,
                    script_time: member.script,
                    ring: self.scenario.ring,
                    sent: std::mem::take(&mut station.sent),
                };
                let (sources, link) = (station.sources, station.link);
                station.body = Body::Bare(Box::new(Bare::new(start, self.now)));
                for family in FAMILIES
                    .into_iter()
                    .filter(|family| sources[index(*family)])
                {
                    self.control_bare(number, bare::Control::Source(family, true));
                }
                self.control_bare(
                    number,
                    bare::Control::Link(if link { LinkState::Up } else { LinkState::Down }),
                );
            }
            Program::Model(dialect) => {
                let mut model = Model::new(
                    Setup {
                        dialect,
                        group: self.scenario.group.clone(),
                        advbase: member.advbase,
                        advskew: member.advskew,
                        deadratio: member.deadratio,
                        preempt: member.preempt,
                        sources: member.sources,
                    },
                    rng,
                );
                if station.link {
                    model.start(self.now);
                }
                station.body = Body::Model(Box::new(model));
                self.model_acted(number, Vec::new());
            }
        }
    }

    fn start_engine(&mut self, number: usize) {
        let first = self.scenario.config(number);
        let configs = std::iter::once(first).chain(self.scenario.second_config(number));
        let station = &mut self.stations[number];
        let Some(mut machine) = station.machine.take() else {
            return;
        };
        machine.advance(self.now);
        machine.sabotage.sending = station.send_errors;
        match Host::start(configs.collect(), *machine) {
            Ok(host) => {
                station.body = Body::Carpd(Box::new(host));
                self.wake(number, self.now);
            }
            // The supervisor tries again.
            Err(failed) => {
                let (machine, why) = *failed;
                self.trace
                    .note(self.now, &station.name, || format!("does not start: {why}"));
                station.machine = Some(Box::new(machine));
                self.push(self.now + RESTART_AFTER, Event::Fault(Fault::Start(number)));
            }
        }
        self.take_requests(number);
    }

    fn inject(&mut self, number: u64) {
        let attacker = self.attacker.as_ref();
        if let Some(sent) = attacker.and_then(|attacker| attacker.strikes(self.now, number)) {
            self.count("Inject");
            self.attack(sent);
        }
    }

    fn stroke(&mut self, plan: usize) {
        let attacker = self.attacker.as_mut();
        if let Some(sent) = attacker.and_then(|attacker| attacker.carries_on(self.now, plan)) {
            let ploy = format!("{:?}", self.scenario.plans[plan].ploy);
            self.count(ploy.split(['(', ' ']).next().unwrap_or_default());
            self.attack(sent);
        }
    }

    fn attack(&mut self, (packet, targets): (Packet, u64)) {
        self.trace.packet(self.now, "attacker", "injects", &packet);
        self.is_attacked(self.now);
        for to in 0..self.stations.len() {
            if targets >> to & 1 == 1 {
                self.push(
                    self.now,
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
    fn is_attacked(&mut self, until: Instant) {
        if !self.scenario.attacker_is_powerless() {
            self.calm.disturb(until);
        }
    }

    /// Lets the attacker's packet arrive before a frame that reaches the host after this time.
    pub(super) fn overtake(&mut self, to: usize, after: Duration, ahead: &Ahead) {
        if ahead.targets >> to & 1 == 0 {
            return;
        }
        let at = self.now + after.saturating_sub(ahead.by);
        self.trace
            .packet(at, "attacker", "is first with", &ahead.packet);
        self.is_attacked(self.now + after);
        self.count("Overtake");
        self.push(
            at,
            Event::Arrives {
                to,
                packet: ahead.packet.clone(),
                provenance: Provenance::Dubious,
            },
        );
    }
}
