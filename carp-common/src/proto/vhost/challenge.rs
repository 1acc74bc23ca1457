//! What a MASTER asks of one who claims to be better, and what either side makes of counters that prove less.
//!
//! A MASTER yields to a counter near above its own last one, which only somebody who heard that can know, or who counted
//! farther while the network was divided. To any other it advertises at once: a living MASTER takes our counter and goes on
//! above it, a carpd at once, ucarp and FreeBSD with their next advertisement; a recording never does. Before it answers a
//! counter that was never heard it leaves out more counters than anybody ever sent in a row, by chance as far as a stranger can
//! tell: so that a whole recorded run is not an answer either.

use super::{
    Advertiser, Duration, Evidence, Family, Instant, IpAddr, NOTICE_INTERVAL, Notice, Origin,
    Profile, Reason, Settings, State, Timer, VirtualHost,
};
use crate::proto::election::BackupDecision;
use crate::proto::heard::{LAST_LEAVES_OUT, is_near_above};
use crate::units::{AdvBase, Priority};

/// Advertisements of one interval that answer at once what was never heard: somebody lives who knows nothing of us. More of
/// them come an eighth of the interval apart, for it may be far longer than his, and many MASTERs that answer each other would
/// have said everything before anybody heard it.
const NEW_AT_ONCE: u8 = 4;
const NEW_DIVISOR: u32 = 8;
/// Advertisements of one interval that answer all else, which a recording can repeat.
const REPEATED_MAX: u8 = 2;
/// Least number of counters left out before a challenge, and the most that chance adds less one. A host that advertises
/// once a second has sent so many after a hundred days. 134 to 268 ms of the clock that the first counter comes from.
const JUMP: u64 = 1 << 27;
/// Answers in two versions after which the better version counts.
const DOUBTFUL_ENOUGH: u8 = 3;
/// Challenges without an answer that someone should know of.
const UNANSWERED_MAX: u8 = 3;
/// How long takeovers take their time after an advertisement that was altered on its way has misled us.
const SUSPICION: Duration = Duration::from_secs(60);
/// Most that they wait then.
const SUSPENSE: Duration = Duration::from_millis(100);
/// A BSD's timers are rounded up to ticks, and one more is added. Two of 10 ms: OpenBSD and NetBSD at hz 100.
const BSD_TICKS: Duration = Duration::from_millis(20);

/// Advertisements that answered something in one interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    since: Option<Instant>,
    new: u8,
    repeated: u8,
    /// When the last one was, or is due.
    last: Instant,
}

/// Answers in two versions, the one better than we are and the other one worse, each to another one of ours.
///
/// One that yields says something worse once or twice, with a counter above ours, and who hears that can send it again as
/// better. Who goes on answering is better, and his answers are altered on their way, so that the genuine ones come second.
/// After a bow-out of the MASTER that we followed, and that was better, its first is enough: the bow-out was altered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubtful {
    count: u8,
    /// The last of ours that was answered, and with what.
    to: Option<u64>,
    with: u64,
    at: Instant,
}

impl Doubtful {
    /// An answer with this counter, in two versions, to that one of ours. True when there were enough of them within twice our interval each.
    fn again(&mut self, to: Option<u64>, with: u64, now: Instant, interval: Duration) -> bool {
        if now >= self.at + interval * 2 {
            self.count = 0;
        }
        if self.count == 0 || self.to < to && self.with < with {
            self.count = self.count.saturating_add(1);
            self.to = to;
            self.with = with;
            self.at = now;
        }
        self.count >= DOUBTFUL_ENOUGH
    }
}

impl VirtualHost {
    /// Whether a better MASTER has heard us, or is one that cannot answer.
    pub(super) fn is_answer(
        &mut self,
        family: Family,
        source: IpAddr,
        arrival: Instant,
        counter: u64,
        evidence: Evidence,
    ) -> bool {
        let arrival = match evidence {
            Evidence::Constant => return true,
            // Who was silent for so long has been replaced, and cannot ask that its successor heard it.
            Evidence::New if self.was_silent(family) => return true,
            Evidence::New => arrival,
            // Not what made us MASTER.
            Evidence::OtherVersion { since, .. } if since < self.reigns_since => return false,
            Evidence::OtherVersion { since, .. } => since,
            Evidence::Duplicate | Evidence::Heard | Evidence::Unrelated => return false,
        };
        let sent = self.sequence.sent_before(family, arrival);
        let is_above = sent.is_none_or(|sent| is_near_above(counter, sent))
            || self
                .asked(family)
                .any(|asked| is_near_above(counter, asked));
        let follows_bow_out = self
            .called_by
            .is_some_and(|called| called.reason == Reason::MasterWillTimeOut);
        let is_doubtful = matches!(evidence, Evidence::OtherVersion { .. })
            && !(follows_bow_out && self.better.is(family, source, self.advertised()));
        // So far above is the last word of a carpd that yields, whatever a copy of it shows.
        let yields = sent.is_some_and(|sent| {
            (LAST_LEAVES_OUT..2 * LAST_LEAVES_OUT).contains(&counter.saturating_sub(sent))
        });
        if is_doubtful && yields {
            return false;
        }
        let interval = self.interval();
        is_above && (!is_doubtful || self.doubtful.again(sent, counter, self.now, interval))
    }

    /// The counters of our last challenges. After three intervals nobody answers them any more.
    fn asked(&self, family: Family) -> impl Iterator<Item = u64> {
        let is_recent = self
            .asked_at
            .is_some_and(|at| self.now < at + self.interval() * 3);
        self.asked[family]
            .into_iter()
            .flatten()
            .filter(move |_| is_recent)
    }

    /// Whether our last advertisement is older than the time after which an equal peer takes over: we were stopped.
    fn was_silent(&self, family: Family) -> bool {
        self.now >= self.sequence.sent_at(family) + self.master_down_time()
    }

    /// Lets a MASTER that claims to be better, or equal, prove that it lives.
    ///
    /// Of two equal BSDs, which ask each other, one leaves out no counters, or neither would ever answer the other.
    pub(super) fn challenge(
        &mut self,
        family: Family,
        source: IpAddr,
        equal: bool,
        evidence: Evidence,
    ) {
        self.counters.challenges += 1;
        let is_bsd = self.settings.profile != Profile::Ucarp;
        let answers = is_bsd && equal && self.sources[family] < Some(source);
        self.leaves_out |= evidence.is_new() && !answers;
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

    /// Advertises with the next timeout, or when the pace of answers allows. True when this one causes it: what comes before
    /// that is answered together.
    pub(super) fn answer(&mut self, evidence: Evidence) -> bool {
        let pace = self.interval();
        let answers = &mut self.answers;
        if answers.since.is_none_or(|since| self.now >= since + pace) {
            *answers = Answers {
                since: Some(self.now),
                new: 0,
                repeated: 0,
                ..*answers
            };
        }
        let at = match evidence.is_new() {
            true if answers.new < NEW_AT_ONCE => self.now,
            true => self.now.max(answers.last + pace / NEW_DIVISOR),
            false if answers.repeated < REPEATED_MAX => self.now,
            false => return false,
        };
        if self
            .timers
            .get(Timer::Advertise)
            .is_some_and(|planned| planned <= at)
        {
            return false;
        }
        match evidence.is_new() {
            true => answers.new = answers.new.saturating_add(1),
            false => answers.repeated += 1,
        }
        answers.last = at;
        self.timers.set(Timer::Advertise, at);
        true
    }

    /// Leaves out counters before the next advertisement, when that is to be a challenge: once in an interval, so that the answer
    /// to an earlier one is not taken for less. Not with strict counters, which have to rise across restarts.
    pub(super) fn leave_out(&mut self) {
        let pace = self.interval();
        let wants = core::mem::take(&mut self.leaves_out) && !self.settings.strict_counter;
        if wants && self.asked_at.is_none_or(|at| self.now >= at + pace) {
            self.asked_at = Some(self.now);
            self.is_asking = true;
            // By the digest of a counter that was not sent yet, which only owners of the password know.
            let [a, b, c, d, ..] = self.authenticator.sign(self.sequence.next());
            let chance = u64::from(u32::from_be_bytes([a, b, c, d])) % JUMP;
            self.sequence.jump(JUMP + chance);
        }
    }

    /// The source is proven to live.
    pub(super) fn believe(&mut self, family: Family, origin: Origin, theirs: Priority) {
        self.last_heard = Some(origin);
        self.doubt.proven(origin.arrival);
        let Settings {
            vhid,
            advbase,
            advskew,
            ..
        } = self.settings;
        let is_bsd = origin.ethernet_source == [0, 0, 0x5e, 0, 1, vhid.get()];
        self.bsd_patience[family] = match (is_bsd, theirs.advbase, advbase) {
            (true, AdvBase(0), AdvBase(0)) => {
                BSD_TICKS + Priority { advbase, advskew }.interval() * 3
            }
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
    /// heard. The first is the genuine one, unless one like it has misled us lately: or whoever hears a bow-out could call it
    /// back with a copy. Then neither decides anything.
    pub(super) fn hear_another_version(&mut self, family: Family, since: Instant) {
        for called in [&mut self.take_over, &mut self.called_by] {
            if let Some(called) = called
                && called.cause.arrival == since
            {
                called.is_doubtful = true;
            }
        }
        if self.state != State::Backup {
            return;
        }
        self.call_off(|planned| planned.cause.arrival == since);
        if self
            .take_over
            .is_none_or(|planned| planned.cause.arrival != since)
        {
            self.listen(family, since);
        }
    }

    /// Another word of somebody that a takeover is planned for, after one that was altered on its way has misled us.
    pub(super) fn call_off(&mut self, caused: impl FnOnce(&mut super::Planned) -> bool) {
        if self.suspicion() > Duration::ZERO && self.take_over.take_if(caused).is_some() {
            self.timers.clear(Timer::TakeOver);
        }
    }

    /// We yield to somebody better. That may show that what made us MASTER was altered on its way: two versions of it were heard,
    /// and he who sent it is still there. Or he was started again, and the second version was somebody's copy; that does not
    /// happen twice in a minute.
    pub(super) fn find_out_if_misled(&mut self, evidence: Evidence) {
        let is_sure = matches!(evidence, Evidence::OtherVersion { .. });
        // A ucarp answers with its next advertisement.
        let soon = self.reigns_since + self.interval() * 3 / 2;
        let seems = self.now < soon && self.called_by.is_some_and(|called| called.is_doubtful);
        if !(is_sure || seems) {
            return;
        }
        let before = self.seemed_at.replace(self.now);
        if is_sure || before.is_some_and(|at| self.now < at + SUSPICION) {
            self.misled_at = Some(self.now);
        }
    }

    /// How much longer a takeover waits that an advertisement calls for, after one has misled us: for the other version.
    pub(super) fn suspicion(&self) -> Duration {
        match self.misled_at {
            Some(at) if self.now < at + SUSPICION => (self.interval() / 4).min(SUSPENSE),
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
            Evidence::Heard
            | Evidence::Unrelated
            | Evidence::OtherVersion {
                same_source: false, ..
            } => self.counters.dropped_unproven += 1,
            Evidence::OtherVersion {
                same_source: true, ..
            } => {
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
