//! The only module that reads clocks.

#![expect(
    clippy::disallowed_methods,
    reason = "all other modules ask this one for the time"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carp_common::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// Returns the time on CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns` and of every deadline.
#[must_use]
pub fn now() -> Instant {
    Instant::from_nanos(read(ClockId::CLOCK_MONOTONIC))
}

/// Returns a number that rises from one run to the next as long as the wall clock is not set back. Replay counters
/// and IP identifications start there. Unit: nanoseconds since 1970.
#[must_use]
pub fn wall_clock_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("these clocks exist on every Linux");
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

/// Converts the wall-clock time stamps of received frames into [`Instant`]s.
///
/// The two clocks run at the same rate, so only a step of the wall clock changes their offset. We notice a step late,
/// and until then a time stamp from before it cannot be told from a later one. So once we have noticed a step, and
/// until no frame is left that may have arrived before it, the arrival of a frame is the time when the clocks were
/// last read. That is at most too late by our own delay and never too early, so a living MASTER is not declared dead.
#[derive(Debug)]
pub struct ArrivalClock {
    offset: Offset,
    trusted: bool,
    /// Every frame that arrived before this time has been received.
    emptied_at: Instant,
}

/// CLOCK_REALTIME minus CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug)]
struct Offset {
    ns: i128,
    measured_at: Instant,
}

/// The smallest change of the offset that counts as a step. It is larger than preemption between the two readings
/// causes in practice, and smaller than any step that would matter to an election.
const STEP_NS: u128 = 2_000_000;

impl ArrivalClock {
    /// Measures the offset for the first time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            offset: measure_offset(),
            trusted: true,
            emptied_at: Instant::ZERO,
        }
    }

    /// Measures the offset again. Call it when a frame has been received, before asking for its arrival.
    pub fn refresh(&mut self) {
        self.update(measure_offset());
    }

    fn update(&mut self, offset: Offset) {
        self.trusted &= offset.ns.abs_diff(self.offset.ns) < STEP_NS;
        self.offset = offset;
    }

    /// Records that every frame that arrived before `at` has been received, so that no time stamp from before a step
    /// is left.
    pub const fn emptied(&mut self, at: Instant) {
        self.trusted = true;
        self.emptied_at = at;
    }

    /// Returns whether time stamps give the arrival of frames. Otherwise frames count as arrived when the clocks were
    /// last read.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Returns the arrival of a frame with the time stamp `realtime`. Without a stamp, or when stamps are not
    /// trusted, this is the time when the clocks were last read.
    #[must_use]
    pub fn arrival(&self, realtime: Option<Duration>) -> Instant {
        let trusted = realtime.filter(|_| self.trusted).and_then(|realtime| {
            let realtime = i128::try_from(realtime.as_nanos()).ok()?;
            u64::try_from(realtime.checked_sub(self.offset.ns)?).ok()
        });
        // A step since the clocks were read can make the frame look earlier than it can have been.
        trusted
            .map_or(self.offset.measured_at, Instant::from_nanos)
            .max(self.emptied_at)
    }
}

impl Default for ArrivalClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the tightest of three measurements, so that preemption between two readings does not look like a step.
fn measure_offset() -> Offset {
    let sample = || {
        let before = read(ClockId::CLOCK_MONOTONIC);
        let real = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_MONOTONIC);
        let middle = i128::from(before) + i128::from(after.saturating_sub(before) / 2);
        (after.saturating_sub(before), i128::from(real) - middle)
    };
    let (_, ns) = [sample(), sample(), sample()]
        .into_iter()
        .min_by_key(|(width, _)| *width)
        .expect("three");
    Offset {
        ns,
        measured_at: now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn offset(ns: u128, measured_at: u64) -> Offset {
        Offset {
            ns: i128::try_from(ns).unwrap(),
            measured_at: Instant::from_nanos(measured_at),
        }
    }

    fn clock(offset: Offset) -> ArrivalClock {
        ArrivalClock {
            offset,
            trusted: true,
            emptied_at: Instant::ZERO,
        }
    }

    #[test]
    fn a_time_stamp_becomes_the_monotonic_instant_it_was_taken_at() {
        let clock = clock(offset(HOUR.as_nanos(), 9_000));
        let stamp = HOUR + Duration::from_nanos(5_000);
        assert_eq!(clock.arrival(Some(stamp)), Instant::from_nanos(5_000));
    }

    #[test]
    fn a_step_of_the_wall_clock_makes_arrival_now_until_nothing_is_left_from_before_it() {
        let mut clock = clock(offset(HOUR.as_nanos(), 4_000));
        let (before, after) = (
            HOUR + Duration::from_nanos(5_000),
            Duration::from_nanos(6_000),
        );
        clock.update(offset(0, 9_000));
        for stamp in [before, after] {
            assert_eq!(clock.arrival(Some(stamp)), Instant::from_nanos(9_000));
        }
        // One batch did not hold all of the frames.
        clock.update(offset(10, 9_500));
        for stamp in [before, after] {
            assert_eq!(clock.arrival(Some(stamp)), Instant::from_nanos(9_500));
        }
        clock.emptied(Instant::from_nanos(9_800));
        clock.update(offset(10, 12_000));
        let later = Duration::from_nanos(10_010);
        assert_eq!(clock.arrival(Some(later)), Instant::from_nanos(10_000));
    }

    #[test]
    fn a_step_that_was_not_seen_yet_makes_no_arrival_earlier_than_it_can_have_been() {
        let mut clock = clock(offset(HOUR.as_nanos(), 4_000));
        clock.emptied(Instant::from_nanos(7_000));
        let set_back = Duration::from_nanos(8_000);
        assert_eq!(clock.arrival(Some(set_back)), Instant::from_nanos(7_000));
        let set_back = HOUR - Duration::from_nanos(1);
        assert_eq!(clock.arrival(Some(set_back)), Instant::from_nanos(7_000));
    }

    #[test]
    fn a_frame_without_a_stamp_arrived_when_the_clocks_were_read() {
        let clock = clock(offset(0, 9_000));
        assert_eq!(clock.arrival(None), Instant::from_nanos(9_000));
    }

    #[test]
    fn the_first_measurement_is_trusted_and_a_second_agrees() {
        let mut clock = ArrivalClock::new();
        clock.refresh();
        assert!(clock.trusted);
    }
}
