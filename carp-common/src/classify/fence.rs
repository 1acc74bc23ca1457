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
