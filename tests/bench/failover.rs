//! How long a client waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use carp_tests::lab::note;
use carp_tests::{Cable, Capture, Captured, Client, Daemon, Host, Lab, Mark, Quality, Witness};
use nix::sys::signal::Signal;

use crate::report::{Cell, Column, Row, Side, Table};
use crate::systems::{ADDRESS, Pace, Role, System};
use crate::{Findings, Plan};

const METHOD: &str = "\
Two hosts with one kind of daemon, a client that sends an ICMP echo request to the address every 5 ms (1 ms with the
fastest timers), and a neighbour that asks every 40 ms by ARP who has it. *outage*: from the client's first unanswered
request to its next answered one, the longest after the event. *takeover*: from the event to the BACKUP's first
advertisement. *two owners*: time in which both hosts answered ARP, as far as it was watched (2 s after the takeover).
*crash*: SIGKILL and the cable cut in both directions at once. *kill*: SIGKILL, the host's kernel lives on. *term*: an
ordered stop. *stop*: SIGSTOP, and SIGCONT after the other's takeover. *unplugged*: the MASTER loses its carrier.
*preempted*: the better host starts. *healed*: the cable comes back after both were MASTER; *takeover* is then the time
until one of them is silent. The bound is the protocol's longest silence before a takeover (master-down time). With
default timers the systems run at the same time, each in namespaces of its own; with the fastest, one after the other.";

/// What happens to the MASTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Crash,
    Kill,
    Term,
    Stop,
    Unplugged,
    Preempted,
    Healed,
}

impl Event {
    const ALL: [Self; 7] = [
        Self::Crash,
        Self::Kill,
        Self::Term,
        Self::Stop,
        Self::Unplugged,
        Self::Preempted,
        Self::Healed,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Kill => "kill",
            Self::Term => "term",
            Self::Stop => "stop",
            Self::Unplugged => "unplugged",
            Self::Preempted => "preempted",
            Self::Healed => "healed",
        }
    }

    /// Whether the BACKUP takes over because of silence, within a bound.
    const fn is_silence(self) -> bool {
        matches!(
            self,
            Self::Crash | Self::Kill | Self::Stop | Self::Unplugged
        )
    }
}

/// One run. Unit: ms.
#[derive(Clone, Copy, Debug)]
struct Sample {
    outage: f64,
    takeover: f64,
    two_owners: f64,
}

/// Runs every event for every system, with default and with the fastest timers, and holds still under load.
pub fn run(plan: Plan) -> Result<Findings> {
    let carpd = System::Carpd(carp_tests::daemons::datapath());
    let defaults = [
        System::Ucarp,
        System::Keepalived2,
        System::Keepalived3,
        carpd.clone(),
    ];
    let fastest = match plan.quick {
        true => vec![System::Keepalived3, carpd.clone()],
        false => vec![System::Ucarp, System::Keepalived3, carpd.clone()],
    };
    let default_events = plan.choose(&[Event::Crash][..], &Event::ALL[..]);
    let fast_events = plan.choose(&[Event::Crash, Event::Term][..], &Event::ALL[..]);
    let mut tables = measure(Pace::Default, &defaults, default_events, plan.choose(1, 10))?;
    tables.extend(measure(
        Pace::Fastest,
        &fastest,
        fast_events,
        plan.choose(2, 10),
    )?);
    tables.push(hold(
        plan.choose(Duration::from_secs(10), Duration::from_secs(600)),
    )?);
    Ok(Findings {
        title: "Failover",
        method: METHOD.to_owned(),
        tables,
        ..Findings::default()
    })
}

fn measure(pace: Pace, systems: &[System], events: &[Event], rounds: usize) -> Result<Vec<Table>> {
    let mut samples = BTreeMap::<(Event, usize), Vec<Sample>>::new();
    let mut failures = BTreeMap::<(Event, usize), usize>::new();
    for round in 0..rounds {
        for event in events {
            note(&format!(
                "  {pace:?}, {}, {} of {rounds}",
                event.name(),
                round + 1
            ));
            for (index, outcome) in one_round(pace, systems, *event).into_iter().enumerate() {
                match outcome {
                    Ok(sample) => samples.entry((*event, index)).or_default().push(sample),
                    Err(error) => {
                        note(&format!("  {}: {error:#}", systems[index].name()));
                        *failures.entry((*event, index)).or_default() += 1;
                    }
                }
            }
        }
    }
    let table = |event: &Event| {
        let rows = systems.iter().enumerate().map(|(index, system)| {
            let all = samples.get(&(*event, index)).cloned().unwrap_or_default();
            let failed = failures.get(&(*event, index)).copied().unwrap_or_default();
            row(system, pace, *event, &all, failed)
        });
        Table {
            title: format!(
                "{}, {}",
                event.name(),
                match pace {
                    Pace::Default => "default timers",
                    Pace::Fastest => "fastest timers",
                }
            ),
            columns: vec![
                Column::less("outage, ms"),
                Column::less("takeover, ms"),
                Column::of("bound, ms"),
                Column::less("takeover / bound"),
                Column::less("two owners, ms"),
                Column::of("runs without takeover"),
            ],
            rows: rows.collect(),
            drawn: Some(0),
        }
    };
    Ok(events.iter().map(table).collect())
}

fn row(system: &System, pace: Pace, event: Event, samples: &[Sample], failed: usize) -> Row {
    let pick = |pick: fn(&Sample) -> f64| Cell::Samples(samples.iter().map(pick).collect());
    let bound = system.bound(pace).as_secs_f64() * 1000.0;
    let (bound_cell, over) = if event.is_silence() {
        let over = samples.iter().map(|sample| sample.takeover / bound);
        (Cell::one(bound), Cell::Samples(over.collect()))
    } else {
        (Cell::none(), Cell::none())
    };
    Row {
        name: format!("{} ({})", system.name(), system.settings(pace)),
        side: system.side(),
        cells: vec![
            pick(|sample| sample.outage),
            pick(|sample| sample.takeover),
            bound_cell,
            over,
            pick(|sample| sample.two_owners),
            Cell::one(failed as f64),
        ],
    }
}

/// Every system once: seconds are unaffected by each other's company, milliseconds are not.
fn one_round(pace: Pace, systems: &[System], event: Event) -> Vec<Result<Sample>> {
    match pace {
        Pace::Default => thread::scope(|scope| {
            let runs: Vec<_> = systems
                .iter()
                .map(|system| scope.spawn(move || one(system, pace, event)))
                .collect();
            runs.into_iter()
                .map(|run| run.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))
                .collect()
        }),
        Pace::Fastest => systems
            .iter()
            .map(|system| one(system, pace, event))
            .collect(),
    }
}

/// What one run consists of.
struct Scene<'a> {
    system: &'a System,
    capture: Capture,
    a: Host,
    b: Host,
    client: Client,
    witness: Witness,
    _lab: Lab,
}

const WAIT: Duration = Duration::from_secs(20);
/// Watched after the takeover.
const AFTERMATH: Duration = Duration::from_secs(2);

fn one(system: &System, pace: Pace, event: Event) -> Result<Sample> {
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let capture = lab.capture()?;
    let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
    let (c, w) = (lab.host("c", "10.9.0.3/16")?, lab.host("w", "10.9.0.4/16")?);
    let cable = matches!(event, Event::Crash | Event::Healed)
        .then(|| Cable::splice(&a))
        .transpose()?;
    let start = |host: &Host, role| system.start(host, scratch.path(), role, pace);
    // Where the two have a rank, it must be a true one.
    let lesser = if matches!(event, Event::Preempted | Event::Healed) {
        Role::Lesser
    } else {
        Role::Backup
    };
    let (mut first, second) = if event == Event::Preempted {
        (start(&b, lesser)?, None)
    } else {
        let first = start(&a, Role::Master)?;
        heard(&capture, capture.mark(), system, "a", 1)?;
        (first, Some(start(&b, lesser)?))
    };
    let master = if event == Event::Preempted { "b" } else { "a" };
    heard(&capture, capture.mark(), system, master, 2)?;
    let probe = match pace {
        Pace::Default => Duration::from_millis(5),
        Pace::Fastest => Duration::from_millis(1),
    };
    let scene = Scene {
        system,
        client: Client::start(&c, ADDRESS, probe)?,
        witness: Witness::start(&w, ADDRESS)?,
        capture,
        a,
        b,
        _lab: lab,
    };
    scene.client.wait_for_answer(WAIT)?;
    let sample = scene.disturb(event, &mut first, cable.as_ref(), || {
        start(&scene.a, Role::Master)
    })?;
    drop(second);
    Ok(sample)
}

/// Waits for `count` advertisements of a host.
fn heard(
    capture: &Capture,
    mark: Mark,
    system: &System,
    host: &str,
    count: usize,
) -> Result<Captured> {
    let mut left = count;
    let (captured, ()) = capture.wait_after(
        mark,
        &format!("advertisements of {host}"),
        WAIT,
        |captured| {
            left -= usize::from(system.advertises(captured, host));
            (left == 0).then_some(())
        },
    )?;
    Ok(captured)
}

impl Scene<'_> {
    /// Lets it happen, and measures what follows.
    fn disturb(
        &self,
        event: Event,
        master: &mut Daemon,
        cable: Option<&Cable>,
        start_better: impl FnOnce() -> Result<Daemon>,
    ) -> Result<Sample> {
        let cable = || cable.context("the event has a cable");
        let (mark, at) = (self.capture.mark(), Instant::now());
        let mut better = None;
        let (mark, at) = match event {
            Event::Crash => {
                cable()?.from_host(Quality::Lost);
                cable()?.to_host(Quality::Lost);
                master.kill()?;
                (mark, at)
            }
            Event::Kill => {
                master.kill()?;
                (mark, at)
            }
            Event::Term => {
                master.signal(Signal::SIGTERM)?;
                (mark, at)
            }
            Event::Stop => {
                for pid in self.a.pids()? {
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(i32::try_from(pid)?),
                        Signal::SIGSTOP,
                    )?;
                }
                (mark, at)
            }
            Event::Unplugged => {
                self.a.unplug()?;
                (mark, at)
            }
            Event::Preempted => {
                better = Some(start_better()?);
                (mark, at)
            }
            Event::Healed => {
                cable()?.from_host(Quality::Lost);
                cable()?.to_host(Quality::Lost);
                heard(&self.capture, mark, self.system, "b", 2)?;
                let (mark, at) = (self.capture.mark(), Instant::now());
                cable()?.from_host(Quality::Good);
                cable()?.to_host(Quality::Good);
                (mark, at)
            }
        };
        let takeover = if event == Event::Healed {
            self.until_one_is_silent(mark, at)
        } else {
            let new = if event == Event::Preempted { "a" } else { "b" };
            let first = heard(&self.capture, mark, self.system, new, 1)?;
            first.at.saturating_duration_since(at)
        };
        if event == Event::Stop {
            for pid in self.a.pids()? {
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(pid)?),
                    Signal::SIGCONT,
                )?;
            }
        }
        // Watching is the point.
        thread::sleep(AFTERMATH);
        let sightings = self.witness.sightings(&self.capture, mark);
        let double = sightings.iter().filter(|seen| seen.owners.len() > 1);
        let sample = Sample {
            outage: ms(self.client.longest_outage(at)),
            takeover: ms(takeover),
            two_owners: ms(carp_tests::witness::PACE) * double.count() as f64,
        };
        drop(better);
        Ok(sample)
    }

    /// From `at` to the last advertisement of whichever host stops advertising.
    fn until_one_is_silent(&self, mark: Mark, at: Instant) -> Duration {
        thread::sleep(AFTERMATH);
        let all = self.capture.after(mark);
        let last = |host: &str| {
            all.iter()
                .rev()
                .find(|captured| self.system.advertises(captured, host))
                .map(|captured| captured.at)
        };
        let last = match (last(self.a.name()), last(self.b.name())) {
            (Some(a), Some(b)) => a.min(b),
            // One of them said nothing at all after the cable came back.
            _ => at,
        };
        last.saturating_duration_since(at)
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The fastest timers on a machine whose processors are all busy: does the MASTER stay?
fn hold(length: Duration) -> Result<Table> {
    note(&format!(
        "  holding for {} s on busy processors",
        length.as_secs()
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let processors = thread::available_parallelism()?.get();
    let datapath = carp_tests::daemons::datapath();
    let systems = [
        ("carpd", System::Carpd(datapath.clone()), ""),
        ("carpd --realtime", System::Carpd(datapath), "--realtime"),
        ("keepalived, VRRPv3", System::Keepalived3, ""),
    ];
    let rows = thread::scope(|scope| -> Result<Vec<Row>> {
        let _stopping = StopOnDrop(&stop);
        let mut running = Vec::new();
        for (name, system, more) in &systems {
            running.push((name, system, Held::start(system, more)?));
        }
        for _ in 0..2 * processors {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // The load has to be there before anything counts.
        thread::sleep(Duration::from_secs(1));
        for (_, _, held) in &mut running {
            held.mark = held.capture.mark();
            held.lines = [held.daemons[0].mark(), held.daemons[1].mark()];
        }
        thread::sleep(length);
        Ok(running
            .into_iter()
            .map(|(name, system, held)| held.row(name, system))
            .collect())
    })?;
    Ok(Table {
        title: format!(
            "Holding still for {} s, {} busy threads on {processors} processors",
            length.as_secs(),
            2 * processors
        ),
        columns: vec![
            Column::less("false takeovers"),
            Column::of("interval, ms"),
            Column::less("longest silence of the MASTER, ms"),
        ],
        rows,
        drawn: None,
    })
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pair that is to stay as it is.
struct Held {
    daemons: [Daemon; 2],
    lines: [usize; 2],
    mark: Mark,
    capture: Capture,
    _lab: Lab,
    _scratch: tempfile::TempDir,
}

impl Held {
    fn start(system: &System, more: &str) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let lab = Lab::new()?;
        let capture = lab.capture()?;
        let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
        let start =
            |host: &Host, role| system.start_with(host, scratch.path(), role, Pace::Fastest, more);
        let first = start(&a, Role::Master)?;
        heard(&capture, capture.mark(), system, "a", 1)?;
        let second = start(&b, Role::Backup)?;
        heard(&capture, capture.mark(), system, "a", 10)?;
        Ok(Self {
            daemons: [first, second],
            lines: [0; 2],
            mark: capture.mark(),
            capture,
            _lab: lab,
            _scratch: scratch,
        })
    }

    fn row(&self, name: &str, system: &System) -> Row {
        let takeovers: usize = self
            .daemons
            .iter()
            .zip(self.lines)
            .map(|(daemon, line)| system.takeovers(daemon, line))
            .sum();
        let all = self.capture.after(self.mark);
        let sent: Vec<Instant> = all
            .iter()
            .filter(|captured| system.advertises(captured, "a"))
            .map(|captured| captured.at)
            .collect();
        let silence = sent
            .windows(2)
            .map(|pair| ms(pair[1].saturating_duration_since(pair[0])))
            .fold(0.0, f64::max);
        let interval = if system.side() == Side::Ours {
            3.906_25
        } else {
            10.0
        };
        Row {
            name: format!("{name} ({})", system.settings(Pace::Fastest)),
            side: system.side(),
            cells: vec![
                Cell::one(takeovers as f64),
                Cell::one(interval),
                Cell::one(silence),
            ],
        }
    }
}
