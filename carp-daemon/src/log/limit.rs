//! Limits the lines of the whole process. Thousands of virtual hosts can flood the log together, even if each one
//! keeps to its own limits.

/// Number of lines in one window. It suffices for each of 4 080 virtual hosts to change its state and to be reported,
/// and is of the order of what journald accepts from one service.
const LINES_MAX: u32 = 20_000;
/// Length of a window. Unit: seconds.
const WINDOW: u64 = 30;

/// The number of lines in the current window.
#[derive(Debug, Default)]
pub struct Limit {
    /// The start of the window. Unit: seconds of the wall clock.
    began: i64,
    lines: u32,
    held_back: u64,
}

impl Limit {
    /// Returns `None` if a line must not be written at this second, and otherwise how many lines before it were held
    /// back.
    ///
    /// If the wall clock is set back a new window begins, so that the log is not silent for long.
    pub fn admit(&mut self, second: i64) -> Option<u64> {
        if second < self.began || second.abs_diff(self.began) >= WINDOW {
            self.began = second;
            self.lines = 0;
        }
        if self.lines == LINES_MAX {
            self.held_back += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Returns the line about lines that were held back.
pub fn about(held_back: u64) -> String {
    format!("{held_back} log lines were left out: more than {LINES_MAX} within {WINDOW} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_so_many_lines_and_the_next_one_tells_of_the_rest() {
        let mut limit = Limit::default();
        let admitted = (0..50_000).filter_map(|_| limit.admit(100)).count();
        assert_eq!(admitted, 20_000);
        assert_eq!(limit.admit(129), None);
        assert_eq!(limit.admit(130), Some(30_001));
        assert_eq!(limit.admit(130), Some(0));
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nothing() {
        let mut limit = Limit::default();
        while limit.admit(1_000_000).is_some() {}
        assert_eq!(limit.admit(5), Some(1));
    }
}
