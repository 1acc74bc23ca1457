//! What SIGUSR1 shows, and what SIGUSR2 costs.
//!
//! A report has four lines for each virtual host and one for each interface: the state, values for programs, the same in
//! words with what comes next, and the counters that are not 0.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::proto::{Command, Input, LinkState};
use carp_common::time::Instant;
use carp_common::units::State;
use tracing::{error, info, warn};

use super::Engine;
use super::context::{Context, Site};
use super::effects::Effects;
use super::instance::Instance;
use super::interface::Interface;
use crate::config::Ownership;
use crate::io::datapath::Survival;

/// How long USR2 keeps us away, as in ucarp.
const STEP_DOWN_HOLD: Duration = Duration::from_secs(3);

impl<E: Effects> Engine<E> {
    /// USR2: hands over, and stays away for a while.
    pub(super) fn step_down(&mut self) {
        self.each(Instance::step_down);
    }

    /// USR1: the report.
    pub(super) fn report(&mut self) {
        self.each(|instance, site| instance.show(site.interface, site.cx));
        for segment in self.segments.values() {
            let Some(ifindex) = segment.interface.ifindex else {
                continue;
            };
            let name = &segment.interface.current_name;
            match self.cx.effects.counts(ifindex) {
                Ok(counts) => {
                    let all = Counter::ALL.into_iter().zip(counts);
                    let all = all.map(|(counter, value)| (counter.name(), value));
                    info!("counters on {name} datapath: {}", counted(all));
                }
                Err(error) => error!("{name}: {error}"),
            }
        }
    }
}

impl Instance {
    fn step_down<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        if self.machine().state() == State::Master {
            self.story.step_down(site.cx.now);
            if self.machine().last_heard().is_none() {
                warn!(
                    "{}: stepping down, although no other host was ever heard: unless one takes over, nobody has the \
                     address for {:.1} s",
                    self.who.label,
                    (STEP_DOWN_HOLD + self.machine().master_down_time()).as_secs_f64()
                );
            }
        }
        let hold = STEP_DOWN_HOLD;
        self.feed(Input::Command(Command::StepDown { hold }), site);
    }

    fn show<E: Effects>(&self, interface: &Interface, cx: &Context<E>) {
        let label = &self.who.label;
        info!("{} on {label}", self.machine().state());
        let values = self.values(interface, &cx.effects, cx.now);
        info!("status on {label}: {values}");
        info!("why on {label}: {}", self.explanation(interface, cx));
        let more = [
            ("addresses-restored", self.restore.count()),
            ("arp-conflicts", self.conflict.count()),
            ("event-loop-stalls", self.stalls.count),
        ];
        let all = self.machine().counters().iter().chain(more);
        info!("counters on {label}: {}", counted(all));
    }

    /// For programs: `name=value` each.
    fn values<E: Effects>(&self, interface: &Interface, effects: &E, now: Instant) -> String {
        let ifindex = interface.ifindex;
        let machine = self.machine();
        let state = machine.state();
        let heard = machine.last_heard();
        let mut line = String::new();
        let rung = ifindex.and_then(|ifindex| effects.rung(ifindex));
        add(&mut line, "datapath", or_none(rung));
        let survival = ifindex.map(|ifindex| effects.survival(ifindex));
        add(&mut line, "fence-survives-kill", or_none(survival));
        add(&mut line, "since", local_time(self.story.since, now));
        let master = match state {
            State::Master => "this-host".to_owned(),
            State::Backup => or_none(heard.map(|heard| heard.source)),
            State::Init => or_none(None::<State>),
        };
        add(&mut line, "master", master);
        if let Some(heard) = heard {
            add(&mut line, "heard-ms-ago", millis(heard.arrival, now));
        }
        match (state, machine.next_deadline()) {
            (State::Backup, Some(at)) => add(&mut line, "master-down-in-ms", millis(now, at)),
            (State::Master, Some(at)) => add(&mut line, "next-event-in-ms", millis(now, at)),
            _ => {}
        }
        add(&mut line, "source", or_none(self.source()));
        add(&mut line, "advertises", machine.advertised());
        add(&mut line, "demotion", machine.demotions().sum().0);
        add(&mut line, "worst-stall-ms", self.stalls.worst.as_millis());
        line
    }

    /// For people: since when, why, who is MASTER, and what would happen next.
    fn explanation<E: Effects>(&self, interface: &Interface, cx: &Context<E>) -> String {
        let now = cx.now;
        let machine = self.machine();
        let state = machine.state();
        let why = self
            .story
            .reason
            .map_or("started", |reason| self.reason(reason, interface));
        let lasted = seconds(self.story.since, now);
        let mut text = format!("{state} for {lasted} s: {why}; ");
        let heard = machine.last_heard().map(|heard| {
            let ago = seconds(heard.arrival, now);
            format!("{}, heard {ago} s ago", heard.source)
        });
        text += &match state {
            State::Init => {
                let lacking = match (self.link(), interface.ifindex.is_some()) {
                    (_, false) => "the interface is there",
                    (LinkState::Down, true) if interface.upper.is_some() => {
                        "the interface is no port of another one"
                    }
                    (LinkState::Down, true) if self.is_deaf(interface) => {
                        "advertisements can be received"
                    }
                    (LinkState::Down, true) => "the link is up",
                    (LinkState::Up, true) if self.lacks_fixed_source() => {
                        "the --srcip address is back"
                    }
                    (LinkState::Up, true) if self.source().is_none() => {
                        "the interface has a source address"
                    }
                    (LinkState::Up, true) => "the cause is gone",
                };
                format!("next: BACKUP when {lacking}")
            }
            State::Backup => {
                let master = heard.map_or("no MASTER was heard".to_owned(), |heard| {
                    format!("MASTER is {heard}")
                });
                let preempts = match self.who.config.election.preempt {
                    true => {
                        let ours = machine.advertised();
                        format!(
                            ", or at once from a MASTER with a higher advbase/advskew than {ours}"
                        )
                    }
                    false => "; without --preempt a worse MASTER keeps the address".to_owned(),
                };
                let left = machine
                    .next_deadline()
                    .map_or("?".to_owned(), |at| seconds(now, at));
                format!("{master}; next: takes over after {left} s more of silence{preempts}")
            }
            State::Master => {
                let others = heard.map_or("no other host was ever heard".to_owned(), |heard| {
                    format!("the last other host was {heard}")
                });
                format!(
                    "{others}; next: yields to a MASTER with a lower advbase/advskew than {}{}",
                    machine.advertised(),
                    self.after_a_crash(interface, cx)
                )
            }
        };
        text
    }

    /// What silences a MASTER whose daemon is killed, in words.
    fn after_a_crash<E: Effects>(&self, interface: &Interface, cx: &Context<E>) -> String {
        let config = &self.who.config;
        let lease = match (cx.lease_of(config), config.ownership) {
            (Some(lease), Ownership::Native) => {
                format!("its address ends with its lease of {} s", lease.as_secs())
            }
            _ => "its address stays".to_owned(),
        };
        let survival = interface
            .ifindex
            .map(|ifindex| cx.effects.survival(ifindex));
        let kernel = match survival {
            Some(Survival::Yes | Survival::WithContainer) => "the kernel stops answering for it",
            Some(Survival::No) | None => "this host goes on answering",
        };
        format!("; if carpd is killed, {kernel} and {lease}")
    }
}

/// All that are not 0.
fn counted(counters: impl Iterator<Item = (&'static str, u64)>) -> String {
    let mut line = String::new();
    for (name, value) in counters.filter(|(_, value)| *value != 0) {
        add(&mut line, name, value);
    }
    if line.is_empty() {
        line += "all are 0";
    }
    line
}

/// Appends `name=value`, after a blank where there is something before it.
fn add(line: &mut String, name: &str, value: impl Display) {
    let blank = if line.is_empty() { "" } else { " " };
    write!(line, "{blank}{name}={value}").expect("writing to a String cannot fail");
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn millis(from: Instant, to: Instant) -> u128 {
    to.saturating_duration_since(from).as_millis()
}

fn seconds(from: Instant, to: Instant) -> String {
    format!("{:.2}", to.saturating_duration_since(from).as_secs_f64())
}

/// The wall clock's time at a moment, as it counts now.
#[expect(clippy::disallowed_methods, reason = "the time of day, for people")]
fn local_time(at: Instant, now: Instant) -> String {
    let time = chrono::Local::now() - now.saturating_duration_since(at);
    time.format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_0_are_left_out() {
        let line = |values: [(&'static str, u64); 3]| counted(values.into_iter());
        assert_eq!(line([("a", 1), ("b", 0), ("c", 7)]), "a=1 c=7");
        assert_eq!(line([("a", 0), ("b", 0), ("c", 0)]), "all are 0");
    }

    #[test]
    fn the_time_of_a_moment_is_counted_back_from_now() {
        let now = Instant::from_nanos(90_000_000_000);
        let at = Instant::from_nanos(30_000_000_000);
        let read = |text: String| chrono::DateTime::parse_from_rfc3339(&text).unwrap();
        let apart = read(local_time(now, now)) - read(local_time(at, now));
        assert!((60..=61).contains(&apart.num_seconds()), "{apart}");
    }
}
