//! Our own advertisements, when they come back.

use core::net::IpAddr;

use crate::wire::advertisement::DIGEST_LEN;

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
    pub fn contains(&self, source: IpAddr, counter: u64, digest: [u8; DIGEST_LEN]) -> bool {
        let heard = Sent {
            source,
            counter,
            digest,
        };
        self.sent.contains(&Some(heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
    const ANOTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));

    #[test]
    fn an_echo_has_our_source_counter_and_digest() {
        let mut sent = SentMemory::default();
        sent.remember(OURS, 7, [7; DIGEST_LEN]);
        assert!(sent.contains(OURS, 7, [7; DIGEST_LEN]));
        assert!(!sent.contains(ANOTHER, 7, [7; DIGEST_LEN]));
        assert!(!sent.contains(OURS, 8, [7; DIGEST_LEN]));
        assert!(!sent.contains(OURS, 7, [9; DIGEST_LEN]));
    }

    #[test]
    fn the_last_32_advertisements_are_remembered() {
        let mut sent = SentMemory::default();
        for counter in 0..33 {
            sent.remember(OURS, counter, [0; DIGEST_LEN]);
        }
        assert!(!sent.contains(OURS, 0, [0; DIGEST_LEN]));
        assert!((1..33).all(|counter| sent.contains(OURS, counter, [0; DIGEST_LEN])));
    }
}
