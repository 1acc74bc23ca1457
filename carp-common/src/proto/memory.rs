//! The counters that were heard and sent, as bytes that outlive the process.
//!
//! They contain only what every host on the link could hear: counters and digests, but no key. Numbers are big endian. A
//! version comes first, and a length before each list. Bytes that are not whole are rejected.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::FAMILIES;
use super::evidence::{Memory, SOURCES_MAX};
use super::heard::{Closed, GENERATION_LEN, GENERATION_MAX, RUNS_MAX, Recent, Run, Scattered};
use super::peer::{Peer, Shown, Single};
use crate::time::Instant;
use crate::units::{AdvBase, AdvSkew, Demotion, Priority};

/// First bytes; the last of them is the version.
const MAGIC: [u8; 8] = *b"carpd\0m\x01";
/// Counters that are left out after a restart, because some were sent since the last writing. It is enough for ten minutes of
/// 50 advertisements a second, each of which leaves out 15 on average.
const UNWRITTEN: u64 = 1 << 19;

/// Writes the memory, and the counter that is sent next.
pub(super) fn write(memory: &Memory, next: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put(&mut bytes, next);
    for family in FAMILIES {
        let own = memory.own[family].runs();
        let runs: Vec<Run> = memory.closed[family].iter().chain(own).collect();
        bytes.push(u8::try_from(runs.len()).unwrap_or(u8::MAX));
        for run in runs {
            put(&mut bytes, run.first);
            put(&mut bytes, run.last);
        }
    }
    bytes.push(u8::try_from(memory.peers.len()).unwrap_or(u8::MAX));
    for peer in &memory.peers {
        match peer.source {
            IpAddr::V4(source) => {
                bytes.push(4);
                bytes.extend(source.octets());
            }
            IpAddr::V6(source) => {
                bytes.push(6);
                bytes.extend(source.octets());
            }
        }
        // A first counter above the last one means that there is no run.
        let run = peer.run.unwrap_or(Run { first: 1, last: 0 });
        put(&mut bytes, run.first);
        put(&mut bytes, run.last);
        put(&mut bytes, peer.latest.counter);
        let Shown { priority, demotion } = peer.latest.shown;
        bytes.extend([
            priority.advbase.0,
            priority.advskew.0,
            demotion.0,
            peer.latest.repetitions,
            peer.unrelated,
        ]);
    }
    if let Some(scattered) = &memory.scattered {
        let (current, previous, entries) = scattered.parts();
        put(&mut bytes, entries.into());
        bytes.extend_from_slice(current);
        bytes.extend_from_slice(previous);
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_be_bytes());
}

/// Returns the memory and the next counter; `None` if the bytes are not whole or not ours.
pub(super) fn read(bytes: &[u8], now: Instant) -> Option<(Memory, u64)> {
    let mut rest = Bytes(bytes);
    if rest.take()? != MAGIC {
        return None;
    }
    let next = rest.number()?;
    let mut memory = Memory::default();
    for family in FAMILIES {
        memory.closed[family] = read_runs(&mut rest)?;
    }
    let [peers] = rest.take()?;
    if usize::from(peers) > SOURCES_MAX {
        return None;
    }
    for _ in 0..peers {
        memory.peers.push(read_peer(&mut rest, now)?);
    }
    if !rest.0.is_empty() {
        let entries = u32::try_from(rest.number()?).ok()?.min(GENERATION_MAX);
        let (current, previous) = rest.0.split_at_checked(GENERATION_LEN)?;
        memory.scattered = Some(Scattered::from_parts(current, previous, entries)?);
    }
    Some((memory, next.saturating_add(UNWRITTEN)))
}

fn read_runs(rest: &mut Bytes<'_>) -> Option<Closed> {
    let [count] = rest.take()?;
    // And two of our own.
    if usize::from(count) > RUNS_MAX + 2 {
        return None;
    }
    let mut closed = Closed::default();
    for _ in 0..count {
        let (first, last) = (rest.number()?, rest.number()?);
        if first > last {
            return None;
        }
        closed.add(Run { first, last });
    }
    Some(closed)
}

fn read_peer(rest: &mut Bytes<'_>, now: Instant) -> Option<Peer> {
    let source = match rest.take()? {
        [4] => IpAddr::from(rest.take::<4>()?),
        [6] => IpAddr::from(rest.take::<16>()?),
        [_] => return None,
    };
    let run = Run {
        first: rest.number()?,
        last: rest.number()?,
    };
    let counter = rest.number()?;
    let [advbase, advskew, demotion, repetitions, unrelated] = rest.take()?;
    let priority = Priority {
        advbase: AdvBase(advbase),
        advskew: AdvSkew(advskew),
    };
    let shown = Shown {
        priority,
        demotion: Demotion(demotion),
    };
    Some(Peer {
        source,
        heard_at: now,
        warned: false,
        run: (run.first <= run.last).then_some(run),
        recent: Recent::unknown(),
        shortest: shown.interval(),
        latest: Single {
            repetitions,
            ..Single::new(counter, shown, now)
        },
        candidate: None,
        stray: None,
        former: None,
        unrelated,
    })
}

/// The bytes that are not read yet.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}
