//! Adds up what several runs of `cargo test` report.

use std::fmt;

/// Sum of the closing lines of test harnesses, and the names of what failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that hold, those that ended early included: a harness cannot tell them apart.
    reported_passed: u32,
    /// Tests that do not hold.
    pub failed: u32,
    /// Tests that were not started.
    ignored: u32,
    /// Tests that ended early, with a line that begins with `skipped`.
    ended_early: u32,
    /// Names of the failed tests, in the order of their failure.
    pub failures: Vec<String>,
}

impl Tally {
    /// Takes note of one line that a harness, or a test past its harness's capture, has written.
    pub fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |word| count_before(result, word).unwrap_or(0);
            self.reported_passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        } else if line.starts_with("skipped") {
            self.ended_early += 1;
        }
    }

    /// Adds `other` to this, its failures marked with where they were seen.
    pub fn add(&mut self, other: Self, place: &str) {
        self.reported_passed += other.reported_passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.ended_early += other.ended_early;
        let failures = other.failures.into_iter();
        self.failures
            .extend(failures.map(|name| format!("{name} ({place})")));
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

/// The number in front of `word` in `5 passed; 1 failed; ...`.
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
        assert_eq!(all.failures, ["lab::moves_the_address"]);
        let more = read(&[
            "test a ... FAILED",
            "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        ]);
        all.add(more, "socket");
        assert_eq!(all.to_string(), "11 passed, 2 failed, 1 skipped");
        assert_eq!(all.failures[1], "a (socket)");
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
