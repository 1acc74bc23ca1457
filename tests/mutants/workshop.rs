//! A copy of the core, the daemon and the simulation that can be broken and repaired.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::list::Mutant;

/// What a test showed about a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestOutcome {
    /// The mutant compiled, and the test failed.
    Caught,
    /// The test noticed nothing.
    Passed,
    /// The mutant does not compile, so it is wrong itself.
    DoesNotCompile,
    /// There is no such test, or it did not end.
    NoAnswer,
}

/// Longer than any test of the simulation takes, even with a mutant.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the names of the core's unit tests begin.
const CORE: &str = "core::";

/// A small workspace below `target/mutants`. It contains only the core, the daemon and the simulation, so that each
/// mutant compiles in seconds.
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

    /// Applies the mutant.
    pub fn break_it(&self, mutant: &Mutant) {
        self.change(mutant.file, mutant.find, mutant.replace);
    }

    /// Removes the mutant.
    pub fn mend(&self, mutant: &Mutant) {
        self.write(mutant.file, &read(&top().join(mutant.file)));
    }

    /// Returns the path of a file of the copy.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Writes a file of the copy.
    pub fn write(&self, file: &str, text: &str) {
        write(&self.path(file), text);
    }

    fn change(&self, file: &str, find: &str, replace: &str) {
        let source = read(&self.directory.join(file));
        assert_eq!(source.matches(find).count(), 1, "{file}: {find}");
        self.write(file, &source.replace(find, replace));
    }

    /// Runs one test of the simulation, or of the core.
    pub fn run(&self, test: &str) -> TestOutcome {
        let (package, test): (&[&str], _) = match test.strip_prefix(CORE) {
            Some(test) => (&["carp-common", "--all-features", "--lib"], test),
            None => (&["carp-tests", "--test", "sim"], test),
        };
        let tests = |arguments: &[&str]| {
            let mut command = self.cargo(&["test", "--quiet", "--package"]);
            command.args(package).args(arguments);
            command
        };
        if wait(&mut tests(&["--no-run"])).is_none_or(|status| !status.success()) {
            return TestOutcome::DoesNotCompile;
        }
        // Without --exact a part of a name would match. With it a wrong name runs no test and passes, so the name is
        // looked up first.
        let listed = tests(&["--", "--list"])
            .stdout(Stdio::piped())
            .output()
            .expect("the copy can be read and written");
        if !String::from_utf8_lossy(&listed.stdout)
            .lines()
            .any(|line| line == format!("{test}: test"))
        {
            return TestOutcome::NoAnswer;
        }
        Self::outcome_of(&mut tests(&["--", "--exact", test]))
    }

    /// Runs a command that runs tests.
    pub fn outcome_of(command: &mut Command) -> TestOutcome {
        match wait(command) {
            Some(status) if status.success() => TestOutcome::Passed,
            Some(_) => TestOutcome::Caught,
            None => TestOutcome::NoAnswer,
        }
    }

    /// Cargo, in the copy, with nothing of what it says.
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
            .env("RUSTFLAGS", "-Awarnings")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

fn wait(command: &mut Command) -> Option<ExitStatus> {
    let mut child = command.spawn().expect("it starts");
    let begin = Instant::now();
    // The first build also compiles the dependencies.
    while begin.elapsed() < 5 * PATIENCE {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    stop(&mut child);
    None
}

fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
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

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file in a directory"))
        .expect("the copy can be read and written");
    fs::write(path, text).expect("the copy can be read and written");
}
