//! The replay counters we send, and those that rise above what was heard.

use super::per_family::PerFamily;
use crate::time::Instant;
use crate::units::Family;

/// The counters we send, and the highest seen so far.
///
/// We send more than the highest of all counters heard or sent, and so never one twice. ucarp and FreeBSD go on with
/// whatever they hear: while it is ours, they do not come back to counters of their own that we remember, which would look
/// like tampering. Plain numbers, without wrapping: what others start with is random, and in the order of sequence numbers a
/// few of those would lead us once around the circle.
#[derive(Clone, Copy, Debug)]
pub struct CounterSequence {
    next: u64,
    highest: PerFamily<Highest>,
}

/// The highest counters of one family.
#[derive(Clone, Copy, Debug)]
struct Highest {
    /// Of all that were heard or sent.
    known: Option<u64>,
    /// The same without what we sent at `sent_at`.
    before_sent: Option<u64>,
    /// When we last sent.
    sent_at: Instant,
}

impl Default for Highest {
    fn default() -> Self {
        Self {
            known: None,
            before_sent: None,
            sent_at: Instant::ZERO,
        }
    }
}

impl CounterSequence {
    /// The first counter to send.
    #[must_use]
    pub fn new(initial: u64) -> Self {
        Self {
            next: initial,
            highest: PerFamily::default(),
        }
    }

    /// The counter of the advertisement that is sent now. Leaves out `stride` counters.
    pub fn send(&mut self, now: Instant, family: Family, stride: u64) -> u64 {
        let counter = self.next.saturating_add(stride);
        let highest = &mut self.highest[family];
        if now > highest.sent_at {
            highest.before_sent = highest.known;
            highest.sent_at = now;
        }
        highest.known = highest.known.max(Some(counter));
        self.go_on_above(counter);
        counter
    }

    /// An authentic counter was heard.
    pub fn observe(&mut self, family: Family, counter: u64) {
        let highest = &mut self.highest[family];
        highest.known = highest.known.max(Some(counter));
        highest.before_sent = highest.before_sent.max(Some(counter));
        self.go_on_above(counter);
    }

    /// The very last number is nothing to go on with.
    fn go_on_above(&mut self, counter: u64) {
        if let Some(above) = counter.checked_add(1) {
            self.next = self.next.max(above);
        }
    }

    /// Whether the counter of an advertisement that arrived then is above everything heard or sent in that family before:
    /// each travels its own way, so the two may overtake each other.
    ///
    /// What was sent after its arrival does not count. A MASTER that was stopped finds a queue of a better one's
    /// advertisements, and sends its last one when it has heard the first of them; the others are as fresh as that one.
    #[must_use]
    pub fn rises(&self, family: Family, counter: u64, arrival: Instant) -> bool {
        let highest = self.highest[family];
        let before = if arrival < highest.sent_at {
            highest.before_sent
        } else {
            highest.known
        };
        Some(counter) > before
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
        assert_eq!(sequence.send(at(1), Family::Inet, 0), 100);
        assert_eq!(sequence.send(at(1), Family::Inet6, 0), 101);
        sequence.observe(Family::Inet, 50);
        assert_eq!(sequence.send(at(1), Family::Inet, 0), 102);
        sequence.observe(Family::Inet, 103);
        assert_eq!(sequence.send(at(1), Family::Inet, 0), 104);
        sequence.observe(Family::Inet6, 1000);
        assert_eq!(sequence.send(at(1), Family::Inet, 0), 1001);
        assert_eq!(sequence.send(at(1), Family::Inet, 5), 1007);
        assert_eq!(sequence.send(at(1), Family::Inet, 0), 1008);
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
            let sent = sequence.send(at(1), Family::Inet, 0);
            assert!(sent > last, "{sent} after {last}");
            last = sent;
        }
        assert!(!sequence.rises(Family::Inet, u64::MAX, at(1)));
    }

    #[test]
    fn what_was_sent_after_an_arrival_does_not_use_up_its_counter() {
        let mut sequence = CounterSequence::new(100);
        sequence.observe(Family::Inet, 7);
        assert_eq!(sequence.send(at(2), Family::Inet, 0), 100);
        assert!(sequence.rises(Family::Inet, 8, at(1)));
        assert!(!sequence.rises(Family::Inet, 7, at(1)), "heard before");
        assert!(!sequence.rises(Family::Inet, 8, at(2)));
        sequence.observe(Family::Inet, 8);
        assert!(!sequence.rises(Family::Inet, 8, at(1)));
        assert_eq!(sequence.send(at(2), Family::Inet, 0), 101);
        assert!(sequence.rises(Family::Inet, 9, at(1)), "sent at once");
        assert_eq!(sequence.send(at(3), Family::Inet, 0), 102);
        assert!(!sequence.rises(Family::Inet, 9, at(2)));
    }

    #[test]
    fn a_counter_rises_over_what_was_heard_and_sent_in_its_family() {
        let mut sequence = CounterSequence::new(100);
        assert!(
            sequence.rises(Family::Inet, 7, at(1)),
            "nothing is known yet"
        );
        sequence.observe(Family::Inet, 7);
        assert!(!sequence.rises(Family::Inet, 7, at(1)));
        assert!(sequence.rises(Family::Inet, 8, at(1)));
        assert!(sequence.rises(Family::Inet6, 7, at(1)));
        assert_eq!(sequence.send(at(1), Family::Inet, 0), 100);
        assert!(!sequence.rises(Family::Inet, 100, at(1)));
        assert!(sequence.rises(Family::Inet, 101, at(1)));
        assert!(sequence.rises(Family::Inet6, 100, at(1)));
    }
}
