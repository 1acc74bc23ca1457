//! Every developer command, as `cargo xtask <task>`.
//!
//! | Module | Contents |
//! |---|---|
//! | [`setup`], [`tool`] | finds or installs what builds, tests and checks need; the programs that are built from crates.io |
//! | [`toolchain`] | the two recipes that can build eBPF, and which of them is ready |
//! | [`build_ebpf`], [`build`] | the object, and `carpd` with the object inside |
//! | [`demo`], [`mod@test`], [`ci`] | a demonstration of a failover; every test; every check and every test |
//! | [`tidy`], [`typos`], [`deny`], [`msrv`] | checks of sources, spelling, dependencies and the oldest Rust |
//! | [`fuzz`] | the fuzz targets, on the compiler in use |
//! | [`test_kernel`] | boots another kernel and tries carpd on it |
//! | [`mod@bench`] | carpd measured against ucarp and keepalived |
//! | [`sim`], [`mutants`] | the simulation, and whether the tests notice a broken core or engine |
//! | [`shell`] | the one place that starts programs |
//! | [`apt`], [`tally`] | Debian's packages; adding up test results |
//!
//! A new task is a file with an `Args` struct and a `run` function, and one variant of [`Task`].

mod apt;
mod bench;
mod build;
mod build_ebpf;
mod ci;
mod circles;
mod demo;
mod deny;
mod fuzz;
mod methods;
mod msrv;
mod mutants;
mod setup;
mod shell;
mod sim;
mod tally;
mod test;
mod test_kernel;
mod tidy;
mod tool;
mod toolchain;
mod typos;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of carpd; each installs what it needs.
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
    Deny(deny::Args),
    Typos(typos::Args),
    Msrv(msrv::Args),
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
        Task::Deny(args) => deny::run(&args),
        Task::Typos(args) => typos::run(&args),
        Task::Msrv(args) => msrv::run(&args),
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
