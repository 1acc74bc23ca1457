//! Checks the dependencies: advisories, licences, versions and sources.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::{self, root, warn};
use crate::{setup, tool};

/// Check the dependencies against deny.toml: advisories, licences, bans, sources
#[derive(clap::Args)]
#[command(
    long_about = "Check the dependencies of both workspaces against deny.toml, with cargo-deny: licences, banned crates, \
    second versions, sources, and the RustSec advisories.\n\n\
    git fetches the advisory database. If that fails, the task prints that the advisories were not checked, and \
    `ci` repeats it at its end."
)]
pub struct Args {}

/// The two workspaces, each with lints of cargo-deny to switch off, because deny.toml is shared.
const WORKSPACES: [(&str, &[&str]); 2] = [
    (
        "Cargo.toml",
        // Only the other workspace uses libFuzzer.
        &["-A", "license-exception-not-encountered"],
    ),
    (
        "tests/fuzz/Cargo.toml",
        &[
            "-A",
            "license-exception-not-encountered",
            "-A",
            "unused-wrapper",
        ],
    ),
];

/// Makes an entry of deny.toml that no longer matches anything an error.
const STALE: [&str; 6] = [
    "-D",
    "unused-wrapper",
    "-D",
    "unmatched-skip",
    "-D",
    "unnecessary-skip",
];

/// Checks everything that can be checked here.
///
/// # Errors
///
/// When cargo-deny cannot be built, or a dependency is not allowed.
pub fn run(_: &Args) -> Result<()> {
    check().map(drop)
}

/// Checks, and returns what could not be checked and why.
///
/// # Errors
///
/// When cargo-deny cannot be built, or a dependency is not allowed.
pub fn check() -> Result<Option<String>> {
    let program = setup::install_tool(&tool::CARGO_DENY)?;
    for (manifest, allowed) in WORKSPACES {
        let mut deny = deny(&program, manifest);
        deny.args(["check", "--hide-inclusion-graph"]);
        if manifest == WORKSPACES[0].0 {
            deny.args(STALE);
        }
        deny.args(allowed).args(["bans", "licenses", "sources"]);
        shell::run(&mut deny).with_context(|| format!("in the workspace of {manifest}"))?;
    }
    if shell::run(deny(&program, WORKSPACES[0].0).args(["fetch", "db"])).is_err() {
        let unchecked = "advisories against the dependencies: their database could not be fetched";
        warn(&format!("NOT CHECKED: {unchecked}"));
        return Ok(Some(unchecked.to_owned()));
    }
    for (manifest, _) in WORKSPACES {
        let mut deny = deny(&program, manifest);
        deny.args(["check", "--hide-inclusion-graph", "advisories"]);
        shell::run(&mut deny).with_context(|| format!("in the workspace of {manifest}"))?;
    }
    Ok(None)
}

fn deny(program: &Path, manifest: &str) -> Command {
    let mut deny = Command::new(program);
    deny.current_dir(root())
        .args(["--locked", "--config", "deny.toml", "--manifest-path"])
        .arg(manifest);
    deny
}
