//! Measures carpd beside ucarp and keepalived. `cargo xtask bench` builds what is measured and runs this.
//!
//! | Module | Contents |
//! |---|---|
//! | [`cost`] | the cost of one packet in the kernel |
//! | [`link`] | the cost of a daemon for the traffic of its link |
//! | [`floods`] | which daemons keep working during a flood |
//! | [`failover`], [`scene`] | how long a client waits |
//! | [`replays`] | the damage that an attacker with recordings does |
//! | [`hold`] | which MASTER stays MASTER on a busy machine |
//! | [`scale`] | thousands of virtual hosts |
//! | [`addresses`], [`calls`] | an advertisement for many addresses, and the system calls that it takes |
//! | [`size`] | sizes, and the time to start |
//! | [`systems`] | the daemons, started in the same way |
//! | [`report`], [`markdown`], [`plot`], [`docs`], [`machine`] | samples, and how they are presented |

#![expect(
    clippy::float_arithmetic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "measures real time and prints statistics; nothing here decides an election"
)]

mod addresses;
mod calls;
mod cost;
mod docs;
mod ear;
mod failover;
mod floods;
mod hold;
mod link;
mod machine;
mod markdown;
mod plot;
mod replays;
mod report;
mod scale;
mod scene;
mod size;
mod systems;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use carp_tests::lab::note;
use report::{Curve, Goal, Report, Table};

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Under a minute: fewer repetitions, fewer cases.
    pub quick: bool,
}

impl Plan {
    /// Returns one of two values.
    #[must_use]
    pub fn choose<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// The findings of a benchmark.
#[derive(Debug, Default)]
pub struct Findings {
    /// Heading.
    pub title: &'static str,
    /// How it was measured.
    pub method: String,
    /// Results.
    pub tables: Vec<Table>,
    /// Results over a quantity.
    pub curves: Vec<Curve>,
    /// The goals of carpd.
    pub goals: Vec<Goal>,
    /// Remarks for the reader.
    pub remarks: Vec<String>,
}

type Benchmark = fn(Plan) -> Result<Findings>;

/// All benchmarks, in the order of the documentation.
const BENCHMARKS: [(&str, Benchmark); 9] = [
    ("cost", cost::run),
    ("link", link::run),
    ("floods", floods::run),
    ("failover", failover::run),
    ("replays", replays::run),
    ("hold", hold::run),
    ("scale", scale::run),
    ("addresses", addresses::run),
    ("size", size::run),
];

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(done) = addresses::work(&words) {
        return done;
    }
    let mut quick = false;
    let mut baseline = false;
    let mut wanted = Vec::new();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--quick" => quick = true,
            "--baseline" => baseline = true,
            name if BENCHMARKS.iter().any(|(known, _)| *known == name) => wanted.push(word),
            _ => bail!(
                "{word} is neither --quick nor --baseline nor one of {:?}",
                BENCHMARKS.map(|(name, _)| name)
            ),
        }
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces need root"
    );
    // cargo runs this in the package's directory.
    let root = std::env::current_dir()?;
    let places = Places::new(&root);
    let reports = match (quick, baseline) {
        (true, _) => &places.quick,
        (false, true) => &places.baseline,
        (false, false) => &places.last,
    };
    let mut failed = Vec::new();
    for (name, benchmark) in BENCHMARKS {
        if !wanted.is_empty() && wanted.iter().all(|word| word != name) {
            continue;
        }
        // A benchmark that fails does not affect the others; findings are written before the next one begins.
        let outcome = measure(name, benchmark, Plan { quick }).and_then(|report| {
            println!("{}", markdown::report(&report, None));
            for line in report.tables.iter().flat_map(Table::behind) {
                println!("not ahead: {}. {}", line.what, line.why.unwrap_or_default());
            }
            report.save(reports)?;
            if *reports == places.last {
                docs::write(
                    &BENCHMARKS.map(|(name, _)| name),
                    &places,
                    &root.join("docs"),
                )?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            note(&format!("bench: {name} failed: {error:#}"));
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The directory of reports: below `$CARP_BENCH_DIRECTORY`, or `target/bench`.
struct Places {
    /// Full runs, which the documentation shows.
    last: PathBuf,
    /// The runs with which full runs are compared.
    baseline: PathBuf,
    /// Quick runs, which are only printed.
    quick: PathBuf,
}

impl Places {
    fn new(root: &Path) -> Self {
        let last = std::env::var_os("CARP_BENCH_DIRECTORY")
            .map_or_else(|| root.join("target/bench"), PathBuf::from);
        Self {
            baseline: last.join("baseline"),
            quick: last.join("quick"),
            last,
        }
    }
}

fn measure(name: &str, benchmark: Benchmark, plan: Plan) -> Result<Report> {
    note(&format!("bench: {name}"));
    let machine = machine::Machine::this()?;
    let start = Instant::now();
    let found = benchmark(plan)?;
    Ok(Report {
        name: name.to_owned(),
        title: found.title.to_owned(),
        method: found.method,
        quick: plan.quick,
        machine,
        seconds: start.elapsed().as_secs(),
        tables: found.tables,
        curves: found.curves,
        goals: found.goals,
        remarks: found.remarks,
        commands: systems::started(),
    })
}
