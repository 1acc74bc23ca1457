//! Which counters each source showed, and which we sent.
//!
//! The digest covers the replay counter but neither the priority fields nor the sender, and no implementation rejects
//! replays: OpenBSD's counter never changes, and the others' are random until they hear somebody. What can be told
//! apart nevertheless is told apart here.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::per_family::PerFamily;
use crate::time::Instant;
use crate::units::{Demotion, Family, Priority, Profile};
use crate::wire::advertisement::{Advertisement, DIGEST_LEN};

/// The counters we send, and the highest seen so far.
///
/// We send the highest of all counters heard or sent, plus one, and never less than the initial one. Comparisons wrap
/// like sequence numbers (RFC 1982), so that a peer's random start near 2^64 does no harm.
#[derive(Clone, Copy, Debug)]
pub struct CounterSequence {
    next: u64,
    highest: PerFamily<Option<u64>>,
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

    /// The counter of the advertisement that is sent now.
    pub fn send(&mut self, family: Family) -> u64 {
        let counter = self.next;
        self.observe(family, counter);
        counter
    }

    /// An authentic counter was heard.
    pub fn observe(&mut self, family: Family, counter: u64) {
        if self.rises(family, counter) {
            self.highest[family] = Some(counter);
        }
        if !is_above(self.next, counter) {
            self.next = counter.wrapping_add(1);
        }
    }

    /// Whether the counter is above everything heard or sent in that family: each travels its own way, so the two
    /// may overtake each other.
    #[must_use]
    pub fn rises(&self, family: Family, counter: u64) -> bool {
        self.highest[family].is_none_or(|highest| is_above(counter, highest))
    }

    /// Leaves out some counters. Two strict MASTERs in lockstep, each finding the other's counter used up, come apart
    /// when each leaves out a different number.
    pub fn skip(&mut self, count: u8) {
        self.next = self.next.wrapping_add(u64::from(count));
    }
}

/// Sequence-number order: above means ahead by less than half the circle.
fn is_above(counter: u64, other: u64) -> bool {
    let ahead = counter.wrapping_sub(other);
    ahead != 0 && ahead < 1 << 63
}

/// How many advertisements of our own are remembered.
const SENT_MAX: usize = 32;

/// What we sent lately, to know it when it comes back.
///
/// The source must match as well: a peer that did not hear us may come to use the same counter, and then the same
/// digest. And it is not enough: a peer may use the virtual address, and so an address of ours, as its source.
#[derive(Clone, Debug, Default)]
pub struct SentMemory {
    sent: [Option<Sent>; SENT_MAX],
    oldest: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    source: IpAddr,
    counter: u64,
    digest: [u8; DIGEST_LEN],
}

impl SentMemory {
    /// We send this; forgets the oldest.
    pub fn remember(&mut self, source: IpAddr, counter: u64, digest: [u8; DIGEST_LEN]) {
        self.sent[self.oldest] = Some(Sent {
            source,
            counter,
            digest,
        });
        self.oldest = (self.oldest + 1) % SENT_MAX;
    }

    /// Whether it is ours.
    #[must_use]
    pub fn contains(&self, source: IpAddr, advertisement: &Advertisement) -> bool {
        let heard = Sent {
            source,
            counter: advertisement.counter,
            digest: advertisement.digest,
        };
        self.sent.contains(&Some(heard))
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
/// under that same counter. Once it has moved, it is never taken for one again. In the OpenBSD profile it takes two
/// moves in a row to new counters, because a reboot is one.
///
/// Bounded: sources beyond the limit displace the one heard longest ago, and first those never seen to move, which is
/// all that somebody with one captured advertisement can make.
#[derive(Clone, Debug)]
pub struct PeerMemory {
    peers: Vec<Peer>,
    moves_to_tell: u8,
}

impl PeerMemory {
    /// Allocates for good.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        let moves_to_tell = match profile {
            Profile::Ucarp | Profile::FreeBsd => 1,
            Profile::OpenBsd => 2,
        };
        Self {
            peers: Vec::with_capacity(SOURCES_MAX),
            moves_to_tell,
        }
    }

    /// Judges an authentic advertisement and remembers it unless it is refused.
    pub fn judge(
        &mut self,
        source: IpAddr,
        arrival: Instant,
        advertisement: &Advertisement,
    ) -> Judgement {
        let moves_to_tell = self.moves_to_tell;
        let peer = self.peer(source, arrival);
        peer.heard_at = peer.heard_at.max(arrival);
        let priority = Shown::of(advertisement);
        let moving = peer.moving;
        let Some(seen) = peer.find(advertisement.counter) else {
            peer.learn(
                Seen {
                    counter: advertisement.counter,
                    shown: priority,
                    at: arrival,
                },
                moves_to_tell,
            );
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
        self.peers.iter().any(|peer| peer.source == source && peer.warned)
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
    fn learn(&mut self, seen: Seen, moves_to_tell: u8) {
        let is_first = self.seen[0].is_none();
        if !is_first {
            self.moves = self.moves.saturating_add(1);
            self.moving |= self.moves >= moves_to_tell;
        }
        self.seen[self.oldest] = Some(seen);
        self.oldest = (self.oldest + 1) % COUNTERS_MAX;
    }
}
