//! The two recipes that can build `core` for `bpfel-unknown-none`, and which of them is ready.
//!
//! Stable Rust cannot: the target has no prebuilt `core`, and building one needs an unstable cargo option.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{Package, version_pair};
use crate::shell::{find_program, foreign_toolchain, is_executable, output};
use crate::tool::BPF_LINKER;

/// The LLVM of the linker that `setup` builds. An LLVM reads bitcode of its own version or older, so this linker cannot
/// serve a compiler with a newer LLVM.
pub const LINKER_LLVM: u32 = 22;

/// The package that the linker of `setup` is built against.
pub const LLVM_PACKAGE: Package = Package {
    name: "llvm-22-dev",
    at_least: (22, 0),
};

/// The directory of the programs of Debian's LLVM 22.
pub const LLVM_PROGRAMS: &str = "/usr/lib/llvm-22/bin";

/// Debian's current compiler, which builds its web browsers, in addition to the release's own one.
///
/// The eBPF object was tried with version 1.96.
pub const DEBIAN_RUST: [Package; 3] = [
    Package {
        name: "rustc-web",
        at_least: (1, 96),
    },
    Package {
        name: "cargo-web",
        at_least: (1, 96),
    },
    Package {
        name: "rust-web-src",
        at_least: (1, 96),
    },
];

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";

/// A way to get a compiler that builds `core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Recipe {
    /// rustup's nightly with the component rust-src
    Rustup,
    /// Debian's packages rustc-web, cargo-web and rust-web-src
    Debian,
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rustup => "rustup's nightly",
            Self::Debian => "Debian's rustc-web",
        })
    }
}

/// An installed compiler that can build `core`.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Where it comes from.
    pub recipe: Recipe,
    /// First line of `rustc -vV`.
    pub version: String,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// A compiler with its linker.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// bpf-linker.
    pub linker: PathBuf,
}

/// Every toolchain that is ready, in order of preference.
pub fn ready() -> Vec<Toolchain> {
    [Recipe::Rustup, Recipe::Debian]
        .into_iter()
        .filter_map(compiler)
        .filter_map(|compiler| {
            Some(Toolchain {
                linker: linker_for(&compiler)?,
                compiler,
            })
        })
        .collect()
}

/// The compiler of `recipe`, if it is installed, new enough and has the source of `core`.
pub fn compiler(recipe: Recipe) -> Option<Compiler> {
    match recipe {
        Recipe::Rustup => {
            let rustc = |argument| {
                output(
                    foreign_toolchain(find_program("rustup")?)
                        .args(["run", "nightly", "rustc"])
                        .args(argument),
                )
            };
            let sysroot = rustc(&["--print", "sysroot"][..])?;
            let core =
                Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
            describe(recipe, &rustc(&["-vV"][..])?).filter(|_| core.exists())
        }
        Recipe::Debian => {
            let text = output(foreign_toolchain(DEBIAN_RUSTC).arg("-vV"))?;
            let complete = Path::new(DEBIAN_CORE).exists()
                && is_executable(Path::new(DEBIAN_CARGO))
                && field(&text, "release: ").and_then(version_pair)? >= DEBIAN_RUST[0].at_least;
            describe(recipe, &text).filter(|_| complete)
        }
    }
}

/// The linker for `compiler`: the pinned one that `setup` built, or one on PATH.
///
/// rustup's nightly may have a newer LLVM than the pinned linker; then only one on PATH can serve it.
pub fn linker_for(compiler: &Compiler) -> Option<PathBuf> {
    let pinned = BPF_LINKER
        .installed()
        .filter(|_| compiler.llvm <= LINKER_LLVM);
    pinned.or_else(|| find_program("bpf-linker"))
}

impl Compiler {
    /// A command for this compiler's cargo, without the choices made for the outer cargo.
    pub fn cargo(&self) -> Command {
        match self.recipe {
            Recipe::Rustup => {
                let mut command = foreign_toolchain("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Recipe::Debian => {
                let mut command = foreign_toolchain(DEBIAN_CARGO);
                // Full paths, because rustup's programs of the same names usually come first on PATH.
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

/// Parses the output of `rustc -vV`.
fn describe(recipe: Recipe, verbose_version: &str) -> Option<Compiler> {
    let (llvm, _) = field(verbose_version, "LLVM version: ").and_then(version_pair)?;
    Some(Compiler {
        recipe,
        version: verbose_version.lines().next()?.to_owned(),
        llvm,
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn a_compiler_is_described_by_its_version_and_its_llvm() {
        let compiler = describe(Recipe::Debian, VERBOSE).expect("complete");
        assert_eq!(compiler.llvm, 22);
        assert_eq!(
            compiler.version,
            "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"
        );
        assert!(
            describe(Recipe::Debian, "rustc 1.96.0\n").is_none(),
            "without LLVM it cannot be judged"
        );
    }
}
