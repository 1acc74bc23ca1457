//! The time at which the silence of a MASTER counts.
//!
//! A BACKUP that was stopped first processes the advertisements that arrived meanwhile, each with its time of arrival. But
//! perhaps more than the process was stopped: a hypervisor that pauses the machine also pauses the kernel that receives. So
//! after a sleep silence alone is not enough, and the MASTER gets the time for one more advertisement, once.

use crate::time::{Duration, Instant};

/// Returns whether a turn came so late, by more than half an advertisement interval, that its process was stopped or starved.
#[must_use]
pub fn is_late(lateness: Duration, interval: Duration) -> bool {
    lateness > interval / 2
}

/// The lateness that means that the process was stopped, by a signal, a debugger, a suspended machine or lack of processor
/// time.
const STOPPED: Duration = Duration::from_millis(100);

/// Returns whether advertisements that did not fit into the buffers may have been the MASTER's latest ones. `since` is when
/// the process should have looked, because something was due or had arrived.
///
/// They are only if the process was stopped. Otherwise a flood could keep a BACKUP from ever taking over.
#[must_use]
pub fn losses_count(since: Option<Instant>, now: Instant) -> bool {
    since.is_some_and(|since| now > since + STOPPED)
}

/// The times by which a BACKUP decides about the silence of a MASTER.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// The end of the master-down time.
    pub(super) due: Instant,
    /// The last time before `now` at which the process read the advertisements that had arrived.
    pub(super) looked_at: Instant,
    /// The current time.
    pub(super) now: Instant,
}

/// The extra time for a silent MASTER whose master-down time has passed.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The end of the last reprieve.
    given_until: Option<Instant>,
}

impl Patience {
    /// Returns the time until which this silence does not count yet, or `None` if it counts now.
    ///
    /// That time is at most a master-down time from now. It is given once: a silence that is due at its end counts, however
    /// late the process looks at it.
    pub(super) fn reprieve(
        &mut self,
        silence: Silence,
        interval: Duration,
        master_down: Duration,
    ) -> Option<Instant> {
        let Silence {
            due,
            looked_at,
            now,
        } = silence;
        if self.given_until.take() == Some(due) {
            return None;
        }
        let slept = now.saturating_duration_since(due.max(looked_at));
        if is_late(slept, interval) {
            // The next advertisement of a MASTER whose interval is ours comes within one.
            self.given_until = Some(now + (interval * 3 / 2).min(master_down));
        }
        self.given_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);
    const MASTER_DOWN: Duration = Duration::from_secs(3);

    const fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn reprieve(patience: &mut Patience, due: u64, looked_at: u64, now: u64) -> Option<Instant> {
        let silence = Silence {
            due: at(due),
            looked_at: at(looked_at),
            now: at(now),
        };
        patience.reprieve(silence, INTERVAL, MASTER_DOWN)
    }

    #[test]
    fn silence_counts_when_it_is_judged_in_time() {
        let mut patience = Patience::default();
        assert_eq!(reprieve(&mut patience, 3000, 2000, 3000), None);
        assert_eq!(reprieve(&mut patience, 3000, 2000, 3500), None);
    }

    #[test]
    fn after_a_sleep_there_is_time_for_one_more_advertisement_and_only_once() {
        for late in [5001, 9000] {
            let mut patience = Patience::default();
            let until = reprieve(&mut patience, 3000, 2000, 3501);
            assert_eq!(until, Some(at(5001)), "late by more than half an interval");
            assert_eq!(reprieve(&mut patience, 5001, 3501, late), None);
        }
    }

    #[test]
    fn losses_count_only_after_a_tenth_of_a_second_without_a_look() {
        assert!(!losses_count(None, at(9000)));
        assert!(!losses_count(Some(at(1000)), at(1100)));
        assert!(losses_count(Some(at(1000)), at(1101)));
    }

    #[test]
    fn another_silence_has_a_reprieve_of_its_own() {
        let mut patience = Patience::default();
        assert_eq!(reprieve(&mut patience, 1000, 0, 2000), Some(at(3500)));
        // The MASTER was heard at 3 s.
        assert_eq!(reprieve(&mut patience, 6000, 5000, 8000), Some(at(9500)));
    }

    #[test]
    fn a_process_that_is_late_because_it_had_much_to_do_has_heard_everything() {
        assert_eq!(reprieve(&mut Patience::default(), 3000, 3900, 4000), None);
    }

    #[test]
    fn a_reprieve_is_no_longer_than_the_master_down_time() {
        let silence = Silence {
            due: at(1000),
            looked_at: at(0),
            now: at(9000),
        };
        let until = Patience::default().reprieve(silence, INTERVAL, Duration::from_secs(1));
        assert_eq!(until, Some(at(10_000)));
    }
}
