//! Builds the kernel program and puts it where `carp-daemon/build.rs` looks for it.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::setup;
use crate::shell::{self, root, say};
use crate::toolchain::{self, Recipe, Toolchain};

/// The only target: little-endian eBPF, because the supported hosts are little-endian.
const TARGET: &str = "bpfel-unknown-none";

/// Build the eBPF object that carpd embeds (target/bpf/carp-ebpf)
#[derive(clap::Args, Default)]
#[command(long_about = "Build the eBPF object that carpd embeds.\n\n\
    Leaves it at target/bpf/carp-ebpf, untouched when nothing changed. Runs `setup` first when no compiler for eBPF is ready.")]
pub struct Args {
    /// Use this compiler instead of the first that works
    #[arg(long, value_enum)]
    pub recipe: Option<Recipe>,
}

/// The path of the object, whatever directory host builds use.
pub fn object() -> PathBuf {
    root().join("target/bpf/carp-ebpf")
}

/// Builds the object with the first recipe that works.
///
/// # Errors
///
/// When no recipe is ready and none can be installed, or the build fails.
pub fn run(args: &Args) -> Result<()> {
    setup::install_compiler(args.recipe)?;
    let toolchains: Vec<_> = toolchain::ready()
        .into_iter()
        .filter(|toolchain| {
            args.recipe
                .is_none_or(|recipe| recipe == toolchain.compiler.recipe)
        })
        .collect();
    for (tried, toolchain) in toolchains.iter().enumerate() {
        match build(toolchain) {
            Ok(()) => return Ok(()),
            Err(error) if tried + 1 < toolchains.len() => {
                shell::say_error(&format!(
                    "{error:#}; trying {}",
                    toolchains[tried + 1].compiler.recipe
                ));
            }
            Err(error) => return Err(error),
        }
    }
    bail!("no compiler for eBPF is ready; `cargo xtask setup` says what is missing")
}

fn build(toolchain: &Toolchain) -> Result<()> {
    say(&format!(
        "building the eBPF object with {} ({})",
        toolchain.compiler.recipe, toolchain.compiler.version
    ));
    // In a separate directory: with a shared one, this build and host builds would invalidate each other.
    let directory = root().join("target/ebpf");
    let mut cargo = toolchain.compiler.cargo();
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "carp-ebpf",
            "-Zbuild-std=core",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&directory)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(&toolchain.linker).join("\u{1f}"),
        );
    shell::run(&mut cargo)?;
    let built = directory.join(TARGET).join("release/carp-ebpf");
    let object = object();
    if replace_when_different(&built, &object)? {
        say(&format!("new object: {}", object.display()));
    } else {
        say("the object is up to date");
    }
    Ok(())
}

/// Flags for the compiler, in addition to cargo's own.
fn rustflags(linker: &Path) -> Vec<String> {
    vec![
        format!("-Clinker={}", linker.display()),
        // 32-bit arithmetic and jumps need kernel 5.1; the ring buffer needs 5.8 anyway.
        "-Ctarget-cpu=v3".to_owned(),
        // BTF, which ring buffers and relocations need, is generated from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Chooses aya's bindings for the host's registers; eBPF itself has one architecture.
        format!("--cfg=bpf_target_arch=\"{ARCH}\""),
        // Source paths end up in the object: the same checkout elsewhere gives the same bytes.
        format!("--remap-path-prefix={}=.", root().display()),
    ]
}

/// Copies `from` over `to` unless both have the same content, so that the daemon is not rebuilt needlessly.
///
/// The copy is renamed into place, so that a concurrent build never reads a partial file.
fn replace_when_different(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let directory = to.parent().context("the object has a directory")?;
    fs::create_dir_all(directory)
        .with_context(|| format!("failed to create {}", directory.display()))?;
    let partial = to.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, new).with_context(|| format!("failed to write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("failed to write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_left_alone_and_a_different_one_replaced() {
        let directory = std::env::temp_dir().join(format!("carpd-xtask-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (from, to) = (directory.join("from"), directory.join("deep/to"));
        fs::write(&from, b"one").unwrap();
        assert!(replace_when_different(&from, &to).unwrap());
        let written = fs::metadata(&to).unwrap().modified().unwrap();
        assert!(!replace_when_different(&from, &to).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), written);
        fs::write(&from, b"two").unwrap();
        assert!(replace_when_different(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(directory.join("deep")).unwrap().count(),
            1,
            "no partial copy is left"
        );
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_flags_name_the_linker_and_the_host() {
        let flags = rustflags(Path::new("/tools/bpf linker"));
        assert_eq!(flags[0], "-Clinker=/tools/bpf linker");
        assert!(flags.contains(&format!("--cfg=bpf_target_arch=\"{ARCH}\"")));
    }
}
