//! The counters that were heard before, which a recording can repeat.
//!
//! Most sources count, so their counters are a range with two ends. A ucarp that hears nobody draws each counter at random.
//! Counters without order are kept in a set of fixed size, which forgets the oldest after hours.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::wire::advertisement::DIGEST_LEN;

/// The largest distance between the last counter of a live peer and its next one.
///
/// A peer that counts goes on with one more than the counter that it heard or sent last; a carpd leaves out up to 31. The
/// counters that a host misses while the network is divided lie between. Two random counters are as close once in 2^43.
pub const NEAR: u64 = 1 << 20;

/// Returns whether a peer that heard or sent `last` may go on with `counter`.
#[must_use]
pub const fn is_near_above(counter: u64, last: u64) -> bool {
    counter > last && counter - last <= NEAR
}

/// The largest distance of a peer's counter if the peer left some out to challenge a MASTER: a day of one challenge a second.
/// Two counters drawn by chance are as close once in 2^19.
pub const AHEAD: u64 = 1 << 44;

/// The number of counters that a MASTER leaves out before its last advertisement (when it yields or leaves): the counters
/// of an hour from a peer that advertises once a second. That advertisement may be lost, and then peers use these counters.
pub const LAST_LEAVES_OUT: u64 = 1 << 12;

/// Returns whether a peer that heard or sent `last`, and has sent challenges since, may go on with `counter`.
#[must_use]
pub const fn is_ahead(counter: u64, last: u64) -> bool {
    counter > last && counter - last <= AHEAD
}

/// The counters from `first` to `last`, including those between them that no host showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The lowest.
    pub first: u64,
    /// The highest; not below `first`.
    pub last: u64,
}

impl Run {
    /// Returns the run of one counter.
    #[must_use]
    pub const fn of(counter: u64) -> Self {
        Self {
            first: counter,
            last: counter,
        }
    }

    /// Returns whether the counter lies in it.
    #[must_use]
    pub const fn contains(self, counter: u64) -> bool {
        self.first <= counter && counter <= self.last
    }
}

/// The number of last counters of a run that are remembered one by one.
const RECENT: usize = 16;

/// The last counters of a run that goes on. A run has gaps, and a peer that missed the last of it, and counts by one, comes to
/// the counters in the gaps.
#[derive(Clone, Copy, Debug)]
pub struct Recent([u64; RECENT]);

impl Recent {
    /// Returns the last counters of a run that begins.
    #[must_use]
    pub const fn only(counter: u64) -> Self {
        let mut recent = [0; RECENT];
        recent[RECENT - 1] = counter;
        Self(recent)
    }

    /// Returns the last counters of a run of which only the ends are known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self([u64::MAX; RECENT])
    }

    /// Adds the next counter of the run.
    pub fn push(&mut self, counter: u64) {
        self.0.rotate_left(1);
        self.0[RECENT - 1] = counter;
    }

    /// Returns whether it is one of the last.
    #[must_use]
    pub fn contains(&self, counter: u64) -> bool {
        self.0.contains(&counter)
    }

    /// Returns whether a counter between the ends of the run belongs to it, as far as we know.
    #[must_use]
    pub fn may_contain(&self, counter: u64) -> bool {
        let oldest = self.0.iter().find(|counter| **counter != 0);
        oldest.is_none_or(|oldest| counter < *oldest) || self.contains(counter)
    }
}

/// The number of closed runs that are remembered in each family.
pub const RUNS_MAX: usize = 64;

/// Runs that came to their end, the latest last. The oldest is forgotten when there are too many.
#[derive(Clone, Debug, Default)]
pub struct Closed(Vec<Run>);

impl Closed {
    /// Adds a run, joined with those that it touches.
    pub fn add(&mut self, mut run: Run) {
        self.0.retain(|known| {
            let touches = known.first <= run.last.saturating_add(1)
                && run.first <= known.last.saturating_add(1);
            if touches {
                run.first = run.first.min(known.first);
                run.last = run.last.max(known.last);
            }
            !touches
        });
        if self.0.len() == RUNS_MAX {
            self.0.remove(0);
        }
        self.0.reserve_exact(1);
        self.0.push(run);
    }

    /// Returns whether the counter lies in one of them.
    #[must_use]
    pub fn contains(&self, counter: u64) -> bool {
        self.0.iter().any(|run| run.contains(counter))
    }

    /// Forgets `counter` and those near above it, because others are led back to this constant counter.
    pub fn cut(&mut self, counter: u64) {
        self.0.retain_mut(|run| {
            if run.first < counter && is_near_above(run.last, counter) {
                run.last = counter - 1;
            }
            !(run.contains(counter) || is_near_above(run.first, counter))
        });
    }

    /// Returns the runs, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Run> {
        self.0.iter().copied()
    }
}

/// Bits of one generation.
const BITS: usize = 1 << 18;
/// Bytes of one generation.
pub const GENERATION_LEN: usize = BITS / 8;
/// Entries of one generation: 32 bits for each, so that 6 of a million digests that are not in it seem to be.
pub const GENERATION_MAX: u32 = 8192;
/// Bits that are set for each entry.
const HASHES: u64 = 8;

/// Digests without order: the last 8192 to 16384 of them.
///
/// A Bloom filter in two generations. A digest is as good as random, so its own bytes select its bits.
#[derive(Clone, Debug)]
pub struct Scattered {
    current: Vec<u8>,
    previous: Vec<u8>,
    entries: u32,
}

impl Default for Scattered {
    fn default() -> Self {
        Self {
            current: vec![0; GENERATION_LEN],
            previous: vec![0; GENERATION_LEN],
            entries: 0,
        }
    }
}

impl Scattered {
    /// Adds a digest.
    pub fn add(&mut self, digest: &[u8; DIGEST_LEN]) {
        if self.entries >= GENERATION_MAX {
            core::mem::swap(&mut self.current, &mut self.previous);
            self.current.fill(0);
            self.entries = 0;
        }
        for bit in bits_of(digest) {
            if let Some(byte) = self.current.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        self.entries += 1;
    }

    /// Returns whether the digest was added. It is wrong for 12 of a million that were not.
    #[must_use]
    pub fn contains(&self, digest: &[u8; DIGEST_LEN]) -> bool {
        [&self.current, &self.previous]
            .into_iter()
            .any(|generation| {
                bits_of(digest).all(|bit| {
                    generation
                        .get(bit / 8)
                        .is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
                })
            })
    }

    /// Returns the two generations and how many entries the first has.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &[u8], u32) {
        (&self.current, &self.previous, self.entries)
    }

    /// Creates the set from the result of [`Scattered::parts`]; `None` for other lengths.
    #[must_use]
    pub fn from_parts(current: &[u8], previous: &[u8], entries: u32) -> Option<Box<Self>> {
        let fits = current.len() == GENERATION_LEN && previous.len() == GENERATION_LEN;
        fits.then(|| {
            Box::new(Self {
                current: current.into(),
                previous: previous.into(),
                entries,
            })
        })
    }
}

fn bits_of(digest: &[u8; DIGEST_LEN]) -> impl Iterator<Item = usize> {
    let start = u64::from_le_bytes(core::array::from_fn(|index| digest[index]));
    let step = u64::from_le_bytes(core::array::from_fn(|index| digest[8 + index])) | 1;
    (0..HASHES).map(move |number| {
        let hash = start.wrapping_add(step.wrapping_mul(number));
        usize::try_from(hash >> 32).unwrap_or_default() % BITS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> [u8; DIGEST_LEN] {
        // SplitMix64, as even as a real one.
        let mut state = number;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let mut digest = [0; DIGEST_LEN];
        for chunk in digest.chunks_mut(8) {
            chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
        }
        digest
    }

    #[test]
    fn near_above_is_up_to_a_million_above() {
        assert!(!is_near_above(7, 7));
        assert!(!is_near_above(6, 7));
        assert!(is_near_above(8, 7));
        assert!(is_near_above(7 + NEAR, 7));
        assert!(!is_near_above(8 + NEAR, 7));
        assert!(!is_near_above(0, u64::MAX));
    }

    #[test]
    fn closed_runs_are_joined_where_they_touch_and_bounded() {
        let mut closed = Closed::default();
        closed.add(Run {
            first: 10,
            last: 20,
        });
        closed.add(Run {
            first: 15,
            last: 30,
        });
        closed.add(Run::of(9));
        closed.add(Run::of(32));
        closed.add(Run::of(31));
        assert_eq!(closed.iter().count(), 1);
        assert!(closed.contains(9) && closed.contains(32) && !closed.contains(33));
        for number in 0..2 * RUNS_MAX as u64 {
            closed.add(Run::of(1000 + 2 * number));
        }
        assert_eq!(closed.iter().count(), RUNS_MAX);
        assert!(!closed.contains(10), "the oldest is forgotten");
        assert!(closed.contains(1000 + 4 * RUNS_MAX as u64 - 2));
    }

    #[test]
    fn a_cut_forgets_what_lies_near_above() {
        let mut closed = Closed::default();
        closed.add(Run {
            first: 90,
            last: 110,
        });
        closed.add(Run {
            first: 120,
            last: 130,
        });
        closed.add(Run::of(100 + NEAR + 1));
        closed.cut(100);
        assert!(closed.contains(99) && !closed.contains(100) && !closed.contains(125));
        assert!(closed.contains(100 + NEAR + 1));
    }

    #[test]
    fn scattered_counters_are_found_for_two_generations() {
        let mut scattered = Scattered::default();
        for number in 0..u64::from(GENERATION_MAX) + 1 {
            scattered.add(&digest(number));
        }
        assert!(
            (0..u64::from(GENERATION_MAX) + 1).all(|number| scattered.contains(&digest(number)))
        );
        let strangers = 1_000_000..1_000_000 + 100_000;
        let wrong = strangers
            .filter(|number| scattered.contains(&digest(*number)))
            .count();
        assert!(wrong < 10, "{wrong} of 100 000");
        for number in 100_000..100_000 + 2 * u64::from(GENERATION_MAX) {
            scattered.add(&digest(number));
        }
        assert!(!scattered.contains(&digest(0)));
    }
}
