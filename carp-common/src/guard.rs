//! What the kernel side lets the daemon hear: authentic advertisements, each once, and not too many.
//!
//! After [`crate::classify`] has found a well-formed advertisement for a configured virtual host:
//!
//! 1. **Authentic?** One of the virtual host's [`KernelKeys`] verifies it ([`is_authentic`]).
//! 2. **New?** [`History::judge`] drops exact duplicates: same counter, digest and priority fields, within a quarter of the
//!    interval that they advertise. It remembers one advertisement for each of a few residues of the counter, so two
//!    captured ones sent in turn are mostly duplicates too.
//! 3. **Not too many?** What is left after that of a flood (a large collection of captured advertisements, or one whose
//!    priority fields change: the digest does not cover them) is limited, so that it costs the daemon little. An
//!    advertisement whose counter is above all before it is never limited, because a replay is never that; so a flood of
//!    replays cannot drown the genuine ones of a sender whose counter rises.
//!
//! No more than that is decided here: what the priority fields mean, whose counter must rise, and who is believed are the
//! protocol core's questions, and it verifies everything again.
//!
//! The history is kept for each processor by itself, because the kernel program needs no lock then. A flood that arrives
//! on several processors gets that many times the limit through.

use crate::shared::KernelKeys;
use crate::units::{AdvBase, AdvSkew, Priority};
use crate::wire::advertisement::HEADER_LEN;

/// How many advertisements of one virtual host are remembered.
const SEEN_MAX: usize = 8;
/// Advertisements with a counter that does not rise: how many are admitted within [`WINDOW_NS`]. Twice as many as two
/// hosts at the shortest interval (256 a second each) send.
const ADMITTED_MAX: u32 = 128;
/// Unit: nanoseconds; an eighth of a second.
const WINDOW_NS: u64 = 125_000_000;

/// Least time between two samples of what is not authentic. Unit: nanoseconds.
const SAMPLE_INTERVAL_NS: u64 = 1_000_000_000;

/// Whether any accepted digest matches: HMAC-SHA1 over what the keys stand for and the payload's counter.
#[inline(always)]
#[must_use]
pub fn is_authentic(keys: &KernelKeys, payload: &[u8; HEADER_LEN]) -> bool {
    let [_, _, _, _, _, _, _, _, rest @ ..] = payload;
    let Some((counter, digest)) = rest.split_first_chunk() else {
        return false;
    };
    let Some(digest) = digest.first_chunk() else {
        return false;
    };
    keys.0.iter().any(|key| key.verify(*counter, digest))
}

/// Why an authentic advertisement is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// The same as one before, too soon.
    Duplicate,
    /// Its counter does not rise, and there were too many of those.
    RateLimited,
}

/// What one virtual host heard lately on one processor; zeros at first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The highest counter of all.
    highest: u64,
    /// When the present window ends.
    window_ends_ns: u64,
    /// How many were admitted in it.
    admitted: u32,
    /// Anything but 0 once there is a `highest`.
    started: u32,
    /// No sample of what is not authentic before then.
    next_sample_ns: u64,
    /// By counter modulo their number.
    seen: [Seen; SEEN_MAX],
}

/// One advertisement, as far as it tells others apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    counter: u64,
    /// The first bytes of the digest; whatever has the right ones is authentic, so a few suffice.
    digest: u64,
    /// Arrival.
    at_ns: u64,
    /// advskew, demotion, advbase and a zero.
    shown: u32,
    /// Zero.
    _pad: u32,
}

const _: () = assert!(size_of::<History>() == 32 + SEEN_MAX * 32);

impl History {
    /// Nothing was heard yet.
    pub const EMPTY: Self = Self {
        highest: 0,
        window_ends_ns: 0,
        admitted: 0,
        started: 0,
        next_sample_ns: 0,
        seen: [Seen {
            counter: 0,
            digest: 0,
            at_ns: 0,
            shown: 0,
            _pad: 0,
        }; SEEN_MAX],
    };

    /// Judges an authentic advertisement and remembers it unless it is refused.
    ///
    /// # Errors
    ///
    /// Why the daemon should not hear it.
    #[inline(always)]
    pub fn judge(&mut self, payload: &[u8; HEADER_LEN], now_ns: u64) -> Result<(), Repetition> {
        let [
            _,
            _,
            advskew,
            _,
            demotion,
            advbase,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
            d0,
            d1,
            d2,
            d3,
            d4,
            d5,
            d6,
            d7,
            ..,
        ] = *payload;
        let heard = Seen {
            counter: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            digest: u64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]),
            at_ns: now_ns,
            shown: u32::from_be_bytes([advskew, demotion, advbase, 0]),
            _pad: 0,
        };
        let priority = Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        };
        let seen = &mut self.seen[usize::from(c7) % SEEN_MAX];
        if seen.counter == heard.counter
            && seen.digest == heard.digest
            && seen.shown == heard.shown
            && now_ns.wrapping_sub(seen.at_ns) < priority.interval_nanos() / 4
        {
            return Err(Repetition::Duplicate);
        }
        *seen = heard;
        if self.rises(heard.counter) || self.admits(now_ns) {
            Ok(())
        } else {
            Err(Repetition::RateLimited)
        }
    }

    /// Whether the counter is above all before it. Plain order, not sequence numbers: these have cycles, around which a
    /// few captured advertisements could rise for ever.
    #[inline(always)]
    fn rises(&mut self, counter: u64) -> bool {
        let rises = self.started == 0 || counter > self.highest;
        if rises {
            self.started = 1;
            self.highest = counter;
        }
        rises
    }

    #[inline(always)]
    fn admits(&mut self, now_ns: u64) -> bool {
        if now_ns >= self.window_ends_ns {
            self.window_ends_ns = now_ns.wrapping_add(WINDOW_NS);
            self.admitted = 0;
        }
        let admitted = self.admitted < ADMITTED_MAX;
        if admitted {
            self.admitted += 1;
        }
        admitted
    }

    /// Whether it is time to show the daemon something that is not authentic, so that it can name the sender.
    #[inline(always)]
    pub fn takes_sample(&mut self, now_ns: u64) -> bool {
        let due = now_ns >= self.next_sample_ns;
        if due {
            self.next_sample_ns = now_ns.wrapping_add(SAMPLE_INTERVAL_NS);
        }
        due
    }
}
