//! Searches for inputs that break a parser, the classifier or the protocol core.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, cargo, root, say};
use crate::{build_ebpf, setup};

/// Fuzz the targets of tests/fuzz, one after the other
#[derive(clap::Args)]
#[command(
    long_about = "Fuzz the targets of tests/fuzz, one after the other, with libFuzzer on the compiler in use.\n\n\
    libFuzzer keeps its corpus in target/fuzz/corpus, and its findings in target/fuzz/artifacts. Copy a finding to \
    tests/fuzz/corpus: `cargo xtask test` tries everything there on every run.",
    after_help = "Examples:\n  cargo xtask fuzz --seconds 600\n  cargo xtask fuzz virtual_host"
)]
pub struct Args {
    /// Only this one (wire, classify, admission, virtual_host, cli, netlink)
    pub target: Option<String>,

    /// How long to fuzz each target; 0 only runs the corpus
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u32,
}

/// Instrumentation for libFuzzer, as used by `cargo fuzz`. The code under test is safe Rust, so no sanitizer is used, and
/// no nightly compiler is needed.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Time after which an input counts as a finding; far more than a busy machine needs. Unit: s.
const TIMEOUT: u32 = 10;

/// Builds the targets and runs them.
///
/// # Errors
///
/// When a target does not build or does not exist, or finds something.
pub fn run(args: &Args) -> Result<()> {
    let targets = chosen(targets()?, args.target.as_deref())?;
    setup::install_for_tests()?;
    build_ebpf::run(&build_ebpf::Args::default())?;
    let triple = host_triple()?;
    // With `--target`, the flags do not apply to build scripts.
    shell::run(
        cargo()
            .args(["build", "--locked", "--release", "--bins"])
            .args(["--features", "libfuzzer", "--target", &triple])
            .args(["--manifest-path", "tests/fuzz/Cargo.toml", "--target-dir"])
            .arg(directory())
            .env("RUSTFLAGS", INSTRUMENTED),
    )?;
    let programs = directory().join(triple).join("release");
    for target in targets {
        say(&format!("fuzzing {target} for {} s", args.seconds));
        let learnt = directory().join("corpus").join(&target);
        let artifacts = directory().join("artifacts").join(&target);
        for directory in [&learnt, &artifacts] {
            fs::create_dir_all(directory)
                .with_context(|| format!("failed to create {}", directory.display()))?;
        }
        let mut fuzz = Command::new(programs.join(&target));
        fuzz.args([&learnt, &root().join("tests/fuzz/corpus").join(&target)])
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg("-print_final_stats=1")
            .arg(match args.seconds {
                0 => "-runs=0".to_owned(),
                seconds => format!("-max_total_time={seconds}"),
            });
        shell::run(fuzz.stdin(Stdio::null())).with_context(|| {
            format!("{target} found something; it is in {}", artifacts.display())
        })?;
    }
    Ok(())
}

/// The directory of all fuzzing output, whatever directory host builds use.
fn directory() -> PathBuf {
    root().join("target/fuzz")
}

/// The executables' names.
fn targets() -> Result<Vec<String>> {
    let sources = root().join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn chosen(targets: Vec<String>, wanted: Option<&str>) -> Result<Vec<String>> {
    match wanted {
        None => Ok(targets),
        Some(name) if targets.iter().any(|target| target == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("no fuzz target `{name}`, there are {}", targets.join(", ")),
    }
}

/// The target that the compiler in use builds for.
fn host_triple() -> Result<String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let text =
        shell::output(rustc.arg("-vV").current_dir(root())).context("failed to run `rustc -vV`")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_asked_for_by_its_name() {
        let all = targets().unwrap();
        assert_eq!(chosen(all.clone(), None).unwrap(), all);
        assert_eq!(chosen(all.clone(), Some("wire")).unwrap(), ["wire"]);
        let refused = chosen(all, Some("wires")).unwrap_err().to_string();
        assert!(refused.contains("virtual_host"), "{refused}");
    }
}
