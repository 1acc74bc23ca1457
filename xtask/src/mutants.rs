//! Breaks a copy of the core on purpose and checks that the simulation notices. The list is `tests/mutants/list.rs`.

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo};

/// Break the core in each listed way and see that the simulation notices
#[derive(clap::Args)]
#[command(
    long_about = "Break the core in each way that tests/mutants/list.rs lists, in a copy below target/mutants, and see that the \
    tests named there fail. Takes a minute or two: the core and the simulation are compiled once per mutant."
)]
pub struct Args {}

/// Runs the list.
///
/// # Errors
///
/// When a mutant is not caught, or no longer applies to the sources.
pub fn run(_: &Args) -> Result<()> {
    // The daemon, whose engine is simulated, embeds the object.
    build_ebpf::run(&build_ebpf::Args::default())?;
    let mut command = cargo();
    command.args([
        "test",
        "--locked",
        "--package",
        "carp-tests",
        "--test",
        "mutants",
    ]);
    command.args(["--", "--include-ignored", "--nocapture"]);
    shell::run(&mut command)
}
