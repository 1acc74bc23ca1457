//! The programs with the tests that mutants name, compiled with all mutants in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::list::Mutant;
use super::switches::{FUNCTION, Numbered, SWITCH, USE, by_file, with_switches};
use super::workshop::{Workshop, read, top};

/// What a test showed about a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestOutcome {
    /// The test failed.
    Caught,
    /// The test noticed nothing.
    Passed,
    /// The test did not end.
    NoAnswer,
}

/// Longer than any test takes, even with a mutant.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whose tests a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tested {
    /// The unit tests of the core.
    Core,
    /// The unit tests of the daemon's engine.
    Engine,
    /// The simulation, which runs the engine and the core.
    Simulation,
}

impl Tested {
    /// All programs.
    pub const ALL: [Self; 3] = [Self::Core, Self::Engine, Self::Simulation];

    /// Returns the program of a test in the list, and what the test is called there.
    pub fn of(test: &'static str) -> (Self, &'static str) {
        match test.strip_prefix("core::") {
            Some(name) => (Self::Core, name),
            None if test.starts_with("engine::") => (Self::Engine, test),
            None => (Self::Simulation, test),
        }
    }

    /// The package, in which it finds its files.
    const fn directory(self) -> &'static str {
        match self {
            Self::Core => "carp-common",
            Self::Engine => "carp-daemon",
            Self::Simulation => "tests",
        }
    }

    /// Where its tests are written.
    pub const fn sources(self) -> &'static str {
        match self {
            Self::Core => "carp-common/src",
            Self::Engine => "carp-daemon/src/engine",
            Self::Simulation => "tests/sim",
        }
    }

    /// How the name of the file begins that cargo makes.
    const fn file(self) -> &'static str {
        match self {
            Self::Core => "carp_common-",
            Self::Engine => "carp_daemon-",
            Self::Simulation => "sim-",
        }
    }
}

/// The programs, by what they test.
pub struct Programs {
    paths: BTreeMap<Tested, PathBuf>,
}

impl Programs {
    /// Puts all mutants into the copy, and compiles it.
    pub fn build(workshop: &Workshop, mutants: &[Numbered]) -> Self {
        for (file, mutants) in by_file(mutants) {
            workshop.write(file, &with_switches(&read(&top().join(file)), &mutants));
        }
        for (library, addition) in [
            ("carp-common/src/lib.rs", FUNCTION),
            ("carp-daemon/src/lib.rs", USE),
        ] {
            workshop.write(library, &(read(&top().join(library)) + addition));
        }
        let built = workshop
            .cargo(&["test", "--workspace", "--all-features", "--no-run"])
            .args(["--lib", "--test", "sim"])
            .output()
            .expect("cargo starts");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "a mutant is badly made:\n{said}");
        // Executable unittests src/lib.rs (target/debug/deps/carp_daemon-0123456789abcdef)
        let built: Vec<PathBuf> = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Executable "))
            .filter_map(|line| Some(line.split_once('(')?.1.trim_end_matches(')')))
            .map(|path| workshop.path(path))
            .collect();
        let path = |tested: Tested| {
            let is_it = |path: &&PathBuf| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(tested.file()))
            };
            built.iter().find(is_it).expect("cargo names what it built")
        };
        let paths = Tested::ALL.map(|tested| (tested, path(tested).clone()));
        Self {
            paths: BTreeMap::from(paths),
        }
    }

    /// Returns the names of all tests of a program.
    pub fn tests(&self, tested: Tested) -> Vec<String> {
        let listed = self.command(tested).arg("--list").output();
        String::from_utf8_lossy(&listed.expect("it was built").stdout)
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(String::from)
            .collect()
    }

    /// Runs these tests of a program with a mutant, or with none.
    pub fn run(&self, tested: Tested, tests: &[&str], mutant: Option<usize>) -> TestOutcome {
        let mut command = self.command(tested);
        command.arg("--exact").args(tests);
        if let Some(number) = mutant {
            command.env(SWITCH, number.to_string());
        }
        match wait(command.stdout(Stdio::null()).stderr(Stdio::null())) {
            Some(status) if status.success() => TestOutcome::Passed,
            Some(_) => TestOutcome::Caught,
            None => TestOutcome::NoAnswer,
        }
    }

    fn command(&self, tested: Tested) -> Command {
        let mut command = Command::new(&self.paths[&tested]);
        // They find their files from the package, as with cargo.
        command.current_dir(top().join(tested.directory()));
        command.env_remove(SWITCH);
        command
    }
}

/// Returns the tests that must notice the mutant.
pub fn tests_of(mutant: &Mutant) -> impl Iterator<Item = (Tested, &'static str)> {
    mutant.caught_by.iter().map(|test| Tested::of(test))
}

fn wait(command: &mut Command) -> Option<ExitStatus> {
    let mut child = command.spawn().expect("it starts");
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    stop(&mut child);
    None
}

fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
