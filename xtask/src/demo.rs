//! Shows a failover on real packets. The demonstration itself is `tests/demo`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Result, bail};

use crate::shell::{self, cargo, say};
use crate::{build, setup};

/// Show a failover between two carpd, measured by a client (needs root)
#[derive(clap::Args)]
#[command(
    long_about = "Show a failover between two carpd, measured by a client, in network namespaces of its own.\n\n\
    Does all set-up first. Needs root. Cleans up also on Ctrl-C, and leaves no namespace, program or process behind."
)]
pub struct Args {}

/// Builds the demonstration and replaces this process by it.
///
/// # Errors
///
/// When not run as root, or when something does not build.
pub fn run(_: &Args) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "the demo needs root: it makes network namespaces and attaches XDP programs (try: sudo -E cargo xtask demo)"
        );
    }
    setup::install_for_tests()?;
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
    // Replaces this process, so that Ctrl-C has one receiver, which cleans up.
    Err(demo.exec().into())
}
