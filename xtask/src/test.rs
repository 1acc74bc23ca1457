//! Every test: on the host, the fuzz targets' corpus, and end to end once for each datapath that `auto` chooses, with a
//! selection on generic XDP.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::shell::{self, cargo, say, show};
use crate::tally::{Failure, Tally};
use crate::{build, setup};

/// Run every test, after setting everything up
#[derive(clap::Args, Default)]
#[command(
    long_about = "Run every test, after setting everything up: unit, documentation and vector tests and the fuzz targets' \
    corpus, then the end-to-end tests between network namespaces, once for each datapath that `auto` chooses and a \
    selection on xdp-generic, against the release build of carpd.\n\n\
    End-to-end tests need root; without it they are skipped, visibly, and with CI=true or CARP_REQUIRE_ROOT=1 that \
    is a failure.",
    after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --datapath socket -- bow_out"
)]
pub struct Args {
    /// Run the end-to-end tests on this datapath only; may be repeated
    #[arg(long, value_name = "NAME")]
    pub datapath: Vec<String>,

    /// Whether a skipped end-to-end test is a failure, whatever the environment says.
    #[arg(skip)]
    pub required: bool,

    /// Arguments for the test harness: a part of the names of the tests to run, or its options
    #[arg(last = true)]
    pub harness: Vec<String>,
}

/// The datapaths that `auto` chooses from; each runs the whole end-to-end suite.
const DATAPATHS: [&str; 3] = ["xdp-native", "tcx", "socket"];

/// The datapath that must be requested. It runs the program of native XDP, so these tests are enough: the election,
/// takeovers, and hostile packets. The tests of attaching try every datapath in any round.
const GENERIC: &str = "xdp-generic";
const GENERIC_TESTS: [&str; 3] = ["election::", "takeover::", "hostile::"];

/// Runs all rounds, even after a failure.
///
/// # Errors
///
/// When something is missing or does not build, a test fails, or root is required and absent.
pub fn run(args: &Args) -> Result<()> {
    if !shell::is_root() {
        if args.required || root_is_required() {
            bail!("the end-to-end tests need root (network namespaces, XDP)");
        }
        say("not root: the end-to-end tests will be skipped (run as root for them)");
    }
    if shell::is_root() {
        setup::install_for_tests()?;
    }
    build::run(&build::Args { release: true })?;

    let (rounds, time) = shell::timed(|| {
        let rounds = rounds(args).into_iter();
        rounds
            .map(|round| run_round(args, &round))
            .collect::<Result<Vec<_>>>()
    });
    let rounds = rounds?;
    let mut all = Tally::default();
    show(&format!("\nsummary, {} s", time.as_secs()));
    let mut sound = true;
    for (name, passed, tally, time) in rounds {
        show(&format!("  {name}: {tally} in {} s", time.as_secs()));
        sound &= passed;
        all.add(tally, name);
    }
    for failure in &all.failures {
        show(&format!("  FAILED: {failure}"));
    }
    show(&all.to_string());
    if sound { Ok(()) } else { bail!("tests failed") }
}

/// Runs one round; returns its name, whether it passed, its results and the time it took.
fn run_round<'a>(args: &Args, round: &Round<'a>) -> Result<(&'a str, bool, Tally, Duration)> {
    say(&format!("tests: {}", round.name));
    let mut tally = Tally::default();
    let mut command = cargo();
    command
        .args(["test", "--locked", "--no-fail-fast"])
        .args(round.selection)
        .arg("--")
        .args(round.filter)
        .args(&args.harness)
        .env("CARPD_BIN", build::binary(true))
        // The fuzz targets are a separate workspace; a shared directory avoids building anything twice.
        .env("CARGO_TARGET_DIR", shell::target_directory());
    if let Some(datapath) = round.datapath {
        command.env("CARP_TEST_DATAPATH", datapath);
    }
    if args.required {
        command.env("CARP_REQUIRE_ROOT", "1");
    }
    let (succeeded, time) =
        shell::timed(|| shell::run_watched(&mut command, |line| tally.read(line)));
    let succeeded = succeeded?;
    let passed = succeeded && tally.failed == 0;
    if !succeeded && tally.failed == 0 {
        tally
            .failures
            .push(Failure::named("did not build, or broke off"));
    }
    Ok((round.name, passed, tally, time))
}

/// Whether a skipped test is a failure.
fn root_is_required() -> bool {
    let variable = |name| std::env::var(name).unwrap_or_default();
    variable("CI") == "true" || variable("CARP_REQUIRE_ROOT") == "1"
}

/// One run of `cargo test`.
#[derive(Debug, PartialEq, Eq)]
struct Round<'a> {
    name: &'a str,
    /// For the end-to-end tests in this round.
    datapath: Option<&'a str>,
    selection: &'static [&'static str],
    /// Parts of the names of the tests to run; empty for all.
    filter: &'static [&'static str],
}

fn rounds(args: &Args) -> Vec<Round<'_>> {
    let end_to_end = |datapath| Round {
        name: datapath,
        datapath: Some(datapath),
        selection: &["--package", "carp-tests", "--test", "e2e"],
        filter: &[],
    };
    if !args.datapath.is_empty() {
        let asked = args.datapath.iter().map(String::as_str);
        return asked.map(end_to_end).collect();
    }
    // No suite is named here, so a new one in any package runs without a change.
    let first = Round {
        name: "all, end to end on xdp-native",
        datapath: Some(DATAPATHS[0]),
        selection: &["--workspace", "--exclude", "carp-ebpf"],
        filter: &[],
    };
    let corpus = Round {
        name: "fuzz targets, their corpus",
        datapath: None,
        // The feature builds the executables too.
        selection: &[
            "--manifest-path",
            "tests/fuzz/Cargo.toml",
            "--features",
            "libfuzzer",
        ],
        filter: &[],
    };
    let others = DATAPATHS[1..].iter().copied().map(end_to_end);
    let generic = Round {
        // A filter on the command line replaces the selection.
        filter: if args.harness.is_empty() {
            &GENERIC_TESTS
        } else {
            &[]
        },
        ..end_to_end(GENERIC)
    };
    [first, corpus]
        .into_iter()
        .chain(others)
        .chain([generic])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datapath_gets_the_end_to_end_suite_and_the_rest_runs_once() {
        let args = Args::default();
        let rounds = rounds(&args);
        let datapaths: Vec<_> = rounds.iter().filter_map(|round| round.datapath).collect();
        assert_eq!(datapaths, [&DATAPATHS[..], &[GENERIC]].concat());
        for round in &rounds {
            assert_eq!(!round.filter.is_empty(), round.name == GENERIC);
        }
        let whole = |round: &&Round<'_>| round.selection.contains(&"--workspace");
        assert_eq!(rounds.iter().filter(whole).count(), 1);
    }

    #[test]
    fn only_a_requested_datapath_runs() {
        let args = Args {
            datapath: vec!["xdp-generic".to_owned()],
            ..Args::default()
        };
        let rounds = rounds(&args);
        assert_eq!(rounds.len(), 1);
        assert_eq!(rounds[0].datapath, Some("xdp-generic"));
        assert!(rounds[0].selection.contains(&"e2e"));
    }
}
