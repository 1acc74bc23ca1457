//! One thing that `setup` can install: its name, the command, and why it may not work here.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::apt::{self, Package};
use crate::shell::{self, find_program};
use crate::tool::{BPF_LINKER, Tool};
use crate::toolchain::{self, LLVM_PROGRAMS, Recipe};

/// One step that installs something.
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
    /// A program that needs only a Rust compiler to build.
    Tool(Tool),
    /// The published binary of bpf-linker, which contains an LLVM.
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
            Self::BuiltLinker => write!(
                f,
                "bpf-linker {}, from source (some minutes)",
                BPF_LINKER.version
            ),
            Self::Tool(tool) => write!(
                f,
                "{} {}, from source (a minute)",
                tool.package, tool.version
            ),
            Self::PublishedLinker => {
                write!(f, "bpf-linker {}, the published binary", BPF_LINKER.version)
            }
        }
    }
}

impl Step {
    /// The command line to take this step by hand.
    pub fn by_hand(&self) -> String {
        let command = shell::display(&self.command(Command::new("cargo")));
        match self {
            Self::Packages(_) => format!("sudo {command}"),
            Self::BuiltLinker => format!("PATH={LLVM_PROGRAMS}:$PATH {command}"),
            Self::Components(_) | Self::Nightly | Self::Tool(_) | Self::PublishedLinker => command,
        }
    }

    /// The reason why this step is impossible here, if it is.
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
            | Self::Tool(_)
            | Self::PublishedLinker => None,
        }
    }

    /// Takes the step.
    ///
    /// # Errors
    ///
    /// When the command fails.
    pub fn take(&self) -> Result<()> {
        match self {
            Self::Packages(packages) => apt::install(packages),
            Self::BuiltLinker => {
                let mut install = self.command(recent_cargo());
                install.env(
                    "PATH",
                    path_while_building(Some(LLVM_PROGRAMS), &BPF_LINKER)?,
                );
                shell::run(&mut install)
            }
            Self::Tool(tool) => {
                let mut install = self.command(recent_cargo());
                install.env("PATH", path_while_building(None, tool)?);
                shell::run(&mut install)
            }
            Self::Components(_) | Self::Nightly | Self::PublishedLinker => {
                shell::run(&mut self.command(shell::cargo()))
            }
        }
    }

    /// The command that takes this step; a step that needs cargo uses `cargo`.
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
            Self::BuiltLinker => BPF_LINKER.install(&mut cargo),
            Self::Tool(tool) => tool.install(&mut cargo),
            Self::PublishedLinker => {
                cargo.args(["binstall", "--no-confirm"]);
                cargo.arg(format!("bpf-linker@{}", BPF_LINKER.version));
            }
        }
        cargo
    }
}

fn names(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

/// Debian's cargo if it is installed, because the one that runs this task may be too old for what is built.
fn recent_cargo() -> Command {
    toolchain::compiler(Recipe::Debian).map_or_else(shell::cargo, |compiler| compiler.cargo())
}

/// PATH with `first` in front, where a build looks for its llvm-config. The tool's own directory comes last;
/// otherwise cargo would advise to add it to PATH, which is not needed.
fn path_while_building(first: Option<&str>, tool: &Tool) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = first
        .into_iter()
        .map(PathBuf::from)
        .chain(env::split_paths(&path))
        .chain([tool.directory()?.join("bin")]);
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
                Step::Tool(crate::tool::TYPOS),
                "typos-cli",
                "cargo install typos-cli --locked --version==1.52.0",
            ),
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
