//! Measures carpd against ucarp and keepalived. `tests/bench` does the measuring.

use std::os::unix::process::CommandExt as _;

use anyhow::{Result, bail};

use crate::shell::{self, cargo, say};
use crate::{build, setup};

/// Measure carpd against ucarp and keepalived (needs root)
#[derive(clap::Args)]
#[command(
    long_about = "Measure carpd against Debian's ucarp and keepalived, in network namespaces of its own.\n\n\
    Sets everything up first. Prints tables, writes samples to target/bench/*.json and drawings beside them, and updates \
    docs/BENCHMARKS.md with the last run of each benchmark. All benchmarks take about 100 minutes, on a machine \
    that does nothing else; with --quick, each takes less than a minute and keeps its samples in target/bench/quick.",
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench floods failover --quick\n  \
    cargo xtask bench scale --baseline    # before a change; then, after it:\n  cargo xtask bench scale"
)]
pub struct Args {
    /// Measurement to run [default: all]
    #[arg(value_enum)]
    names: Vec<Name>,

    /// Fewer repetitions and fewer cases
    #[arg(long)]
    quick: bool,

    /// Keep the results apart (target/bench/baseline); docs/BENCHMARKS.md compares later runs with them
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
    /// How the daemons behave under a flood
    Floods,
    /// How long a client waits in a failover
    Failover,
    /// What an attacker achieves with recordings
    Replays,
    /// Whether the MASTER stays MASTER on a busy machine
    Hold,
    /// Thousands of virtual hosts
    Scale,
    /// What an advertisement costs with many addresses
    Addresses,
    /// Size of the binary, and the time to start
    Size,
}

/// Builds the measuring program and replaces this process by it.
///
/// # Errors
///
/// When not run as root, or when something does not build.
pub fn run(args: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "benchmarks need root: they make network namespaces and attach eBPF programs (try: sudo -E cargo xtask bench)"
        );
    }
    setup::install_for_benchmarks()?;
    build::run(&build::Args { release: true })?;
    say("building the benchmarks");
    let mut bench = cargo();
    // The profile `bench` optimises enough for measuring, and builds in a fraction of the time of a release.
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
    // Replaces this process, so that Ctrl-C has one receiver.
    Err(bench.exec().into())
}
