//! IPv6 neighbour discovery over Ethernet (RFC 4861): solicitations and advertisements.

use core::net::Ipv6Addr;

use super::arp::MARK;
use super::checksum::inet6_checksum;
use super::ether::{self, MacAddress};
use super::ip::{IPV6_HEADER_LEN, Ipv6Header, Ipv6Packet};

/// IPv6 next header of ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour solicitation (RFC 4861, section 4.3).
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement (RFC 4861, section 4.4).
pub const ADVERTISEMENT: u8 = 136;
/// Offset of the target address of either, from the ICMPv6 header on. Unit: bytes.
pub const TARGET_OFFSET: usize = 8;
/// Hop limit of both. It proves that they came from this link.
pub const HOP_LIMIT: u8 = 255;

/// Size of a message without options. Unit: bytes.
const MESSAGE_LEN: usize = 24;
/// Size of an option with an Ethernet address. Unit: bytes.
const OPTION_LEN: usize = 8;
/// Size of the frame of [`probe_frame`]. Unit: bytes.
pub const PROBE_LEN: usize = ether::HEADER_LEN + IPV6_HEADER_LEN + MESSAGE_LEN;
/// Size of the frame of [`unsolicited_frame`]. Unit: bytes.
pub const FRAME_LEN: usize = PROBE_LEN + OPTION_LEN;
/// Size of an announcement, which is such a frame with carpd's [`MARK`]. Unit: bytes.
pub const ANNOUNCEMENT_LEN: usize = FRAME_LEN + MARK.len();

/// Type of the option with the Ethernet address of a solicitation's source.
const SOURCE_LINK_ADDRESS: u8 = 1;
/// Type of the option with the Ethernet address of an advertisement's target.
const TARGET_LINK_ADDRESS: u8 = 2;
/// Flag of an advertisement: the sender is a router.
const ROUTER: u8 = 0x80;
/// Flag of an advertisement: it answers a solicitation.
const SOLICITED: u8 = 0x40;
/// Flag of an advertisement: it replaces what a neighbour knows.
const OVERRIDE: u8 = 0x20;
/// The group of every host of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The station at which a host believes an address to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The address.
    pub address: Ipv6Addr,
    /// The station.
    pub station: MacAddress,
}

impl Neighbour {
    /// Returns what a host learns from an IPv6 packet, which may be followed by other bytes: where the source of a
    /// solicitation is, or the target of an advertisement.
    ///
    /// Returns `None` for other packets, for those that every host must discard (RFC 4861, sections 7.1.1 and 7.1.2), and
    /// for those that name no station.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<IPV6_HEADER_LEN>()?;
        let header = Ipv6Header::parse(header)?;
        let message = rest.get(..header.payload_len)?;
        let Ipv6Header {
            source,
            destination,
            ..
        } = header;
        let is_genuine = header.next_header == ICMPV6
            && header.hop_limit == HOP_LIMIT
            && !source.is_multicast()
            && inet6_checksum(source, destination, ICMPV6, message) == [0, 0];
        if !is_genuine {
            return None;
        }
        let (fixed, options) = message.split_first_chunk::<MESSAGE_LEN>()?;
        let [kind, 0, _, _, flags, _, _, _, target @ ..] = *fixed else {
            return None;
        };
        let target = Ipv6Addr::from(target);
        if target.is_multicast() {
            return None;
        }
        let (address, wanted) = match kind {
            // A host that looks whether an address is free has no source yet.
            SOLICITATION if !source.is_unspecified() => (source, SOURCE_LINK_ADDRESS),
            ADVERTISEMENT if flags & SOLICITED == 0 || !destination.is_multicast() => {
                (target, TARGET_LINK_ADDRESS)
            }
            _ => return None,
        };
        let station = link_address(options, wanted)?;
        Some(Self { address, station })
    }
}

/// Returns the Ethernet address in the last option of this type. Returns `None` if there is none, or if an option has no
/// length or is not complete.
fn link_address(mut options: &[u8], wanted: u8) -> Option<MacAddress> {
    let mut found = None;
    while let [kind, length, ..] = *options {
        // The length counts units of 8 bytes, and an option without length would never end.
        let (option, rest) = options.split_at_checked(usize::from(length) * OPTION_LEN)?;
        if option.is_empty() {
            return None;
        }
        if let [_, 1, a, b, c, d, e, f] = *option
            && kind == wanted
        {
            found = Some(MacAddress([a, b, c, d, e, f]));
        }
        options = rest;
    }
    found.filter(|_| options.is_empty())
}

/// Returns the frame that announces to every host of a link which host has `address` now: an unsolicited neighbour
/// advertisement that replaces what they know (RFC 4861, section 7.2.6).
///
/// OpenBSD (`ip_carp.c`, `carp_send_na`) and FreeBSD send the same. As there, the router flag is what the host is, because
/// a neighbour that learns that a router is none any more stops using it. The source is the address itself, which this
/// host has at that time, as in advertisements of Linux (`ndisc_send_unsol_na`).
#[must_use]
pub fn unsolicited_frame(
    interface: MacAddress,
    address: Ipv6Addr,
    is_router: bool,
) -> [u8; FRAME_LEN] {
    let mut message = [0; MESSAGE_LEN + OPTION_LEN];
    message[0] = ADVERTISEMENT;
    message[4] = if is_router {
        ROUTER | OVERRIDE
    } else {
        OVERRIDE
    };
    message[TARGET_OFFSET..MESSAGE_LEN].copy_from_slice(&address.octets());
    message[MESSAGE_LEN] = TARGET_LINK_ADDRESS;
    message[MESSAGE_LEN + 1] = 1;
    message[MESSAGE_LEN + 2..].copy_from_slice(&interface.0);
    frame(interface, address, ALL_NODES, message)
}

/// Returns [`unsolicited_frame`] with carpd's [`MARK`] behind the packet, where receivers ignore it.
#[must_use]
pub fn announcement_frame(
    interface: MacAddress,
    address: Ipv6Addr,
    is_router: bool,
) -> [u8; ANNOUNCEMENT_LEN] {
    let mut frame = [0; ANNOUNCEMENT_LEN];
    let bytes = unsolicited_frame(interface, address, is_router);
    for (to, from) in frame.iter_mut().zip(bytes.into_iter().chain(MARK)) {
        *to = from;
    }
    frame
}

/// Returns the frame that asks which host has `address`. It names no sender, and therefore changes no host's table: it is
/// the question of duplicate address detection, which a host that has the address answers to all (RFC 4861, section
/// 7.2.4).
#[must_use]
pub fn probe_frame(interface: MacAddress, address: Ipv6Addr) -> [u8; PROBE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = SOLICITATION;
    message[TARGET_OFFSET..].copy_from_slice(&address.octets());
    let group = solicited_node(address);
    frame(interface, Ipv6Addr::UNSPECIFIED, group, message)
}

/// Returns the group of the hosts whose addresses end like this one (RFC 4291, section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Returns the frame of a message, whose checksum is still missing, to a group. The lengths must match.
fn frame<const MESSAGE: usize, const FRAME: usize>(
    interface: MacAddress,
    source: Ipv6Addr,
    group: Ipv6Addr,
    mut message: [u8; MESSAGE],
) -> [u8; FRAME] {
    let sum = inet6_checksum(source, group, ICMPV6, &message);
    message[2..4].copy_from_slice(&sum);
    let mut frame = [0; FRAME];
    let (ether_header, rest) = frame.split_at_mut(ether::HEADER_LEN);
    let (ip_header, rest) = rest.split_at_mut(IPV6_HEADER_LEN);
    if let Some(ether_header) = ether_header.first_chunk_mut() {
        ether::Header {
            destination: MacAddress::multicast_inet6(group),
            source: interface,
            ether_type: ether::TYPE_IPV6,
        }
        .emit(ether_header);
    }
    if let Some(ip_header) = ip_header.first_chunk_mut() {
        Ipv6Packet {
            traffic_class: 0,
            #[expect(clippy::cast_possible_truncation, reason = "24 or 32")]
            payload_len: MESSAGE as u16,
            next_header: ICMPV6,
            hop_limit: HOP_LIMIT,
            source,
            destination: group,
        }
        .emit(ip_header);
    }
    rest.copy_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
    /// Offset of the ICMPv6 message in a packet.
    const MESSAGE: usize = IPV6_HEADER_LEN;

    /// Returns the packet of a frame, with the checksum corrected.
    fn packet(frame: &[u8]) -> Vec<u8> {
        let mut packet = frame[ether::HEADER_LEN..].to_vec();
        correct(&mut packet);
        packet
    }

    fn correct(packet: &mut [u8]) {
        let header = Ipv6Header::parse(packet.first_chunk().unwrap()).unwrap();
        let (source, destination) = (header.source, header.destination);
        packet[MESSAGE + 2..MESSAGE + 4].fill(0);
        let message = &packet[MESSAGE..MESSAGE + header.payload_len];
        let sum = inet6_checksum(source, destination, ICMPV6, message);
        packet[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&sum);
    }

    /// Returns a changed packet with the right checksum.
    fn changed(packet: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
        correct(&mut packet);
        packet
    }

    fn advertisement() -> Vec<u8> {
        packet(&unsolicited_frame(MAC, ADDRESS, false))
    }

    /// Returns a solicitation that `ADDRESS` sends, with its Ethernet address.
    fn solicitation() -> Vec<u8> {
        let solicitation = changed(&advertisement(), MESSAGE, &[SOLICITATION]);
        let solicitation = changed(&solicitation, MESSAGE + 4, &[0]);
        changed(&solicitation, MESSAGE + MESSAGE_LEN, &[SOURCE_LINK_ADDRESS])
    }

    fn learned() -> Option<Neighbour> {
        Some(Neighbour {
            address: ADDRESS,
            station: MAC,
        })
    }

    #[test]
    fn an_announcement_has_every_byte_in_place() {
        let frame = unsolicited_frame(MAC, ADDRESS, false);
        assert_eq!(
            frame[..54],
            [
                0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86,
                0xdd, // Ethernet, to all nodes
                0x60, 0, 0, 0, 0, 32, 58, 255, // ICMPv6, hop limit 255
                0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, // source
                0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // all nodes
            ]
        );
        assert_eq!(frame[54..56], [136, 0]);
        assert_eq!(
            frame[58..],
            [
                0x20, 0, 0, 0, // override
                0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, // target
                2, 1, 2, 0, 0, 0, 0, 9, // target link-layer address
            ]
        );
        // The sum of the words, added up by hand: 2 × 2001:db8::12:3456, ff02::1, 32, 58, and the message.
        let words: [u32; 21] = [
            0x2001, 0x0db8, 0x12, 0x3456, 0x2001, 0x0db8, 0x12, 0x3456, 0xff02, 1, 32, 58, 0x8800,
            0x2000, 0x0201, 0x0200, 0, 9, 0, 0, 0,
        ];
        let sum = words.iter().sum::<u32>();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        assert_eq!(frame[56..58], sum.to_be_bytes());
    }

    #[test]
    fn a_router_says_that_it_is_one_and_changes_nothing_else() {
        let router = unsolicited_frame(MAC, ADDRESS, true);
        assert_eq!(router[58], 0xa0);
        let mut host = router;
        host[58] = 0x20;
        let packet = packet(&host);
        assert_eq!(packet, advertisement());
        assert_eq!(Neighbour::parse(&router[14..]), learned());
    }

    #[test]
    fn a_mark_follows_the_packet_and_is_no_part_of_it() {
        let frame = announcement_frame(MAC, ADDRESS, true);
        assert_eq!(frame[..FRAME_LEN], unsolicited_frame(MAC, ADDRESS, true));
        assert_eq!(frame[FRAME_LEN..], *b"CARP");
        assert_eq!(Neighbour::parse(&frame[14..]), learned());
    }

    #[test]
    fn a_probe_names_no_sender() {
        let frame = probe_frame(MAC, ADDRESS);
        assert_eq!(
            frame[..54],
            [
                0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, // Ethernet
                0x60, 0, 0, 0, 0, 24, 58, 255, // ICMPv6, hop limit 255
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // no source
                0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x12, 0x34,
                0x56, // solicited node
            ]
        );
        assert_eq!(
            (&frame[54..56], &frame[58..62]),
            (&[135, 0][..], &[0; 4][..])
        );
        assert_eq!(frame[62..], ADDRESS.octets());
        let correct = packet(&frame);
        assert_eq!(frame[14..], correct, "the checksum");
        assert_eq!(Neighbour::parse(&frame[14..]), None);
    }

    #[test]
    fn a_host_learns_the_target_of_an_advertisement_and_the_source_of_a_solicitation() {
        assert_eq!(Neighbour::parse(&advertisement()), learned());
        // Solicitations of other hosts ask for any target.
        let other = changed(&solicitation(), MESSAGE + TARGET_OFFSET, &[0xfe, 0x80]);
        assert_eq!(Neighbour::parse(&other), learned());
        // An answer goes to the host that asked, from any source.
        let answer = changed(&advertisement(), MESSAGE + 4, &[0x60]);
        assert_eq!(Neighbour::parse(&answer), None, "no answer goes to a group");
        let answer = changed(&answer, 24, &[0xfe, 0x80]);
        let answer = changed(&answer, 8, &[0xfe, 0x80]);
        assert_eq!(Neighbour::parse(&answer), learned());
    }

    #[test]
    fn messages_that_every_host_discards_teach_nothing() {
        for good in [advertisement(), solicitation()] {
            assert_eq!(Neighbour::parse(&good), learned());
            for (offset, bytes, what) in [
                (0, &[0x40][..], "version"),
                (6, &[6], "next header"),
                (7, &[254], "hop limit"),
                (8, &[0xff], "multicast source"),
                (MESSAGE, &[133], "type"),
                (MESSAGE + 1, &[1], "code"),
                (MESSAGE + TARGET_OFFSET, &[0xff], "multicast target"),
                (MESSAGE + MESSAGE_LEN, &[9], "option type"),
                (MESSAGE + MESSAGE_LEN + 1, &[0], "option without length"),
                (
                    MESSAGE + MESSAGE_LEN + 1,
                    &[2],
                    "option longer than the packet",
                ),
            ] {
                let mut bad = good.clone();
                bad[offset..offset + bytes.len()].copy_from_slice(bytes);
                if offset != 0 {
                    correct(&mut bad);
                }
                assert_eq!(Neighbour::parse(&bad), None, "{what}");
            }
            for bit in 0..8 * good.len() {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // The rest of the first word is the traffic class and the flow label.
                if bit >= 32 || (4..8).contains(&bit) {
                    assert_eq!(Neighbour::parse(&bad), None, "bit {bit}");
                }
            }
            for length in 0..good.len() {
                assert_eq!(Neighbour::parse(&good[..length]), None, "{length} bytes");
            }
        }
        let no_source = changed(&solicitation(), 8, &[0; 16]);
        assert_eq!(Neighbour::parse(&no_source), None);
    }

    #[test]
    fn the_address_is_found_among_other_options() {
        let mut packet = advertisement();
        // A nonce (RFC 3971) of 16 bytes stands before it.
        let nonce = [14, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        packet.splice(MESSAGE + MESSAGE_LEN..MESSAGE + MESSAGE_LEN, nonce);
        packet[5] += 16;
        correct(&mut packet);
        assert_eq!(Neighbour::parse(&packet), learned());
        // A rest that is no option spoils the message.
        packet.push(1);
        packet[5] += 1;
        correct(&mut packet);
        assert_eq!(Neighbour::parse(&packet), None);
    }
}
