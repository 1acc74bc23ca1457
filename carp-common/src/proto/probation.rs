//! Demotions that end after a time without failures.
//!
//! A host that cannot serve its addresses demotes itself, so that a better host can take over. If it did so only until its next
//! success, two such hosts would pass the addresses to and fro.

use crate::time::{Duration, Instant};

/// Time without a failure after which the demotion ends. It is well above the time between two attempts, which is 10 s at
/// most.
pub const QUIET: Duration = Duration::from_secs(60);

/// A demotion because this host could not serve its addresses. It ends [`QUIET`] after the last failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probation {
    until: Option<Instant>,
}

impl Probation {
    /// Notes a failure. Returns whether the demotion begins with it.
    pub fn fail(&mut self, now: Instant) -> bool {
        self.until.replace(now + QUIET).is_none()
    }

    /// Ends the demotion, because this host has succeeded. Returns whether it was demoted.
    pub const fn succeed(&mut self) -> bool {
        self.until.take().is_some()
    }

    /// Returns once whether the demotion has ended by itself.
    pub fn timeout(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// Returns whether the host is demoted.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Returns when the demotion ends by itself.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_demotion_begins_once_and_ends_a_minute_after_the_last_failure() {
        let mut probation = Probation::default();
        assert!(!probation.timeout(at(1)) && !probation.is_on());
        assert!(probation.fail(at(5)) && !probation.fail(at(15)));
        assert_eq!(probation.deadline(), Some(at(75)));
        assert!(!probation.timeout(at(74)) && probation.is_on());
        assert!(probation.timeout(at(75)) && !probation.timeout(at(75)));
        assert!(probation.fail(at(76)), "it begins again");
    }

    #[test]
    fn a_success_ends_a_demotion_at_once() {
        let mut probation = Probation::default();
        assert!(!probation.succeed());
        let _ = probation.fail(at(5));
        assert!(probation.succeed() && !probation.succeed());
        assert_eq!(probation.deadline(), None);
    }
}
