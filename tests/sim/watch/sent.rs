//! The replay counters of one host.

use super::Violation;

/// The replay counters that a host sent; outlives its processes.
#[derive(Debug, Default)]
pub struct SentCounters {
    last: Option<u64>,
}

impl SentCounters {
    /// Another process starts. With strict counters it goes on above the last one. Others start at random, and OpenBSD
    /// stays there; a new process follows them to where an earlier one may have been; and challenges leave out more
    /// counters than the clock has gone on.
    pub fn restart(&mut self, rises: bool) {
        if !rises {
            *self = Self::default();
        }
    }

    /// Another advertisement.
    ///
    /// # Errors
    /// Its counter does not rise.
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
