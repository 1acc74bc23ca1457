//! One thing that `setup` can bring: its name, the command that brings it, and why it may not work here.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::process::Command;

use anyhow::Result;

use crate::apt::{self, Package};
use crate::shell::{self, find_program};
use crate::toolchain::{self, BPF_LINKER_VERSION, LINKER_LLVM, LLVM_PROGRAMS, Recipe};

/// One thing that brings a missing piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Debian packages, installed together.
    Packages(Vec<Package>),
    /// Components for the rustup toolchain in use.
    Components(Vec<&'static str>),
    /// rustup's nightly with the source of `core`.
    Nightly,
    /// bpf-linker, built against Debian's LLVM.
    BuiltLinker,
    /// bpf-linker as its project publishes it, with an LLVM of its own inside.
    PublishedLinker,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(packages) => write!(f, "packages {}", names(packages).join(" ")),
            Self::Components(components) => {
                write!(f, "rustup components {}", components.join(" "))
            }
            Self::Nightly => f.write_str("rustup's nightly with rust-src"),
            Self::BuiltLinker => {
                write!(
                    f,
                    "bpf-linker {BPF_LINKER_VERSION}, from source (some minutes)"
                )
            }
            Self::PublishedLinker => {
                write!(f, "bpf-linker {BPF_LINKER_VERSION}, the published binary")
            }
        }
    }
}

impl Step {
    /// The command line that takes this step by hand.
    pub fn by_hand(&self) -> String {
        let command = shell::display(&self.command(Command::new("cargo")));
        match self {
            Self::Packages(_) => format!("sudo {command}"),
            Self::BuiltLinker => format!("PATH={LLVM_PROGRAMS}:$PATH {command}"),
            Self::Components(_) | Self::Nightly | Self::PublishedLinker => command,
        }
    }

    /// Why this step cannot be taken here, or nothing when it can.
    pub fn obstacle(&self) -> Option<&'static str> {
        let lacks = |program| find_program(program).is_none();
        match self {
            Self::Packages(_) if !apt::is_present() => Some("this machine has no apt"),
            Self::Packages(_) if !shell::is_root() => Some("only root may install packages"),
            Self::Components(_) | Self::Nightly if lacks("rustup") => {
                Some("this machine has no rustup: https://rustup.rs")
            }
            Self::PublishedLinker if lacks("cargo-binstall") => Some(
                "no llvm-22-dev to build it with, and no cargo-binstall to fetch it: \
                 https://github.com/aya-rs/bpf-linker#installation",
            ),
            Self::Packages(_)
            | Self::Components(_)
            | Self::Nightly
            | Self::BuiltLinker
            | Self::PublishedLinker => None,
        }
    }

    /// Brings the piece.
    ///
    /// # Errors
    ///
    /// When the command fails.
    pub fn take(&self) -> Result<()> {
        match self {
            Self::Packages(packages) => apt::install(packages),
            Self::BuiltLinker => {
                // Debian's compiler when we have it: the outer cargo may be older than bpf-linker wants.
                let cargo = toolchain::compiler(Recipe::Debian)
                    .map_or_else(shell::cargo, |compiler| compiler.cargo());
                let mut install = self.command(cargo);
                install.env("PATH", path_while_building()?);
                // Nearly all of a link is spent inside LLVM: building the rest faster costs nothing later.
                install.env("CARGO_PROFILE_RELEASE_DEBUG", "false");
                install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
                shell::run(&mut install)
            }
            Self::Components(_) | Self::Nightly | Self::PublishedLinker => {
                shell::run(&mut self.command(shell::cargo()))
            }
        }
    }

    /// The command that takes this step, where it needs a cargo with `cargo`.
    fn command(&self, mut cargo: Command) -> Command {
        match self {
            Self::Packages(packages) => return apt::install_command(packages),
            Self::Components(components) => {
                let mut rustup = Command::new("rustup");
                rustup.args(["component", "add"]).args(components);
                return rustup;
            }
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["toolchain", "install", "nightly"]);
                rustup.args(["--profile", "minimal", "--component", "rust-src"]);
                return rustup;
            }
            Self::BuiltLinker => {
                let tools = toolchain::tools_directory().unwrap_or_else(|_| "/usr/local".into());
                cargo.args(["install", "bpf-linker", "--locked", "--no-default-features"]);
                cargo.arg(format!("--features=llvm-{LINKER_LLVM}"));
                cargo.arg(format!("--version=={BPF_LINKER_VERSION}"));
                cargo.arg("--root").arg(tools);
            }
            Self::PublishedLinker => {
                cargo.args(["binstall", "--no-confirm"]);
                cargo.arg(format!("bpf-linker@{BPF_LINKER_VERSION}"));
            }
        }
        cargo
    }
}

fn names(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

/// PATH, with Debian's LLVM first: the build looks for its llvm-config there. Our tools come last, or cargo would advise
/// to add them, which nobody has to.
fn path_while_building() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let tools = toolchain::tools_directory()?.join("bin");
    let all = std::iter::once(LLVM_PROGRAMS.into())
        .chain(env::split_paths(&path))
        .chain([tools]);
    Ok(env::join_paths(all)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_names_its_piece_and_a_command_to_type() {
        let table = [
            (
                Step::Packages(vec![Package::any("ucarp")]),
                "ucarp",
                "sudo apt-get install --yes",
            ),
            (
                Step::Components(vec!["clippy"]),
                "clippy",
                "rustup component add clippy",
            ),
            (
                Step::Nightly,
                "rust-src",
                "rustup toolchain install nightly",
            ),
            (Step::BuiltLinker, "0.13.0", "--version==0.13.0"),
            (
                Step::PublishedLinker,
                "0.13.0",
                "cargo binstall --no-confirm bpf-linker@0.13.0",
            ),
        ];
        for (step, piece, command) in table {
            assert!(step.to_string().contains(piece), "{step}");
            assert!(step.by_hand().contains(command), "{}", step.by_hand());
        }
    }
}
