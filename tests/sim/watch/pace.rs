//! The number of announcements and advertisements of a MASTER in an interval.

use carp_common::time::Instant;
use carp_common::units::Family;

use super::{Violation, index};

/// The number of events in the current interval.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the interval began.
    pub since: Instant,
    announcements: [u32; 2],
    advertisements: [u32; 2],
}

/// The maximal number of announcements of one family in one interval: those of a takeover and the late one after it,
/// one for a claim, and answers, at both ends of the interval.
const ANNOUNCEMENTS_MAX: u32 = 9;
/// The maximal number of advertisements: those of a takeover and of leaving, and at both ends of the interval the
/// periodic one and ten answers.
const ADVERTISEMENTS_MAX: u32 = 24;

impl Pace {
    /// Begins an interval now.
    pub fn from(now: Instant) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// Counts another announcement of the family.
    ///
    /// # Errors
    /// Returns an error if it is one too many.
    pub fn announces(&mut self, family: Family) -> Result<(), Violation> {
        let count = &mut self.announcements[index(family)];
        *count += 1;
        if *count > ANNOUNCEMENTS_MAX {
            return Err(format!(
                "announced {family} addresses {count} times in one advertisement interval"
            ));
        }
        Ok(())
    }

    /// Counts another advertisement in the family.
    ///
    /// # Errors
    /// Returns an error if it is one too many.
    pub fn advertises(&mut self, family: Family) -> Result<(), Violation> {
        let count = &mut self.advertisements[index(family)];
        *count += 1;
        if *count > ADVERTISEMENTS_MAX {
            return Err(format!(
                "sent {count} {family} advertisements in one advertisement interval"
            ));
        }
        Ok(())
    }
}
