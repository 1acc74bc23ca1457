//! Shows a failover on real packets; the show itself is `tests/demo`, where the lab is.

use std::os::unix::process::CommandExt as _;

use anyhow::{Result, bail};

use crate::shell::{self, cargo, say};
use crate::{build, setup};

/// Show two carpd, a client and a failover, measured (needs root)
#[derive(clap::Args)]
#[command(
    long_about = "Show two carpd, a client and a failover, measured, between network namespaces of its own.\n\n\
    Does all set-up first. Needs root. Cleans up also on Ctrl-C, and leaves no namespace, program or process behind."
)]
pub struct Args {}

/// Prepares the show and becomes it.
///
/// # Errors
///
/// When there is no root, or something does not build.
pub fn run(_: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "the demo needs root: it makes network namespaces and attaches XDP programs (try: sudo -E cargo xtask demo)"
        );
    }
    setup::bring_for_tests()?;
    build::run(&build::Args { release: true })?;
    say("building the demo");
    let mut demo = cargo();
    demo.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "carp-tests",
        "--bin",
        "demo",
    ]);
    demo.env("CARPD_BIN", build::binary(true));
    // In place of this process, so that Ctrl-C has one receiver, which cleans up.
    Err(demo.exec().into())
}
