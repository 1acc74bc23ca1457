//! The one place that reads clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carp_common::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// Now, on CLOCK_MONOTONIC: the clock of `bpf_ktime_get_ns` and of every deadline.
#[must_use]
pub fn now() -> Instant {
    Instant::from_nanos(read(ClockId::CLOCK_MONOTONIC))
}

/// A number that rises from one run to the next as long as the wall clock does not go back: where replay counters
/// and IP identifications start. Unit: nanoseconds since 1970.
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

/// Turns the wall-clock time stamps of received frames into [`Instant`]s.
///
/// The two clocks run at one rate; only a step of the wall clock moves their offset. A time stamp taken before a step
/// that we see only afterwards cannot be told from one taken later, so while the offset has just moved, arrival is
/// "now": late by as long as we were, never early, so a living MASTER is not declared dead.
#[derive(Debug)]
pub struct ArrivalClock {
    offset_ns: i128,
    trusted: bool,
}

/// Larger than the two readings can drift apart by preemption between them in practice, smaller than any step that
/// would matter to an election.
const STEP_NS: u128 = 2_000_000;

impl ArrivalClock {
    /// Measures the offset for the first time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            offset_ns: measure_offset(),
            trusted: true,
        }
    }

    /// Measures again; call before each batch of frames, at the latest when one is waiting.
    pub fn refresh(&mut self) {
        self.update(measure_offset());
    }

    fn update(&mut self, offset_ns: i128) {
        self.trusted = offset_ns.abs_diff(self.offset_ns) < STEP_NS;
        self.offset_ns = offset_ns;
    }

    /// The arrival of a frame stamped `realtime`: `now` when it has no stamp, or none that can be trusted.
    #[must_use]
    pub fn arrival(&self, realtime: Option<Duration>, now: Instant) -> Instant {
        let Some(realtime) = realtime.filter(|_| self.trusted) else {
            return now;
        };
        let monotonic = i128::try_from(realtime.as_nanos())
            .unwrap_or(i128::MAX)
            .saturating_sub(self.offset_ns);
        u64::try_from(monotonic).map_or(now, Instant::from_nanos)
    }
}

impl Default for ArrivalClock {
    fn default() -> Self {
        Self::new()
    }
}

/// CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds: the tightest of three tries, so that being preempted between
/// two readings does not look like a step.
fn measure_offset() -> i128 {
    let sample = || {
        let before = read(ClockId::CLOCK_MONOTONIC);
        let real = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_MONOTONIC);
        let middle = i128::from(before) + i128::from(after.saturating_sub(before) / 2);
        (after.saturating_sub(before), i128::from(real) - middle)
    };
    [sample(), sample(), sample()]
        .into_iter()
        .min_by_key(|(width, _)| *width)
        .map_or(0, |(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: i128 = 3_600_000_000_000;

    #[test]
    fn a_time_stamp_becomes_the_monotonic_instant_it_was_taken_at() {
        let clock = ArrivalClock {
            offset_ns: HOUR_NS,
            trusted: true,
        };
        let stamp = Duration::from_nanos(3_600_000_000_000 + 5_000);
        assert_eq!(
            clock.arrival(Some(stamp), Instant::from_nanos(9_000)),
            Instant::from_nanos(5_000)
        );
    }

    #[test]
    fn a_step_of_the_wall_clock_makes_arrival_now_until_the_offset_is_steady() {
        let mut clock = ArrivalClock {
            offset_ns: HOUR_NS,
            trusted: true,
        };
        let now = Instant::from_nanos(9_000);
        let stamp = Some(Duration::from_nanos(3_600_000_000_000 + 5_000));
        clock.update(0);
        assert_eq!(clock.arrival(stamp, now), now);
        clock.update(10);
        assert_eq!(
            clock.arrival(Some(Duration::from_nanos(5_010)), now),
            Instant::from_nanos(5_000)
        );
    }

    #[test]
    fn a_frame_without_a_stamp_arrived_now() {
        let clock = ArrivalClock {
            offset_ns: 0,
            trusted: true,
        };
        assert_eq!(
            clock.arrival(None, Instant::from_nanos(9_000)),
            Instant::from_nanos(9_000)
        );
    }

    #[test]
    fn the_first_measurement_is_trusted_and_a_second_agrees() {
        let mut clock = ArrivalClock::new();
        clock.refresh();
        assert!(clock.trusted);
    }
}
