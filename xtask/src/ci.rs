//! Every check that a change must pass. CI runs nothing else, so a green run on a laptop means a green build.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, cargo, root, say, show};
use crate::{build_ebpf, deny, msrv, mutants, setup, test, tidy, toolchain, typos};

/// Run every check and every test
#[derive(clap::Args)]
#[command(
    long_about = "Run every check and every test, as CI does: set-up, formatting, tidy, spelling, dependencies, the eBPF \
    build, lints, the oldest Rust, documentation, the core on a target without an operating system, the mutants, and `cargo \
    xtask test` with skipped tests counted as failures.\n\n\
    Needs root. Stops at the first step that fails. At the end it prints how long each step took, and what could not be \
    checked here: advisories without their database, the oldest Rust without rustup."
)]
pub struct Args {}

/// A step's name and its function, which returns what it could not check and why.
type Step = (&'static str, fn() -> Result<Option<String>>);

const STEPS: [Step; 13] = [
    ("setup", || all(set_up())),
    ("format", || all(check_format())),
    ("tidy", || all(tidy::run(&tidy::Args {}))),
    ("typos", || all(typos::run(&typos::Args { write: false }))),
    ("deny", deny::check),
    ("build-ebpf", || {
        all(build_ebpf::run(&build_ebpf::Args::default()))
    }),
    ("lint", || all(lint())),
    ("lint-ebpf", || all(lint_ebpf())),
    ("msrv", msrv::check),
    ("doc", || all(document())),
    ("no-os", || all(check_without_operating_system())),
    ("mutants", || all(mutants::run(&mutants::Args {}))),
    ("test", || {
        all(test::run(&test::Args {
            required: true,
            ..test::Args::default()
        }))
    }),
];

/// Turns the result of a step that checks everything or fails into an outcome.
fn all(result: Result<()>) -> Result<Option<String>> {
    result.map(|()| None)
}

/// Runs the steps in order.
///
/// # Errors
///
/// When a step fails; the remaining steps are skipped.
pub fn run(_: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "`ci` needs root, for the end-to-end tests; without it, `cargo xtask test` runs what it can"
        );
    }
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut unchecked = Vec::new();
    let mut result = Ok(());
    for (name, step) in STEPS {
        say(&format!("ci: {name}"));
        let (outcome, time) = shell::timed(step);
        times.push((name, time));
        result = outcome
            .map(|left_out| unchecked.extend(left_out.map(|what| (name, what))))
            .with_context(|| format!("ci step {name} failed"));
        if result.is_err() {
            break;
        }
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    times.push(("all", total));
    show("\nci, step by step:");
    for (name, time) in &times {
        show(&format!("  {name:<12} {:>4} s", time.as_secs()));
    }
    for (name, what) in &unchecked {
        show(&format!("  NOT CHECKED by {name}: {what}"));
    }
    result
}

fn set_up() -> Result<()> {
    setup::install_for_checks()?;
    setup::run(&setup::Args::default())
}

/// The fuzz targets are a separate workspace.
const FUZZ: [&str; 2] = ["--manifest-path", "tests/fuzz/Cargo.toml"];

fn check_format() -> Result<()> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(cargo().arg("fmt").args(FUZZ).arg("--check"))
}

fn lint() -> Result<()> {
    let clippy = || {
        let mut clippy = cargo();
        clippy
            .args(["clippy", "--locked", "--all-targets"])
            .env("CARGO_TARGET_DIR", shell::target_directory());
        clippy
    };
    let warnings = ["--", "-Dwarnings"];
    shell::run(
        clippy()
            .args(["--workspace", "--exclude", "carp-ebpf"])
            .args(warnings),
    )?;
    shell::run(
        clippy()
            .args(FUZZ)
            .args(["--features", "libfuzzer"])
            .args(warnings),
    )
}

/// Lints the kernel program as if it were built for the host, because the compilers that build it may lack clippy.
fn lint_ebpf() -> Result<()> {
    let mut clippy = cargo();
    clippy
        .args(["clippy", "--locked", "--package", "carp-ebpf"])
        .arg("--target-dir")
        .arg(root().join("target/ebpf-lint"))
        .args(["--", "-Dwarnings"])
        // Without std, nothing can unwind a panic.
        .env("RUSTFLAGS", "-Cpanic=abort");
    shell::run(&mut clippy)
}

fn document() -> Result<()> {
    let mut doc = cargo();
    doc.args([
        "doc",
        "--locked",
        "--workspace",
        "--exclude",
        "carp-ebpf",
        "--no-deps",
    ]);
    shell::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Compiles the protocol core for a target without sockets, clocks and threads.
fn check_without_operating_system() -> Result<()> {
    let toolchains = toolchain::ready();
    let toolchain = toolchains
        .first()
        .context("no compiler that builds core is ready")?;
    let mut check = toolchain.compiler.cargo();
    check
        .args([
            "check",
            "--quiet",
            "--locked",
            "--package",
            "carp-common",
            "--features",
            "proto",
        ])
        .args([
            "--target",
            "x86_64-unknown-none",
            "-Zbuild-std=core,alloc",
            "--target-dir",
        ])
        .arg(root().join("target/no-os"));
    shell::run(&mut check)
}
