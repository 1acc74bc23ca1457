//! Programs that `setup` builds from crates.io, each in one pinned version.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::is_executable;

/// A program that is built from its published source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The package on crates.io.
    pub package: &'static str,
    /// The program in it.
    pub program: &'static str,
    /// The version that is built, and no other.
    pub version: &'static str,
    /// Choice of features, as cargo takes it.
    features: &'static [&'static str],
    /// Optimisation level. Each tool runs for seconds, so building it quickly matters more.
    optimisation: &'static str,
}

/// Links eBPF objects; built against Debian's LLVM.
pub const BPF_LINKER: Tool = Tool {
    package: "bpf-linker",
    program: "bpf-linker",
    version: "0.13.0",
    features: &["--no-default-features", "--features=llvm-22"],
    // Nearly all of a link is spent inside LLVM.
    optimisation: "1",
};

/// Checks the dependencies: `cargo xtask deny`.
pub const CARGO_DENY: Tool = Tool {
    package: "cargo-deny",
    program: "cargo-deny",
    version: "0.20.2",
    features: &[],
    optimisation: "0",
};

/// Checks the spelling: `cargo xtask typos`.
pub const TYPOS: Tool = Tool {
    package: "typos-cli",
    program: "typos",
    version: "1.52.0",
    features: &[],
    optimisation: "0",
};

impl Tool {
    /// Where it is kept: outside of the checkout, so that it survives `cargo clean` and serves every clone, and by version,
    /// so that a changed pin builds it again.
    ///
    /// # Errors
    ///
    /// When neither CARPD_TOOLS, XDG_CACHE_HOME nor a home directory names a place.
    pub fn directory(&self) -> Result<PathBuf> {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache =
            absolute("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
        let tools =
            absolute("CARPD_TOOLS").or_else(|| cache.map(|cache| cache.join("carpd/tools")));
        Ok(tools
            .context("no place for the tools: set HOME, or CARPD_TOOLS to an absolute path")?
            .join(format!("{}-{}", self.package, self.version)))
    }

    /// The path of the program, if it has been built.
    pub fn installed(&self) -> Option<PathBuf> {
        let program = self.directory().ok()?.join("bin").join(self.program);
        is_executable(&program).then_some(program)
    }

    /// Adds the arguments that build it to `cargo`.
    pub fn install(&self, cargo: &mut Command) {
        let place = self.directory().unwrap_or_else(|_| "/usr/local".into());
        cargo
            .args(["install", self.package, "--locked"])
            .args(self.features)
            .arg(format!("--version=={}", self.version))
            .arg("--root")
            .arg(place)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", self.optimisation)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::LINKER_LLVM;

    #[test]
    fn directory_is_absolute_and_names_the_pinned_version() {
        let directory = BPF_LINKER
            .directory()
            .expect("the tests have a home directory");
        assert!(directory.is_absolute());
        assert!(
            directory.ends_with("bpf-linker-0.13.0"),
            "{}",
            directory.display()
        );
    }

    #[test]
    fn linker_is_built_against_the_llvm_that_is_installed_for_it() {
        let feature = format!("--features=llvm-{LINKER_LLVM}");
        assert!(BPF_LINKER.features.contains(&feature.as_str()));
    }
}
