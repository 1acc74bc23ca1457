//! Ethernet II with up to two VLAN tags, and the MAC addresses that CARP derives.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::units::{Profile, Vhid};

/// Size of the header of an untagged frame: destination, source, EtherType. Unit: bytes.
pub const HEADER_LEN: usize = 14;
/// Offset of the source.
pub const SOURCE_OFFSET: usize = 6;
/// Size of one VLAN tag. Unit: bytes.
pub const TAG_LEN: usize = 4;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// Tag protocol id of a customer tag (IEEE 802.1Q).
pub const TYPE_CUSTOMER_TAG: u16 = 0x8100;
/// Tag protocol id of a service tag (IEEE 802.1ad).
pub const TYPE_SERVICE_TAG: u16 = 0x88a8;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Returns whether this is the address of a group of stations (including broadcast) rather than of one.
    #[inline(always)]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Returns the destination of IPv4 multicast: 01:00:5e and the low 23 bits of the group (RFC 1112, section 6.4).
    #[must_use]
    pub const fn multicast_inet(group: Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// Returns the destination of IPv6 multicast: 33:33 and the low 32 bits of the group (RFC 2464, section 7).
    #[must_use]
    pub const fn multicast_inet6(group: Ipv6Addr) -> Self {
        let [.., c, d, e, f] = group.octets();
        Self([0x33, 0x33, c, d, e, f])
    }

    /// Returns the destination of multicast to a group of either family.
    #[must_use]
    pub const fn multicast(group: IpAddr) -> Self {
        match group {
            IpAddr::V4(group) => Self::multicast_inet(group),
            IpAddr::V6(group) => Self::multicast_inet6(group),
        }
    }

    /// Returns the virtual MAC address that a host of this profile uses as the source of its advertisements.
    ///
    /// ucarp 1.5.2 (`carp.c`, `carp_send_ad`) uses 00:00:5e:00:00:vhid. The BSDs (`ip_carp.c`, `carp_set_enaddr` and
    /// `carp_hmac_prepare`) use 00:00:5e:00:01:vhid, and so does VRRP.
    #[must_use]
    pub const fn virtual_host(profile: Profile, vhid: Vhid) -> Self {
        let fifth = match profile {
            Profile::Ucarp => 0,
            Profile::FreeBsd | Profile::OpenBsd => 1,
        };
        Self([0x00, 0x00, 0x5e, 0x00, fifth, vhid.get()])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An untagged Ethernet II header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination station or group.
    pub destination: MacAddress,
    /// Source station.
    pub source: MacAddress,
    /// The type of the payload.
    pub ether_type: u16,
}

impl Header {
    /// Decodes the header.
    #[inline(always)]
    #[must_use]
    pub const fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *bytes;
        Self {
            destination: MacAddress([d0, d1, d2, d3, d4, d5]),
            source: MacAddress([s0, s1, s2, s3, s4, s5]),
            ether_type: u16::from_be_bytes([t0, t1]),
        }
    }

    /// Writes every byte of the header.
    pub fn emit(&self, buffer: &mut [u8; HEADER_LEN]) {
        buffer[..6].copy_from_slice(&self.destination.0);
        buffer[6..12].copy_from_slice(&self.source.0);
        buffer[12..].copy_from_slice(&self.ether_type.to_be_bytes());
    }
}

/// The tags in front of a frame's payload that name a VLAN.
///
/// A tag with VLAN id 0 only carries a priority, and the frame stays in its VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanTags {
    /// The first VLAN id. 0 if there is none.
    pub outer: u16,
    /// The second VLAN id, inside the first. 0 if there is none.
    pub inner: u16,
}

impl VlanTags {
    /// Adds the next inner tag. `tag_control` is the 16 bits after the tag protocol id, and its low 12 bits are the
    /// VLAN id.
    #[inline(always)]
    pub fn push(&mut self, tag_control: u16) {
        let id = tag_control & 0x0fff;
        if self.outer == 0 {
            self.outer = id;
        } else if self.inner == 0 {
            self.inner = id;
        }
    }
}

/// Returns whether the EtherType is that of a VLAN tag.
#[inline(always)]
#[must_use]
pub const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, TYPE_CUSTOMER_TAG | TYPE_SERVICE_TAG)
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn groups_map_to_their_multicast_addresses() {
        let group = MacAddress::multicast_inet(Ipv4Addr::new(224, 0, 0, 18));
        assert_eq!(group.to_string(), "01:00:5e:00:00:12");
        // The 24th bit is dropped.
        let group = MacAddress::multicast_inet(Ipv4Addr::new(239, 192, 0, 7));
        assert_eq!(group.to_string(), "01:00:5e:40:00:07");
        assert!(group.is_group() && MacAddress::BROADCAST.is_group());
        let group = MacAddress::multicast("ff02::1:ff00:1234".parse().unwrap());
        assert_eq!(group.to_string(), "33:33:ff:00:12:34");
        assert!(group.is_group());
    }

    #[test]
    fn virtual_address_depends_on_the_profile() {
        let vhid = Vhid::new(0xab).unwrap();
        assert_eq!(
            MacAddress::virtual_host(Profile::Ucarp, vhid).to_string(),
            "00:00:5e:00:00:ab"
        );
        assert_eq!(
            MacAddress::virtual_host(Profile::FreeBsd, vhid).to_string(),
            "00:00:5e:00:01:ab"
        );
        assert_eq!(
            MacAddress::virtual_host(Profile::OpenBsd, vhid).to_string(),
            "00:00:5e:00:01:ab"
        );
        assert!(!MacAddress::virtual_host(Profile::Ucarp, vhid).is_group());
    }

    #[test]
    fn header_round_trips() {
        let header = Header {
            destination: MacAddress([1, 2, 3, 4, 5, 6]),
            source: MacAddress([7, 8, 9, 10, 11, 12]),
            ether_type: TYPE_IPV6,
        };
        let mut bytes = [0xa5; HEADER_LEN];
        header.emit(&mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x86, 0xdd]);
        assert_eq!(Header::parse(&bytes), header);
    }

    #[test]
    fn priority_tags_name_no_vlan() {
        let mut tags = VlanTags::default();
        tags.push(0xe000);
        assert_eq!(tags, VlanTags { outer: 0, inner: 0 });
        tags.push(0xe005);
        assert_eq!(tags, VlanTags { outer: 5, inner: 0 });
        tags.push(0x2fff);
        assert_eq!(
            tags,
            VlanTags {
                outer: 5,
                inner: 0xfff
            }
        );
    }
}
