//! The times at which a MASTER advertises, and the content of its advertisements.

use super::context::CoreContext;
use super::history::History;
use crate::proto::evidence::Evidence;
use crate::proto::heard::LAST_LEAVES_OUT;
use crate::proto::per_family::PerFamily;
use crate::proto::send_errors::{Change, SendErrors};
use crate::proto::{Action, SendOutcome};
use crate::time::{Duration, Instant};
use crate::units::{Family, Priority};
use crate::wire::advertisement::{Advertisement, HEADER_LEN};

/// Advertisements of one interval that answer a new counter at once: a host may live that knows nothing of us. More of them
/// come an eighth of our interval apart. Our interval may be far longer than that host's; and many MASTERs that answered each
/// other at once would have sent everything before any of them heard it.
const NEW_AT_ONCE: u8 = 4;
const NEW_DIVISOR: u32 = 8;
/// Advertisements of one interval that answer all other counters, which a recording can repeat.
const REPEATED_MAX: u8 = 2;

/// The next advertisement, and the outcome of those before.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    /// The time at which the next advertisement is due.
    next_at: Option<Instant>,
    /// Time for which the last advertisement keeps us MASTER. A later end of a demotion, for example when sending
    /// succeeds again, makes the interval shorter, but the next advertisement is due at the time that this one has announced.
    pub(super) lasts: Duration,
    answers: Answers,
    pub(super) send_errors: SendErrors,
}

/// Advertisements that answered something in one interval.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    since: Option<Instant>,
    new: u8,
    repeated: u8,
    /// The time at which the last one was due, or is due.
    last: Instant,
}

impl Speaker {
    /// Returns when the next advertisement is due.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next_at
    }

    /// Plans no more advertisements: the host enters another state.
    pub(super) fn stop(&mut self) {
        self.next_at = None;
    }

    /// Advertises in every family that we take part in, and again one interval later. Returns the counters.
    pub(super) fn advertise(
        &mut self,
        cx: &mut CoreContext,
        history: &mut History,
    ) -> PerFamily<Option<u64>> {
        self.next_at = Some(cx.now + cx.interval());
        self.lasts = cx.lasting().advertisement;
        send(cx, history, cx.advertised())
    }

    /// Returns when the advertisement that is due should have been sent.
    pub(super) fn take_due(&mut self, cx: &CoreContext) -> Option<Instant> {
        self.next_at.take_if(|at| *at <= cx.now)
    }

    /// Keeps the rhythm after an advertisement that was due at `due`, unless we are so late that the next one is due as well.
    pub(super) fn keep_rhythm(&mut self, cx: &CoreContext, due: Instant) {
        let in_rhythm = due + cx.interval();
        if in_rhythm > cx.now {
            self.next_at = Some(in_rhythm);
        }
    }

    /// Advertises with the next timeout, or when the pace of answers allows. Returns whether this call causes it:
    /// advertisements that come before the answer are answered together. It is not done at once, because a better MASTER
    /// may be waiting in the same queue.
    pub(super) fn answer(&mut self, cx: &CoreContext, evidence: Evidence) -> bool {
        let pace = cx.interval();
        let answers = &mut self.answers;
        if answers.since.is_none_or(|since| cx.now >= since + pace) {
            *answers = Answers {
                since: Some(cx.now),
                new: 0,
                repeated: 0,
                ..*answers
            };
        }
        let at = match evidence.is_new() {
            true if answers.new < NEW_AT_ONCE => cx.now,
            true => cx.now.max(answers.last + pace / NEW_DIVISOR),
            false if answers.repeated < REPEATED_MAX => cx.now,
            false => return false,
        };
        if self.next_at.is_some_and(|planned| planned <= at) {
            return false;
        }
        match evidence.is_new() {
            true => answers.new = answers.new.saturating_add(1),
            false => answers.repeated += 1,
        }
        answers.last = at;
        self.next_at = Some(at);
        true
    }

    /// Takes note of the outcome of an advertisement. Returns whether that changes our demotion.
    pub(super) fn completed(
        &mut self,
        cx: &mut CoreContext,
        history: &mut History,
        family: Family,
        outcome: SendOutcome,
    ) -> Change {
        let counters = &mut cx.counters;
        let counter = match (outcome, family) {
            (SendOutcome::Sent, Family::Inet) => &mut counters.sent_inet_packets,
            (SendOutcome::Sent, Family::Inet6) => &mut counters.sent_inet6_packets,
            (SendOutcome::NoMemory, _) => &mut counters.send_failed_memory_error,
            (SendOutcome::Failed, _) => &mut counters.send_failed,
        };
        *counter += 1;
        let failed = outcome != SendOutcome::Sent;
        if failed {
            history.unsend(family);
        }
        self.send_errors.record(family, failed)
    }
}

/// Sends the last advertisement of a MASTER that leaves: another host is to take over, at once. A peer that we did not hear
/// may have used our next counter, and would take it for its own sent again.
pub(super) fn bow_out(cx: &mut CoreContext, history: &mut History) {
    history.sequence.jump(LAST_LEAVES_OUT);
    send(cx, history, Priority::BOW_OUT);
}

/// Sends the last advertisement of a MASTER that yields, as ucarp does: the winner hears that another host was MASTER, and
/// announces the addresses again.
///
/// It has our true priority, as ucarp's: one step worse would make a third host that preempts take over from it. It may be
/// lost, and a ucarp, FreeBSD or NetBSD that counts on below it must not come to this counter, which looks like ours sent
/// again.
pub(super) fn last_word(cx: &mut CoreContext, history: &mut History) {
    history.sequence.jump(LAST_LEAVES_OUT);
    send(cx, history, cx.advertised());
}

fn send(cx: &mut CoreContext, history: &mut History, priority: Priority) -> PerFamily<Option<u64>> {
    let demotion = cx.ours().demotion;
    let mut counters = PerFamily::default();
    for family in cx.active_families() {
        let counter = history.send(cx, family);
        counters[family] = Some(counter);
        let advertisement = Advertisement {
            vhid: cx.settings.vhid,
            advskew: priority.advskew,
            demotion,
            advbase: priority.advbase,
            counter,
            digest: cx.authenticator.sign(counter),
        };
        let mut payload = [0; HEADER_LEN];
        advertisement.emit(&mut payload);
        cx.act(Action::SendAdvertisement { family, payload });
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, settings};
    use super::*;
    use crate::units::Profile;

    /// Asks for so many answers, sends each when it is due, and returns how late that was, in eighths of the interval.
    fn answers(
        speaker: &mut Speaker,
        cx: &mut CoreContext,
        evidence: Evidence,
    ) -> [Option<u128>; 7] {
        let begin = cx.now;
        [(); 7].map(|()| {
            speaker.stop();
            speaker.answer(cx, evidence).then(|| {
                cx.begin(speaker.next().expect("it is planned"));
                let late = cx.now.saturating_duration_since(begin);
                late.as_nanos() / (cx.interval() / NEW_DIVISOR).as_nanos()
            })
        })
    }

    #[test]
    fn four_new_counters_are_answered_at_once_and_then_one_each_eighth_of_an_interval() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut speaker = Speaker::default();
        let late = answers(&mut speaker, &mut cx, Evidence::New);
        assert_eq!(late, [0, 0, 0, 0, 1, 2, 3].map(Some));
    }

    #[test]
    fn a_counter_that_a_recording_can_repeat_is_answered_twice_in_an_interval() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut speaker = Speaker::default();
        for _ in 0..2 {
            let late = answers(&mut speaker, &mut cx, Evidence::Heard);
            assert_eq!(late, [Some(0), Some(0), None, None, None, None, None]);
            cx.begin(cx.now + cx.interval());
        }
    }

    #[test]
    fn advertisements_before_an_answer_are_answered_together() {
        let cx = context(settings(Profile::Ucarp));
        let mut speaker = Speaker::default();
        assert!(speaker.answer(&cx, Evidence::New));
        assert!(!speaker.answer(&cx, Evidence::New));
        assert_eq!(speaker.next(), Some(cx.now));
    }

    #[test]
    fn the_rhythm_is_kept_unless_the_next_one_is_due_as_well() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut speaker = Speaker::default();
        let mut history = History::new(7);
        speaker.advertise(&mut cx, &mut history);
        let due = speaker.next().expect("the next one");
        for (late, in_rhythm) in [(Duration::from_millis(9), true), (cx.interval(), false)] {
            cx.begin(due + late);
            speaker.advertise(&mut cx, &mut history);
            speaker.keep_rhythm(&cx, due);
            let next = if in_rhythm { due } else { cx.now };
            assert_eq!(speaker.next(), Some(next + cx.interval()));
        }
    }
}
