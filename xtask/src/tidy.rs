//! Small checks that no compiler makes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::circles::circles;
use crate::methods::{MAX_METHODS, crowded};
use crate::shell::{root, say};

/// Check what no compiler checks: file and line length, where unsafe code is, types with too many methods, files that use each
/// other in a circle, leftovers
#[derive(clap::Args)]
pub struct Args {}

/// A longer file holds a second idea.
const MAX_LINES: usize = 600;
/// Longer lines are hard to read. rustfmt does not wrap comments, strings and macros.
const MAX_COLUMNS: usize = 128;

/// The only files that may hold unsafe code, and why they must.
const UNSAFE_FILES: [&str; 5] = [
    "carp-common/src/abi/layout.rs",        // Pod, for aya
    "carp-daemon/src/sys.rs",               // raw system calls
    "carp-daemon/tests/xdp_program/bpf.rs", // calls of bpf(2) that aya does not have
    "carp-ebpf/src/maps.rs",                // kernel helpers
    "carp-ebpf/src/packet.rs",              // packet memory
];

/// Text that must not stay in the sources, written in halves so that this file does not contain it.
const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("dbg", "!("),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("/ho", "me/"),
];

/// Places without log lines, because they report what happens as events (`Tell` in `engine/effects.rs`, `api/outbox.rs`).
const UNLOGGED: [&str; 3] = [
    "carp-daemon/src/api/",
    "carp-daemon/src/engine/",
    "carp-daemon/src/io/",
];
/// Files there that log nevertheless.
const LOGGED: [&str; 4] = [
    "carp-daemon/src/io/datapath/error.rs", // the verifier's log, where an error is only made
    "carp-daemon/src/io/datapath/program.rs", // the kernel program's own lines
    "carp-daemon/src/io/datapath/socket.rs", // the same lines on the packet socket
    "carp-daemon/src/io/errand.rs",         // a panic, which is no event but a defect
];
/// The crates that log.
const LOGGING: [&str; 2] = ["tracing::", "log::"];

/// Commands that the README must name.
const README_COMMANDS: [&str; 2] = ["cargo xtask demo", "cargo xtask test"];

/// Sources whose files use each other in no circle, and whose types are small.
const LAYERED: [&str; 3] = ["carp-common/src/", "carp-daemon/src/", "tests/sim/"];

/// Checks every source file.
///
/// # Errors
///
/// When there are offences; the error lists each with its file and line.
pub fn run(_: &Args) -> Result<()> {
    let mut files = Vec::new();
    for directory in ["carp-common", "carp-daemon", "carp-ebpf", "tests", "xtask"] {
        collect(&root().join(directory), &mut files)?;
    }
    files.sort();
    let mut offences = Vec::new();
    let mut layered = LAYERED.map(|sources| (sources, Vec::new()));
    for file in &files {
        let text = fs::read_to_string(file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        let name = file.strip_prefix(root()).unwrap_or(file).to_string_lossy();
        offences.extend(inspect(&name, &text));
        for (sources, files) in &mut layered {
            if let Some(name) = name.strip_prefix(*sources) {
                files.push((name.to_owned(), text.clone()));
            }
        }
    }
    for (sources, files) in layered {
        let crowded = crowded(&files).into_iter();
        offences.extend(crowded.map(|(owner, count)| {
            format!("{sources}: {owner} has {count} methods, more than {MAX_METHODS}: look for a part that can stand alone")
        }));
        let circles = circles(&files).into_iter();
        offences.extend(circles.map(|circle| format!("{sources}: files in a circle: {circle}")));
    }
    let readme =
        fs::read_to_string(root().join("README.md")).context("failed to read README.md")?;
    for command in README_COMMANDS {
        if !readme.contains(command) {
            offences.push(format!("README.md: does not name `{command}`"));
        }
    }
    if !offences.is_empty() {
        bail!("untidy:\n  {}", offences.join("\n  "));
    }
    say(&format!("tidy: {} source files", files.len()));
    Ok(())
}

/// Adds the Rust files below `directory`, build output left out.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("failed to read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The offences of one source file.
fn inspect(name: &str, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        offences.push(format!(
            "{name}: {lines} lines, more than {MAX_LINES}: look for a second idea inside"
        ));
    }
    for (number, line) in (1..).zip(text.lines()) {
        if line.chars().count() > MAX_COLUMNS {
            offences.push(format!(
                "{name}:{number}: more than {MAX_COLUMNS} columns: wrap it"
            ));
        }
        if is_unsafe(line) && !UNSAFE_FILES.contains(&name) {
            offences.push(format!(
                "{name}:{number}: unsafe code belongs in {}",
                UNSAFE_FILES.join(", ")
            ));
        }
        let logs = LOGGING.iter().any(|logging| line.contains(logging));
        let is_unlogged = UNLOGGED.iter().any(|place| name.starts_with(place));
        if logs && is_unlogged && !LOGGED.contains(&name) {
            offences.push(format!(
                "{name}:{number}: logs; make an event of it (carp-daemon/src/api/event/)"
            ));
        }
        if let Some(leftover) = LEFTOVERS.iter().find(|leftover| line.contains(**leftover)) {
            offences.push(format!("{name}:{number}: holds `{leftover}`"));
        }
    }
    offences
}

/// Whether this line opens unsafe code, rather than naming it in a comment, a text or a lint.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let quoted = |at: usize| code[..at].replace("\\\"", "").matches('"').count() % 2 == 1;
    code.match_indices("unsafe").any(|(at, word)| {
        let rest = &code[at + word.len()..];
        let opens = ["{", "fn ", "impl ", "extern ", "trait "]
            .iter()
            .any(|next| rest.trim_start().starts_with(next));
        let whole = rest.starts_with(' ')
            && !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        opens && whole && !quoted(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_told_from_words_about_it() {
        for line in [
            "    unsafe { call() }",
            "pub unsafe fn raw()",
            "unsafe impl Pod for Key {}",
            "let x = unsafe { y };",
        ] {
            assert!(is_unsafe(line), "{line}");
        }
        for line in [
            "// unsafe { }",
            "#![deny(unsafe_code)]",
            "unsafe_op_in_unsafe_fn = 1",
            "assert(\"unsafe { }\")",
            "let is_unsafe = 1;",
        ] {
            assert!(!is_unsafe(line), "{line}");
        }
    }

    #[test]
    fn each_offence_names_its_place() {
        let long = "\n".repeat(MAX_LINES + 1);
        assert_eq!(inspect("a.rs", &long).len(), 1);
        assert!(inspect("a.rs", &"\n".repeat(MAX_LINES)).is_empty());
        assert!(inspect("a.rs", &"…".repeat(MAX_COLUMNS)).is_empty());
        let wide = inspect("a.rs", &"…".repeat(MAX_COLUMNS + 1));
        assert!(wide[0].starts_with("a.rs:1:"), "{wide:?}");
        let offences = inspect("carp-daemon/src/engine.rs", "fn f() {}\nunsafe { g() }\n");
        assert!(
            offences[0].starts_with("carp-daemon/src/engine.rs:2:"),
            "{offences:?}"
        );
        assert!(inspect("carp-daemon/src/sys.rs", "unsafe { g() }\n").is_empty());
        assert!(inspect("a.rs", LEFTOVERS[0])[0].starts_with("a.rs:1:"));
        for (name, offends) in [
            ("carp-daemon/src/engine/mod.rs", true),
            ("carp-daemon/src/api/event.rs", true),
            ("carp-daemon/src/host/mod.rs", false),
        ] {
            let offences = inspect(name, "use tracing::warn;\n");
            assert_eq!(!offences.is_empty(), offends, "{offences:?}");
        }
    }
}
