//! The filters of the sockets that receive claims.

use std::net::{Ipv4Addr, Ipv6Addr};

use carp_common::wire::discovery;
use socket2::SockFilter;

/// Offsets in an ARP frame. The kernel has already removed VLAN tags.
const HARDWARE_TYPE: u32 = 14;
const PROTOCOL_TYPE: u32 = 14 + 2;
const LENGTHS: u32 = 14 + 4;
const SENDER_IP: u32 = 14 + 14;
const TARGET_IP: u32 = 14 + 24;
/// Offsets in a frame of neighbour discovery.
const NEXT_HEADER: u32 = 14 + 6;
const HOP_LIMIT: u32 = 14 + 7;
const SOURCE: u32 = 14 + 8;
const TYPE: u32 = 14 + 40;
const TARGET: u32 = 14 + 40 + 8;
/// Offset of the ancillary data that classifies the destination (`SKF_AD_OFF` + `SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// The frame is for another station, or for a VLAN that does not exist here.
const OTHER_HOST: u32 = 3;

/// Number of addresses up to which a filter compares each one. More are covered by one range.
pub const EXACT_MAX: usize = 64;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const fn reject() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, 0)
}

const fn accept() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, u32::MAX)
}

/// Returns the filter `arp src host A or arp src host B …`. It accepts complete packets of the types that
/// [`Arp::parse`] knows, sent to this host or to everyone.
pub fn arp(addresses: &[Ipv4Addr]) -> Vec<SockFilter> {
    let mut program = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQUAL, 0, 1, OTHER_HOST),
        reject(),
        // The kernel rejects a frame when the filter reads beyond its end.
        SockFilter::new(LOAD_WORD, 0, 0, TARGET_IP),
        SockFilter::new(LOAD_HALF, 0, 0, HARDWARE_TYPE),
        SockFilter::new(JUMP_EQUAL, 2, 0, 1),
        SockFilter::new(JUMP_EQUAL, 1, 0, 6),
        reject(),
        SockFilter::new(LOAD_HALF, 0, 0, PROTOCOL_TYPE),
        SockFilter::new(JUMP_EQUAL, 1, 0, 0x0800),
        reject(),
        SockFilter::new(LOAD_HALF, 0, 0, LENGTHS),
        SockFilter::new(JUMP_EQUAL, 1, 0, 0x0604),
        reject(),
        SockFilter::new(LOAD_WORD, 0, 0, SENDER_IP),
    ];
    let numbers = addresses.iter().map(|address| address.to_bits());
    if addresses.len() <= EXACT_MAX {
        for number in numbers {
            // If the address differs, continue with the next comparison.
            program.push(SockFilter::new(JUMP_EQUAL, 0, 1, number));
            program.push(accept());
        }
    } else if let (Some(first), Some(last)) = (numbers.clone().min(), numbers.max()) {
        program.push(SockFilter::new(JUMP_GREATER_OR_EQUAL, 0, 2, first));
        program.push(SockFilter::new(JUMP_GREATER, 1, 0, last));
        program.push(accept());
    }
    program.push(reject());
    program
}

/// Returns the filter for solicitations from these addresses and for advertisements about them, with hop limit 255, sent to
/// this host or to a group. Most IPv6 packets leave it after two steps, because it sees all that the interface receives.
pub fn discovery(addresses: &[Ipv6Addr]) -> Vec<SockFilter> {
    const LOAD_OFFSET: u16 = 0x01;
    const LOAD_WORD_FROM_OFFSET: u16 = 0x40;
    const STORE: u16 = 0x02;
    const LOAD_STORED: u16 = 0x60;
    let mut program = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER),
        SockFilter::new(JUMP_EQUAL, 1, 0, u32::from(discovery::ICMPV6)),
        reject(),
        SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQUAL, 0, 1, OTHER_HOST),
        reject(),
        SockFilter::new(LOAD_BYTE, 0, 0, HOP_LIMIT),
        SockFilter::new(JUMP_EQUAL, 1, 0, u32::from(discovery::HOP_LIMIT)),
        reject(),
        SockFilter::new(LOAD_BYTE, 0, 0, TYPE),
        SockFilter::new(LOAD_OFFSET, 0, 0, TARGET),
        SockFilter::new(JUMP_EQUAL, 3, 0, u32::from(discovery::ADVERTISEMENT)),
        SockFilter::new(LOAD_OFFSET, 0, 0, SOURCE),
        SockFilter::new(JUMP_EQUAL, 1, 0, u32::from(discovery::SOLICITATION)),
        reject(),
    ];
    // The four words of the address are stored, because a load from the frame takes the kernel several steps.
    for word in 0..4 {
        program.push(SockFilter::new(LOAD_WORD_FROM_OFFSET, 0, 0, 4 * word));
        program.push(SockFilter::new(STORE, 0, 0, word));
    }
    let words = addresses.iter().map(|address| {
        let [a, b, c, d, e, f, g, h] = address.segments();
        let word = |(high, low)| u32::from(high) << 16 | u32::from(low);
        [(a, b), (c, d), (e, f), (g, h)].map(word)
    });
    if addresses.len() <= EXACT_MAX {
        for [first, second, third, last] in words {
            // The last word differs most often. If a word differs, continue with the next address.
            for (number, word, skip) in [(3, last, 7), (2, third, 5), (1, second, 3), (0, first, 1)]
            {
                program.push(SockFilter::new(LOAD_STORED, 0, 0, number));
                program.push(SockFilter::new(JUMP_EQUAL, 0, skip, word));
            }
            program.push(accept());
        }
    } else {
        // The addresses of one host differ in their last word.
        let numbers = words.map(|[.., last]| last);
        if let (Some(first), Some(last)) = (numbers.clone().min(), numbers.max()) {
            program.push(SockFilter::new(LOAD_STORED, 0, 0, 3));
            program.push(SockFilter::new(JUMP_GREATER_OR_EQUAL, 0, 2, first));
            program.push(SockFilter::new(JUMP_GREATER, 1, 0, last));
            program.push(accept());
        }
    }
    program.push(reject());
    program
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use carp_common::wire::arp::{Arp, FRAME_LEN, gratuitous_frame, probe_frame};
    use carp_common::wire::discovery::{Neighbour, unsolicited_frame};
    use carp_common::wire::ether::{self, MacAddress};
    use socket2::Socket;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    /// Returns whether the filter accepts the frame. Filters work on any datagram socket.
    fn passes_filter(filter: &[SockFilter], frame: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let receiver = Socket::from(OwnedFd::from(receiver));
        receiver.attach_filter(filter).unwrap();
        // On some kernels the sender gets an error when the filter rejects its datagram.
        let _ = sender.send(frame);
        receiver
            .recv(&mut [std::mem::MaybeUninit::uninit(); FRAME_LEN])
            .is_ok()
    }

    fn passes(addresses: &[Ipv4Addr], frame: &[u8]) -> bool {
        passes_filter(&arp(addresses), frame)
    }

    fn passes6(addresses: &[Ipv6Addr], frame: &[u8]) -> bool {
        passes_filter(&discovery(addresses), frame)
    }

    fn addresses(count: u8) -> Vec<Ipv4Addr> {
        (0..count)
            .map(|last| [10, 0, 0, 100 + last].into())
            .collect()
    }

    fn announced(watched: &[Ipv4Addr], address: [u8; 4]) -> bool {
        passes(watched, &gratuitous_frame(MAC, address.into()))
    }

    #[test]
    fn only_senders_with_a_watched_address_pass() {
        assert!(!announced(&[], [10, 0, 0, 100]));
        for count in [1, 2, 64, 65, 100] {
            let watched = addresses(count);
            assert!(announced(&watched, [10, 0, 0, 100]), "first of {count}");
            assert!(
                announced(&watched, [10, 0, 0, 99 + count]),
                "last of {count}"
            );
            assert!(!announced(&watched, [10, 0, 0, 99]), "before {count}");
            assert!(
                !announced(&watched, [10, 0, 0, 100 + count]),
                "after {count}"
            );
        }
    }

    #[test]
    fn a_frame_passes_if_and_only_if_it_parses() {
        let address = addresses(1)[0];
        let frame = gratuitous_frame(MAC, address);
        for length in 0..=FRAME_LEN {
            let passes = passes(&[address], &frame[..length]);
            assert_eq!(passes, length == FRAME_LEN, "{length} bytes");
        }
        // Change each bit of types, lengths and operation.
        for offset in ether::HEADER_LEN..ether::HEADER_LEN + 8 {
            for value in (0..8).map(|bit| frame[offset] ^ (1 << bit)).chain([6]) {
                let mut changed = frame;
                changed[offset] = value;
                let parses = Arp::parse(&changed[ether::HEADER_LEN..]).is_some();
                assert_eq!(passes(&[address], &changed), parses, "{value} at {offset}");
            }
        }
    }

    #[test]
    fn questions_for_a_watched_address_do_not_pass() {
        let address = addresses(1)[0];
        assert!(!passes(&[address], &probe_frame(MAC, address)));
    }

    fn address6(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, last)
    }

    fn addresses6(count: u16) -> Vec<Ipv6Addr> {
        (0..count).map(|last| address6(100 + last)).collect()
    }

    /// Returns a solicitation that an address sends.
    fn solicitation_from(address: Ipv6Addr) -> Vec<u8> {
        let mut frame = unsolicited_frame(MAC, address, false).to_vec();
        frame[54] = discovery::SOLICITATION;
        // It asks for another address.
        frame[62..78].fill(7);
        frame
    }

    #[test]
    fn only_discovery_about_a_watched_address_passes() {
        let good = unsolicited_frame(MAC, address6(100), true);
        assert!(!passes6(&[], &good));
        for count in [1, 2, 64, 65, 100] {
            let watched = addresses6(count);
            for (last, expected) in [
                (99, false),
                (100, true),
                (99 + count, true),
                (100 + count, false),
            ] {
                let advertisement = unsolicited_frame(MAC, address6(last), false);
                assert_eq!(
                    passes6(&watched, &advertisement),
                    expected,
                    "{last} of {count}"
                );
                let solicitation = solicitation_from(address6(last));
                assert_eq!(
                    passes6(&watched, &solicitation),
                    expected,
                    "{last} of {count}"
                );
            }
        }
    }

    #[test]
    fn every_word_of_an_address_counts() {
        let watched = address6(100);
        for bit in [0, 31, 32, 63, 64, 95, 96, 127] {
            let other = Ipv6Addr::from_bits(watched.to_bits() ^ 1 << bit);
            assert!(
                !passes6(&[watched], &unsolicited_frame(MAC, other, false)),
                "{bit}"
            );
            let both = [watched, other];
            assert!(
                passes6(&both, &unsolicited_frame(MAC, other, false)),
                "{bit}"
            );
        }
    }

    #[test]
    fn neighbour_messages_pass_and_other_types_and_hop_limits_do_not() {
        let address = address6(100);
        let frame = unsolicited_frame(MAC, address, false);
        assert!(Neighbour::parse(&frame[ether::HEADER_LEN..]).is_some());
        for length in 0..frame.len() {
            // The target address must be there. What follows is parsed later.
            assert_eq!(
                passes6(&[address], &frame[..length]),
                length >= 78,
                "{length}"
            );
        }
        for (offset, value) in [
            (20, 6),
            (21, 254),
            (54, 128),
            (54, 133),
            (54, 134),
            (54, 137),
        ] {
            let mut changed = frame;
            changed[offset] = value;
            assert!(!passes6(&[address], &changed), "{value} at {offset}");
        }
    }

    #[test]
    fn a_search_for_a_free_address_does_not_pass() {
        let address = address6(100);
        assert!(!passes6(&[address], &discovery::probe_frame(MAC, address)));
    }
}
