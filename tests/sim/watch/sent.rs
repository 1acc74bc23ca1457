//! The replay counters of one host.

use super::Violation;

/// The replay counters that a host sent, across its processes.
#[derive(Debug, Default)]
pub struct SentCounters {
    last: Option<u64>,
}

impl SentCounters {
    /// Notes that another process starts. With strict counters, it continues above the last one. Other hosts start at
    /// random, and OpenBSD keeps its counter; a new process may follow them to counters that an earlier one used; and
    /// questions skip more counters than the clock has advanced.
    pub fn restart(&mut self, rises: bool) {
        if !rises {
            *self = Self::default();
        }
    }

    /// Notes another advertisement.
    ///
    /// # Errors
    /// Returns that its counter does not rise.
    pub fn add(&mut self, counter: u64) -> Result<(), Violation> {
        if self.last.is_some_and(|last| counter <= last) {
            return Err(format!(
                "counter {counter:016x} does not rise above {:016x?}",
                self.last
            ));
        }
        self.last = Some(counter);
        Ok(())
    }
}
