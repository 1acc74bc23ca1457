//! Every developer command, as `cargo xtask <task>`.
//!
//! | Module | Idea |
//! |---|---|
//! | [`setup`] | finds or brings what builds and tests need |
//! | [`toolchain`] | the two recipes that can build eBPF, and which of them is ready |
//! | [`build_ebpf`], [`build`] | the object, and `carpd` with the object inside |
//! | [`demo`], [`mod@test`], [`ci`], [`tidy`] | what their names say |
//! | [`shell`] | the one place that starts programs |
//! | [`apt`], [`tally`] | Debian's packages; adding up test results |
//!
//! A new task is a file with an `Args` struct and a `run` function, and one variant of [`Task`].

mod apt;
mod build;
mod build_ebpf;
mod ci;
mod demo;
mod setup;
mod shell;
mod tally;
mod test;
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
