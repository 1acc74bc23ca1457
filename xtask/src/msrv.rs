//! Checks that the oldest supported Rust builds carpd.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build_ebpf;
use crate::shell::{self, find_program, foreign_toolchain, output, root, warn};

/// Check that everything but the kernel program builds with the oldest Rust that Cargo.toml names
#[derive(clap::Args)]
#[command(
    long_about = "Check that everything but the kernel program builds with the oldest Rust that Cargo.toml names \
    (rust-version).\n\n\
    The toolchain comes from rustup. If it cannot be installed, the task prints so, and `ci` repeats it at its end. Then \
    only clippy's lint `incompatible_msrv` checks the version, by the parts of the standard library."
)]
pub struct Args {}

/// Checks, if the toolchain is there.
///
/// # Errors
///
/// When something does not build with that toolchain.
pub fn run(_: &Args) -> Result<()> {
    check().map(drop)
}

/// Checks, and returns what could not be checked and why.
///
/// # Errors
///
/// When something does not build with that toolchain.
pub fn check() -> Result<Option<String>> {
    let version = promised()?;
    if let Err(why) = install() {
        let unchecked = format!("a build with Rust {version}: {why:#}");
        warn(&format!("NOT CHECKED: {unchecked}"));
        return Ok(Some(unchecked));
    }
    // The daemon embeds the object.
    build_ebpf::run(&build_ebpf::Args::default())?;
    let mut check = foreign_toolchain("rustup");
    check
        .args(["run", &version, "cargo", "check", "--locked"])
        .args(["--workspace", "--exclude", "carp-ebpf"])
        .arg("--target-dir")
        .arg(root().join("target/msrv"));
    shell::run(&mut check)
        .with_context(|| format!("Cargo.toml promises rust-version {version}"))?;
    Ok(None)
}

/// Finds or installs the toolchain.
///
/// # Errors
///
/// When it is missing and cannot be installed.
pub fn install() -> Result<()> {
    let version = promised()?;
    ensure!(
        find_program("rustup").is_some(),
        "rustup, which would install Rust {version}, is missing"
    );
    let rustc = output(foreign_toolchain("rustup").args(["run", &version, "rustc", "--version"]));
    if rustc.is_some() {
        return Ok(());
    }
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", &version, "--profile", "minimal"]);
    shell::run(&mut install)
}

/// The version that both workspaces promise.
fn promised() -> Result<String> {
    let of = |manifest: &str| {
        let path = root().join(manifest);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        rust_version(&text).with_context(|| format!("{manifest} names no rust-version"))
    };
    let (workspace, fuzz) = (of("Cargo.toml")?, of("tests/fuzz/Cargo.toml")?);
    ensure!(
        workspace == fuzz,
        "Cargo.toml promises Rust {workspace}, tests/fuzz/Cargo.toml {fuzz}"
    );
    Ok(workspace)
}

fn rust_version(manifest: &str) -> Option<String> {
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""))?;
    Some(line.strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_workspaces_promise_one_version() {
        let version = promised().unwrap();
        assert!(version.starts_with("1."), "{version}");
    }

    #[test]
    fn version_is_read_from_a_manifest() {
        let manifest = "edition = \"2024\"\nrust-version = \"1.88\"\n";
        assert_eq!(rust_version(manifest).as_deref(), Some("1.88"));
        assert_eq!(rust_version("rust-version.workspace = true\n"), None);
    }
}
