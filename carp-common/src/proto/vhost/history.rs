//! The counters that were sent and heard, which outlive the process.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::context::CoreContext;
use crate::proto::Origin;
use crate::proto::evidence::{Evidence, Memory, Yardstick};
use crate::proto::memory;
use crate::proto::sequence::CounterSequence;
use crate::time::Instant;
use crate::units::Family;
use crate::wire::advertisement::Advertisement;

/// The counters that we sent, the next one, and those that were heard.
#[derive(Debug)]
pub(super) struct History {
    pub(super) sequence: CounterSequence,
    pub(super) memory: Memory,
}

impl History {
    /// Creates a history in which nothing was sent or heard.
    pub(super) fn new(initial_counter: u64) -> Self {
        Self {
            sequence: CounterSequence::new(initial_counter),
            memory: Memory::default(),
        }
    }

    /// Takes the counter of an advertisement that is sent now.
    pub(super) fn send(&mut self, cx: &CoreContext, family: Family) -> u64 {
        let stride = self.stride(cx.sources[family]);
        let counter = self.sequence.send(family, stride, cx.now);
        self.memory.sent(family, counter);
        counter
    }

    /// The last advertisement in this family did not leave: nobody heard it, so nobody can answer it.
    pub(super) fn unsend(&mut self, family: Family) {
        self.sequence.unsend(family);
        self.memory.unsend(family);
    }

    /// Remembers an authentic advertisement and returns what it proves.
    pub(super) fn hear(
        &mut self,
        cx: &CoreContext,
        family: Family,
        origin: Origin,
        advertisement: &Advertisement,
    ) -> Evidence {
        let is_strict = cx.settings.strict_counter;
        let ours = Yardstick {
            interval: cx.interval(),
            master_down: cx.master_down_time(),
            no_openbsd: cx.settings.no_openbsd || is_strict,
        };
        let evidence = self
            .memory
            .hear(origin.source, origin.arrival, advertisement, ours);
        if evidence.is_proof() && !is_strict {
            self.sequence.follow(advertisement.counter);
        }
        self.sequence.observe(family, advertisement.counter);
        evidence
    }

    /// Returns the history as bytes.
    pub(super) fn write(&self) -> Vec<u8> {
        memory::write(&self.memory, self.sequence.next())
    }

    /// Goes on with an earlier history; `false` when the bytes are not understood or not whole.
    pub(super) fn go_on_with(&mut self, bytes: &[u8], now: Instant) -> bool {
        let Some((memory, next)) = memory::read(bytes, now) else {
            return false;
        };
        self.memory = memory;
        self.sequence.go_on_with(next);
        true
    }

    /// Returns how many counters are left out before the next. Two MASTERs whose advertisements cross would each find the
    /// other's counter used up, again and again; so each has a step of its own.
    fn stride(&self, source: Option<IpAddr>) -> u64 {
        let next = self.sequence.next();
        match source {
            Some(IpAddr::V4(source)) => stride_of(&source.octets(), next),
            Some(IpAddr::V6(source)) => stride_of(&source.octets(), next),
            None => 0,
        }
    }
}

/// Hashes the address and the counter (FNV-1a): hosts differ in any octet of their addresses, and take other steps each
/// time. Range: below 32, so that a peer that missed thirty thousand advertisements still finds the next one near.
fn stride_of(octets: &[u8], next: u64) -> u64 {
    let counter = next.to_be_bytes();
    let bytes = octets.iter().chain(&counter);
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    u64::from((hash >> 27) ^ (hash & 0x1f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_steps_of_their_own_below_32() {
        let steps = |last: u8| (0..100).map(move |next| stride_of(&[10, 9, 0, last], next));
        assert!(steps(1).chain(steps(2)).all(|step| step < 32));
        let alike = steps(1).zip(steps(2)).filter(|(a, b)| a == b).count();
        assert!(alike < 15, "{alike} of 100 steps are the same");
    }
}
