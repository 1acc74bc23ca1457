//! Measures carpd beside ucarp and keepalived. `cargo xtask bench` builds what is measured and runs this.
//!
//! | Module | What it is |
//! |---|---|
//! | [`cost`] | what one packet costs in the kernel |
//! | [`link`] | what a daemon costs the traffic of its link |
//! | [`floods`] | who stays sane under a flood |
//! | [`failover`], [`scene`] | how long a client waits |
//! | [`replays`] | what recordings in the wrong hands cost |
//! | [`hold`] | who stays on a busy machine |
//! | [`scale`] | thousands of virtual hosts |
//! | [`size`] | bytes, and the time to start |
//! | [`systems`] | the daemons, alike to start |
//! | [`report`], [`markdown`], [`plot`], [`docs`], [`machine`] | samples, and what becomes of them |

#![expect(
    clippy::float_arithmetic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "measures real time and prints statistics; nothing here decides an election"
)]

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

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Under a minute: fewer repetitions, fewer cases.
    pub quick: bool,
}

impl Plan {
    /// One of two.
    #[must_use]
    pub fn choose<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// What a benchmark found.
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
    /// What was asked of carpd.
    pub goals: Vec<Goal>,
    /// What a reader has to know.
    pub remarks: Vec<String>,
}

type Benchmark = fn(Plan) -> Result<Findings>;

/// In the order of the documentation.
const BENCHMARKS: [(&str, Benchmark); 8] = [
    ("cost", cost::run),
    ("link", link::run),
    ("floods", floods::run),
    ("failover", failover::run),
    ("replays", replays::run),
    ("hold", hold::run),
    ("scale", scale::run),
    ("size", size::run),
];

fn main() -> Result<()> {
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
    // The repository is where cargo runs us.
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
        // One that fails takes nothing from the others; what is found is on disk before the next begins.
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

/// Where reports are kept: below `$CARP_BENCH_DIRECTORY`, or `target/bench`.
struct Places {
    /// Full runs: what the documentation shows.
    last: PathBuf,
    /// What full runs are compared with.
    baseline: PathBuf,
    /// Quick ones, which nothing else is made of.
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
