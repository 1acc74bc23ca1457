//! Counters that prove nothing, and how long a BACKUP lets them count all the same.
//!
//! They may come from a recording of a MASTER that is dead. They may also come from a living ucarp or FreeBSD: it goes on with
//! the counter that it heard last, even if that is lower, so a recording can make it repeat its own counters. When the BACKUP
//! has heard nothing else for the master-down time it becomes MASTER. A living better MASTER answers with a counter above ours,
//! and we yield. Two hosts are MASTER meanwhile, so the BACKUP waits twice as long after each answer before it asks again.

use core::net::IpAddr;

use crate::time::{Duration, Instant};

/// Most doublings of the time until we ask again: 8 master-down times.
const DOUBLINGS_MAX: u32 = 3;
/// Time for which an answer makes us wait longer before we ask again.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The last host that was heard without proof, and the questions and answers so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubt {
    /// The host that was heard without proof since the last proof.
    suspect: Option<IpAddr>,
    /// When a host was last proven to live, or we began to listen.
    proven_at: Instant,
    /// When we became MASTER to find out whether the suspect lives.
    asked_at: Option<Instant>,
    /// How often that was answered, and when it last was.
    answers: u32,
    answered_at: Instant,
}

impl Doubt {
    /// A host is proven to live, or we begin to listen.
    pub(super) fn proven(&mut self, at: Instant) {
        self.suspect = None;
        self.proven_at = self.proven_at.max(at);
    }

    /// A host was heard, and nothing proves that it lives.
    pub(super) fn heard(&mut self, source: IpAddr) {
        self.suspect = Some(source);
    }

    /// Returns until when counters that prove nothing count all the same.
    pub(super) fn patient_until(&self, now: Instant, master_down: Duration) -> Instant {
        let doublings = match now < self.answered_at + REMEMBERED {
            true => self.answers.min(DOUBLINGS_MAX),
            false => 0,
        };
        self.proven_at + master_down * (1 << doublings)
    }

    /// We become MASTER because no host was proven to live. Returns the one that was heard nevertheless.
    pub(super) fn asks(&mut self, now: Instant) -> Option<IpAddr> {
        self.asked_at = self.suspect.map(|_| now);
        self.suspect.take()
    }

    /// We yield. If we asked less than `within` ago, that is the answer, even if the suspect was another host. If we asked
    /// earlier, a host has come back, and that is no answer.
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
