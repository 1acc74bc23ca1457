//! The replay counters that we send.

use super::per_family::PerFamily;
use crate::time::Instant;
use crate::units::Family;

/// Counters at the end of the range that are never left out. A ucarp draws its counters at random, so an attacker with
/// recordings of one can lead us close to the end, and can make us ask again and again. The reserve lasts for a thousand years
/// at a thousand advertisements a second.
const RESERVE: u64 = 1 << 50;

/// The counters we send, and the highest heard and sent so far.
///
/// Each counter that we send is above all that were heard or sent before, so none is sent twice. ucarp and FreeBSD go on with
/// the counter that they heard last. While that is ours, they do not come back to counters of their own that we remember, which
/// would look like a recording. The numbers do not wrap: other hosts start at random, and with sequence numbers that wrap a few
/// such starts would lead us once around the circle.
#[derive(Clone, Copy, Debug)]
pub struct CounterSequence {
    next: u64,
    /// No counter was sent or followed yet.
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
    /// The values of `last` and `at` before it.
    previous: Option<u64>,
    previous_at: Instant,
}

impl CounterSequence {
    /// Creates a sequence that begins with `initial`.
    #[must_use]
    pub fn new(initial: u64) -> Self {
        Self {
            next: initial,
            is_fresh: true,
            heard: PerFamily::default(),
            sent: PerFamily::default(),
        }
    }

    /// Returns the counter of an advertisement that is sent at `now`, and leaves out `stride` counters before it.
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

    /// Takes back the last counter of this family: the advertisement was not sent.
    pub fn unsend(&mut self, family: Family) {
        let sent = &mut self.sent[family];
        sent.last = sent.previous;
        sent.at = sent.previous_at;
    }

    /// Goes on with a peer's counter that is proof, even downwards, as long as we have sent nothing. Then the MASTER finds our
    /// counters near its own, whichever of us was started first.
    pub fn follow(&mut self, counter: u64) {
        if self.is_fresh
            && let Some(above) = counter.checked_add(1)
        {
            self.next = above;
            self.is_fresh = false;
        }
    }

    /// Takes note of an authentic counter that was heard.
    pub fn observe(&mut self, family: Family, counter: u64) {
        self.heard[family] = self.heard[family].max(Some(counter));
        self.go_beyond(counter);
    }

    /// Sends only counters above this one from now on. The very last number is ignored, because none is above it.
    pub fn go_beyond(&mut self, counter: u64) {
        if let Some(above) = counter.checked_add(1) {
            self.next = self.next.max(above);
        }
    }

    /// Goes on with `counter`, if it is above the next one.
    pub fn go_on_with(&mut self, counter: u64) {
        self.is_fresh = false;
        self.next = self.next.max(counter);
    }

    /// Leaves out `counters`, as long as enough are left.
    pub fn jump(&mut self, counters: u64) {
        let end = u64::MAX - RESERVE;
        self.next = self.next.max(end.min(self.next.saturating_add(counters)));
    }

    /// Returns the next counter, if none is left out before it.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the highest counter that we sent in that family before `arrival`. The sender of an advertisement that waited in
    /// our queue had not heard what we sent meanwhile.
    #[must_use]
    pub fn sent_before(&self, family: Family, arrival: Instant) -> Option<u64> {
        let sent = self.sent[family];
        if arrival > sent.at {
            sent.last
        } else {
            sent.before
        }
    }

    /// Returns when we last sent in that family.
    #[must_use]
    pub fn sent_at(&self, family: Family) -> Instant {
        self.sent[family].at
    }

    /// Returns whether the counter is above all that were heard in that family, and all that were sent in it before it arrived.
    /// The families are separate because their packets can overtake each other.
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
    fn an_advertisement_in_our_queue_when_we_sent_need_not_rise_above_our_counter() {
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
