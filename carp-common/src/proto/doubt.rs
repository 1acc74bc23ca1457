//! A BACKUP that hears somebody whose counters prove nothing.
//!
//! It may be a recording of a MASTER that is dead. It may be a living ucarp or FreeBSD, which goes on with the counter that it heard
//! last, also downwards, so that a recording can make it repeat its own. When nothing else was heard for the master-down time the BACKUP
//! becomes MASTER: a living better one answers that, with a counter above ours, and we yield. Two are MASTER meanwhile, so
//! each time that it was answered the BACKUP waits twice as long before it asks again.

use core::net::IpAddr;

use crate::time::{Duration, Instant};

/// Most doublings of the time until we ask again: 8 master-down times.
const DOUBLINGS_MAX: u32 = 3;
/// How long an answer makes us patient.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What a BACKUP makes of counters that prove nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubt {
    /// Whom we heard without proof since the last proof.
    suspect: Option<IpAddr>,
    /// When somebody was last proven to live, or we began to listen.
    proven_at: Instant,
    /// When we became MASTER to find out about somebody.
    asked_at: Option<Instant>,
    /// How often that was answered, and when it last was.
    answers: u32,
    answered_at: Instant,
}

impl Doubt {
    /// Somebody is proven to live, or we begin to listen.
    pub(super) fn proven(&mut self, at: Instant) {
        self.suspect = None;
        self.proven_at = self.proven_at.max(at);
    }

    /// Somebody was heard, and nothing proves that he lives.
    pub(super) fn heard(&mut self, source: IpAddr) {
        self.suspect = Some(source);
    }

    /// Until when what proves nothing counts all the same.
    pub(super) fn patient_until(&self, now: Instant, master_down: Duration) -> Instant {
        let doublings = match now < self.answered_at + REMEMBERED {
            true => self.answers.min(DOUBLINGS_MAX),
            false => 0,
        };
        self.proven_at + master_down * (1 << doublings)
    }

    /// We become MASTER because nobody was proven to live; returns who was heard nevertheless.
    pub(super) fn asks(&mut self, now: Instant) -> Option<IpAddr> {
        self.asked_at = self.suspect.map(|_| now);
        self.suspect.take()
    }

    /// We yield: when we had asked `within` this time, that is the answer, whomever we heard last before. Later it is somebody who
    /// came back.
    pub(super) fn answered(&mut self, now: Instant, within: Duration) {
        let asked_at = self.asked_at.take();
        if asked_at.is_some_and(|at| now < at + within) {
            if now >= self.answered_at + REMEMBERED {
                self.answers = 0;
            }
            self.answers = (self.answers + 1).min(DOUBLINGS_MAX);
            self.answered_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 7));
    const MASTER_DOWN: Duration = Duration::from_secs(3);

    const fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn each_answer_doubles_the_patience_and_ten_minutes_end_it() {
        let mut doubt = Doubt::default();
        let mut now = 1000;
        let mut patience = std::vec::Vec::new();
        for _ in 0..7 {
            doubt.proven(at(now));
            let until = doubt.patient_until(at(now), MASTER_DOWN);
            patience.push(until.saturating_duration_since(at(now)).as_secs());
            doubt.heard(SOURCE);
            assert_eq!(doubt.asks(at(now + 10)), Some(SOURCE));
            doubt.answered(at(now + 11), MASTER_DOWN);
            now += 20;
        }
        assert_eq!(patience, [3, 6, 12, 24, 24, 24, 24]);
        doubt.proven(at(now + 600));
        assert_eq!(
            doubt.patient_until(at(now + 600), MASTER_DOWN),
            at(now + 603)
        );
    }

    #[test]
    fn a_master_that_comes_back_later_is_no_answer() {
        let mut doubt = Doubt::default();
        doubt.heard(SOURCE);
        doubt.asks(at(1000));
        doubt.answered(at(1003), MASTER_DOWN);
        doubt.proven(at(1003));
        assert_eq!(doubt.patient_until(at(1003), MASTER_DOWN), at(1006));
        assert_eq!(doubt.asks(at(1010)), None, "nobody was heard");
        // A stranger's recordings were the last that we heard; the answer counts all the same.
        doubt.heard(SOURCE);
        doubt.heard(IpAddr::V4(Ipv4Addr::LOCALHOST));
        doubt.asks(at(1020));
        doubt.answered(at(1021), MASTER_DOWN);
        doubt.proven(at(1021));
        assert_eq!(doubt.patient_until(at(1021), MASTER_DOWN), at(1027));
    }
}
