//! Everything that must hold before a change is taken, and nothing else: a green laptop means a green build.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, cargo, root, say, show};
use crate::{build_ebpf, mutants, setup, test, tidy, toolchain};

/// Run every check and every test
#[derive(clap::Args)]
#[command(
    long_about = "Run every check and every test, as CI does: set-up, formatting, tidy, the eBPF build, lints, documentation, \
    the core on a target without an operating system, the mutants, and `cargo xtask test` with skipped tests counted as failures.\n\n\
    Needs root. Stops at the first step that fails; says how long each one took."
)]
pub struct Args {}

/// A named step.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 10] = [
    ("setup", set_up),
    ("format", check_format),
    ("tidy", || tidy::run(&tidy::Args {})),
    ("build-ebpf", || {
        build_ebpf::run(&build_ebpf::Args::default())
    }),
    ("lint", lint),
    ("lint-ebpf", lint_ebpf),
    ("doc", document),
    ("no-os", check_without_operating_system),
    ("mutants", || mutants::run(&mutants::Args {})),
    ("test", || {
        test::run(&test::Args {
            required: true,
            ..test::Args::default()
        })
    }),
];

/// Runs the steps in order.
///
/// # Errors
///
/// With the first step that fails.
pub fn run(_: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "`ci` needs root, for the end-to-end tests; without it, `cargo xtask test` runs what it can"
        );
    }
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut result = Ok(());
    for (name, step) in STEPS {
        say(&format!("ci: {name}"));
        let (outcome, time) = shell::timed(step);
        result = outcome.with_context(|| format!("ci step {name} failed"));
        times.push((name, time));
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
    result
}

fn set_up() -> Result<()> {
    setup::bring_for_checks()?;
    setup::run(&setup::Args::default())
}

/// The fuzz targets are a workspace of their own.
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

/// Lints the kernel side as if it were built for the host: the compilers that build it need not have clippy.
fn lint_ebpf() -> Result<()> {
    let mut clippy = cargo();
    clippy
        .args(["clippy", "--locked", "--package", "carp-ebpf"])
        .arg("--target-dir")
        .arg(root().join("target/ebpf-lint"))
        .args(["--", "-Dwarnings"])
        // Without std there is nobody to unwind a panic.
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

/// Compiles the protocol core where there is no socket, no clock and no thread to be had.
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
