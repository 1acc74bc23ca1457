//! The address that a frame asks for or speaks for, which decides whether the fence stops it.
//!
//! Neighbours find a host by ARP requests (probes and announcements are requests too) and by IPv6 neighbour solicitations.
//! A host that does not receive them does not answer, and its neighbours forget it. The fence also covers what the host
//! sends, because every neighbour that receives an ARP request believes its sender address.

use super::{Carried, Frame};
use crate::abi::layout::{AddressKey, FAMILY_INET, FAMILY_INET6, widen};
use crate::wire::arp;
use crate::wire::discovery::{
    ADVERTISEMENT as NEIGHBOUR_ADVERTISEMENT, ICMPV6, SOLICITATION as NEIGHBOUR_SOLICITATION,
    TARGET_OFFSET,
};
use crate::wire::ether;
use crate::wire::ip::{
    IPV4_DESTINATION_OFFSET, IPV4_SOURCE_OFFSET, IPV6_DESTINATION_OFFSET, IPV6_HEADER_LEN,
    IPV6_NEXT_HEADER_OFFSET, IPV6_SOURCE_OFFSET,
};

/// The address that a frame asks for or speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceSubject {
    /// The address.
    pub key: AddressKey,
    /// Whether the frame is ARP or neighbour discovery, which every fence covers. Otherwise it is another IP packet.
    pub resolves: bool,
}

impl FenceSubject {
    #[inline(always)]
    const fn new(family: u8, address: [u8; 16], ifindex: u32, resolves: bool) -> Self {
        Self {
            key: AddressKey::of(family, address, ifindex),
            resolves,
        }
    }
}

impl Carried {
    /// The number of tags that the fence skips to find a question. Linux answers behind any number of priority tags.
    pub const TAGS_MAX: usize = 8;

    /// Returns whether there is another tag behind those that [`Carried::find`] skips.
    #[inline(always)]
    #[must_use]
    pub const fn has_more_tags(&self) -> bool {
        ether::is_tag(self.ether_type)
    }

    /// Returns the packet behind up to [`Carried::TAGS_MAX`] tags, or `None` if the frame ends before.
    #[inline(always)]
    #[must_use]
    pub fn behind_more_tags<F: Frame + ?Sized>(mut self, frame: &F) -> Option<Self> {
        // Not a loop, as in `find`.
        macro_rules! step {
            ($($number:literal)*) => {$(
                let _: u8 = $number;
                if !self.has_more_tags() {
                    return Some(self);
                }
                self.enter_tag(frame)?;
            )*};
        }
        step!(3 4 5 6 7 8);
        Some(self)
    }

    /// Returns the address that the frame asks the link for, and with `every_packet` also the destination of an IP packet.
    ///
    /// It returns `None` for every other frame. Without `every_packet` it reads no more than the EtherType of an IPv4 packet
    /// and the next header of an IPv6 packet.
    ///
    /// A solicitation behind IPv6 extension headers is not found; no system sends those.
    #[inline(always)]
    #[must_use]
    pub fn claimed_address<F: Frame + ?Sized>(
        &self,
        frame: &F,
        every_packet: bool,
    ) -> Option<FenceSubject> {
        let ifindex = self.ingress.ifindex;
        match self.ether_type {
            ether::TYPE_ARP => {
                let start = frame.bytes_at(self.offset)?;
                if start != arp::REQUEST && start != arp::REQUEST_IEEE802 {
                    return None;
                }
                let target = frame.bytes_at(self.offset + arp::TARGET_IP_OFFSET)?;
                Some(FenceSubject::new(FAMILY_INET, widen(target), ifindex, true))
            }
            ether::TYPE_IPV4 if every_packet => {
                let destination = frame.bytes_at(self.offset + IPV4_DESTINATION_OFFSET)?;
                Some(FenceSubject::new(
                    FAMILY_INET,
                    widen(destination),
                    ifindex,
                    false,
                ))
            }
            ether::TYPE_IPV6 => {
                let (offset, resolves) = if self.is_solicitation(frame) {
                    (IPV6_HEADER_LEN + TARGET_OFFSET, true)
                } else if every_packet {
                    (IPV6_DESTINATION_OFFSET, false)
                } else {
                    return None;
                };
                let address = frame.bytes_at(self.offset + offset)?;
                Some(FenceSubject::new(FAMILY_INET6, address, ifindex, resolves))
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn is_solicitation<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        frame.bytes_at(self.offset + IPV6_NEXT_HEADER_OFFSET) == Some([ICMPV6])
            && frame.bytes_at(self.offset + IPV6_HEADER_LEN) == Some([NEIGHBOUR_SOLICITATION])
    }
}

/// Returns the address in whose name a packet that the host sends speaks:
///
/// - the sender of ARP, of any operation
/// - the source of a neighbour solicitation, or its target if it has no source
/// - the target of a neighbour advertisement
/// - with `every_packet`, the source of any other IP packet
///
/// It returns `None` for every other packet. Without `every_packet` it does not read an IPv4 packet at all.
///
/// `packet` begins with its network header, after all tags, as the kernel knows it. `ether_type` is the kernel's too, and
/// `ifindex` is the index of the device that the packet leaves through.
#[inline(always)]
#[must_use]
pub fn spoken_address<F: Frame + ?Sized>(
    packet: &F,
    ether_type: u16,
    ifindex: u32,
    every_packet: bool,
) -> Option<FenceSubject> {
    match ether_type {
        ether::TYPE_ARP => {
            // The kernel uses each device's own hardware type and address length.
            let [_, _, 0x08, 0x00, hardware_len, 4, _, _] = packet.bytes_at(0)? else {
                return None;
            };
            let sender = packet.bytes_at(arp::ADDRESSES_OFFSET + usize::from(hardware_len))?;
            Some(FenceSubject::new(FAMILY_INET, widen(sender), ifindex, true))
        }
        ether::TYPE_IPV4 if every_packet => {
            let source = packet.bytes_at(IPV4_SOURCE_OFFSET)?;
            Some(FenceSubject::new(
                FAMILY_INET,
                widen(source),
                ifindex,
                false,
            ))
        }
        ether::TYPE_IPV6 => {
            let discovery = match packet.bytes_at(IPV6_NEXT_HEADER_OFFSET)? {
                [ICMPV6] => packet.bytes_at(IPV6_HEADER_LEN).map(|[kind]| kind),
                _ => None,
            };
            let is_solicitation = discovery == Some(NEIGHBOUR_SOLICITATION);
            let is_advertisement = discovery == Some(NEIGHBOUR_ADVERTISEMENT);
            let resolves = is_solicitation || is_advertisement;
            if !resolves && !every_packet {
                return None;
            }
            let mut address: [u8; 16] = packet.bytes_at(IPV6_SOURCE_OFFSET)?;
            if is_advertisement || is_solicitation && address == [0; 16] {
                address = packet.bytes_at(IPV6_HEADER_LEN + TARGET_OFFSET)?;
            }
            Some(FenceSubject::new(FAMILY_INET6, address, ifindex, resolves))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ingress;
    use super::*;
    use crate::wire::arp::gratuitous_frame;
    use crate::wire::ether::MacAddress;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::vec::Vec;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
    const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

    fn claimed(frame: &[u8], every_packet: bool) -> Option<FenceSubject> {
        let ingress = Ingress {
            ifindex: 3,
            stripped_tag: None,
        };
        let carried = Carried::find(frame, ingress)?.behind_more_tags(frame)?;
        carried.claimed_address(frame, every_packet)
    }

    /// Returns the claim of ARP or neighbour discovery for an address.
    fn resolving(address: impl Into<IpAddr>) -> Option<FenceSubject> {
        let key = AddressKey::new(address.into(), 3);
        Some(FenceSubject {
            key,
            resolves: true,
        })
    }

    /// Returns the claim of an IP packet for an address.
    fn packet(address: impl Into<IpAddr>) -> Option<FenceSubject> {
        let key = AddressKey::new(address.into(), 3);
        Some(FenceSubject {
            key,
            resolves: false,
        })
    }

    /// Returns a frame with this many priority tags of both kinds added.
    fn tagged(mut frame: Vec<u8>, tags: usize) -> Vec<u8> {
        for number in 0..tags {
            let tag = [[0x81, 0, 0xe0, 0], [0x88, 0xa8, 0, 0]][number % 2];
            frame.splice(12..12, tag);
        }
        frame
    }

    fn request() -> Vec<u8> {
        gratuitous_frame(MacAddress([2, 0, 0, 0, 0, 9]), ADDRESS).to_vec()
    }

    fn solicitation() -> Vec<u8> {
        let mut frame = std::vec![0x33, 0x33, 0xff, 0, 1, 0, 2, 0, 0, 0, 0, 9, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 0, 24, ICMPV6, 255]);
        frame.extend([0xfe; 16]);
        frame.extend([0xff; 16]);
        frame.extend([NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(ADDRESS6.octets());
        frame
    }

    #[test]
    fn questions_name_their_target() {
        assert_eq!(claimed(&request(), false), resolving(ADDRESS));
        assert_eq!(claimed(&solicitation(), false), resolving(ADDRESS6));
        // The target counts, wherever the solicitation is sent to.
        assert_eq!(claimed(&solicitation(), true), resolving(ADDRESS6));
        let mut in_vlan = request();
        in_vlan.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(
            claimed(&in_vlan, false),
            resolving(ADDRESS),
            "answered there too"
        );
        let mut ieee802 = request();
        ieee802[15] = 6;
        assert_eq!(claimed(&ieee802, false), resolving(ADDRESS));
    }

    #[test]
    fn questions_are_found_behind_eight_tags_and_not_behind_nine() {
        for (question, claim) in [
            (request(), resolving(ADDRESS)),
            (solicitation(), resolving(ADDRESS6)),
        ] {
            for tags in 0..=Carried::TAGS_MAX {
                let frame = tagged(question.clone(), tags);
                assert_eq!(claimed(&frame, false), claim, "{tags} tags");
            }
            let frame = tagged(question, Carried::TAGS_MAX + 1);
            let ingress = Ingress {
                ifindex: 3,
                stripped_tag: None,
            };
            let carried = Carried::find(frame.as_slice(), ingress).unwrap();
            let carried = carried.behind_more_tags(frame.as_slice()).unwrap();
            assert!(carried.has_more_tags());
        }
    }

    #[test]
    fn packets_name_their_destination_only_when_all_are_asked_about() {
        let mut tcp = solicitation();
        tcp[20] = 6;
        assert_eq!(claimed(&tcp, false), None);
        assert_eq!(claimed(&tcp, true), packet(Ipv6Addr::from([0xff; 16])));
        let mut inet = std::vec![0; 14 + 20];
        inet[12] = 8;
        inet[30..34].copy_from_slice(&ADDRESS.octets());
        assert_eq!(claimed(&inet, false), None);
        assert_eq!(claimed(&inet, true), packet(ADDRESS));
    }

    #[test]
    fn truncated_frames_ask_for_nothing() {
        for frame in [request(), solicitation()] {
            for length in 0..frame.len() {
                assert_eq!(claimed(&frame[..length], false), None, "{length} bytes");
            }
        }
    }

    #[test]
    fn every_bit_that_makes_a_request_counts() {
        for bit in 14 * 8..22 * 8 {
            let mut frame = request();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(claimed(&frame, true), None, "bit {bit}");
        }
    }

    /// Returns the address that a packet speaks for, from the network header on.
    fn spoken(frame: &[u8], every_packet: bool) -> Option<FenceSubject> {
        let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
        spoken_address(&frame[14..], ether_type, 3, every_packet)
    }

    #[test]
    fn arp_of_every_operation_and_hardware_speaks_for_its_sender() {
        for operation in 0..=255 {
            let mut frame = request();
            frame[21] = operation;
            // The target is another host.
            frame[38..42].copy_from_slice(&[192, 0, 2, 1]);
            assert_eq!(spoken(&frame, false), resolving(ADDRESS), "{operation}");
        }
        let mut infiniband = request();
        infiniband[15] = 32;
        infiniband[18] = 20;
        infiniband.splice(22..22, [0; 14]);
        assert_eq!(spoken(&infiniband, false), resolving(ADDRESS));
        let mut other_protocol = request();
        other_protocol[16] = 9;
        assert_eq!(spoken(&other_protocol, true), None);
    }

    #[test]
    fn neighbour_discovery_speaks_for_its_source_or_its_target() {
        let source = Ipv6Addr::from([0xfe; 16]);
        assert_eq!(spoken(&solicitation(), false), resolving(source));
        let mut probe = solicitation();
        probe[22..38].fill(0);
        assert_eq!(spoken(&probe, false), resolving(ADDRESS6));
        let mut advertisement = solicitation();
        advertisement[54] = NEIGHBOUR_ADVERTISEMENT;
        assert_eq!(spoken(&advertisement, false), resolving(ADDRESS6));
        let mut echo = solicitation();
        echo[54] = 128;
        assert_eq!(spoken(&echo, false), None);
        assert_eq!(spoken(&echo, true), packet(source));
    }

    #[test]
    fn packets_speak_for_their_source_only_when_all_are_asked_about() {
        let mut inet = std::vec![0; 14 + 20];
        inet[12] = 8;
        inet[26..30].copy_from_slice(&ADDRESS.octets());
        assert_eq!(spoken(&inet, false), None);
        assert_eq!(spoken(&inet, true), packet(ADDRESS));
    }

    #[test]
    fn truncated_packets_speak_for_nobody() {
        for length in 14..14 + 18 {
            assert_eq!(spoken(&request()[..length], false), None, "{length} bytes");
        }
        for length in 14..14 + 38 {
            assert_eq!(spoken(&solicitation()[..length], false), None, "{length}");
        }
    }
}
