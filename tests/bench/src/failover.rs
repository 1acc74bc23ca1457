//! How long a client waits.

use std::thread;

use anyhow::{Result, anyhow};
use carp_tests::lab::note;

use crate::report::{Cell, Column, Goal, Row, Side, Table};
use crate::scene::{Event, Sample, Scene, ms};
use crate::systems::{Pace, System, datapath};
use crate::{Findings, Plan};

const METHOD: &str = "\
Two hosts run the same kind of daemon. A client sends an ICMP echo request to the address every 5 ms (1 ms with the
fastest timers), and a neighbour asks for the address by ARP every 40 ms (4 ms). *outage*: the longest time after the
event from an unanswered request of the client to its next answered one; an outage that has not ended 8 s after the
takeover counts for as long as it was watched, and as endless. *takeover*: from the event to the BACKUP's first
advertisement. *two owners*: the time in which both hosts answered ARP, in steps of the neighbour's interval, watched
for at least 2 s (1 s) after the takeover. *crash*: the cable is cut in both directions and every process of the daemon
gets SIGKILL. *kill*: every process gets SIGKILL, and the host's kernel keeps running. *term*: SIGTERM, an orderly stop.
*stop*: every process gets SIGSTOP, and SIGCONT after the other host's takeover. *unplugged*: the MASTER loses its
carrier. *preempted*: the better host starts. *healed*: the cable comes back after both were MASTER; here, *takeover* is
the time until one of them is silent. The bound is the protocol's longest silence before a takeover (master-down time).
Pairs of all systems are set up at the same time, and the event happens to one pair after another, with one exception:
crash, stop and unplugged with default timers, which take seconds, happen to all at once. A run without a takeover
waited 20 s for it. A lab failure is a failure of the measurement and counts against no system. The fastest timers are
the fastest of each daemon that are stable on an idle machine.";

/// Runs every event for every system, with default and with the fastest timers.
pub fn run(plan: Plan) -> Result<Findings> {
    let carpd = System::Carpd(datapath());
    // With default timers, both versions of VRRP have the same ones.
    let defaults = [System::Ucarp, System::Keepalived2, carpd.clone()];
    let fastest = match plan.quick {
        true => vec![System::Keepalived3, carpd],
        false => vec![System::Ucarp, System::Keepalived3, carpd],
    };
    let default_events = plan.choose(&[Event::Crash][..], &Event::ALL[..]);
    let fast_events = plan.choose(&[Event::Crash, Event::Term][..], &Event::ALL[..]);
    let mut outcomes = measure(Pace::Default, &defaults, default_events, plan.choose(1, 10));
    let fast = measure(Pace::Fastest, &fastest, fast_events, plan.choose(2, 10));
    let goals = vec![
        goal(&fast, Event::Crash, 20.0),
        goal(&fast, Event::Term, 5.0),
    ];
    outcomes.extend(fast);
    let tables = outcomes.iter().map(Outcomes::table).collect();
    Ok(Findings {
        title: "Failover",
        method: METHOD.to_owned(),
        tables,
        goals,
        ..Findings::default()
    })
}

/// Returns the goals: no client of carpd waits longer.
fn goal(all: &[Outcomes<'_>], event: Event, most_ms: f64) -> Goal {
    let found = all.iter().filter(|outcomes| outcomes.event == event);
    let ours = found
        .flat_map(|outcomes| outcomes.systems.iter().zip(&outcomes.runs))
        .filter(|(system, _)| system.side() == Side::Ours)
        .flat_map(|(_, runs)| runs.samples.iter().map(|sample| sample.outage));
    let what = format!("outage after {} with advbase 0, advskew 1", event.name());
    Goal::at_most(&what, most_ms, "ms", ours)
}

/// All runs of one event.
struct Outcomes<'a> {
    pace: Pace,
    event: Event,
    systems: &'a [System],
    /// One for each system.
    runs: Vec<Runs>,
}

#[derive(Clone, Default)]
struct Runs {
    samples: Vec<Sample>,
    without_takeover: usize,
    lab_failures: usize,
}

fn measure<'a>(
    pace: Pace,
    systems: &'a [System],
    events: &[Event],
    rounds: usize,
) -> Vec<Outcomes<'a>> {
    let mut all: Vec<Outcomes<'_>> = events
        .iter()
        .map(|event| Outcomes {
            pace,
            event: *event,
            systems,
            runs: vec![Runs::default(); systems.len()],
        })
        .collect();
    for round in 1..=rounds {
        for outcomes in &mut all {
            let event = outcomes.event;
            note(&format!(
                "  {pace:?}, {}, {round} of {rounds}",
                event.name()
            ));
            let found = one_round(pace, systems, event);
            for ((system, runs), outcome) in systems.iter().zip(&mut outcomes.runs).zip(found) {
                match outcome {
                    Ok(Some(sample)) => runs.samples.push(sample),
                    Ok(None) => runs.without_takeover += 1,
                    Err(error) => {
                        note(&format!("  {}: {error:#}", system.name()));
                        runs.lab_failures += 1;
                    }
                }
            }
        }
    }
    all
}

impl Outcomes<'_> {
    fn table(&self) -> Table {
        let rows = self.systems.iter().zip(&self.runs);
        let less = |name: &str| match why(self.event) {
            Some(why) => Column::less(name).because(why),
            None => Column::less(name),
        };
        let pace = match self.pace {
            Pace::Default => "default timers",
            Pace::Fastest => "fastest timers",
        };
        Table {
            title: format!("{}, {pace}", self.event.name()),
            columns: vec![
                less("outage, ms"),
                Column::less("without end"),
                less("takeover, ms"),
                Column::of("bound, ms"),
                Column::of("takeover / bound"),
                less("two owners, ms"),
                Column::less("no takeover"),
                Column::of("lab failures"),
            ],
            rows: rows
                .map(|(system, runs)| row(system, self.pace, self.event, runs))
                .collect(),
            drawn: Some(0),
        }
    }
}

/// Returns why carpd is behind, for the case that it is.
const fn why(event: Event) -> Option<&'static str> {
    match event {
        Event::Term => Some(TERM),
        Event::Preempted => Some(PREEMPTED),
        Event::Healed => Some(HEALED),
        Event::Crash | Event::Kill | Event::Stop | Event::Unplugged => None,
    }
}

const TERM: &str = "After a bow-out, a BACKUP waits advskew × 244 µs, so that the best of several is first; and the client \
probes only once per millisecond.";

const PREEMPTED: &str = "The better host starts, and the verifier checks its kernel program first.";

const HEALED: &str = "The worse MASTER yields when it hears the better one's next advertisement, which comes at a random time \
within an interval.";

fn row(system: &System, pace: Pace, event: Event, runs: &Runs) -> Row {
    let samples = &runs.samples;
    let pick = |pick: fn(&Sample) -> f64| Cell::Samples(samples.iter().map(pick).collect());
    let bound = ms(system.bound(pace));
    let (bound_cell, over) = if event.is_silence() {
        let over = samples.iter().map(|sample| sample.takeover / bound);
        (Cell::one(bound), Cell::Samples(over.collect()))
    } else {
        (Cell::none(), Cell::none())
    };
    let endless = samples.iter().filter(|sample| sample.endless).count();
    Row {
        name: format!("{} ({})", system.name(), system.settings(pace)),
        side: system.side(),
        cells: vec![
            pick(|sample| sample.outage),
            Cell::one(endless as f64),
            pick(|sample| sample.takeover),
            bound_cell,
            over,
            pick(|sample| sample.two_owners),
            Cell::one(runs.without_takeover as f64),
            Cell::one(runs.lab_failures as f64),
        ],
    }
}

/// Runs every system once. All are set up at the same time. Then the event happens to one after the other, unless it
/// takes seconds: measurements of milliseconds would disturb each other, those of seconds do not.
fn one_round(pace: Pace, systems: &[System], event: Event) -> Vec<Result<Option<Sample>>> {
    let scenes = at_once(systems, |system| Scene::set(system, pace, event));
    if event.takes_seconds(pace) {
        at_once(scenes, |scene| scene?.disturb())
    } else {
        let scenes = scenes.into_iter();
        scenes.map(|scene| scene?.disturb()).collect()
    }
}

/// Runs each in a thread of its own.
fn at_once<T: Send, U: Send>(
    all: impl IntoIterator<Item = T>,
    action: impl Fn(T) -> Result<U> + Sync,
) -> Vec<Result<U>> {
    let action = &action;
    thread::scope(|scope| {
        let runs: Vec<_> = all
            .into_iter()
            .map(|one| scope.spawn(move || action(one)))
            .collect();
        runs.into_iter()
            .map(|run| run.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))
            .collect()
    })
}
