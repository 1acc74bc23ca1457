//! Fuzzes what the kernel program adds to the classifier: its own HMAC-SHA1, and the decision which advertisements
//! the daemon receives.
//!
//! Input: 30 bytes (key, counter, the bit to flip), then a prefix of any length. The prefix is authenticated, and
//! also read as a sequence of advertisements.

use carp_common::abi::admission::History;
use carp_common::abi::counters::Counter;
use carp_common::abi::hmac::{KernelKeys, is_authentic};
use carp_common::digest::PreparedDigest;
use carp_common::proto::{AddressSet, Authenticator, Key, Profile};
use carp_common::units::{AdvBase, AdvSkew, Demotion, Priority, Vhid};
use carp_common::wire::advertisement::{Advertisement, DIGEST_LEN, HEADER_LEN};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// The most advertisements that are admitted in an eighth of a second without a rising counter.
const ADMITTED_MAX: usize = 128;
const WINDOW_NS: u64 = 125_000_000;
/// A bow-out does not tell when the next one follows.
const BOW_OUT_INTERVAL_NS: u64 = 1_000_000_000;

/// Runs one input; see the module.
pub fn target(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<30>() else {
        return;
    };
    let (key, more) = head.split_first_chunk().expect("20 of 30 bytes");
    let (counter, flip) = more.split_first_chunk().expect("8 of 10 bytes");
    let flip = usize::from(u16::from_be_bytes([flip[0], flip[1]])) % (8 * DIGEST_LEN);
    one_key(key, rest, *counter, flip);
    a_group(*key, rest, u64::from_be_bytes(*counter), flip);
    history(rest);
}

/// Compares the digest of one key with that of the crate `hmac`.
fn one_key(key: &[u8; DIGEST_LEN], prefix: &[u8], counter: [u8; 8], flip: usize) {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("a key of any length");
    mac.update(prefix);
    mac.update(&counter);
    let mut digest: [u8; DIGEST_LEN] = mac.finalize().into_bytes().into();
    let ours = PreparedDigest::new(key, prefix);
    assert!(ours.verify(counter, &digest));
    digest[flip / 8] ^= 1 << (flip % 8);
    assert!(!ours.verify(counter, &digest));
    assert!(!PreparedDigest::UNUSED.verify(counter, &digest));
}

/// Compares the keys of a group with what the core accepts.
fn a_group(key: [u8; DIGEST_LEN], bytes: &[u8], counter: u64, flip: usize) {
    let (words, _) = bytes.as_chunks::<8>();
    let addresses = AddressSet::new(words.iter().map(|word| match *word {
        [0xfe, b, c, d, e, f, g, h] => {
            let scoped = [0xfe, 0x80, b, c, 0, 0, 0, 0, 0, 0, 0, d, e, f, g, h];
            std::net::IpAddr::from(scoped)
        }
        [a, b, c, d, 0, ..] => [a, b, c, d].into(),
        [a, b, c, d, e, f, g, h] => [0x20, 1, a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 1].into(),
    }));
    let vhid = Vhid::new(bytes.first().copied().unwrap_or(1).max(1)).expect("not 0");
    let key = Key::from_bytes(key);
    let profiles = [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd];
    let [ours, other, openbsd] =
        profiles.map(|profile| Authenticator::new(&key, vhid, &addresses, profile, None));
    for sender in [&ours, &other, &openbsd] {
        let mut payload = [0; HEADER_LEN];
        payload[8..16].copy_from_slice(&counter.to_be_bytes());
        payload[16..].copy_from_slice(&sender.sign(counter));
        for receiver in [&ours, &openbsd] {
            assert!(is_authentic(&KernelKeys::new(receiver.digests()), &payload));
            assert!(!is_authentic(&KernelKeys::NONE, &payload));
        }
        payload[16 + flip / 8] ^= 1 << (flip % 8);
        let digest = payload[16..].try_into().expect("20 bytes");
        for receiver in [&ours, &openbsd] {
            assert_eq!(
                is_authentic(&KernelKeys::new(receiver.digests()), &payload),
                receiver.verify(counter, &digest)
            );
        }
    }
}

/// Plays a sequence of advertisements. Each takes 5 bytes: the time since the last one (two bytes, unit: 100 µs), how
/// the counter continues, advbase, advskew.
fn history(bytes: &[u8]) {
    let mut history = History::EMPTY;
    let mut now: u64 = 1_000_000_000;
    let mut counter: u64 = 1000;
    let mut highest = None;
    let mut heard: Vec<(u64, [u8; HEADER_LEN])> = Vec::new();
    let mut admitted: Vec<u64> = Vec::new();
    let mut sampled: Option<u64> = None;
    let (steps, _) = bytes.as_chunks::<5>();
    for &[t0, t1, step, advbase, advskew] in steps {
        now += 100_000 * u64::from(u16::from_be_bytes([t0, t1]));
        counter = match step {
            0..=99 => counter + 1,
            100..=199 => counter.saturating_sub(u64::from(step - 100)),
            200..=254 => counter,
            255 => counter.saturating_add(1 << 40),
        };
        let mut payload = [0; HEADER_LEN];
        Advertisement {
            vhid: Vhid::new(1).expect("not 0"),
            advskew: AdvSkew(advskew),
            demotion: Demotion::NONE,
            advbase: AdvBase(advbase),
            counter,
            digest: std::array::from_fn(|index| counter.to_be_bytes()[index % 8] ^ 0xa5),
        }
        .emit(&mut payload);
        let priority = Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        };
        let interval = match priority {
            Priority::BOW_OUT => BOW_OUT_INTERVAL_NS,
            priority => priority.interval_nanos(),
        };
        let recent = now.saturating_sub(interval / 4);
        let repeats = |(at, other): &(u64, [u8; HEADER_LEN])| *at > recent && *other == payload;
        let rises = highest.is_none_or(|highest| counter > highest);
        let outcome = history.admit(&payload, now);
        match outcome {
            Ok(()) => {
                assert!(
                    !heard.last().is_some_and(repeats),
                    "the same twice in a row"
                );
                if !rises {
                    admitted.push(now);
                }
            }
            Err(Counter::DroppedDuplicate) => {
                assert!(heard.iter().any(repeats), "a duplicate of nothing")
            }
            Err(Counter::DroppedRateLimited) => {
                assert!(!rises, "a counter that rises is never limited")
            }
            Err(other) => panic!("{other:?} is not for the history to say"),
        }
        // A duplicate does not count: the quarter begins with the advertisement that it repeats.
        if outcome != Err(Counter::DroppedDuplicate) {
            heard.push((now, payload));
        }
        highest = highest.max(Some(counter));
        // The windows of the kernel program begin at other times, so two of them may overlap this one. Versions of
        // one counter have a budget of their own.
        let crowd = admitted
            .iter()
            .rev()
            .take_while(|at| **at + WINDOW_NS > now);
        assert!(crowd.count() <= 4 * ADMITTED_MAX);
        if history.takes_sample(now) {
            assert!(sampled.is_none_or(|at| now - at >= 1_000_000_000));
            sampled = Some(now);
        }
    }
}
