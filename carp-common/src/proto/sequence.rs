//! The replay counters that we send.

use super::per_family::PerFamily;
use crate::time::Instant;
use crate::units::Family;

/// Counters at the end that are never left out. Who has a ucarp's advertisements, drawn by chance, can lead us close to the end,
/// and make us ask again and again; these last for a thousand years at a thousand advertisements a second.
const RESERVE: u64 = 1 << 50;

/// The counters we send, and the highest heard and sent so far.
///
/// We send more than the highest of all counters heard or sent, and so never one twice. ucarp and FreeBSD go on with
/// whatever they hear: while it is ours, they do not come back to counters of their own that we remember, which would look
/// like a recording. Plain numbers, without wrapping: what others start with is random, and in the order of sequence numbers a
/// few of those would lead us once around the circle.
#[derive(Clone, Copy, Debug)]
pub struct CounterSequence {
    next: u64,
    /// Nothing was sent or followed yet.
    is_fresh: bool,
    heard: PerFamily<Option<u64>>,
    sent: PerFamily<SentCounters>,
}

/// The highest counters that we sent in one family: now, and before the last time.
#[derive(Clone, Copy, Debug, Default)]
struct SentCounters {
    last: Option<u64>,
    at: Instant,
    before: Option<u64>,
    /// What `last` and `at` were before it.
    previous: Option<u64>,
    previous_at: Instant,
}

impl CounterSequence {
    /// The first counter to send.
    #[must_use]
    pub fn new(initial: u64) -> Self {
        Self {
            next: initial,
            is_fresh: true,
            heard: PerFamily::default(),
            sent: PerFamily::default(),
        }
    }

    /// The counter of the advertisement that is sent at `now`. Leaves out `stride` counters.
    pub fn send(&mut self, family: Family, stride: u64, now: Instant) -> u64 {
        self.is_fresh = false;
        let counter = self.next.saturating_add(stride);
        self.go_beyond(counter);
        let sent = &mut self.sent[family];
        let before = if now > sent.at {
            sent.last
        } else {
            sent.before
        };
        *sent = SentCounters {
            last: sent.last.max(Some(counter)),
            at: now,
            before,
            previous: sent.last,
            previous_at: sent.at,
        };
        counter
    }

    /// The last one in this family did not leave.
    pub fn unsend(&mut self, family: Family) {
        let sent = &mut self.sent[family];
        sent.last = sent.previous;
        sent.at = sent.previous_at;
    }

    /// A peer's counter that proves something. As long as we have sent nothing we go on with the first of them, also downwards:
    /// then the MASTER finds ours near its own, whichever of us was started first.
    pub fn follow(&mut self, counter: u64) {
        if self.is_fresh
            && let Some(above) = counter.checked_add(1)
        {
            self.next = above;
            self.is_fresh = false;
        }
    }

    /// An authentic counter was heard.
    pub fn observe(&mut self, family: Family, counter: u64) {
        self.heard[family] = self.heard[family].max(Some(counter));
        self.go_beyond(counter);
    }

    /// Sends nothing below this one any more. The very last number is nothing to go on with.
    pub fn go_beyond(&mut self, counter: u64) {
        if let Some(above) = counter.checked_add(1) {
            self.next = self.next.max(above);
        }
    }

    /// Goes on with `counter`, if that is above what is sent next.
    pub fn go_on_with(&mut self, counter: u64) {
        self.is_fresh = false;
        self.next = self.next.max(counter);
    }

    /// Leaves out `counters`, as long as enough are left.
    pub fn jump(&mut self, counters: u64) {
        let end = u64::MAX - RESERVE;
        self.next = self.next.max(end.min(self.next.saturating_add(counters)));
    }

    /// The counter that is sent next, where none is left out.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The highest counter that we sent in that family before `arrival`. What waited in our queue while we sent something
    /// could not know of that.
    #[must_use]
    pub fn sent_before(&self, family: Family, arrival: Instant) -> Option<u64> {
        let sent = self.sent[family];
        if arrival > sent.at {
            sent.last
        } else {
            sent.before
        }
    }

    /// When we last sent in that family.
    #[must_use]
    pub fn sent_at(&self, family: Family) -> Instant {
        self.sent[family].at
    }

    /// Whether the counter is above everything heard in that family, and everything sent before it arrived: each family
    /// travels its own way, so the two may overtake each other.
    #[must_use]
    pub fn rises(&self, family: Family, counter: u64, arrival: Instant) -> bool {
        Some(counter) > self.heard[family].max(self.sent_before(family, arrival))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn counters_rise_from_the_initial_one_and_over_everything_heard() {
        let mut sequence = CounterSequence::new(100);
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), 100);
        assert_eq!(sequence.send(Family::Inet6, 0, at(1)), 101);
        sequence.observe(Family::Inet, 50);
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), 102);
        sequence.observe(Family::Inet, 103);
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), 104);
        sequence.observe(Family::Inet6, 1000);
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), 1001);
        assert_eq!(sequence.send(Family::Inet, 5, at(1)), 1007);
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), 1008);
    }

    #[test]
    fn random_counters_of_others_never_lead_back() {
        let mut sequence = CounterSequence::new(100);
        let mut last = 0;
        for heard in [
            7,
            u64::MAX / 3,
            u64::MAX / 3 * 2,
            8,
            u64::MAX - 10,
            9,
            u64::MAX,
        ] {
            sequence.observe(Family::Inet, heard);
            let sent = sequence.send(Family::Inet, 0, at(1));
            assert!(sent > last, "{sent} after {last}");
            last = sent;
        }
        assert!(!sequence.rises(Family::Inet, u64::MAX, at(2)));
    }

    #[test]
    fn whoever_makes_us_leave_out_counters_does_not_use_them_up() {
        let mut sequence = CounterSequence::new(100);
        sequence.jump(1 << 28);
        assert_eq!(sequence.next(), (1 << 28) + 100);
        sequence.observe(Family::Inet, u64::MAX - 2 * RESERVE);
        for _ in 0..1 << 24 {
            sequence.jump(1 << 28);
        }
        assert_eq!(sequence.next(), u64::MAX - RESERVE);
        sequence.observe(Family::Inet, u64::MAX - RESERVE / 2);
        sequence.jump(1 << 28);
        let next = u64::MAX - RESERVE / 2 + 1;
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), next);
    }

    #[test]
    fn a_counter_rises_over_what_was_heard_and_sent_in_its_family() {
        let mut sequence = CounterSequence::new(100);
        assert!(
            sequence.rises(Family::Inet, 7, at(2)),
            "nothing is known yet"
        );
        sequence.observe(Family::Inet, 7);
        assert!(!sequence.rises(Family::Inet, 7, at(2)));
        assert!(sequence.rises(Family::Inet, 8, at(2)));
        assert!(sequence.rises(Family::Inet6, 7, at(2)));
        assert_eq!(sequence.send(Family::Inet, 0, at(1)), 100);
        assert!(!sequence.rises(Family::Inet, 100, at(2)));
        assert!(sequence.rises(Family::Inet, 101, at(2)));
        assert!(sequence.rises(Family::Inet6, 100, at(2)));
    }

    #[test]
    fn what_was_in_our_queue_when_we_sent_need_not_rise_above_that() {
        let mut sequence = CounterSequence::new(100);
        sequence.observe(Family::Inet, 40);
        let mut earlier = 40;
        for second in 1..5 {
            let now = at(1000 * second);
            let sent = [(); 2].map(|()| sequence.send(Family::Inet, 10, now))[1];
            assert!(!sequence.rises(Family::Inet, earlier, now));
            assert!(sequence.rises(Family::Inet, earlier + 1, now));
            assert!(!sequence.rises(Family::Inet, sent, at(1000 * second + 1)));
            earlier = sent;
        }
        assert!(!sequence.rises(Family::Inet, 40, at(0)));
    }
}
