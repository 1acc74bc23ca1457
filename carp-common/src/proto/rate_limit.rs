//! A rate limit that lets the first event through at once and then few.

use crate::time::{Duration, Instant};

/// Lets one event per interval through and counts the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit {
    passed_at: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// Returns `Some` if this event may be reported, with the number of events suppressed since the last reported one.
    pub fn admit(&mut self, now: Instant, interval: Duration) -> Option<u64> {
        if self.passed_at.is_some_and(|at| now < at + interval) {
            self.suppressed += 1;
            return None;
        }
        self.passed_at = Some(now);
        Some(core::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_passes_and_the_next_says_how_many_did_not() {
        let mut limit = RateLimit::default();
        let interval = Duration::from_nanos(10);
        let admitted =
            [5, 6, 14, 15, 30, 39, 40].map(|at| limit.admit(Instant::from_nanos(at), interval));
        assert_eq!(
            admitted,
            [Some(0), None, None, Some(2), Some(0), None, Some(1)]
        );
    }
}
