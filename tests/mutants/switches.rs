//! The daemon's engine with every mutant in it at once, each behind a switch: it compiles once, and each mutant costs only
//! the run of the tests that must notice it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::list::Mutant;
use super::workshop::{TestOutcome, Workshop, read, top};

/// The variable that turns a mutant on, by its number.
const SWITCH: &str = "CARP_MUTANT";

/// What each of the changed places asks.
const FUNCTION: &str = r#"
/// Whether this mutant is on.
pub fn mutant(number: usize) -> bool {
    static ON: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    let on = ON.get_or_init(|| std::env::var("CARP_MUTANT").ok()?.parse().ok());
    *on == Some(number)
}
"#;

/// Where the names of all tests in the list begin.
const PREFIX: &str = "engine::";

/// A mutant with its number.
pub type Numbered = (usize, &'static Mutant);

/// The unit tests of the daemon, compiled with the mutants.
pub struct Switched {
    tests: PathBuf,
}

impl Switched {
    /// Puts all mutants into the copy, and compiles it.
    pub fn build(workshop: &Workshop, mutants: &[Numbered]) -> Self {
        for (file, mutants) in by_file(mutants) {
            workshop.write(file, &with_switches(&read(&top().join(file)), &mutants));
        }
        let library = "carp-daemon/src/lib.rs";
        let source = read(&top().join(library)) + FUNCTION;
        workshop.write(library, &source);
        let built = workshop
            .cargo(&["test", "--package", "carp-daemon", "--lib", "--no-run"])
            .stderr(Stdio::piped())
            .output()
            .expect("cargo starts");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "a mutant is badly made:\n{said}");
        // Executable unittests src/lib.rs (target/debug/deps/carp_daemon-0123456789abcdef)
        let mut named = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Executable "));
        let tests = named
            .next_back()
            .and_then(|line| Some(line.split_once('(')?.1));
        let tests = tests.expect("cargo names what it built");
        Self {
            tests: workshop.path(tests.trim_end_matches(')')),
        }
    }

    /// Runs these tests with a mutant, or with none.
    pub fn run(&self, tests: &[&str], mutant: Option<usize>) -> TestOutcome {
        let names: Vec<String> = tests.iter().map(|test| format!("{PREFIX}{test}")).collect();
        let listed = self.command(&names).arg("--list").output();
        let listed = listed.expect("it was built");
        let count = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| line.ends_with(": test"))
            .count();
        if count != names.len() {
            return TestOutcome::NoAnswer;
        }
        let mut command = self.command(&names);
        if let Some(number) = mutant {
            command.env(SWITCH, number.to_string());
        }
        Workshop::outcome_of(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn command(&self, names: &[String]) -> Command {
        let mut command = Command::new(&self.tests);
        // They find their files from the package, as with cargo.
        command.current_dir(top().join("carp-daemon"));
        command.arg("--exact").args(names).env_remove(SWITCH);
        command
    }
}

/// Returns the mutants of each file.
pub fn by_file(mutants: &[Numbered]) -> BTreeMap<&'static str, Vec<Numbered>> {
    let mut files: BTreeMap<&str, Vec<Numbered>> = BTreeMap::new();
    for (number, mutant) in mutants {
        files
            .entry(mutant.file)
            .or_default()
            .push((*number, mutant));
    }
    files
}

/// Puts mutants of one file behind switches. Each replaces an expression, or statements where it ends with a semicolon or a
/// brace; several may replace the same.
pub fn with_switches(source: &str, mutants: &[Numbered]) -> String {
    let mut places: BTreeMap<usize, Vec<Numbered>> = BTreeMap::new();
    for (number, mutant) in mutants {
        let place = source.find(mutant.find).expect("its place was looked for");
        places.entry(place).or_default().push((*number, mutant));
    }
    let (mut switched, mut done) = (String::new(), 0);
    for (place, mutants) in places {
        let find = mutants[0].1.find;
        let same = mutants.iter().all(|(_, mutant)| mutant.find == find);
        assert!(place >= done && same, "two mutants overlap at:\n{find}");
        let mut changed = String::new();
        for (number, mutant) in &mutants {
            let replace = mutant.replace;
            changed += &format!("if crate::mutant({number}) {{ {replace} }} else ");
        }
        changed += &format!("{{ {find} }}");
        switched += &source[done..place];
        switched += &match find.ends_with([';', '}']) {
            true => changed,
            false => format!("({changed})"),
        };
        done = place + find.len();
    }
    switched + &source[done..]
}
