//! Adds up what several runs of `cargo test` report.

use std::fmt;

/// Sum of the closing lines of test harnesses, and the names of what failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed, including those that ended early, which a harness cannot tell apart.
    reported_passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were not started.
    ignored: u32,
    /// Tests that ended early, with a line that begins with `skipped`.
    ended_early: u32,
    /// The failed tests, in the order of their failure.
    pub failures: Vec<Failure>,
    /// The failed test whose output is being read.
    speaker: Option<usize>,
    /// How many more lines of it are kept.
    room: usize,
}

/// A test that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    name: String,
    /// The beginnings of its output and of its error.
    output: Vec<String>,
}

/// Lines kept of a failed test's output, and as many of its error: a capture or a daemon's log can have thousands.
const LINES_KEPT: usize = 30;

impl Failure {
    /// A failure without output.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        self.output
            .iter()
            .try_for_each(|line| write!(f, "\n      {line}"))
    }
}

impl Tally {
    /// Reads one line written by a harness, or by a test past the harness's capture.
    pub fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |word| count_before(result, word).unwrap_or(0);
            self.reported_passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
            self.speaker = None;
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failures.push(Failure::named(name));
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"))
        {
            let known = |failure: &Failure| failure.name == name;
            self.room = LINES_KEPT;
            // Another test may have written into the line that reports the failure.
            self.speaker = self.failures.iter().rposition(known).or_else(|| {
                self.failures.push(Failure::named(name));
                Some(self.failures.len() - 1)
            });
        } else if line == "failures:" {
            self.speaker = None;
        } else if line.starts_with("skipped") {
            self.ended_early += 1;
        } else if let Some(speaker) = self.speaker {
            if line.starts_with("Error: ") || line.contains("panicked at ") {
                self.room = LINES_KEPT;
            } else if line.eq_ignore_ascii_case("stack backtrace:") {
                self.room = 0;
            }
            if self.room > 0 && !line.is_empty() {
                self.room -= 1;
                self.failures[speaker].output.push(line.to_owned());
            }
        }
    }

    /// Adds `other`, with the name of its round added to its failures.
    pub fn add(&mut self, other: Self, place: &str) {
        self.reported_passed += other.reported_passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.ended_early += other.ended_early;
        let failures = other.failures.into_iter();
        self.failures.extend(failures.map(|failure| Failure {
            name: format!("{} ({place})", failure.name),
            ..failure
        }));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.reported_passed.saturating_sub(self.ended_early);
        let skipped = self.ignored + self.ended_early;
        let failed = self.failed;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// The number before `word` in `5 passed; 1 failed; ...`.
fn count_before(text: &str, word: &str) -> Option<u32> {
    let words: Vec<_> = text
        .split([' ', ';'])
        .filter(|word| !word.is_empty())
        .collect();
    let at = words.iter().position(|candidate| *candidate == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn harnesses_are_added_up_and_failures_named() {
        let mut all = read(&[
            "running 6 tests",
            "test wire::parses ... ok",
            "test lab::moves_the_address ... FAILED",
            "test result: FAILED. 4 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.00s",
        ]);
        assert_eq!(all.to_string(), "11 passed, 1 failed, 1 skipped");
        assert_eq!(all.failures, [Failure::named("lab::moves_the_address")]);
        let more = read(&[
            "test a ... FAILED",
            "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        ]);
        all.add(more, "socket");
        assert_eq!(all.to_string(), "11 passed, 2 failed, 1 skipped");
        assert_eq!(all.failures[1].to_string(), "a (socket)");
    }

    #[test]
    fn the_output_of_failed_tests_is_kept() {
        let tally = read(&[
            "test a ... FAILED",
            "49test b ... FAILED",
            "failures:",
            "",
            "---- a stdout ----",
            "Error: one",
            "",
            "Caused by:",
            "---- b stdout ----",
            "Error: two",
            "",
            "failures:",
            "    a",
            "test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ]);
        let shown: Vec<_> = tally.failures.iter().map(Failure::to_string).collect();
        assert_eq!(
            shown,
            [
                "a\n      Error: one\n      Caused by:",
                "b\n      Error: two"
            ]
        );
    }

    #[test]
    fn an_error_after_a_long_log_is_kept_without_its_backtrace() {
        let mut tally = read(&["test a ... FAILED", "---- a stdout ----"]);
        (0..1000).for_each(|_| tally.read("a line of a log"));
        for line in ["Error: one", "Stack backtrace:", "   0: main"] {
            tally.read(line);
        }
        let output = &tally.failures[0].output;
        assert_eq!(output.len(), LINES_KEPT + 1);
        assert_eq!(output.last().unwrap(), "Error: one");
    }

    #[test]
    fn a_test_that_ends_early_is_skipped_not_passed() {
        let tally = read(&[
            "skipped, needs root: one::claim",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(
            read(&[
                "",
                "test result: ",
                "passed",
                "test x ... ok",
                "we skipped it"
            ]),
            Tally::default()
        );
    }
}
