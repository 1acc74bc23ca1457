//! When the MASTER's silence counts.
//!
//! A BACKUP that was stopped hears first what arrived meanwhile, each advertisement at its time. But what stopped it may
//! have stopped more: a hypervisor that paused the whole machine, kernel and all, paused what was to receive. So after a
//! sleep silence alone is not enough: the MASTER gets the time for one more advertisement, once.

use std::time::Duration;

use carp_common::time::Instant;

use super::stalls::is_stall;
use super::{AT_ONCE, Engine};

/// Time that a silent MASTER is given although its master-down time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reprieve {
    /// The end of the master-down time that it is given for.
    due: Instant,
    until: Instant,
}

impl Reprieve {
    /// What to wait for at `now` before the silence that was due to end at `due` counts; `None` when it counts now.
    ///
    /// `looked_at` is when we last looked at what arrived: from the later of the two on we slept.
    fn next(
        given: Option<Self>,
        due: Instant,
        looked_at: Instant,
        now: Instant,
        interval: Duration,
        master_down: Duration,
    ) -> Option<Self> {
        if let Some(given) = given.filter(|given| given.due == due) {
            return (now < given.until).then_some(given);
        }
        let slept = now.saturating_duration_since(due.max(looked_at));
        // The next advertisement of a MASTER whose interval is ours comes within one.
        let until = now + (interval * 3 / 2).min(master_down);
        is_stall(slept, interval).then_some(Self { due, until })
    }
}

impl Engine {
    /// Judges the timers that are due at `now`: [`AT_ONCE`] of them, the others in a turn of their own. We last looked at
    /// what arrived at `looked_at`.
    pub(super) fn judge_timers(&mut self, looked_at: Instant, now: Instant) {
        for _ in 0..AT_ONCE {
            let Some((vhost, due)) = self.deadlines.pop_due(now) else {
                return;
            };
            self.note_lateness(vhost, due, now);
            if let Some(until) = self.reprieve(vhost, looked_at, now) {
                self.deadlines.set(vhost, Some(until));
                continue;
            }
            // Silence counts only where something could be heard.
            if self.vhosts[vhost].machine.master_down_at().is_some() && !self.hears(vhost, now) {
                let next = self.vhosts[vhost].machine.next_deadline();
                self.deadlines.set(vhost, next);
                continue;
            }
            self.vhosts[vhost].machine.handle_timeout(now);
            self.act(vhost, now);
        }
    }

    /// Until when a BACKUP whose master-down time has passed waits all the same.
    fn reprieve(&mut self, vhost: usize, looked_at: Instant, now: Instant) -> Option<Instant> {
        let served = &mut self.vhosts[vhost];
        let due = served.machine.master_down_at()?;
        // A take-over that an advertisement called for comes from what was heard, not from silence.
        if served.machine.next_deadline() != Some(due) {
            return None;
        }
        served.reprieve = Reprieve::next(
            served.reprieve,
            due,
            looked_at,
            now,
            served.machine.advertised().interval(),
            served.machine.master_down_time(),
        );
        served.reprieve.map(|reprieve| reprieve.until)
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

    fn next(given: Option<Reprieve>, looked_at: u64, now: u64) -> Option<Reprieve> {
        Reprieve::next(
            given,
            at(3000),
            at(looked_at),
            at(now),
            INTERVAL,
            MASTER_DOWN,
        )
    }

    #[test]
    fn silence_counts_when_it_is_judged_in_time() {
        assert_eq!(next(None, 2000, 3000), None);
        assert_eq!(next(None, 2000, 3500), None);
    }

    #[test]
    fn after_a_sleep_there_is_time_for_one_more_advertisement_and_only_once() {
        let given = next(None, 2000, 3501).expect("late by more than half an interval");
        assert_eq!(given.until, at(5001));
        assert_eq!(
            next(Some(given), 3501, 4000),
            Some(given),
            "woken by something else"
        );
        assert_eq!(next(Some(given), 4000, 5001), None);
        assert_eq!(next(Some(given), 4000, 9000), None, "late again");
    }

    #[test]
    fn another_silence_has_a_reprieve_of_its_own() {
        let other = Reprieve {
            due: at(1000),
            until: at(9000),
        };
        assert_eq!(next(Some(other), 2000, 3100), None);
        let given = next(Some(other), 2000, 4000).expect("late");
        assert_eq!(given.until, at(5500));
    }

    #[test]
    fn who_is_late_because_it_had_much_to_do_has_heard_everything() {
        assert_eq!(next(None, 3900, 4000), None);
    }

    #[test]
    fn it_is_no_longer_than_the_master_down_time() {
        let master_down = Duration::from_secs(1);
        let given = Reprieve::next(None, at(1000), at(0), at(9000), INTERVAL, master_down);
        assert_eq!(given.expect("late").until, at(10_000));
    }
}
