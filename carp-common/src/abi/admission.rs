//! What the kernel side lets the daemon hear: authentic advertisements, each once, and not too many.
//!
//! After [`crate::abi::classify`] has found a well-formed advertisement for a configured virtual host:
//!
//! 1. **Authentic?** One of the virtual host's digests verifies it ([`is_authentic`](super::hmac::is_authentic)).
//! 2. **New?** [`History::judge`] drops exact duplicates: same counter, digest and priority fields, within a quarter of the
//!    interval that they advertise. It remembers one advertisement for each of a few residues of the counter, so two
//!    captured ones sent in turn are mostly duplicates too.
//!    The same counter with another priority is a variation; the first one that was heard stays the reference.
//! 3. **Not too many?** What is left after that of a flood (a large collection of captured advertisements, or one whose
//!    priority fields change: the digest does not cover them) is limited, so that it costs the daemon little. An
//!    advertisement whose counter is above all before it is never limited, because a replay is never that; so a flood of
//!    replays cannot drown the genuine ones of a sender whose counter rises. What varies has a limit of its own: one captured
//!    advertisement, rewritten again and again, does not drown those of a sender whose counter is random or constant.
//!
//! No more than that is decided here: what the priority fields mean, whose counter must rise, and who is believed are the
//! protocol core's questions, and it verifies everything again.
//!
//! The history is kept for each processor by itself, because the kernel program needs no lock then. A flood that arrives
//! on several processors gets that many times the limit through.

use crate::abi::counters::Counter;
use crate::units::{AdvBase, AdvSkew, Priority};
use crate::wire::advertisement::HEADER_LEN;

/// How many advertisements of one virtual host are remembered.
const SEEN_MAX: usize = 8;
/// Advertisements with a counter that does not rise: how many are admitted within [`WINDOW_NS`]. Twice as many as two
/// hosts at the shortest interval (256 a second each) send.
const ADMITTED_MAX: u32 = 128;
/// Unit: nanoseconds; an eighth of a second.
const WINDOW_NS: u64 = 125_000_000;

/// Least time between two samples of what is dropped, for the daemon to warn of it. Unit: nanoseconds.
pub const SAMPLE_INTERVAL_NS: u64 = 1_000_000_000;

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
    /// Likewise, of those that vary.
    varied: u32,
    /// Anything but 0 once there is a `highest`.
    started: u32,
    /// Zero.
    _pad: u32,
    /// No sample of what is not authentic, or is from our own address, before then.
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
    /// The latest that it was varied to, with a one instead of the zero; zero for none.
    varied: u32,
    /// When that arrived.
    varied_at_ns: u64,
}

impl Seen {
    /// Its advertisement interval.
    #[inline(always)]
    const fn interval_nanos(&self) -> u64 {
        let [advskew, _, advbase, _] = self.shown.to_be_bytes();
        if advskew == 255 && advbase == 255 {
            // A bow-out says nothing about when the next one comes.
            return WINDOW_NS * 8;
        }
        let priority = Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        };
        priority.interval_nanos()
    }
}

const _: () = assert!(size_of::<History>() == 40 + SEEN_MAX * 40);

impl History {
    /// Nothing was heard yet.
    pub const EMPTY: Self = Self {
        highest: 0,
        window_ends_ns: 0,
        admitted: 0,
        varied: 0,
        started: 0,
        _pad: 0,
        next_sample_ns: 0,
        seen: [Seen {
            counter: 0,
            digest: 0,
            at_ns: 0,
            shown: 0,
            varied: 0,
            varied_at_ns: 0,
        }; SEEN_MAX],
    };

    /// Judges an authentic advertisement and remembers it unless it is refused.
    ///
    /// # Errors
    ///
    /// Why the daemon should not hear it.
    #[inline(always)]
    pub fn judge(&mut self, payload: &[u8; HEADER_LEN], now_ns: u64) -> Result<(), Counter> {
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
            varied: 0,
            varied_at_ns: 0,
        };
        let seen = &mut self.seen[usize::from(c7) % SEEN_MAX];
        let age = now_ns.wrapping_sub(seen.at_ns);
        let same = seen.counter == heard.counter && seen.digest == heard.digest;
        let since = if same && seen.shown == heard.shown {
            age
        } else if same && seen.varied == heard.shown | 1 {
            now_ns.wrapping_sub(seen.varied_at_ns)
        } else {
            u64::MAX
        };
        if since < heard.interval_nanos() / 4 {
            return Err(Counter::DroppedDuplicate);
        }
        let varies = same && seen.shown != heard.shown && age < 4 * seen.interval_nanos();
        if varies {
            seen.varied = heard.shown | 1;
            seen.varied_at_ns = now_ns;
        } else {
            *seen = heard;
        }
        if self.rises(heard.counter) || self.admits(now_ns, varies) {
            Ok(())
        } else {
            Err(Counter::DroppedRateLimited)
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
    fn admits(&mut self, now_ns: u64, varies: bool) -> bool {
        if now_ns >= self.window_ends_ns {
            self.window_ends_ns = now_ns.wrapping_add(WINDOW_NS);
            self.admitted = 0;
            self.varied = 0;
        }
        let count = match varies {
            true => &mut self.varied,
            false => &mut self.admitted,
        };
        let admitted = *count < ADMITTED_MAX;
        if admitted {
            *count += 1;
        }
        admitted
    }

    /// Whether it is time to show the daemon something that is dropped, so that it can name the sender.
    #[inline(always)]
    pub fn takes_sample(&mut self, now_ns: u64) -> bool {
        let due = now_ns >= self.next_sample_ns;
        if due {
            self.next_sample_ns = now_ns.wrapping_add(SAMPLE_INTERVAL_NS);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Demotion, Vhid};
    use crate::wire::advertisement::Advertisement;

    const MS: u64 = 1_000_000;

    fn payload(counter: u64, advbase: u8, advskew: u8) -> [u8; HEADER_LEN] {
        let mut payload = [0xa5; HEADER_LEN];
        Advertisement {
            vhid: Vhid::new(7).unwrap(),
            advskew: AdvSkew(advskew),
            demotion: Demotion(0),
            advbase: AdvBase(advbase),
            counter,
            // As different as the counters are.
            digest: core::array::from_fn(|i| counter.to_le_bytes()[i % 8]),
        }
        .emit(&mut payload);
        payload
    }

    #[test]
    fn duplicate_is_what_comes_again_within_a_quarter_of_its_interval() {
        for (advbase, advskew, quarter_ns) in
            [(1, 0, 250 * MS), (0, 0, 976_562), (255, 255, 250 * MS)]
        {
            let mut history = History::EMPTY;
            let advertisement = payload(5, advbase, advskew);
            let begin = 1_000_000 * MS;
            assert_eq!(history.judge(&advertisement, begin), Ok(()));
            for now in [begin, begin + 1, begin + quarter_ns - 1] {
                assert_eq!(
                    history.judge(&advertisement, now),
                    Err(Counter::DroppedDuplicate)
                );
            }
            // Refused ones do not count: the quarter began with the one that was heard.
            assert_eq!(history.judge(&advertisement, begin + quarter_ns), Ok(()));
        }
    }

    #[test]
    fn every_byte_but_vhid_and_checksum_makes_a_difference() {
        // And but the rest of the digest, which the counter determines.
        for byte in [2, 4, 5].into_iter().chain(8..24) {
            let mut history = History::EMPTY;
            let advertisement = payload(5, 1, 0);
            assert_eq!(history.judge(&advertisement, MS), Ok(()));
            let mut other = advertisement;
            other[byte] ^= 0x80;
            assert_eq!(history.judge(&other, MS), Ok(()), "byte {byte}");
        }
    }

    #[test]
    fn some_captured_advertisements_in_turn_are_duplicates_all_the_same() {
        let mut history = History::EMPTY;
        let captured: [_; SEEN_MAX] = core::array::from_fn(|i| payload(1000 + i as u64, 1, 0));
        for advertisement in &captured {
            assert_eq!(history.judge(advertisement, MS), Ok(()));
        }
        for advertisement in captured.iter().cycle().take(1000) {
            assert_eq!(
                history.judge(advertisement, 2 * MS),
                Err(Counter::DroppedDuplicate)
            );
        }
    }

    #[test]
    fn other_priorities_under_one_counter_are_duplicates_or_limited() {
        let mut history = History::EMPTY;
        let mut admitted = |variations: u8, now| {
            (0..=variations)
                .cycle()
                .take(10_000)
                .filter(|advskew| history.judge(&payload(5, 1, *advskew), now).is_ok())
                .count()
        };
        // The first one rises, the first variation is new, and then both are duplicates.
        assert_eq!(admitted(1, MS), 2);
        assert_eq!(admitted(1, MS + WINDOW_NS), 0);
        // Of many, each is another one than that before it.
        assert_eq!(admitted(200, MS + WINDOW_NS), ADMITTED_MAX as usize);
        assert_eq!(admitted(200, MS + 2 * WINDOW_NS - 1), 0);
    }

    #[test]
    fn variations_of_one_drown_neither_random_nor_constant_counters() {
        for constant in [true, false] {
            let mut history = History::EMPTY;
            // An early counter that is above all later ones.
            assert_eq!(history.judge(&payload(u64::MAX - 8, 1, 0), MS), Ok(()));
            let captured = 7000;
            for second in 1..100 {
                let now = second * 1000 * MS;
                let counter = if constant { captured } else { 5 + 8 * second };
                let genuine = payload(counter, 1, 0);
                assert_eq!(history.judge(&genuine, now), Ok(()), "second {second}");
                for variation in 0..5000 {
                    let varied = payload(captured, 0, u8::try_from(1 + variation % 200).unwrap());
                    let _ = history.judge(&varied, now + variation * 190_000);
                }
            }
        }
    }

    #[test]
    fn a_constant_counter_may_come_to_show_another_priority() {
        let mut history = History::EMPTY;
        for second in 0..100 {
            let advskew = if second < 50 { 0 } else { 100 };
            let advertisement = payload(5, 1, advskew);
            assert_eq!(history.judge(&advertisement, second * 1400 * MS), Ok(()));
        }
    }

    #[test]
    fn genuine_ones_are_heard_through_a_flood_of_replays() {
        let mut history = History::EMPTY;
        let mut heard = 0;
        for second in 0..100 {
            let now = second * 1000 * MS;
            let genuine = payload(100_000 + second, 1, 0);
            assert_eq!(history.judge(&genuine, now), Ok(()), "second {second}");
            for replay in 0..2000 {
                let replayed = payload(replay, 1, 0);
                heard += usize::from(history.judge(&replayed, now + replay).is_ok());
            }
        }
        assert_eq!(heard, 100 * ADMITTED_MAX as usize);
    }

    #[test]
    fn counters_have_a_top_so_replays_cannot_rise_in_circles() {
        let mut history = History::EMPTY;
        let circle = [1 << 62, 2 << 62, 3 << 62];
        let risen = circle
            .iter()
            .cycle()
            .take(300)
            .filter(|counter| history.rises(**counter))
            .count();
        assert_eq!(risen, 3);
    }

    #[test]
    fn samples_are_a_second_apart() {
        let mut history = History::EMPTY;
        let taken = (0..10_000)
            .filter(|ms| history.takes_sample(ms * MS))
            .count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn no_content_of_a_history_panics() {
        let mut history = History {
            highest: u64::MAX,
            window_ends_ns: u64::MAX,
            admitted: u32::MAX,
            varied: u32::MAX,
            started: u32::MAX,
            _pad: 0,
            next_sample_ns: u64::MAX,
            seen: [Seen {
                counter: u64::MAX,
                digest: u64::MAX,
                at_ns: u64::MAX,
                shown: u32::MAX,
                varied: u32::MAX,
                varied_at_ns: u64::MAX,
            }; SEEN_MAX],
        };
        for now in [0, 1, u64::MAX] {
            assert!(!history.takes_sample(now) || now == u64::MAX);
            let _ = history.judge(&[0xff; HEADER_LEN], now);
            let _ = history.judge(&[0; HEADER_LEN], now);
        }
    }
}
