//! A copy of the core, the daemon and the simulation that can be broken and repaired.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small workspace below `target/mutants`. It contains only the core, the daemon and the simulation, so that it
/// compiles in a minute.
pub struct Workshop {
    directory: PathBuf,
}

/// Returns the top directory of the repository.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a directory of the repository")
}

/// The simulation's package without the dependencies of the other tests.
const MANIFEST: &str = r#"[package]
name = "carp-tests"
edition.workspace = true
publish = false

[dependencies]
carp-common = { workspace = true, features = ["proto"] }
carp-daemon.workspace = true
hmac.workspace = true
sha1.workspace = true

[lib]
test = false

[[test]]
name = "sim"
path = "sim/tests.rs"
"#;

const LIBRARY: &str = "#[path = \"../sim/mod.rs\"]\npub mod sim;\n";

impl Workshop {
    /// Copies the sources. Results of earlier compilations are used again.
    pub fn new() -> Self {
        let directory = top().join("target/mutants");
        let _ = fs::remove_dir_all(directory.join("tests"));
        for part in ["carp-common", "carp-daemon", "tests/sim"] {
            let _ = fs::remove_dir_all(directory.join(part));
            copy(&top().join(part), &directory.join(part));
        }
        write(&directory.join("tests/Cargo.toml"), MANIFEST);
        write(&directory.join("tests/src/lib.rs"), LIBRARY);
        write(&directory.join("Cargo.toml"), &workspace());
        fs::copy(top().join("Cargo.lock"), directory.join("Cargo.lock"))
            .expect("the copy can be read and written");
        Self { directory }
    }

    /// Returns the path of a file of the copy.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Writes a file of the copy.
    pub fn write(&self, file: &str, text: &str) {
        write(&self.path(file), text);
    }

    /// Cargo, in the copy.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(&self.directory)
            .args(arguments)
            // Optimised enough to run fast and little enough to compile fast. The target directory is always this
            // workspace's own.
            .env("CARGO_TARGET_DIR", self.directory.join("target"))
            .env("CARPD_EBPF_OBJECT", top().join("target/bpf/carp-ebpf"))
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // A mutant leaves unused code behind.
            .env("RUSTFLAGS", "-Awarnings");
        command
    }
}

/// Returns the repository's workspace manifest with only these members.
fn workspace() -> String {
    let manifest = read(&top().join("Cargo.toml"));
    let mut lines: Vec<&str> = manifest.lines().collect();
    lines.retain(|line| !line.starts_with("members") && !line.starts_with("default-members"));
    let workspace = lines
        .iter()
        .position(|line| *line == "[workspace]")
        .expect("a workspace");
    lines.insert(
        workspace + 1,
        "members = [\"carp-common\", \"carp-daemon\", \"tests\"]",
    );
    lines.join("\n")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy can be read and written");
    for entry in fs::read_dir(from)
        .expect("the copy can be read and written")
        .map(|entry| entry.expect("a readable directory"))
    {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("the copy can be read and written");
        }
    }
}

/// Returns the text of a file.
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the sources can be read")
}

/// Lets rustfmt read the text, which takes no time, and returns what it says of errors: nothing if there are none.
pub fn syntax_errors(text: &str) -> String {
    let mut command = Command::new("rustfmt");
    command
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut reader = command.spawn().expect("rustfmt is there");
    let mut input = reader.stdin.take().expect("it is piped");
    input.write_all(text.as_bytes()).expect("rustfmt reads it");
    drop(input);
    let output = reader.wait_with_output().expect("a child of ours");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the text of all files below the directory.
pub fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("a readable directory").path();
        match path.extension() {
            _ if path.is_dir() => text += &sources(&path),
            Some(extension) if extension == "rs" => text += &read(&path),
            Some(_) | None => {}
        }
    }
    text
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file in a directory"))
        .expect("the copy can be read and written");
    fs::write(path, text).expect("the copy can be read and written");
}
