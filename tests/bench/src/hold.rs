//! The fastest timers on a machine whose processors are all busy: whether the MASTER stays MASTER.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Capture, Daemon, Host, Lab, Mark};
use nix::sched::{CpuSet, sched_setaffinity};

use crate::report::{Cell, Column, Goal, Row, Side, Table};
use crate::scene::{heard, ms};
use crate::systems::{Pace, Role, System, datapath};
use crate::{Findings, Plan};

const METHOD: &str = "\
Pairs of all systems run at the same time, with their fastest timers that are stable on an idle machine, beside two
spinning threads per processor. *false takeovers*: both hosts of a pair are alive, so every takeover is false. *longest
silence*: the longest time between two captured advertisements of the MASTER. The limit is the processor itself: on each
one, a thread of the highest real-time priority wakes every millisecond, and while that thread is silent nothing else
runs there either; on a virtual machine, the hypervisor then runs something else.";

/// The interval at which the thread that watches a processor wakes.
const PROBE: Duration = Duration::from_millis(1);

/// Runs all pairs at the same time, on the same busy processors.
pub fn run(plan: Plan) -> Result<Findings> {
    let length = plan.choose(Duration::from_secs(10), Duration::from_secs(600));
    note(&format!(
        "  holding for {} s on busy processors",
        length.as_secs()
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let processors = thread::available_parallelism()?.get();
    let systems = [
        ("carpd", System::Carpd(datapath()), false),
        ("carpd --realtime", System::Carpd(datapath()), true),
        ("keepalived, VRRPv3", System::Keepalived3, false),
        (
            "keepalived, VRRPv3, vrrp_rt_priority",
            System::Keepalived3,
            true,
        ),
    ];
    let rows = thread::scope(|scope| -> Result<Vec<Row>> {
        let _stopping = StopOnDrop(&stop);
        let mut running = Vec::new();
        for (name, system, realtime) in &systems {
            running.push((name, system, Held::start(system, *realtime)?));
        }
        for _ in 0..2 * processors {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // The load must be there before measuring begins.
        thread::sleep(Duration::from_secs(1));
        let probes: Vec<_> = (0..processors)
            .map(|processor| {
                let stop = &stop;
                scope.spawn(move || longest_gap(processor, stop))
            })
            .collect();
        for (_, _, held) in &mut running {
            held.begin();
        }
        thread::sleep(length);
        let mut rows: Vec<Row> = running
            .into_iter()
            .map(|(name, system, held)| held.row(name, system))
            .collect();
        stop.store(true, Ordering::Relaxed);
        let mut gaps = Vec::new();
        for probe in probes {
            gaps.push(ms(probe.join().expect("it returns its failures")?));
        }
        rows.push(Row {
            name: "the processors themselves".to_owned(),
            side: Side::Limit,
            cells: vec![
                Cell::Text("–".to_owned()),
                Cell::one(ms(PROBE)),
                Cell::one(gaps.into_iter().fold(0.0, f64::max)),
            ],
        });
        Ok(rows)
    })?;
    let title = format!(
        "Holding still for {} s, {} busy threads on {processors} processors",
        length.as_secs(),
        2 * processors
    );
    let ours = rows.iter().filter(|row| row.side == Side::Ours);
    let goals = ours.map(|row| {
        let what = format!("{} held for {} s", row.name, length.as_secs());
        let samples = match row.cells.first() {
            Some(Cell::Samples(samples)) => samples.clone(),
            Some(Cell::Text(_)) | None => Vec::new(),
        };
        Goal::at_most(&what, 0.0, "false takeovers", samples)
    });
    let goals = goals.collect();
    let table = Table {
        title,
        columns: vec![
            Column::less("false takeovers").because(
                "carpd's fastest interval is 3.9 ms and keepalived's is 10 ms, so a carpd BACKUP waits a third as long. If the \
                 processors stall for longer than those 11.7 ms, use `-k 3`, which is as fast as keepalived, or --realtime.",
            ),
            Column::of("interval, ms"),
            Column::less("longest silence of the MASTER, ms").because(
                "All daemons and the spinning threads share the processors, which stall at times themselves.",
            ),
        ],
        rows,
        drawn: None,
    };
    Ok(Findings {
        title: "Holding still",
        method: METHOD.to_owned(),
        tables: vec![table],
        goals,
        ..Findings::default()
    })
}

/// Measures the longest time in which not even a thread of the highest priority ran on a processor.
fn longest_gap(processor: usize, stop: &AtomicBool) -> Result<Duration> {
    let this = nix::unistd::gettid();
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(this, &set)?;
    let chosen = Command::new("chrt")
        .args(["-f", "-p", "99", &this.to_string()])
        .status()?;
    ensure!(chosen.success(), "chrt: {chosen}");
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PROBE);
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    Ok(longest)
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pair whose states should not change.
struct Held {
    daemons: [Daemon; 2],
    lines: [usize; 2],
    mark: Mark,
    since: Instant,
    capture: Capture,
    _lab: Lab,
    _scratch: tempfile::TempDir,
}

impl Held {
    fn start(system: &System, realtime: bool) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let lab = Lab::new()?;
        let capture = lab.capture()?;
        let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
        let start = |host: &Host, role| {
            let launch = system.prepare(host, scratch.path(), role, Pace::Fastest, realtime)?;
            launch.start(host)
        };
        let first = start(&a, Role::Master)?;
        heard(&capture, capture.mark(), system, "a", 1)?;
        let second = start(&b, Role::Backup)?;
        heard(&capture, capture.mark(), system, "a", 10)?;
        Ok(Self {
            daemons: [first, second],
            lines: [0; 2],
            mark: capture.mark(),
            since: Instant::now(),
            capture,
            _lab: lab,
            _scratch: scratch,
        })
    }

    /// Begins the measurement.
    fn begin(&mut self) {
        self.mark = self.capture.mark();
        self.since = Instant::now();
        self.lines = [self.daemons[0].mark(), self.daemons[1].mark()];
    }

    fn row(&self, name: &str, system: &System) -> Row {
        let takeovers: usize = self
            .daemons
            .iter()
            .zip(self.lines)
            .map(|(daemon, line)| system.takeovers(daemon, line))
            .sum();
        let all = self.capture.after(self.mark);
        let sent = all
            .iter()
            .filter(|captured| system.advertises(captured, "a"))
            .map(|captured| captured.at);
        // From the beginning to the end: a host that stopped is silent until now.
        let times: Vec<Instant> = std::iter::once(self.since)
            .chain(sent)
            .chain([Instant::now()])
            .collect();
        let silence = times
            .windows(2)
            .map(|pair| ms(pair[1].saturating_duration_since(pair[0])))
            .fold(0.0, f64::max);
        Row {
            name: format!("{name} ({})", system.settings(Pace::Fastest)),
            side: system.side(),
            cells: vec![
                Cell::one(takeovers as f64),
                Cell::one(ms(system.interval(Pace::Fastest))),
                Cell::one(silence),
            ],
        }
    }
}
