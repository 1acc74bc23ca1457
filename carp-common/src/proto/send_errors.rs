//! The demotion for send errors, which three in a row cause and three successes in a row undo.

use super::per_family::PerFamily;
use crate::units::Family;

/// The number of errors or successes in a row that count. Source: FreeBSD `ip_carp.c`, `CARP_SENDAD_MAX_ERRORS` and
/// `CARP_SENDAD_MIN_SUCCESS`.
const IN_A_ROW: u8 = 3;

/// The change that an outcome caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing changed.
    None,
    /// Sending fails in a family now, and it did not in any before.
    Suppressed,
    /// Sending works in every family again.
    Unsuppressed,
}

/// The outcomes of each family. A family that works must not hide one that fails, because the peers in that one are about to
/// take over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SendErrors(PerFamily<Streak>);

#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    failed: bool,
    suppressed: bool,
    in_a_row: u8,
}

impl Streak {
    fn record(&mut self, failed: bool) {
        if failed != self.failed {
            self.failed = failed;
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row >= IN_A_ROW {
            self.suppressed = failed;
        }
    }
}

impl SendErrors {
    pub(super) fn record(&mut self, family: Family, failed: bool) -> Change {
        let before = self.suppressed();
        self.0[family].record(failed);
        match (before, self.suppressed()) {
            (false, true) => Change::Suppressed,
            (true, false) => Change::Unsuppressed,
            (false, false) | (true, true) => Change::None,
        }
    }

    /// Forgets all outcomes, because a new link has had no errors. Returns whether that lifts a suppression.
    pub(super) fn reset(&mut self) -> Change {
        let before = self.suppressed();
        *self = Self::default();
        if before {
            Change::Unsuppressed
        } else {
            Change::None
        }
    }

    fn suppressed(&self) -> bool {
        self.0.inet.suppressed || self.0.inet6.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Change::{None, Suppressed, Unsuppressed};

    fn record(errors: &mut SendErrors, family: Family, outcomes: &str) -> std::vec::Vec<Change> {
        outcomes
            .chars()
            .map(|outcome| errors.record(family, outcome == 'x'))
            .collect()
    }

    #[test]
    fn three_in_a_row_demote_and_three_undo() {
        let mut errors = SendErrors::default();
        assert_eq!(
            record(&mut errors, Family::Inet, "xx.xxx"),
            [None, None, None, None, None, Suppressed]
        );
        assert_eq!(
            record(&mut errors, Family::Inet, "xx..x..."),
            [None, None, None, None, None, None, None, Unsuppressed]
        );
    }

    #[test]
    fn a_family_that_works_does_not_hide_one_that_does_not() {
        let mut errors = SendErrors::default();
        let mut last = None;
        for _ in 0..3 {
            errors.record(Family::Inet, false);
            last = errors.record(Family::Inet6, true);
        }
        assert_eq!(last, Suppressed);
        assert_eq!(record(&mut errors, Family::Inet, "xxx..."), [None; 6]);
        assert_eq!(
            record(&mut errors, Family::Inet6, "..."),
            [None, None, Unsuppressed]
        );
    }

    #[test]
    fn a_long_streak_does_not_wrap() {
        let mut errors = SendErrors::default();
        let changes = record(&mut errors, Family::Inet, &"x".repeat(1000));
        assert_eq!(changes.iter().filter(|change| **change != None).count(), 1);
    }

    #[test]
    fn a_reset_lifts_a_suppression_once() {
        let mut errors = SendErrors::default();
        record(&mut errors, Family::Inet, "xxx");
        assert_eq!(errors.reset(), Unsuppressed);
        assert_eq!(errors.reset(), None);
    }
}
