//! Which address a frame asks for: what the fence is about.
//!
//! Neighbours find a host by ARP requests (probes and announcements are requests too) and by IPv6 neighbour solicitations.
//! A host that no longer hears them answers none, and is forgotten.

use super::{Carried, Frame, widen};
use crate::shared::{FAMILY_INET, FAMILY_INET6, FenceKey};
use crate::wire::arp;
use crate::wire::ether;
use crate::wire::ip::{
    IPV4_DESTINATION_OFFSET, IPV6_DESTINATION_OFFSET, IPV6_HEADER_LEN, IPV6_NEXT_HEADER_OFFSET,
};

/// IPv6 next header of ICMPv6 (RFC 4443).
const ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour solicitation (RFC 4861, section 4.3).
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Where its target address is, from the ICMPv6 header on.
const SOLICITED_TARGET_OFFSET: usize = 8;

impl Carried {
    /// The address that the frame asks the link for; with `every_packet` also the one that an IP packet is sent to. `None`
    /// for everything else, without a look beyond the EtherType of an IPv4 packet and the next header of an IPv6 one.
    ///
    /// A solicitation behind IPv6 extension headers is not found; no system sends those.
    #[inline(always)]
    #[must_use]
    pub fn claimed_address<F: Frame + ?Sized>(
        &self,
        frame: &F,
        every_packet: bool,
    ) -> Option<FenceKey> {
        let (family, address) = match self.ether_type {
            ether::TYPE_ARP => {
                if frame.bytes_at(self.offset) != Some(arp::REQUEST) {
                    return None;
                }
                let target = frame.bytes_at(self.offset + arp::TARGET_IP_OFFSET)?;
                (FAMILY_INET, widen(target))
            }
            ether::TYPE_IPV4 if every_packet => {
                let destination = frame.bytes_at(self.offset + IPV4_DESTINATION_OFFSET)?;
                (FAMILY_INET, widen(destination))
            }
            ether::TYPE_IPV6 => {
                let offset = if self.is_solicitation(frame) {
                    IPV6_HEADER_LEN + SOLICITED_TARGET_OFFSET
                } else if every_packet {
                    IPV6_DESTINATION_OFFSET
                } else {
                    return None;
                };
                (FAMILY_INET6, frame.bytes_at(self.offset + offset)?)
            }
            _ => return None,
        };
        Some(FenceKey {
            ifindex: self.ingress.ifindex,
            vlan: self.tags.outer,
            inner_vlan: self.tags.inner,
            address,
            family,
            _pad: [0; 3],
        })
    }

    #[inline(always)]
    fn is_solicitation<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        frame.bytes_at(self.offset + IPV6_NEXT_HEADER_OFFSET) == Some([ICMPV6])
            && frame.bytes_at(self.offset + IPV6_HEADER_LEN) == Some([NEIGHBOUR_SOLICITATION])
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

    fn claimed(frame: &[u8], every_packet: bool) -> Option<FenceKey> {
        let ingress = Ingress {
            ifindex: 3,
            stripped_tag: None,
        };
        Carried::find(frame, ingress)?.claimed_address(frame, every_packet)
    }

    fn key(vlan: u16, address: impl Into<IpAddr>) -> Option<FenceKey> {
        Some(FenceKey::new(3, vlan, address.into()))
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
        assert_eq!(claimed(&request(), false), key(0, ADDRESS));
        assert_eq!(claimed(&solicitation(), false), key(0, ADDRESS6));
        // The target counts, wherever the solicitation is sent to.
        assert_eq!(claimed(&solicitation(), true), key(0, ADDRESS6));
        let mut in_vlan = request();
        in_vlan.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(claimed(&in_vlan, false), key(5, ADDRESS));
    }

    #[test]
    fn packets_name_their_destination_only_when_all_are_asked_about() {
        let mut packet = solicitation();
        packet[20] = 6;
        assert_eq!(claimed(&packet, false), None);
        assert_eq!(claimed(&packet, true), key(0, Ipv6Addr::from([0xff; 16])));
        let mut packet = std::vec![0; 14 + 20];
        packet[12] = 8;
        packet[30..34].copy_from_slice(&ADDRESS.octets());
        assert_eq!(claimed(&packet, false), None);
        assert_eq!(claimed(&packet, true), key(0, ADDRESS));
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
}
