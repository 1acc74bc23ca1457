//! A BACKUP that slept through the end of the master-down time: whether it may wait longer, and whether it must.
//!
//! From outside, it is not known to the nanosecond which packet the process takes for a sign of life. Between its duties
//! and its rights, it is free.

use std::ops::RangeInclusive;
use std::time::Duration;

use carp_common::time::Instant;

/// A look of the process after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The time of the look.
    pub now: Instant,
    /// The time of the look before.
    pub before: Instant,
    /// The time at which it last heard, in each family, a packet that may have restarted its master-down timer: the
    /// beginning of a silence.
    pub silence: [Instant; 2],
}

/// The consequences of one process's sleeps.
#[derive(Debug, Default)]
pub struct Sleep {
    /// The last silence that it certainly slept through; no other sleep prolongs it.
    certainly: Option<[Instant; 2]>,
    must_wait: bool,
    until: Instant,
}

impl Sleep {
    /// Notes a look of a BACKUP whose master-down time ends within the first range and whose advertisement interval
    /// lies within the second.
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
        // Otherwise the wait may result from an earlier sleep.
        let is_another = look.before >= self.until;
        self.until = look.now + *interval.end() * 3 / 2;
        if is_another && slept(*due.end()) > *interval.end() / 2 {
            self.certainly = silence;
            self.must_wait = true;
        }
    }

    /// Notes that it is not BACKUP, or has just been told that silence counts anew.
    pub const fn is_over(&mut self) {
        self.must_wait = false;
    }

    /// Whether it must not take over because of silence now.
    pub const fn must_wait(&self) -> bool {
        self.must_wait
    }

    /// Returns until when it may wait although the master-down time is over.
    pub const fn may_wait_until(&self) -> Instant {
        self.until
    }
}
