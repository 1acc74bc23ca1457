//! One run: an event queue, a virtual clock that jumps, and everything that the scenario put into it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::{AddressSet, Key, LinkState, Settings};
use carp_common::time::Instant;
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Family, State, Vhid};

use super::attacker::Attacker;
use super::group::Calm;
use super::host::{Arrived, Control, Host, Request, Start};
use super::model::{Dialect, Model, Setup, index};
use super::network::{Fate, Network};
use super::packet::Packet;
use super::rng::Rng;
use super::scenario::{Fault, Member, Program, Scenario, Theme};
use super::trace::Trace;
use super::watch::{Heard, SentCounters, Violation};

/// The families.
pub const FAMILIES: [Family; 2] = [Family::Inet, Family::Inet6];

/// Nanoseconds of the wall clock at the monotonic clock's origin: where carpd takes its first replay counter from.
const WALL_CLOCK_AT_ORIGIN: u64 = 1_700_000_000_000_000_000;

/// How many of its own advertisements a host's counters are compared with.
const RECENT: usize = 32;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The first rule that was broken, by whom and when.
    pub violation: Option<Violation>,
    /// What happened, when it was asked for.
    pub trace: Vec<String>,
    /// Every state change, in order.
    pub transitions: Vec<(Instant, usize, State)>,
    /// How often what happened.
    pub tally: BTreeMap<String, u64>,
}

impl Outcome {
    /// When the host became MASTER, counted from the start of the run.
    pub fn reigns(&self, host: usize) -> impl Iterator<Item = Duration> {
        let mine = self
            .transitions
            .iter()
            .filter(move |(_, who, to)| *who == host && *to == State::Master);
        mine.map(|(at, _, _)| at.saturating_duration_since(super::scenario::START))
    }

    /// Who was MASTER at the end.
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

/// What runs on a host.
#[derive(Debug)]
pub enum Body {
    /// The core under test.
    Carpd(Box<Host>),
    /// A model of a foreign implementation.
    Model(Box<Model>),
    /// Nothing.
    Dead,
}

/// A host and its place on the network.
#[derive(Debug)]
pub struct Station {
    name: String,
    /// What runs on it.
    pub body: Body,
    /// Carrier.
    pub link: bool,
    /// SIGSTOP.
    pub hung: bool,
    /// Which families have a source address.
    pub sources: [bool; 2],
    /// The device refuses to send.
    pub send_errors: bool,
    /// When it last announced the addresses of each family.
    pub announced_at: [Option<Instant>; 2],
    /// The operator's demotion of the running process.
    pub demotion: u8,
    wake_at: Option<Instant>,
    /// Which process of the host a pending script belongs to.
    incarnation: u32,
    sent: SentCounters,
    last_sent: VecDeque<(Instant, Vec<u8>)>,
    seen: State,
}

impl Station {
    /// Where it is in the election.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.body {
            Body::Carpd(host) => host.state(),
            Body::Model(model) => model.state(),
            Body::Dead => State::Init,
        }
    }

    /// The process is gone.
    fn die(&mut self) {
        if let Body::Carpd(host) = std::mem::replace(&mut self.body, Body::Dead) {
            self.sent = host.into_sent();
        }
    }

    /// Whether a process runs and has a network.
    #[must_use]
    pub const fn takes_part(&self) -> bool {
        self.link && !matches!(self.body, Body::Dead)
    }
}

#[derive(Debug)]
enum Event {
    Fault(Fault),
    Quiet,
    Arrives {
        to: usize,
        packet: Packet,
        heard: Heard,
    },
    Wakes {
        station: usize,
    },
    ScriptEnds {
        station: usize,
        incarnation: u32,
    },
    End,
}

/// In order of time, and of becoming known.
type Entry = Reverse<(Instant, u64)>;

/// One run under way.
#[derive(Debug)]
pub struct World<'a> {
    scenario: &'a Scenario,
    now: Instant,
    network: Network,
    stations: Vec<Station>,
    order: BinaryHeap<Entry>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    rng: Rng,
    attacker: Option<Attacker>,
    calm: Calm,
    trace: Trace,
    transitions: Vec<(Instant, usize, State)>,
    tally: BTreeMap<String, u64>,
}

impl<'a> World<'a> {
    /// A run that is about to begin.
    #[must_use]
    pub fn new(scenario: &'a Scenario, with_attacker: bool, traced: bool) -> Self {
        let mut rng = Rng::new(!scenario.seed);
        let network = Network::new(scenario.members.len(), scenario.weather, rng.fork());
        let mut world = Self {
            scenario,
            now: super::scenario::START,
            network,
            stations: Vec::new(),
            order: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            rng,
            attacker: with_attacker.then(|| Attacker::new(scenario)),
            calm: Calm::new(scenario),
            trace: Trace::new(traced),
            transitions: Vec::new(),
            tally: BTreeMap::new(),
        };
        for (number, member) in scenario.members.iter().enumerate() {
            let program = match member.program {
                Program::Carpd(profile) => format!("{profile:?}").to_lowercase(),
                Program::Model(dialect) => format!("{dialect:?}").to_uppercase(),
            };
            world.stations.push(Station {
                name: format!("{number} {program}"),
                body: Body::Dead,
                link: true,
                hung: false,
                sources: [true; 2],
                send_errors: false,
                announced_at: [None; 2],
                demotion: 0,
                wake_at: None,
                incarnation: 0,
                sent: SentCounters::default(),
                last_sent: VecDeque::new(),
                seen: State::Init,
            });
            world.push(member.start, Event::Fault(Fault::Start(number)));
        }
        for (at, fault) in &scenario.faults {
            world.push(*at, Event::Fault(*fault));
        }
        world.push(scenario.quiet_at, Event::Quiet);
        // Long enough to see that what settled stays.
        let settled = scenario.quiet_at + scenario.settling_time();
        world.push(settled + scenario.settling_time() / 2, Event::End);
        world
    }

    /// Runs to the end, or to the first violation.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let violation = self.steps().err();
        let seconds = self.now.saturating_duration_since(super::scenario::START);
        let violation = violation.map(|what| format!("at {:.6} s: {what}", seconds.as_secs_f64()));
        Outcome {
            violation,
            trace: self.trace.into_lines(),
            transitions: self.transitions,
            tally: self.tally,
        }
    }

    fn steps(&mut self) -> Result<(), Violation> {
        while let Some(Reverse((at, sequence))) = self.order.pop() {
            let Some(event) = self.events.remove(&sequence) else {
                continue;
            };
            self.now = at;
            match event {
                Event::End => return self.check(),
                Event::Fault(fault) => self.fault(fault)?,
                Event::Quiet => self.quiet()?,
                Event::Arrives { to, packet, heard } => self.arrives(to, packet, heard),
                Event::Wakes { station } => self.wakes(station)?,
                Event::ScriptEnds {
                    station,
                    incarnation,
                } => self.script_ends(station, incarnation),
            }
            self.check()?;
        }
        Ok(())
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.order.push(Reverse((at, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    /// Looks at all hosts after a step.
    fn check(&mut self) -> Result<(), Violation> {
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
                *self.tally.entry(format!("became {state}")).or_default() += 1;
            }
            if let Body::Carpd(host) = &station.body
                && host
                    .settled_holding()
                    .is_some_and(|held| held != (state == State::Master))
            {
                return Err(format!(
                    "{}: is {state}, and its scripts left it otherwise",
                    station.name
                ));
            }
        }
        if self.calm.check(self.now, &self.stations, &self.network)? {
            self.count("looked at a settled group");
        }
        Ok(())
    }

    fn arrives(&mut self, to: usize, packet: Packet, heard: Heard) {
        let station = &mut self.stations[to];
        if !station.link {
            return;
        }
        match &mut station.body {
            Body::Dead => {}
            Body::Carpd(host) => {
                self.trace.packet(self.now, &station.name, "gets", &packet);
                host.enqueue(Arrived {
                    at: self.now,
                    packet,
                    heard,
                });
                self.wake_soon(to);
            }
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
        match &mut station.body {
            Body::Dead => Ok(()),
            Body::Model(model) => {
                let mut out = Vec::new();
                model.timeout(self.now, &mut out);
                self.model_acted(number, out);
                Ok(())
            }
            Body::Carpd(host) => {
                let mut requests = Vec::new();
                host.send_errors = station.send_errors;
                let result = host.run(self.now, &mut self.trace, &mut requests);
                result.map_err(|what| format!("{}: {what}", station.name))?;
                let deadline = host.next_deadline();
                for request in requests {
                    self.carry_out(number, request);
                }
                if let Some(deadline) = deadline {
                    let late = self.latency();
                    self.wake(number, deadline + late);
                }
                Ok(())
            }
        }
    }

    fn carry_out(&mut self, number: usize, request: Request) {
        match request {
            Request::Transmit(packet) => self.transmit(number, packet),
            Request::ScriptStarted => self.script_starts(number),
            Request::Announced(family) => {
                self.stations[number].announced_at[index(family)] = Some(self.now)
            }
            Request::StaysAway(hold) => self.calm.disturb(self.now + hold),
            Request::Exited => {
                let station = &mut self.stations[number];
                self.trace.note(self.now, &station.name, || "exits".into());
                station.die();
            }
        }
    }

    fn script_starts(&mut self, station: usize) {
        let end = self.now + self.scenario.members[station].script;
        let incarnation = self.stations[station].incarnation;
        self.push(
            end,
            Event::ScriptEnds {
                station,
                incarnation,
            },
        );
    }

    fn script_ends(&mut self, number: usize, incarnation: u32) {
        let station = &mut self.stations[number];
        if station.incarnation != incarnation {
            return;
        }
        if let Body::Carpd(host) = &mut station.body {
            let another = host.script_ended();
            self.wake_soon(number);
            if another {
                self.script_starts(number);
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
        if let Some(attacker) = &mut self.attacker {
            attacker.overhears(self.now, &packet);
        }
        let credible = self.is_credible(from, &packet);
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
                    let heard = if copy == 0 && to != from && credible {
                        Heard::Genuine
                    } else {
                        Heard::Dubious
                    };
                    self.push(
                        self.now + after,
                        Event::Arrives {
                            to,
                            packet: packet.clone(),
                            heard,
                        },
                    );
                }
            }
        }
    }

    /// Whether its hearers must take it for a sign of life. Not under attack, because a forgery may have used its counter
    /// before; and not when its counter was used before: sooner than a quarter of the interval it looks like a
    /// duplicate, which happens to OpenBSD, whose counter is constant; with another priority it looks forged, which
    /// happens to ucarp and FreeBSD, whose counters follow whatever they hear.
    fn is_credible(&mut self, from: usize, packet: &Packet) -> bool {
        let member = &self.scenario.members[from];
        let soon = member.interval(true) / 4;
        let constant = member.program == Program::Model(Dialect::OpenBsd);
        let counter = packet.payload.get(8..16);
        let used = self.stations[from].last_sent.iter().any(|(at, before)| {
            let same = *before == packet.payload;
            before.get(8..16) == counter
                && if same {
                    self.now < *at + soon
                } else {
                    !constant
                }
        });
        let recent = &mut self.stations[from].last_sent;
        recent.push_back((self.now, packet.payload.clone()));
        if recent.len() > RECENT {
            recent.pop_front();
        }
        !used && self.scenario.theme != Theme::Attack
    }

    /// Until a thread runs that has something to do.
    fn latency(&mut self) -> Duration {
        let most = u64::try_from(self.scenario.latency.as_nanos()).expect("far below 584 years");
        Duration::from_nanos(self.rng.between(0, most))
    }

    fn wake_soon(&mut self, station: usize) {
        let at = self.now + self.latency();
        self.wake(station, at);
    }

    fn wake(&mut self, number: usize, at: Instant) {
        let station = &mut self.stations[number];
        if station.wake_at.is_none_or(|already| at < already) {
            station.wake_at = Some(at);
            self.push(at, Event::Wakes { station: number });
        }
    }

    fn control(&mut self, number: usize, control: Control) {
        if let Body::Carpd(host) = &mut self.stations[number].body {
            host.control(control);
            self.wake_soon(number);
        }
    }

    /// The quiet period begins: everything that can be mended is.
    fn quiet(&mut self) -> Result<(), Violation> {
        self.trace
            .note(self.now, "world", || "quiet from here on".into());
        self.fault(Fault::Heal)?;
        self.fault(Fault::Loss(0))?;
        for number in 0..self.stations.len() {
            if !self.scenario.members[number].mortal {
                self.fault(Fault::Start(number))?;
            }
            self.fault(Fault::LinkUp(number))?;
            for family in FAMILIES {
                self.fault(Fault::SourceBack(number, family))?;
            }
            self.fault(Fault::SendsAgain(number))?;
            if self.scenario.undo_demotion {
                self.fault(Fault::Demote(number, 0))?;
            }
            self.fault(Fault::Resume(number))?;
        }
        Ok(())
    }

    fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if let Fault::Inject(number) = fault {
            self.inject(number);
            return Ok(());
        }
        self.calm.disturb(self.now);
        self.trace.note(self.now, "world", || format!("{fault:?}"));
        match fault {
            Fault::Start(number) => self.start(number),
            Fault::Crash(number) => self.stations[number].die(),
            Fault::Stop(number) => self.stop(number),
            Fault::Hang(number) => self.stations[number].hung = true,
            Fault::Resume(number) => {
                self.stations[number].hung = false;
                self.stations[number].wake_at = None;
                self.wake_soon(number);
            }
            Fault::LinkDown(number) => self.set_link(number, false),
            Fault::LinkUp(number) => self.set_link(number, true),
            Fault::SourceLost(number, family) => self.set_source(number, family, false),
            Fault::SourceBack(number, family) => self.set_source(number, family, true),
            Fault::SendErrors(number) => self.stations[number].send_errors = true,
            Fault::SendsAgain(number) => self.stations[number].send_errors = false,
            Fault::Demote(number, demotion) => self.demote(number, demotion),
            Fault::StepDown(number, hold) => self.control(number, Control::StepDown(hold)),
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
            Fault::Inject(_) => unreachable!("handled above"),
        }
        let name = format!("{fault:?}");
        self.count(name.split(['(', ' ']).next().unwrap_or_default());
        Ok(())
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

    fn set_link(&mut self, number: usize, up: bool) {
        let station = &mut self.stations[number];
        if station.link == up {
            return;
        }
        station.link = up;
        match &mut station.body {
            Body::Model(model) if up => model.start(self.now),
            Body::Model(model) => model.link_down(),
            Body::Carpd(_) | Body::Dead => {}
        }
        self.model_acted(number, Vec::new());
        self.control(
            number,
            Control::Link(if up { LinkState::Up } else { LinkState::Down }),
        );
    }

    fn set_source(&mut self, number: usize, family: Family, there: bool) {
        let had = &mut self.stations[number].sources[index(family)];
        if *had != there {
            *had = there;
            self.control(number, Control::Source(family, there));
        }
    }

    fn demote(&mut self, number: usize, demotion: u8) {
        let station = &mut self.stations[number];
        station.demotion = demotion;
        match &mut station.body {
            Body::Model(model) => {
                let mut out = Vec::new();
                model.demote(demotion, &mut out);
                self.model_acted(number, out);
            }
            Body::Carpd(_) => self.control(number, Control::Demotion(demotion)),
            Body::Dead => {}
        }
    }

    fn stop(&mut self, number: usize) {
        if let Body::Model(model) = &mut self.stations[number].body {
            let mut out = Vec::new();
            model.stop(&mut out);
            self.model_acted(number, out);
            self.stations[number].die();
        }
        self.control(number, Control::Shutdown);
    }

    fn start(&mut self, number: usize) {
        if !matches!(self.stations[number].body, Body::Dead) {
            return;
        }
        let member = &self.scenario.members[number];
        let rng = self.rng.fork();
        let station = &mut self.stations[number];
        station
            .sent
            .restart(self.scenario.members.iter().all(Member::is_carpd));
        station.incarnation += 1;
        station.demotion = 0;
        station.wake_at = None;
        match member.program {
            Program::Carpd(_) => {
                let start = Start {
                    name: station.name.clone(),
                    settings: settings(self.scenario, number, self.now),
                    group: self.scenario.group.clone(),
                    sources: member.sources,
                    script_time: member.script,
                    sent: std::mem::take(&mut station.sent),
                };
                let (sources, link) = (station.sources, station.link);
                station.body = Body::Carpd(Box::new(Host::new(start, self.now)));
                for family in FAMILIES
                    .into_iter()
                    .filter(|family| sources[index(*family)])
                {
                    self.control(number, Control::Source(family, true));
                }
                self.control(
                    number,
                    Control::Link(if link { LinkState::Up } else { LinkState::Down }),
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

    fn inject(&mut self, number: u64) {
        let Some(attacker) = &mut self.attacker else {
            return;
        };
        let Some((packet, targets)) = attacker.strikes(self.now, number) else {
            return;
        };
        self.trace.packet(self.now, "attacker", "injects", &packet);
        if self.scenario.theme != Theme::Strict {
            self.calm.disturb(self.now);
        }
        self.count("Inject");
        for to in 0..self.stations.len() {
            if targets >> to & 1 == 1 {
                self.push(
                    self.now,
                    Event::Arrives {
                        to,
                        packet: packet.clone(),
                        heard: Heard::Dubious,
                    },
                );
            }
        }
    }
}

/// The core's settings for one member, as the daemon would make them at this moment.
fn settings(scenario: &Scenario, number: usize, now: Instant) -> Settings {
    let (member, group) = (&scenario.members[number], &scenario.group);
    let Program::Carpd(profile) = member.program else {
        unreachable!("only carpd runs the core")
    };
    let inet = group.inet.iter().copied().map(IpAddr::from);
    let inet6 = group.inet6.iter().copied().map(IpAddr::from);
    Settings {
        vhid: Vhid::new(group.vhid).expect("drawn from 1"),
        advbase: AdvBase(member.advbase),
        advskew: AdvSkew(member.advskew),
        deadratio: DeadRatio::new(member.deadratio).expect("drawn from 1"),
        preempt: member.preempt,
        profile,
        addresses: AddressSet::new(inet.chain(inet6)),
        key: Key::new(group.password).expect("drawn short enough"),
        initial_counter: WALL_CLOCK_AT_ORIGIN + now.as_nanos(),
        strict_counter: scenario.theme == Theme::Strict,
    }
}
