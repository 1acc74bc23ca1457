//! Measures carpd beside ucarp and keepalived; the measuring is done by `tests/bench`, where the lab is.

use std::os::unix::process::CommandExt as _;

use anyhow::{Result, bail};

use crate::shell::{self, cargo, say};
use crate::{build, setup};

/// Measure carpd beside ucarp and keepalived (needs root)
#[derive(clap::Args)]
#[command(
    long_about = "Measure carpd beside Debian's ucarp and keepalived, in network namespaces of its own.\n\n\
    Does all set-up first. Prints tables, writes samples to target/bench/*.json and drawings beside them, and brings \
    docs/BENCHMARKS.md up to date with the last run of each benchmark. Everything takes some 100 minutes, on a machine \
    that does nothing else; --quick takes less than a minute for each, and keeps its samples in target/bench/quick.",
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench floods failover --quick\n  \
    cargo xtask bench scale --baseline    # before a change; then, after it:\n  cargo xtask bench scale"
)]
pub struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    names: Vec<Name>,

    /// Fewer repetitions and fewer cases
    #[arg(long)]
    quick: bool,

    /// Keep the results apart (target/bench/baseline), as what later runs are compared with in docs/BENCHMARKS.md
    #[arg(long, conflicts_with = "quick")]
    baseline: bool,
}

/// The benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// What one packet costs in the kernel
    Cost,
    /// What a daemon costs the traffic of its link
    Link,
    /// Who stays sane under a flood
    Floods,
    /// How long a client waits
    Failover,
    /// What recordings in the wrong hands cost
    Replays,
    /// Who stays MASTER on a busy machine
    Hold,
    /// Thousands of virtual hosts
    Scale,
    /// Bytes, and the time to start
    Size,
}

/// Prepares the measuring program and becomes it.
///
/// # Errors
///
/// When there is no root, or something does not build.
pub fn run(args: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "benchmarks need root: they make network namespaces and attach eBPF programs (try: sudo -E cargo xtask bench)"
        );
    }
    setup::bring_for_benchmarks()?;
    build::run(&build::Args { release: true })?;
    say("building the benchmarks");
    let mut bench = cargo();
    // The profile `bench` optimises as much as measuring needs, and builds in a fraction of the time of a release.
    bench.args([
        "run",
        "--quiet",
        "--locked",
        "--profile=bench",
        "--package=carp-bench",
        "--",
    ]);
    bench.args(args.names.iter().filter_map(|name| {
        let value = clap::ValueEnum::to_possible_value(name)?;
        Some(value.get_name().to_owned())
    }));
    if args.quick {
        bench.arg("--quick");
    }
    if args.baseline {
        bench.arg("--baseline");
    }
    bench.env("CARPD_BIN", build::binary(true));
    // In place of this process, so that Ctrl-C has one receiver.
    Err(bench.exec().into())
}
