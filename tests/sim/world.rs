//! One run: an event queue, a virtual clock that jumps, and everything that the scenario contains.

mod agenda;
mod faults;
mod mishaps;
mod owners;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::State;

use super::attacker::Attacker;
use super::group::Calm;
use carp_daemon::engine::registry::InstanceId;

use super::duty;
use super::machine::{Machine, Parts};
use super::model::index;
use super::network::{Fate, Network};
use super::packet::{Packet, read};
use super::rng::Rng;
use super::scenario::{Fault, Implementation, START, Scenario, Theme};
use super::station::{Body, Sent, Station};
use super::trace::Trace;
use super::watch::{Provenance, SentCounters, Violation};
use agenda::Agenda;

/// The number of its own advertisements with which a host's counters are compared.
const RECENT: usize = 32;

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The first violation: by which host, and when.
    pub violation: Option<Violation>,
    /// The trace, if it was requested.
    pub trace: Vec<String>,
    /// Every state change, in order.
    pub transitions: Vec<(Instant, usize, State)>,
    /// Every announcement of a carpd, in order.
    pub announcements: Vec<(Instant, usize)>,
    /// How often each thing happened.
    pub tally: BTreeMap<String, u64>,
}

impl Outcome {
    /// Returns when the host became MASTER, counted from the start of the run.
    pub fn reigns(&self, host: usize) -> impl Iterator<Item = Duration> {
        let mine = self
            .transitions
            .iter()
            .filter(move |(_, who, to)| *who == host && *to == State::Master);
        mine.map(|(at, _, _)| at.saturating_duration_since(START))
    }

    /// Returns the masters at the end.
    #[must_use]
    pub fn masters(&self) -> Vec<usize> {
        let hosts = self
            .transitions
            .iter()
            .map(|(_, who, _)| *who)
            .max()
            .map_or(0, |last| last + 1);
        let last_state = |host| {
            self.transitions
                .iter()
                .rfind(|(_, who, _)| *who == host)
                .map(|(_, _, state)| *state)
        };
        (0..hosts)
            .filter(|host| last_state(*host) == Some(State::Master))
            .collect()
    }
}

#[derive(Debug)]
enum Event {
    Fault(Fault),
    Quiet,
    /// All hosts have settled: the master leaves, if there is one, and the others settle again.
    Finale,
    Arrives {
        to: usize,
        packet: Packet,
        provenance: Provenance,
    },
    Wakes {
        station: usize,
    },
    ScriptEnds {
        station: usize,
        incarnation: u32,
        /// The virtual host.
        instance: InstanceId,
    },
    /// The kernel carries out the orders of a process's thread.
    Orders {
        station: usize,
        incarnation: u32,
    },
    /// An address of a host may expire.
    Expires {
        station: usize,
    },
    End,
}

/// A bound on the steps of a run that ends; a run in which time stands still would fill the memory otherwise.
const STEPS_MAX: u64 = 2_000_000;

/// A run in progress.
#[derive(Debug)]
pub struct World<'a> {
    scenario: &'a Scenario,
    now: Instant,
    network: Network,
    stations: Vec<Station>,
    agenda: Agenda<Event>,
    rng: Rng,
    attacker: Option<Attacker>,
    calm: Calm,
    trace: Trace,
    transitions: Vec<(Instant, usize, State)>,
    announcements: Vec<(Instant, usize)>,
    /// The hosts that became MASTER in this step.
    new_masters: Vec<usize>,
    tally: BTreeMap<String, u64>,
    /// The first violation in this step.
    violation: Option<Violation>,
}

impl<'a> World<'a> {
    /// Prepares a run.
    #[must_use]
    pub fn new(scenario: &'a Scenario, with_attacker: bool, traced: bool) -> Self {
        let mut rng = Rng::new(!scenario.seed);
        let network = Network::new(scenario.members.len(), scenario.weather, rng.fork());
        let mut world = Self {
            scenario,
            now: START,
            network,
            stations: Vec::new(),
            agenda: Agenda::default(),
            rng,
            attacker: with_attacker.then(|| Attacker::new(scenario)),
            calm: Calm::new(scenario),
            trace: Trace::new(traced),
            transitions: Vec::new(),
            announcements: Vec::new(),
            new_masters: Vec::new(),
            tally: BTreeMap::new(),
            violation: None,
        };
        for (number, member) in scenario.members.iter().enumerate() {
            let program = match member.program {
                Implementation::Carpd(profile) => format!("{profile:?}").to_lowercase(),
                Implementation::Model(dialect) => format!("{dialect:?}").to_uppercase(),
            };
            let name = format!("{number} {program}");
            let machine = scenario.members[number].is_carpd().then(|| {
                let parts = Parts {
                    name: name.clone(),
                    groups: scenario.groups(),
                    sources: member.sources,
                    ring: scenario.ring,
                    traced,
                    rng: Rng::new(scenario.seed ^ (0x6b65_726e + number as u64)),
                    notifications: scenario.notifications,
                    programs: scenario.programs,
                };
                Box::new(Machine::new(parts, START))
            });
            world.stations.push(Station {
                name,
                vhid: scenario.group.vhid,
                body: Body::Dead,
                machine,
                is_renamed: false,
                expires_at: None,
                restarts: false,
                repaired_by: START,
                link: true,
                hung: false,
                paused: false,
                sources: [true; 2],
                send_errors: false,
                announced_at: [None; 2],
                demotion: 0,
                wake_at: None,
                incarnation: 0,
                sent: SentCounters::default(),
                used: BTreeSet::new(),
                last_sent: VecDeque::new(),
                said: [None, None],
                counted: Default::default(),
                owns_until: START,
                reigns_since: START,
                seen: State::Init,
            });
            world.push(member.start, Event::Fault(Fault::Start(number)));
        }
        for (at, fault) in &scenario.faults {
            world.push(*at, Event::Fault(*fault));
        }
        world.push(scenario.quiet_at, Event::Quiet);
        // Long enough to check twice that what settled stays.
        let period = scenario.settling_time() * 3 / 2;
        world.push(scenario.quiet_at + period, Event::Finale);
        world.push(scenario.quiet_at + 2 * period, Event::End);
        world
    }

    /// Runs to the end, or to the first violation.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let violation = self.steps().err();
        if self.tally.contains_key("looked at a settled group") {
            self.count("seeds that settled");
        }
        let seconds = self.now.saturating_duration_since(START);
        let violation = violation.map(|what| format!("at {:.6} s: {what}", seconds.as_secs_f64()));
        Outcome {
            violation,
            trace: self.trace.into_lines(),
            transitions: self.transitions,
            announcements: self.announcements,
            tally: self.tally,
        }
    }

    fn steps(&mut self) -> Result<(), Violation> {
        for step in 0_u64.. {
            let Some((at, event)) = self.agenda.take_next() else {
                break;
            };
            if step > STEPS_MAX {
                return Err(format!("{step} steps, and no end: a storm of {event:?}"));
            }
            self.now = at;
            match event {
                Event::End => {
                    self.check_addresses()?;
                    return self.check();
                }
                Event::Fault(fault) => faults::apply(self, fault)?,
                Event::Quiet => faults::quiet(self)?,
                Event::Finale => faults::finale(self)?,
                Event::Arrives {
                    to,
                    packet,
                    provenance,
                } => self.arrives(to, packet, provenance),
                Event::Wakes { station } => self.wakes(station)?,
                Event::ScriptEnds {
                    station,
                    incarnation,
                    instance,
                } => requests::script_ends(self, station, incarnation, instance),
                Event::Orders {
                    station,
                    incarnation,
                } => mishaps::orders(self, station, incarnation),
                Event::Expires { station } => mishaps::expires(self, station),
            }
            self.check()?;
        }
        Ok(())
    }

    /// Checks every process that runs, whether it has something to do or not.
    fn check_addresses(&mut self) -> Result<(), Violation> {
        for station in self.stations.iter_mut().filter(|station| !station.hung) {
            if let Body::Carpd(host) = &mut station.body {
                host.machine().advance(self.now);
                let held = host.check_addresses();
                held.map_err(|what| format!("{}: {what}", station.name))?;
            }
        }
        Ok(())
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.agenda.enter(at, event);
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    /// Counts by the name of its kind.
    fn count_by_name(&mut self, what: &impl std::fmt::Debug) {
        let name = format!("{what:?}");
        self.count(name.split(['(', ' ']).next().unwrap_or_default());
    }

    /// Checks all hosts after a step.
    fn check(&mut self) -> Result<(), Violation> {
        if let Some(what) = self.violation.take() {
            return Err(what);
        }
        for (number, station) in self.stations.iter_mut().enumerate() {
            if let Body::Model(model) = &station.body {
                station.announced_at = [model.announced_at(); 2];
            }
            let state = station.state();
            if state != station.seen {
                if matches!(station.body, Body::Model(_)) {
                    self.trace.note(self.now, &station.name, || {
                        format!("  {} -> {state}", station.seen)
                    });
                }
                station.seen = state;
                self.transitions.push((self.now, number, state));
                if state == State::Master {
                    self.new_masters.push(number);
                }
            }
        }
        for number in std::mem::take(&mut self.new_masters) {
            self.stations[number].reigns_since = self.now;
            if self.calm.is_takeover(number, &self.stations) {
                self.count("looked at a takeover from a worse master");
            }
        }
        if self.calm.check(self.now, &self.stations, &self.network)? {
            self.count("looked at a settled group");
        }
        Ok(())
    }

    fn arrives(&mut self, to: usize, packet: Packet, provenance: Provenance) {
        let station = &mut self.stations[to];
        if !station.link {
            return;
        }
        match &mut station.body {
            Body::Dead => {}
            Body::Carpd(_) if station.paused => {}
            Body::Carpd(host) => {
                self.trace.packet(self.now, &station.name, "gets", &packet);
                let (family, source) = (index(packet.family), packet.source);
                let machine = host.machine();
                machine.advance(self.now);
                let counts = machine.receives(&packet, provenance);
                let readable = machine.is_readable();
                if counts {
                    station.counted[family].insert(source, packet.payload);
                }
                if readable {
                    self.wake_soon(to);
                }
            }
            // A paused machine: what arrives meanwhile is lost.
            Body::Model(_) if station.hung => {}
            Body::Model(model) => {
                let mut out = Vec::new();
                model.receive(self.now, &packet, &mut out);
                self.model_acted(to, out);
            }
        }
    }

    fn wakes(&mut self, number: usize) -> Result<(), Violation> {
        let station = &mut self.stations[number];
        if station.hung || station.wake_at != Some(self.now) {
            return Ok(());
        }
        station.wake_at = None;
        mishaps::note_lapse(self, number);
        let station = &mut self.stations[number];
        match &mut station.body {
            Body::Dead => Ok(()),
            Body::Model(model) => {
                let mut out = Vec::new();
                model.timeout(self.now, &mut out);
                self.model_acted(number, out);
                Ok(())
            }
            Body::Carpd(host) => {
                let is_repaired = station.repaired_by < self.now;
                let result = host.run(self.now).and_then(|()| {
                    // A process that only waits for its scripts no longer follows the interface.
                    let looks = !host.has_lost_sight();
                    match looks {
                        true => duty::check_living(host.machine_ref(), is_repaired),
                        false => Ok(()),
                    }
                });
                let deadline = host.next_wake();
                requests::take_requests(self, number);
                let name = &self.stations[number].name;
                result.map_err(|what| format!("{name}: {what}"))?;
                requests::sleep(self, number, deadline);
                faults::try_to_end(self, number)
            }
        }
    }

    fn model_acted(&mut self, number: usize, out: Vec<Packet>) {
        for packet in out {
            self.transmit(number, packet);
        }
        if let Body::Model(model) = &self.stations[number].body
            && let Some(deadline) = model.next_deadline()
        {
            self.stations[number].wake_at = None;
            self.wake(number, deadline);
        }
    }

    fn transmit(&mut self, from: usize, packet: Packet) {
        if !self.stations[from].link {
            return;
        }
        if matches!(self.stations[from].body, Body::Model(_)) {
            self.trace
                .packet(self.now, &self.stations[from].name, "sends", &packet);
        }
        let mut ahead = None;
        if let Some(attacker) = &mut self.attacker {
            attacker.overhears(self.now, from, &packet);
            ahead = attacker.overtakes(self.now, from, &packet);
        }
        // The second virtual host does not take part in the checks of the first one's group.
        if packet.payload.get(1) != self.scenario.second.as_ref().map(|it| &it.vhid) {
            owners::says(self, from, &packet);
            self.remember_sent(from, &packet);
        }
        let mut fates = Vec::new();
        for to in 0..self.stations.len() {
            self.network.carry(packet.family, from, to, &mut fates);
            if fates.contains(&Fate::Lost) {
                self.calm.disturb(self.now);
            }
            fates.sort_unstable_by_key(|fate| match fate {
                Fate::Arrives(after) => *after,
                Fate::Lost => Duration::MAX,
            });
            for (copy, fate) in fates.iter().enumerate() {
                if let Fate::Arrives(after) = *fate {
                    if copy == 0
                        && to != from
                        && let Some(ahead) = &ahead
                    {
                        faults::overtake(self, to, after, ahead);
                    }
                    let provenance = if copy == 0 && to != from && !self.scenario.trust_is_lost() {
                        Provenance::Genuine
                    } else {
                        Provenance::Dubious
                    };
                    self.push(
                        self.now + after,
                        Event::Arrives {
                            to,
                            packet: packet.clone(),
                            provenance,
                        },
                    );
                }
            }
        }
    }

    /// Remembers what a host sent, and whether a worse master that it has heard must yield to it. It need not under
    /// attack, because a forgery may have used the counter before. Nor if the counter was used before: within a
    /// quarter of the interval it looks like a duplicate, which happens to OpenBSD, whose counter is constant; with
    /// another priority it looks altered, which happens to ucarp and FreeBSD, whose counters follow whatever they
    /// hear.
    fn remember_sent(&mut self, from: usize, packet: &Packet) {
        let member = &self.scenario.members[from];
        let soon = member.interval(true) / 4;
        let constant = matches!(member.program, Implementation::Model(dialect) if dialect.has_constant_counter());
        let counter = packet.payload.get(8..16);
        let used = self.stations[from].last_sent.iter().any(|before| {
            before.payload.get(8..16) == counter
                && if before.payload == packet.payload {
                    self.now < before.at + soon
                } else {
                    !constant
                }
        });
        if let Some(ad) = read(&packet.payload) {
            self.stations[from].used.insert(ad.counter);
        }
        let credible = !used && self.scenario.theme != Theme::Attack;
        self.remember(from, packet.payload.clone(), credible);
    }

    fn remember(&mut self, from: usize, payload: Vec<u8>, credible: bool) {
        let recent = &mut self.stations[from].last_sent;
        recent.push_back(Sent {
            at: self.now,
            payload,
            credible,
        });
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }

    /// Returns the time until a thread with something to do runs.
    fn latency(&mut self) -> Duration {
        let most = u64::try_from(self.scenario.latency.as_nanos()).expect("far below 584 years");
        Duration::from_nanos(self.rng.between(0, most))
    }

    fn wake_soon(&mut self, station: usize) {
        let at = self.now + self.latency();
        self.wake(station, at);
    }

    fn wake(&mut self, number: usize, at: Instant) {
        // Timers that were due while the machine hung are due now.
        let at = at.max(self.now);
        let station = &mut self.stations[number];
        if station.wake_at.is_none_or(|already| at < already) {
            station.wake_at = Some(at);
            self.push(at, Event::Wakes { station: number });
        }
    }
}
