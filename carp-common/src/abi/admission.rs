//! Admission of advertisements to the daemon: it gets authentic ones, each once, and not too many.
//!
//! Once [`crate::abi::classify`] has found a well-formed advertisement for a configured virtual host, three questions follow:
//!
//! 1. **Authentic?** One of the virtual host's digests verifies it ([`is_authentic`](super::hmac::is_authentic)).
//! 2. **New?** [`History::admit`] drops exact duplicates: the counter, the digest and the priority fields are the same, and
//!    the time between them is less than a quarter of the interval that they advertise. The history remembers one
//!    advertisement for each of a few residues of the counter, so a few captured ones sent in turn are mostly duplicates too.
//!    The same counter with another priority is a variation; the first one that was heard stays the reference.
//! 3. **Not too many?** A rate limit keeps a flood cheap for the daemon. A flood can consist of many captured
//!    advertisements, or of one whose priority fields change, because the digest does not cover them. An advertisement whose
//!    counter is above all earlier ones is never limited. A replay never has such a counter, so a flood of replays cannot
//!    drown the advertisements of a sender whose counter rises. Variations have a separate limit: one captured
//!    advertisement that is altered again and again does not drown a sender whose counter is random or constant.
//!
//! Everything else is left to the protocol core, which also verifies the digest again: the meaning of the priority fields,
//! which counters have to rise, and which senders to believe.
//!
//! Each processor has its own history, so the kernel program needs no lock. A flood that arrives on several processors
//! gets that many times the limit through.

use crate::abi::counters::Counter;
use crate::units::{AdvBase, AdvSkew, Priority};
use crate::wire::advertisement::HEADER_LEN;

/// The number of advertisements of one virtual host that are remembered.
const REMEMBERED_MAX: usize = 8;
/// The number of advertisements without a rising counter that are admitted within [`WINDOW_NS`]. It is twice as many as
/// two hosts at the shortest interval (256 a second each) send.
const ADMITTED_MAX: u32 = 128;
/// Length of a window of the rate limit: an eighth of a second. Unit: nanoseconds.
const WINDOW_NS: u64 = 125_000_000;

/// Least time between two dropped advertisements that the daemon is shown to warn of them. Unit: nanoseconds.
pub const SAMPLE_INTERVAL_NS: u64 = 1_000_000_000;

/// The recent advertisements for one virtual host on one processor. It begins with zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The highest counter so far.
    highest: u64,
    /// End of the current window.
    window_ends_ns: u64,
    /// Number of advertisements admitted in the window, without variations.
    admitted: u32,
    /// Number of variations admitted in the window.
    varied: u32,
    /// Nonzero once `highest` is set.
    started: u32,
    /// Zero.
    _pad: u32,
    /// Earliest time of the next sample for the daemon.
    next_sample_ns: u64,
    /// The index is the counter modulo [`REMEMBERED_MAX`].
    remembered: [Remembered; REMEMBERED_MAX],
}

/// The parts of an advertisement that distinguish it from others, and its time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    counter: u64,
    /// The first bytes of the digest. These suffice, because only authentic advertisements are remembered.
    digest: u64,
    /// Time of arrival.
    at_ns: u64,
    /// advskew, demotion, advbase and a zero byte.
    shown: u32,
    /// The same fields of the latest variation, with a one in place of the zero byte; 0 if there was none.
    varied: u32,
    /// Time of arrival of the latest variation.
    varied_at_ns: u64,
}

impl Remembered {
    /// Returns the advertised interval.
    #[inline(always)]
    const fn interval_nanos(&self) -> u64 {
        let [advskew, _, advbase, _] = self.shown.to_be_bytes();
        if advskew == 255 && advbase == 255 {
            // A bow-out does not tell when the next advertisement comes.
            return WINDOW_NS * 8;
        }
        let priority = Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        };
        priority.interval_nanos()
    }
}

const _: () = assert!(size_of::<History>() == 40 + REMEMBERED_MAX * 40);

impl History {
    /// A history without advertisements.
    pub const EMPTY: Self = Self {
        highest: 0,
        window_ends_ns: 0,
        admitted: 0,
        varied: 0,
        started: 0,
        _pad: 0,
        next_sample_ns: 0,
        remembered: [Remembered {
            counter: 0,
            digest: 0,
            at_ns: 0,
            shown: 0,
            varied: 0,
            varied_at_ns: 0,
        }; REMEMBERED_MAX],
    };

    /// Admits an authentic advertisement to the daemon. Remembers it unless it is a duplicate.
    ///
    /// # Errors
    ///
    /// Returns the reason to drop the advertisement.
    #[inline(always)]
    pub fn admit(&mut self, payload: &[u8; HEADER_LEN], now_ns: u64) -> Result<(), Counter> {
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
        let heard = Remembered {
            counter: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            digest: u64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]),
            at_ns: now_ns,
            shown: u32::from_be_bytes([advskew, demotion, advbase, 0]),
            varied: 0,
            varied_at_ns: 0,
        };
        let remembered = &mut self.remembered[usize::from(c7) % REMEMBERED_MAX];
        let age = now_ns.wrapping_sub(remembered.at_ns);
        let same = remembered.counter == heard.counter && remembered.digest == heard.digest;
        let since = if same && remembered.shown == heard.shown {
            age
        } else if same && remembered.varied == heard.shown | 1 {
            now_ns.wrapping_sub(remembered.varied_at_ns)
        } else {
            u64::MAX
        };
        if since < heard.interval_nanos() / 4 {
            return Err(Counter::DroppedDuplicate);
        }
        let varies =
            same && remembered.shown != heard.shown && age < 4 * remembered.interval_nanos();
        if varies {
            remembered.varied = heard.shown | 1;
            remembered.varied_at_ns = now_ns;
        } else {
            *remembered = heard;
        }
        if self.rises(heard.counter) || self.is_within_limit(now_ns, varies) {
            Ok(())
        } else {
            Err(Counter::DroppedRateLimited)
        }
    }

    /// Returns whether the counter is above all earlier ones. It is compared as a plain number. Sequence numbers wrap, so a
    /// few captured advertisements could rise in a circle without end.
    #[inline(always)]
    fn rises(&mut self, counter: u64) -> bool {
        let rises = self.started == 0 || counter > self.highest;
        if rises {
            self.started = 1;
            self.highest = counter;
        }
        rises
    }

    /// Counts an advertisement in the current window and returns whether the window has room for it.
    #[inline(always)]
    fn is_within_limit(&mut self, now_ns: u64, varies: bool) -> bool {
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

    /// Returns whether the daemon should get a sample of a dropped advertisement now, so that it can name the sender.
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
            // Two digests differ when their counters do.
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
            assert_eq!(history.admit(&advertisement, begin), Ok(()));
            for now in [begin, begin + 1, begin + quarter_ns - 1] {
                assert_eq!(
                    history.admit(&advertisement, now),
                    Err(Counter::DroppedDuplicate)
                );
            }
            // Refused ones do not count: the quarter begins with the admitted one.
            assert_eq!(history.admit(&advertisement, begin + quarter_ns), Ok(()));
        }
    }

    #[test]
    fn every_byte_but_vhid_and_checksum_makes_a_difference() {
        // The rest of the digest makes no difference either: the counter determines it.
        for byte in [2, 4, 5].into_iter().chain(8..24) {
            let mut history = History::EMPTY;
            let advertisement = payload(5, 1, 0);
            assert_eq!(history.admit(&advertisement, MS), Ok(()));
            let mut other = advertisement;
            other[byte] ^= 0x80;
            assert_eq!(history.admit(&other, MS), Ok(()), "byte {byte}");
        }
    }

    #[test]
    fn some_captured_advertisements_in_turn_are_duplicates_all_the_same() {
        let mut history = History::EMPTY;
        let captured: [_; REMEMBERED_MAX] =
            core::array::from_fn(|i| payload(1000 + i as u64, 1, 0));
        for advertisement in &captured {
            assert_eq!(history.admit(advertisement, MS), Ok(()));
        }
        for advertisement in captured.iter().cycle().take(1000) {
            assert_eq!(
                history.admit(advertisement, 2 * MS),
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
                .filter(|advskew| history.admit(&payload(5, 1, *advskew), now).is_ok())
                .count()
        };
        // The first one rises and the first variation is new. After that both are duplicates.
        assert_eq!(admitted(1, MS), 2);
        assert_eq!(admitted(1, MS + WINDOW_NS), 0);
        // Among many variations each differs from the one before it.
        assert_eq!(admitted(200, MS + WINDOW_NS), ADMITTED_MAX as usize);
        assert_eq!(admitted(200, MS + 2 * WINDOW_NS - 1), 0);
    }

    #[test]
    fn variations_of_one_drown_neither_random_nor_constant_counters() {
        for constant in [true, false] {
            let mut history = History::EMPTY;
            // The first counter is above all later ones.
            assert_eq!(history.admit(&payload(u64::MAX - 8, 1, 0), MS), Ok(()));
            let captured = 7000;
            for second in 1..100 {
                let now = second * 1000 * MS;
                let counter = if constant { captured } else { 5 + 8 * second };
                let genuine = payload(counter, 1, 0);
                assert_eq!(history.admit(&genuine, now), Ok(()), "second {second}");
                for variation in 0..5000 {
                    let varied = payload(captured, 0, u8::try_from(1 + variation % 200).unwrap());
                    let _ = history.admit(&varied, now + variation * 190_000);
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
            assert_eq!(history.admit(&advertisement, second * 1400 * MS), Ok(()));
        }
    }

    #[test]
    fn genuine_ones_are_heard_through_a_flood_of_replays() {
        let mut history = History::EMPTY;
        let mut heard = 0;
        for second in 0..100 {
            let now = second * 1000 * MS;
            let genuine = payload(100_000 + second, 1, 0);
            assert_eq!(history.admit(&genuine, now), Ok(()), "second {second}");
            for replay in 0..2000 {
                let replayed = payload(replay, 1, 0);
                heard += usize::from(history.admit(&replayed, now + replay).is_ok());
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
            remembered: [Remembered {
                counter: u64::MAX,
                digest: u64::MAX,
                at_ns: u64::MAX,
                shown: u32::MAX,
                varied: u32::MAX,
                varied_at_ns: u64::MAX,
            }; REMEMBERED_MAX],
        };
        for now in [0, 1, u64::MAX] {
            assert!(!history.takes_sample(now) || now == u64::MAX);
            let _ = history.admit(&[0xff; HEADER_LEN], now);
            let _ = history.admit(&[0; HEADER_LEN], now);
        }
    }
}
