//! Finds the eBPF object that the daemon embeds.

use std::env;
use std::path::{Path, PathBuf};

/// The variable that names an object other than the one of `cargo xtask build-ebpf`. It also passes the object's path
/// to the compiler.
const VARIABLE: &str = "CARPD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let object = env::var_os(VARIABLE).map_or_else(made_by_xtask, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(path) => println!("cargo::rustc-env={VARIABLE}={}", path.display()),
        // cargo prints the line and fails the build.
        Err(error) => println!(
            "cargo::error=no eBPF object at {} ({error}): run `cargo xtask build-ebpf` first",
            object.display()
        ),
    }
}

fn made_by_xtask() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/carp-ebpf")
}
