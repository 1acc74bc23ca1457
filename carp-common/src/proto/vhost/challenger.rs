//! The challenges of a MASTER to hosts that claim to be better, and the answers that count.
//!
//! A MASTER yields to a counter near above its own last one. Only a host that heard that one can know such a counter, or a host
//! that counted farther while the network was divided. To any other counter the MASTER advertises at once. A living MASTER
//! takes our counter and goes on above it: a carpd at once, ucarp and FreeBSD with their next advertisement. A recording never
//! does. Before the answer to a counter that was never heard, the MASTER leaves out more counters than any host ever sent in a
//! row. Their number looks random to a stranger, so that a whole recorded run is not an answer either.

use super::context::CoreContext;
use super::history::History;
use super::receive::Received;
use super::speaker::Speaker;
use super::suspicion::Reign;
use crate::proto::better::BetterMaster;
use crate::proto::evidence::Evidence;
use crate::proto::heard::{LAST_LEAVES_OUT, is_near_above};
use crate::proto::per_family::PerFamily;
use crate::proto::{FAMILIES, Notice};
use crate::time::{Duration, Instant};
use crate::units::{Family, Profile};

/// Fewest counters that are left out before a challenge; chance adds up to as many again. A host that advertises once a second
/// has sent so many after a hundred days. It is 134 to 268 ms of the clock that the first counter comes from.
const JUMP: u64 = 1 << 27;
/// Answers in two versions after which the better version counts.
const DOUBTFUL_ENOUGH: u8 = 3;
/// Challenges without an answer before a notice.
const UNANSWERED_MAX: u8 = 3;

/// The challenges of a MASTER.
#[derive(Debug, Default)]
pub(super) struct Challenger {
    /// Whether the next advertisement is a challenge that no recorded run may answer.
    leaves_out: bool,
    /// The counters of the last two challenges. The answer to the first may come after the second was sent.
    asked: PerFamily<[Option<u64>; 2]>,
    /// The time at which the last one was sent.
    asked_at: Option<Instant>,
    /// Challenges since we became MASTER.
    unanswered: u8,
    doubtful: Doubtful,
}

/// Answers that were heard in two versions, one better than we are and one worse, each to another advertisement of ours.
///
/// A host that yields advertises a worse priority once or twice, with a counter above ours, and an attacker can send that again
/// with a better priority. A host that goes on answering is better, and its answers are altered on their way, so that the
/// genuine ones come second. If we followed a bow-out of a better MASTER, its first answer is enough, because the bow-out
/// was altered.
#[derive(Clone, Copy, Debug, Default)]
struct Doubtful {
    count: u8,
    /// The last counter of ours that was answered, and the counter of the answer.
    to: Option<u64>,
    with: u64,
    at: Instant,
}

impl Doubtful {
    /// Counts an answer with this counter, in two versions, to that one of ours. Returns whether there were enough of them
    /// within twice our interval each.
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

impl Challenger {
    /// Forgets its questions: the host enters another state.
    pub(super) fn stop(&mut self) {
        self.leaves_out = false;
        self.asked = PerFamily::default();
        self.asked_at = None;
        self.unanswered = 0;
    }

    /// Makes a challenge of the next advertisement.
    pub(super) fn ask(&mut self) {
        self.leaves_out = true;
    }

    /// Returns whether a better MASTER has heard us, or is one that cannot answer.
    pub(super) fn is_answer(
        &mut self,
        cx: &CoreContext,
        history: &History,
        received: &Received,
        reign: &Reign,
        better: &BetterMaster,
    ) -> bool {
        let Received {
            family,
            origin,
            counter,
            evidence,
            ..
        } = *received;
        let sequence = &history.sequence;
        let arrival = match evidence {
            Evidence::Constant => return true,
            // A host that was silent for so long has been replaced, and its successor may not have heard it.
            Evidence::New if cx.now >= sequence.sent_at(family) + cx.master_down_time() => {
                return true;
            }
            Evidence::New => origin.arrival,
            // The advertisement that made us MASTER does not count as an answer.
            Evidence::OtherVersion { since, .. } if since < reign.since => return false,
            Evidence::OtherVersion { since, .. } => since,
            Evidence::Duplicate | Evidence::Heard | Evidence::Unrelated => return false,
        };
        let sent = sequence.sent_before(family, arrival);
        let is_above = sent.is_none_or(|sent| is_near_above(counter, sent))
            || self
                .asked(cx, family)
                .any(|asked| is_near_above(counter, asked));
        let is_doubtful = matches!(evidence, Evidence::OtherVersion { .. })
            && !(reign.follows_bow_out() && better.is(family, origin.source, cx.advertised()));
        // A counter so far above ours is that of the last advertisement of a carpd that yields, whatever a copy of it shows.
        let yields = sent.is_some_and(|sent| {
            (LAST_LEAVES_OUT..2 * LAST_LEAVES_OUT).contains(&counter.saturating_sub(sent))
        });
        if is_doubtful && yields {
            return false;
        }
        let interval = cx.interval();
        is_above && (!is_doubtful || self.doubtful.again(sent, counter, cx.now, interval))
    }

    /// Returns the counters of our last challenges. After three intervals nobody answers them any more.
    fn asked(&self, cx: &CoreContext, family: Family) -> impl Iterator<Item = u64> {
        let is_recent = self
            .asked_at
            .is_some_and(|at| cx.now < at + cx.interval() * 3);
        self.asked[family]
            .into_iter()
            .flatten()
            .filter(move |_| is_recent)
    }

    /// Challenges a MASTER that claims to be better, or equal, to prove that it lives.
    ///
    /// If two equal hosts with a BSD profile ask each other, one of them leaves out no counters. Otherwise neither would
    /// ever answer the other.
    pub(super) fn challenge(
        &mut self,
        cx: &mut CoreContext,
        speaker: &mut Speaker,
        received: &Received,
        equal: bool,
    ) {
        let source = received.origin.source;
        cx.counters.challenges += 1;
        let is_bsd = cx.settings.profile != Profile::Ucarp;
        let answers = is_bsd && equal && cx.sources[received.family] < Some(source);
        self.leaves_out |= received.evidence.is_new() && !answers;
        if speaker.answer(cx, received.evidence) {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        if self.unanswered > UNANSWERED_MAX {
            cx.notify(
                |limits| &mut limits.unanswered,
                |suppressed| Notice::Unanswered { source, suppressed },
            );
        }
    }

    /// Leaves out counters before the next advertisement if that is to be a challenge, and returns whether it is. There is one
    /// challenge in an interval at most, so that the answer to an earlier one still counts. With strict counters there is none,
    /// because those have to rise across restarts.
    pub(super) fn leave_out(&mut self, cx: &CoreContext, history: &mut History) -> bool {
        let pace = cx.interval();
        let wants = core::mem::take(&mut self.leaves_out) && !cx.settings.strict_counter;
        let asks = wants && self.asked_at.is_none_or(|at| cx.now >= at + pace);
        if asks {
            self.asked_at = Some(cx.now);
            // The number comes from the digest of a counter that was not sent yet, which only owners of the password know.
            let [a, b, c, d, ..] = cx.authenticator.sign(history.sequence.next());
            let chance = u64::from(u32::from_be_bytes([a, b, c, d])) % JUMP;
            history.sequence.jump(JUMP + chance);
        }
        asks
    }

    /// A challenge was sent with these counters.
    pub(super) fn asked_with(&mut self, sent: PerFamily<Option<u64>>) {
        for family in FAMILIES {
            if let Some(counter) = sent[family] {
                let [last, _] = self.asked[family];
                self.asked[family] = [Some(counter), last];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, heard_at, millis, settings};
    use super::*;
    use crate::proto::election::Advertiser;
    use crate::units::{Demotion, Priority};

    fn received(cx: &CoreContext, counter: u64, evidence: Evidence) -> Received {
        Received {
            family: Family::Inet,
            origin: heard_at(cx.now),
            theirs: Advertiser {
                priority: Priority::BOW_OUT,
                demotion: Demotion::NONE,
            },
            counter,
            evidence,
        }
    }

    /// A MASTER that has just sent a counter.
    struct Master {
        cx: CoreContext,
        history: History,
        challenger: Challenger,
        sent: u64,
    }

    impl Master {
        fn new() -> Self {
            let mut cx = context(settings(Profile::Ucarp));
            let mut history = History::new(1000);
            let sent = history.send(&cx, Family::Inet);
            cx.begin(cx.now + millis(10));
            Self {
                cx,
                history,
                challenger: Challenger::default(),
                sent,
            }
        }

        fn believes(&mut self, counter: u64, evidence: Evidence) -> bool {
            let received = received(&self.cx, counter, evidence);
            let reign = Reign {
                since: Instant::ZERO,
                called_by: None,
            };
            let better = BetterMaster::default();
            self.challenger
                .is_answer(&self.cx, &self.history, &received, &reign, &better)
        }
    }

    #[test]
    fn only_a_new_counter_near_above_ours_is_an_answer() {
        let mut master = Master::new();
        let sent = master.sent;
        assert!(master.believes(sent + 1, Evidence::New));
        assert!(!master.believes(sent, Evidence::New));
        assert!(!master.believes(sent + (1 << 30), Evidence::New));
        assert!(!master.believes(sent + 1, Evidence::Heard));
        assert!(!master.believes(sent + 1, Evidence::Unrelated));
        assert!(!master.believes(sent + 1, Evidence::Duplicate));
        assert!(master.believes(7, Evidence::Constant), "it cannot answer");
    }

    #[test]
    fn a_host_that_was_silent_for_a_master_down_time_believes_its_successor() {
        let mut master = Master::new();
        assert!(!master.believes(7, Evidence::New));
        master
            .cx
            .begin(master.cx.now + master.cx.master_down_time());
        assert!(master.believes(7, Evidence::New));
    }

    #[test]
    fn a_challenge_leaves_out_more_than_a_recorded_run_and_only_once_in_an_interval() {
        let mut master = Master::new();
        let next = master.history.sequence.next();
        master.challenger.ask();
        assert!(master.challenger.leave_out(&master.cx, &mut master.history));
        assert!(master.history.sequence.next() >= next + JUMP);
        assert!(!master.challenger.leave_out(&master.cx, &mut master.history));
        master.challenger.ask();
        assert!(!master.challenger.leave_out(&master.cx, &mut master.history));
        master.cx.begin(master.cx.now + master.cx.interval());
        master.challenger.ask();
        assert!(master.challenger.leave_out(&master.cx, &mut master.history));
    }

    #[test]
    fn the_answer_to_one_of_the_last_two_challenges_counts_for_three_intervals() {
        let mut master = Master::new();
        for counter in [1 << 40, 1 << 41, 1 << 42] {
            master.challenger.asked_at = Some(master.cx.now);
            let mut sent = PerFamily::default();
            sent[Family::Inet] = Some(counter);
            master.challenger.asked_with(sent);
        }
        let answers = [40, 41, 42].map(|bits| master.believes((1 << bits) + 1, Evidence::New));
        assert_eq!(answers, [false, true, true]);
        master.challenger.asked_at = Some(Instant::ZERO);
        assert!(!master.believes((1 << 42) + 1, Evidence::New));
    }

    #[test]
    fn the_third_doubtful_answer_counts_and_copies_do_not() {
        let interval = Duration::from_secs(1);
        let at = |second: u64| Instant::ZERO + Duration::from_secs(second);
        let mut doubtful = Doubtful::default();
        assert!(!doubtful.again(Some(10), 11, at(1), interval));
        for _ in 0..9 {
            assert!(!doubtful.again(Some(10), 12, at(1), interval), "a copy");
            assert!(!doubtful.again(Some(20), 11, at(1), interval), "a copy");
        }
        assert!(!doubtful.again(Some(20), 21, at(2), interval));
        assert!(doubtful.again(Some(30), 31, at(3), interval));
        assert!(!doubtful.again(Some(40), 41, at(5), interval), "too late");
    }
}
