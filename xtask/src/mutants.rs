//! Breaks a copy of the core and of the daemon's engine on purpose, and checks that their unit tests and the simulation notice.
//! The lists are `tests/mutants/list.rs` and those in `list/`.

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo};

/// Break the core and the engine in each listed way and see that tests notice
#[derive(clap::Args)]
#[command(
    long_about = "Break the core and the daemon's engine in each way that tests/mutants/list.rs lists, in a copy below \
    target/mutants, and see that the tests named there fail. Takes a few minutes: everything is compiled once, with each \
    mutant behind a switch, and then each mutant runs its tests. With CARP_MUTANTS=TEXT only mutants with that text in \
    their names, or at the end of their file's name."
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
