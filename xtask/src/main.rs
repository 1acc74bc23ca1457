//! Every developer command, as `cargo xtask <task>`.
//!
//! | Module | Idea |
//! |---|---|
//! | [`setup`] | finds or brings what builds and tests need |
//! | [`toolchain`] | the two recipes that can build eBPF, and which of them is ready |
//! | [`build_ebpf`], [`build`] | the object, and `carpd` with the object inside |
//! | [`demo`], [`mod@test`], [`ci`], [`tidy`] | what their names say |
//! | [`fuzz`] | the fuzz targets, on the compiler in use |
//! | [`test_kernel`] | boots another kernel and tries carpd on it |
//! | [`mod@bench`] | carpd measured beside ucarp and keepalived |
//! | [`sim`], [`mutants`] | the simulation, and whether it notices a broken core |
//! | [`shell`] | the one place that starts programs |
//! | [`apt`], [`tally`] | Debian's packages; adding up test results |
//!
//! A new task is a file with an `Args` struct and a `run` function, and one variant of [`Task`].

mod apt;
mod bench;
mod build;
mod build_ebpf;
mod ci;
mod demo;
mod fuzz;
mod mutants;
mod setup;
mod shell;
mod sim;
mod tally;
mod test;
mod test_kernel;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of carpd; each brings along what it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Build(build::Args),
    Demo(demo::Args),
    Test(test::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    TestKernel(test_kernel::Args),
    Sim(sim::Args),
    Mutants(mutants::Args),
    Tidy(tidy::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::BuildEbpf(args) => build_ebpf::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::TestKernel(args) => test_kernel::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::Mutants(args) => mutants::run(&args),
        Task::Tidy(args) => tidy::run(&args),
        Task::Ci(args) => ci::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
