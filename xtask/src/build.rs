//! Builds `carpd` with the eBPF object inside.

use std::path::PathBuf;

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo, say};

/// Build carpd with the eBPF object inside: one file to copy to a router
#[derive(clap::Args, Default)]
pub struct Args {
    /// Optimise (target/release/carpd instead of target/debug/carpd)
    #[arg(long)]
    pub release: bool,
}

/// Builds the object, then the daemon.
///
/// # Errors
///
/// When either does not build.
pub fn run(args: &Args) -> Result<()> {
    build_ebpf::run(&build_ebpf::Args::default())?;
    let mut build = cargo();
    build.args(["build", "--locked", "--package", "carp-daemon"]);
    if args.release {
        build.arg("--release");
    }
    shell::run(&mut build)?;
    say(&format!(
        "carpd is ready: {}",
        binary(args.release).display()
    ));
    Ok(())
}

/// The path of the daemon after a build.
pub fn binary(release: bool) -> PathBuf {
    let profile = if release { "release" } else { "debug" };
    shell::target_directory().join(profile).join("carpd")
}
