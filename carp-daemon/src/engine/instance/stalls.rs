//! The lateness of the engine.
//!
//! Advertisements count by their arrival times, and the core takes care of silence. But a MASTER that is late too often
//! advertises too late, so lateness is measured and logged.

use std::time::Duration;

use carp_common::proto::VirtualHost;
use carp_common::proto::patience::is_late;
use carp_common::time::Instant;

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::pace::REPORT_INTERVAL;
use super::identity::Identity;
use crate::api::event::process::Stall;

/// Turns that came late for one virtual host.
#[derive(Debug, Default)]
pub struct Stalls {
    /// Their number.
    pub count: u64,
    /// The longest lateness.
    pub worst: Duration,
    /// The turn that was counted last.
    counted_at: Option<Instant>,
}

impl Stalls {
    /// Returns whether the turn at `now` was late by more than half an advertisement interval. Each turn counts once.
    fn note(&mut self, lateness: Duration, interval: Duration, now: Instant) -> bool {
        if !is_late(lateness, interval) {
            return false;
        }
        self.worst = self.worst.max(lateness);
        if self.counted_at != Some(now) {
            self.counted_at = Some(now);
            self.count += 1;
        }
        true
    }
}

impl Stalls {
    /// Notes that the engine looks only now at something that was due at `due`.
    pub fn late<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        due: Instant,
        site: &mut Site<'_, E>,
    ) {
        let (interval, cx) = (machine.advertised().interval(), &mut *site.cx);
        let lateness = cx.now.saturating_duration_since(due);
        if self.note(lateness, interval, cx.now)
            && let Some(suppressed) = cx.stall_limit.admit(cx.now, REPORT_INTERVAL)
        {
            let late = Stall::Late { lateness, interval };
            cx.tell_after(suppressed, &who.place, late);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_an_interval_counts_once_per_turn() {
        let mut stalls = Stalls::default();
        let interval = Duration::from_secs(1);
        let ms = Duration::from_millis;
        let turn = |ns| Instant::from_nanos(ns);
        assert!(!stalls.note(ms(500), interval, turn(1)));
        assert!(stalls.note(ms(501), interval, turn(1)));
        assert!(stalls.note(ms(900), interval, turn(1)));
        assert!(stalls.note(ms(700), interval, turn(2)));
        assert_eq!((stalls.count, stalls.worst), (2, ms(900)));
    }
}
