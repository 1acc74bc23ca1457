//! How often a MASTER announces and advertises.

use carp_common::time::Instant;
use carp_common::units::Family;

use super::{Violation, index};

/// How often something happened in the interval that began then.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the interval began.
    pub since: Instant,
    announcements: [u32; 2],
    advertisements: [u32; 2],
}

/// Most announcements of one family in one interval: of a takeover and late after it, of a claim, and in answer, at both its ends.
const ANNOUNCEMENTS_MAX: u32 = 9;
/// Most advertisements: those of a takeover and of leaving, and at both ends the periodic one and ten answers.
const ADVERTISEMENTS_MAX: u32 = 24;

impl Pace {
    /// Nothing happened yet in the interval that begins now.
    pub fn from(now: Instant) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// Another announcement of the family.
    ///
    /// # Errors
    /// It is one too many.
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

    /// Another advertisement in the family.
    ///
    /// # Errors
    /// It is one too many.
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
