//! One slot per timer; setting replaces.

use crate::time::Instant;
use crate::units::Family;

/// What can become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// MASTER: the next advertisement.
    Advertise,
    /// MASTER: announce the addresses again.
    Reannounce,
    /// MASTER: announce the addresses late after the takeover, and then at the operator's pace.
    Refresh,
    /// BACKUP: take over on account of an advertisement that was heard.
    TakeOver,
    /// BACKUP: the MASTER has been silent for too long.
    MasterDown(Family),
}

const SLOTS: usize = 6;

/// The deadlines that are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timers([Option<Instant>; SLOTS]);

impl Timers {
    const fn slot(timer: Timer) -> usize {
        match timer {
            Timer::Advertise => 0,
            Timer::Reannounce => 1,
            Timer::TakeOver => 2,
            Timer::MasterDown(Family::Inet) => 3,
            Timer::MasterDown(Family::Inet6) => 4,
            Timer::Refresh => 5,
        }
    }

    pub(super) fn set(&mut self, timer: Timer, deadline: Instant) {
        self.0[Self::slot(timer)] = Some(deadline);
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.0[Self::slot(timer)] = None;
    }

    pub(super) fn clear_all(&mut self) {
        *self = Self::default();
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.0[Self::slot(timer)]
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Whether the timer is due; if so, clears it and returns when it should have fired.
    pub(super) fn take_due(&mut self, timer: Timer, now: Instant) -> Option<Instant> {
        self.0[Self::slot(timer)].take_if(|deadline| *deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Instant = Instant::from_nanos;

    #[test]
    fn slots_are_independent_and_the_earliest_is_next() {
        let all = [
            Timer::Advertise,
            Timer::Reannounce,
            Timer::Refresh,
            Timer::TakeOver,
            Timer::MasterDown(Family::Inet),
            Timer::MasterDown(Family::Inet6),
        ];
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        for (timer, nanos) in all.into_iter().zip([60, 50, 40, 30, 20, 10]) {
            timers.set(timer, AT(nanos));
            assert_eq!(timers.next(), Some(AT(nanos)));
        }
        for (timer, nanos) in all.into_iter().zip([60, 50, 40, 30, 20, 10]) {
            assert_eq!(timers.get(timer), Some(AT(nanos)));
        }
        timers.clear(Timer::MasterDown(Family::Inet6));
        assert_eq!(timers.next(), Some(AT(20)));
        timers.clear_all();
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_timer_is_due_from_its_deadline_on_and_only_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Advertise, AT(10));
        assert_eq!(timers.take_due(Timer::Advertise, AT(9)), None);
        assert_eq!(timers.take_due(Timer::Advertise, AT(10)), Some(AT(10)));
        assert_eq!(timers.take_due(Timer::Advertise, AT(11)), None);
    }

    #[test]
    fn setting_replaces() {
        let mut timers = Timers::default();
        timers.set(Timer::TakeOver, AT(10));
        timers.set(Timer::TakeOver, AT(20));
        assert_eq!(timers.next(), Some(AT(20)));
    }
}
