//! What a MASTER asks of one who claims to be better, and what either side makes of counters that prove less.
//!
//! A MASTER yields to a counter near above its own last one, which only somebody who heard that can know. To any other it
//! advertises at once: a living MASTER takes our counter and goes on above it, a carpd at once, ucarp and FreeBSD with their next
//! advertisement; a recording never does. Before it answers a counter that was never heard it leaves out more counters than anybody
//! ever sent in a row, by chance as far as a stranger can tell: so that a whole recorded run is not an answer either.

use super::{
    Advertiser, Duration, Evidence, Family, Instant, IpAddr, NOTICE_INTERVAL, Notice, Origin,
    Profile, State, Timer, VirtualHost,
};
use crate::proto::election::BackupDecision;
use crate::proto::heard::is_near_above;
use crate::units::{AdvBase, Priority};

/// Advertisements that answer something within one interval, when its counter was never heard. What a recording can
/// repeat is answered once.
const ANSWERS_MAX: u8 = 3;
/// Least number of counters left out before a challenge, and the most that chance adds less one.
const JUMP: u64 = 1 << 28;
/// Challenges without an answer that someone should know of.
const UNANSWERED_MAX: u8 = 3;
/// How long takeovers take their time after an advertisement was heard in two versions.
const SUSPICION: Duration = Duration::from_secs(60);
/// A BSD's timers are rounded up to ticks, and one more is added. Two of 10 ms: OpenBSD and NetBSD at hz 100.
const BSD_TICKS: Duration = Duration::from_millis(20);

/// Advertisements that answered something in one interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    since: Option<Instant>,
    count: u8,
}

impl VirtualHost {
    /// Whether a better MASTER has heard us, or is one that cannot answer.
    pub(super) fn is_answer(
        &self,
        family: Family,
        arrival: Instant,
        counter: u64,
        evidence: Evidence,
    ) -> bool {
        match evidence {
            Evidence::Constant => true,
            Evidence::New => self
                .sequence
                .sent_before(family, arrival)
                .is_none_or(|sent| is_near_above(counter, sent)),
            Evidence::OtherVersion { .. }
            | Evidence::Duplicate
            | Evidence::Heard
            | Evidence::Unrelated => false,
        }
    }

    /// Lets a MASTER that claims to be better prove that it lives.
    pub(super) fn challenge(&mut self, source: IpAddr, evidence: Evidence) {
        self.counters.challenges += 1;
        self.leaves_out |= evidence.is_new();
        if self.answer(evidence) {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        if self.unanswered > UNANSWERED_MAX {
            self.notify_limited(
                |limits| &mut limits.unanswered,
                |suppressed| Notice::Unanswered { source, suppressed },
            );
        }
    }

    /// Advertises with the next timeout, unless there were too many answers in this interval. True when it will.
    pub(super) fn answer(&mut self, evidence: Evidence) -> bool {
        let pace = self.interval();
        let Answers { since, count } = &mut self.answers;
        if since.is_none_or(|since| self.now >= since + pace) {
            (*since, *count) = (Some(self.now), 0);
        }
        let most = if evidence.is_new() { ANSWERS_MAX } else { 1 };
        let may = *count < most;
        if may {
            *count += 1;
            self.timers.set(Timer::Advertise, self.now);
        }
        may
    }

    /// Leaves out counters before the next advertisement, when that is to be a challenge.
    pub(super) fn leave_out(&mut self) {
        if core::mem::take(&mut self.leaves_out) {
            // Nobody without the password can tell how many.
            let [a, b, c, d, ..] = self.authenticator.sign(self.sequence.next());
            let chance = u64::from(u32::from_be_bytes([a, b, c, d])) % JUMP;
            self.sequence.jump(JUMP + chance);
        }
    }

    /// The source is proven to live.
    pub(super) fn believe(&mut self, family: Family, origin: Origin, theirs: Priority) {
        self.last_heard = Some(origin);
        self.doubt.proven(origin.arrival);
        let vhid = self.settings.vhid.get();
        let is_bsd = origin.ethernet_source == [0, 0, 0x5e, 0, 1, vhid];
        self.bsd_patience[family] = match (is_bsd, theirs.advbase) {
            (true, AdvBase(0)) => BSD_TICKS + theirs.interval() * 3,
            _ => Duration::ZERO,
        };
    }

    /// As BACKUP: somebody is heard, and nothing proves that he lives.
    pub(super) fn doubt(&mut self, family: Family, origin: Origin, decision: BackupDecision) {
        self.doubt.heard(origin.source);
        let master_down = self.master_down_time();
        // Only as long as earlier ones like it turned out to live.
        if decision == BackupDecision::Stay {
            let until = self.doubt.patient_until(self.now, master_down);
            self.listen_until(family, until.min(origin.arrival + master_down));
        }
    }

    /// The same counter with another priority: one of the two was altered. Both prove that the sender lived when the first was
    /// heard, and neither decides anything.
    pub(super) fn hear_another_version(
        &mut self,
        family: Family,
        Origin { source, .. }: Origin,
        since: Instant,
    ) {
        self.altered_at = Some(self.now);
        if self.state != State::Backup {
            return;
        }
        let caused = |planned: &mut super::Planned| {
            planned.cause.source == source && planned.cause.arrival == since
        };
        if self.take_over.take_if(caused).is_some() {
            self.timers.clear(Timer::TakeOver);
        }
        self.listen(family, since);
    }

    /// How much longer a takeover waits that an advertisement calls for: after one was altered, for the other version.
    pub(super) fn suspicion(&self) -> Duration {
        match self.altered_at {
            Some(at) if self.now < at + SUSPICION => self.interval() / 4,
            Some(_) | None => Duration::ZERO,
        }
    }

    /// What our turn after a bow-out comes later than by advskew alone. Two equal BSDs that take over together both
    /// yield; addresses of one link differ in their last bits.
    pub(super) fn turn_by_address(&self, family: Family) -> Duration {
        let last = match (self.settings.profile, self.sources[family]) {
            (Profile::Ucarp, _) | (_, None) => 0,
            (Profile::FreeBsd | Profile::OpenBsd, Some(IpAddr::V4(source))) => source.octets()[3],
            (Profile::FreeBsd | Profile::OpenBsd, Some(IpAddr::V6(source))) => source.octets()[15],
        };
        Duration::from_millis(u64::from(last & 15))
    }

    /// Tells why we take over although somebody advertises.
    pub(super) fn ask(&mut self) {
        if let Some(source) = self.doubt.asks(self.now) {
            self.leaves_out = true;
            self.notify_limited(
                |limits| &mut limits.unproven,
                |suppressed| Notice::Unproven { source, suppressed },
            );
        }
    }
}

/// Counts what does not count.
impl VirtualHost {
    pub(super) fn count_evidence(&mut self, source: IpAddr, evidence: Evidence) {
        match evidence {
            Evidence::New | Evidence::Constant => {}
            Evidence::Duplicate => self.counters.dropped_duplicate += 1,
            Evidence::Heard | Evidence::Unrelated => self.counters.dropped_unproven += 1,
            Evidence::OtherVersion { .. } => {
                self.counters.dropped_tampered += 1;
                self.notify_limited(
                    |limits| &mut limits.tampered,
                    |suppressed| Notice::Tampered { source, suppressed },
                );
            }
        }
    }

    pub(super) fn notify_limited(
        &mut self,
        limit: impl FnOnce(&mut super::Limits) -> &mut crate::proto::rate_limit::RateLimit,
        notice: impl FnOnce(u64) -> Notice,
    ) {
        if let Some(suppressed) = limit(&mut self.limits).admit(self.now, NOTICE_INTERVAL) {
            self.notify(notice(suppressed));
        }
    }

    /// As BACKUP: what an advertisement with these fields calls for, if it counts.
    pub(super) fn backup_decision(&self, theirs: Advertiser) -> BackupDecision {
        crate::proto::election::as_backup(
            self.ours(),
            theirs,
            self.settings.preempt,
            self.settings.deadratio,
        )
    }
}
