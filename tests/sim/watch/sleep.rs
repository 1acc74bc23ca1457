//! A BACKUP that slept through the end of the master-down time: whether it may wait for longer, and whether it must.
//!
//! Told from outside, where nobody knows to the nanosecond what the process takes for a sign of life: between what it must
//! and what it may do lies what is its own affair.

use std::ops::RangeInclusive;
use std::time::Duration;

use carp_common::time::Instant;

/// A process that looks after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The present.
    pub now: Instant,
    /// When it looked before.
    pub before: Instant,
    /// When it last heard, in each family, what may have restarted its master-down timer: one silence begins there.
    pub silence: [Instant; 2],
}

/// What one process makes of its sleeps.
#[derive(Debug, Default)]
pub struct Sleep {
    /// The silence that was last slept through for certain, so that no other sleep prolongs it.
    certainly: Option<[Instant; 2]>,
    must_wait: bool,
    until: Instant,
}

impl Sleep {
    /// A BACKUP looks: its master-down time ends within the one range, its advertisement interval is within the other.
    pub fn looks(
        &mut self,
        look: Look,
        due: RangeInclusive<Instant>,
        interval: RangeInclusive<Duration>,
    ) {
        let slept = |due: Instant| look.now.saturating_duration_since(due.max(look.before));
        self.must_wait = false;
        let silence = Some(look.silence);
        if self.certainly == silence || slept(*due.start()) <= *interval.start() / 2 {
            return;
        }
        // Otherwise it may come from the wait that an earlier sleep earned it.
        let is_another = look.before >= self.until;
        self.until = look.now + *interval.end() * 3 / 2;
        if is_another && slept(*due.end()) > *interval.end() / 2 {
            self.certainly = silence;
            self.must_wait = true;
        }
    }

    /// It is no BACKUP, or has just heard that silence counts anew.
    pub const fn is_over(&mut self) {
        self.must_wait = false;
    }

    /// Whether it must not take silence for a reason to take over now.
    pub const fn must_wait(&self) -> bool {
        self.must_wait
    }

    /// Until when it may wait although the master-down time is over.
    pub const fn may_wait_until(&self) -> Instant {
        self.until
    }
}
