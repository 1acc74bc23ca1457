//! Which counters each source showed, and the sequence of ours.
//!
//! The digest covers the replay counter but neither the priority fields nor the sender, and no implementation rejects
//! replays: OpenBSD's counter never changes, and the others' are random until they hear somebody. What can be told
//! apart nevertheless is told apart here.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::per_family::PerFamily;
use crate::time::Instant;
use crate::units::{Demotion, Family, Priority};
use crate::wire::advertisement::Advertisement;

/// The counters we send, and the highest heard and sent so far.
///
/// We send more than the highest of all counters heard or sent, and so never one twice. ucarp and FreeBSD go on with
/// whatever they hear: while it is ours, they do not come back to counters of their own that we remember, which would look
/// like tampering. Plain numbers, without wrapping: what others start with is random, and in the order of sequence numbers a
/// few of those would lead us once around the circle.
#[derive(Clone, Copy, Debug)]
pub struct CounterSequence {
    next: u64,
    heard: PerFamily<Option<u64>>,
    sent: PerFamily<SentCounters>,
}

/// The highest counters that we sent in one family: now, and before the last time.
#[derive(Clone, Copy, Debug, Default)]
struct SentCounters {
    last: Option<u64>,
    at: Instant,
    before: Option<u64>,
}

impl CounterSequence {
    /// The first counter to send.
    #[must_use]
    pub fn new(initial: u64) -> Self {
        Self {
            next: initial,
            heard: PerFamily::default(),
            sent: PerFamily::default(),
        }
    }

    /// The counter of the advertisement that is sent at `now`. Leaves out `stride` counters.
    pub fn send(&mut self, family: Family, stride: u64, now: Instant) -> u64 {
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
        };
        counter
    }

    /// An authentic counter was heard.
    pub fn observe(&mut self, family: Family, counter: u64) {
        self.heard[family] = self.heard[family].max(Some(counter));
        self.go_beyond(counter);
    }

    /// The very last number is nothing to go on with.
    fn go_beyond(&mut self, counter: u64) {
        if let Some(above) = counter.checked_add(1) {
            self.next = self.next.max(above);
        }
    }

    /// Whether the counter is above everything heard in that family, and everything sent before it arrived: each family
    /// travels its own way, so the two may overtake each other. What waited in our queue while we sent something could
    /// not know of that.
    #[must_use]
    pub fn rises(&self, family: Family, counter: u64, arrival: Instant) -> bool {
        let sent = self.sent[family];
        let sent = if arrival > sent.at {
            sent.last
        } else {
            sent.before
        };
        Some(counter) > self.heard[family].max(sent)
    }
}

/// How many sources are remembered. One host has one or two (a family each); more than this is no cluster.
const SOURCES_MAX: usize = 8;
/// How many counters of each.
const COUNTERS_MAX: usize = 16;

/// What an authentic advertisement is in the light of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing against it.
    Believed,
    /// The same again, sooner than a quarter of the interval that it advertises.
    Duplicate,
    /// Its counter was seen with another priority, from a source whose counter moves.
    Tampered,
}

/// Who showed which counters.
///
/// A source that has only ever shown one counter is taken for an OpenBSD, whose demotion and bow-out legitimately come
/// under that same counter. Once it has moved, it is never taken for one again: moved twice in a row to a new counter,
/// that is, because a reboot is one move.
///
/// Bounded: sources beyond the limit displace the one heard longest ago, and first those never seen to move, which is
/// all that somebody with one captured advertisement can make.
#[derive(Clone, Debug)]
pub struct PeerMemory {
    peers: Vec<Peer>,
}

/// New counters in a row that no OpenBSD shows.
const MOVES_TO_TELL: u8 = 2;

impl Default for PeerMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl PeerMemory {
    /// Remembers nobody. Memory comes with the first of each source, and there is seldom more than one.
    #[must_use]
    pub const fn new() -> Self {
        Self { peers: Vec::new() }
    }

    /// Judges an authentic advertisement and remembers it unless it is refused.
    pub fn judge(
        &mut self,
        source: IpAddr,
        arrival: Instant,
        advertisement: &Advertisement,
    ) -> Judgement {
        let peer = self.peer(source, arrival);
        peer.heard_at = peer.heard_at.max(arrival);
        let priority = Shown::of(advertisement);
        let moving = peer.moving;
        let Some(seen) = peer.find(advertisement.counter) else {
            peer.learn(Seen {
                counter: advertisement.counter,
                shown: priority,
                at: arrival,
            });
            return Judgement::Believed;
        };
        let age = arrival.saturating_duration_since(seen.at);
        if seen.shown == priority {
            if age < priority.priority.interval() / 4 {
                return Judgement::Duplicate;
            }
        } else if moving {
            return Judgement::Tampered;
        }
        seen.shown = priority;
        seen.at = arrival;
        peer.moves = 0;
        Judgement::Believed
    }

    /// Whether this source was warned of before, as far as we remember.
    #[must_use]
    pub fn was_warned(&self, source: IpAddr) -> bool {
        self.peers
            .iter()
            .any(|peer| peer.source == source && peer.warned)
    }

    /// This source has been warned of.
    pub fn set_warned(&mut self, source: IpAddr) {
        for peer in self.peers.iter_mut().filter(|peer| peer.source == source) {
            peer.warned = true;
        }
    }

    fn peer(&mut self, source: IpAddr, arrival: Instant) -> &mut Peer {
        let known = self.peers.iter().position(|peer| peer.source == source);
        let index = known.unwrap_or_else(|| self.make_room(Peer::new(source, arrival)));
        &mut self.peers[index]
    }

    /// Puts the peer in, in the place of another when all are taken.
    fn make_room(&mut self, peer: Peer) -> usize {
        let worst = self
            .peers
            .iter()
            .enumerate()
            .min_by_key(|(_, peer)| (peer.moving, peer.heard_at));
        match worst {
            Some((index, _)) if self.peers.len() == SOURCES_MAX => {
                self.peers[index] = peer;
                index
            }
            Some(_) | None => {
                // A virtual host has one peer, and there are thousands: no room for three more.
                self.peers.reserve_exact(1);
                self.peers.push(peer);
                self.peers.len() - 1
            }
        }
    }
}

/// What the digest does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    priority: Priority,
    demotion: Demotion,
}

impl Shown {
    fn of(advertisement: &Advertisement) -> Self {
        let Advertisement {
            advbase,
            advskew,
            demotion,
            ..
        } = *advertisement;
        Self {
            priority: Priority { advbase, advskew },
            demotion,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    counter: u64,
    shown: Shown,
    at: Instant,
}

#[derive(Clone, Debug)]
struct Peer {
    source: IpAddr,
    heard_at: Instant,
    /// Its counter moves: no OpenBSD.
    moving: bool,
    /// How often in a row the counter was a new one, the first time apart.
    moves: u8,
    warned: bool,
    seen: [Option<Seen>; COUNTERS_MAX],
    oldest: usize,
}

impl Peer {
    fn new(source: IpAddr, arrival: Instant) -> Self {
        Self {
            source,
            heard_at: arrival,
            moving: false,
            moves: 0,
            warned: false,
            seen: [None; COUNTERS_MAX],
            oldest: 0,
        }
    }

    fn find(&mut self, counter: u64) -> Option<&mut Seen> {
        self.seen
            .iter_mut()
            .flatten()
            .find(|seen| seen.counter == counter)
    }

    /// A counter that is not remembered.
    fn learn(&mut self, seen: Seen) {
        let is_first = self.seen[0].is_none();
        if !is_first {
            self.moves = self.moves.saturating_add(1);
            self.moving |= self.moves >= MOVES_TO_TELL;
        }
        self.seen[self.oldest] = Some(seen);
        self.oldest = (self.oldest + 1) % COUNTERS_MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::Judgement::{Believed, Duplicate, Tampered};
    use super::*;
    use crate::time::Duration;
    use crate::units::{AdvBase, AdvSkew, Vhid};
    use crate::wire::advertisement::DIGEST_LEN;
    use core::net::Ipv4Addr;

    fn source(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, last))
    }

    fn advertisement(counter: u64, advskew: u8) -> Advertisement {
        Advertisement {
            vhid: Vhid::new(42).unwrap(),
            advskew: AdvSkew(advskew),
            demotion: Demotion::NONE,
            advbase: AdvBase(1),
            counter,
            digest: [u8::try_from(counter % 251).unwrap(); DIGEST_LEN],
        }
    }

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

    #[test]
    fn a_flood_of_duplicates_neither_passes_nor_hides_the_genuine_one() {
        // An OpenBSD's advertisements, all alike, once per second; replayed every 10 ms.
        let mut memory = PeerMemory::new();
        let mut believed = std::vec::Vec::new();
        for millis in (0..3000).step_by(10) {
            if memory.judge(source(1), at(millis), &advertisement(7, 0)) == Believed {
                believed.push(millis);
            }
        }
        assert_eq!(
            believed,
            (0..3000).step_by(250).collect::<std::vec::Vec<_>>()
        );
    }

    #[test]
    fn a_counter_that_moved_makes_a_change_under_it_tampering() {
        let mut memory = PeerMemory::new();
        let mut judge = |millis, counter, advskew| {
            memory.judge(source(1), at(millis), &advertisement(counter, advskew))
        };
        assert_eq!(judge(0, 7, 0), Believed);
        assert_eq!(judge(1, 7, 100), Believed, "an OpenBSD as far as we know");
        assert_eq!(judge(1000, 8, 0), Believed, "an OpenBSD that rebooted");
        assert_eq!(judge(2000, 9, 0), Believed);
        assert_eq!(judge(2001, 9, 100), Tampered);
        assert_eq!(judge(2002, 7, 0), Tampered, "the older one as well");
        assert_eq!(judge(2003, 9, 0), Duplicate, "and it is not remembered");
        assert_eq!(judge(3000, 10, 0), Believed);
    }

    #[test]
    fn every_unprotected_field_counts_as_a_change() {
        for change in [
            |advertisement: &mut Advertisement| advertisement.advskew = AdvSkew(1),
            |advertisement: &mut Advertisement| advertisement.advbase = AdvBase(2),
            |advertisement: &mut Advertisement| advertisement.demotion = Demotion(1),
        ] {
            let mut memory = PeerMemory::new();
            memory.judge(source(1), at(0), &advertisement(7, 0));
            memory.judge(source(1), at(1000), &advertisement(8, 0));
            memory.judge(source(1), at(2000), &advertisement(9, 0));
            let mut changed = advertisement(9, 0);
            change(&mut changed);
            assert_eq!(memory.judge(source(1), at(2001), &changed), Tampered);
        }
    }

    #[test]
    fn openbsd_may_reboot_without_ceasing_to_be_one() {
        let mut memory = PeerMemory::new();
        let mut judge = |seconds: u64, counter, advskew| {
            memory.judge(
                source(1),
                at(seconds * 1000),
                &advertisement(counter, advskew),
            )
        };
        for (second, counter) in [(0, 7), (1, 7), (2, 8), (3, 8), (4, 9), (5, 9)] {
            assert_eq!(judge(second, counter, 0), Believed);
        }
        assert_eq!(judge(6, 9, 255), Believed, "its bow-out");
        for (second, counter) in [(7, 20), (8, 21)] {
            assert_eq!(judge(second, counter, 0), Believed);
        }
        assert_eq!(judge(9, 21, 255), Tampered, "no OpenBSD does that");
    }

    #[test]
    fn sources_are_judged_apart() {
        let mut memory = PeerMemory::new();
        assert_eq!(
            memory.judge(source(1), at(0), &advertisement(7, 0)),
            Believed
        );
        assert_eq!(
            memory.judge(source(1), at(1000), &advertisement(8, 0)),
            Believed
        );
        assert_eq!(
            memory.judge(source(2), at(1001), &advertisement(8, 100)),
            Believed
        );
        assert_eq!(
            memory.judge(source(2), at(1002), &advertisement(8, 101)),
            Believed
        );
    }

    #[test]
    fn forged_sources_do_not_displace_the_known_ones() {
        let mut memory = PeerMemory::new();
        for counter in 0..3 {
            memory.judge(source(1), at(counter * 1000), &advertisement(counter, 0));
        }
        memory.set_warned(source(1));
        for forged in 10..=255 {
            memory.judge(
                source(forged),
                at(5000 + u64::from(forged)),
                &advertisement(7, 0),
            );
        }
        assert!(memory.was_warned(source(1)));
        assert!(!memory.was_warned(source(10)));
        assert_eq!(
            memory.judge(source(1), at(9000), &advertisement(2, 9)),
            Tampered
        );
        assert_eq!(memory.peers.len(), SOURCES_MAX);
    }

    #[test]
    fn of_equals_the_one_heard_longest_ago_is_forgotten() {
        let mut memory = PeerMemory::new();
        for last in 1..=8 {
            memory.judge(source(last), at(u64::from(last)), &advertisement(7, 0));
            memory.set_warned(source(last));
        }
        memory.judge(source(1), at(5000), &advertisement(7, 0));
        memory.judge(source(9), at(6000), &advertisement(7, 0));
        let known = (1..=9).filter(|last| memory.was_warned(source(*last)));
        assert_eq!(known.collect::<std::vec::Vec<_>>(), [1, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_last_16_counters_of_a_source_are_remembered() {
        let mut memory = PeerMemory::new();
        for counter in 0..17 {
            memory.judge(source(1), at(counter * 1000), &advertisement(counter, 0));
        }
        assert_eq!(
            memory.judge(source(1), at(17_000), &advertisement(1, 9)),
            Tampered
        );
        assert_eq!(
            memory.judge(source(1), at(17_000), &advertisement(0, 9)),
            Believed
        );
    }
}
