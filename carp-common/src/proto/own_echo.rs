//! Our own advertisements, when they come back.

use core::net::IpAddr;

use crate::wire::advertisement::{Advertisement, DIGEST_LEN};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{AdvBase, AdvSkew, Demotion, Vhid};
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

    #[test]
    fn an_echo_has_our_source_counter_and_digest() {
        let mut sent = SentMemory::default();
        let ours = advertisement(7, 0);
        sent.remember(source(1), ours.counter, ours.digest);
        assert!(sent.contains(source(1), &ours));
        assert!(!sent.contains(source(2), &ours));
        assert!(!sent.contains(source(1), &Advertisement { counter: 8, ..ours }));
        assert!(!sent.contains(
            source(1),
            &Advertisement {
                digest: [9; DIGEST_LEN],
                ..ours
            }
        ));
        assert!(sent.contains(
            source(1),
            &Advertisement {
                advskew: AdvSkew(9),
                ..ours
            }
        ));
    }

    #[test]
    fn the_last_32_advertisements_are_remembered() {
        let mut sent = SentMemory::default();
        for counter in 0..33 {
            sent.remember(source(1), counter, advertisement(counter, 0).digest);
        }
        assert!(!sent.contains(source(1), &advertisement(0, 0)));
        assert!((1..33).all(|counter| sent.contains(source(1), &advertisement(counter, 0))));
    }
}
