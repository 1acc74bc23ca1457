//! A whole advertisement, ready for a packet socket.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::advertisement::{self, IP_PROTOCOL, TTL};
use super::ether::{self, MacAddress};
use super::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4Packet, Ipv6Packet};
use crate::units::Profile;

/// Size of a frame: Ethernet, IPv4 without options, CARP. Unit: bytes.
pub const FRAME_LEN: usize = ether::HEADER_LEN + IPV4_HEADER_LEN + advertisement::HEADER_LEN;

/// Size of a frame: Ethernet, IPv6 without extension headers, CARP. Unit: bytes.
pub const INET6_FRAME_LEN: usize = ether::HEADER_LEN + IPV6_HEADER_LEN + advertisement::HEADER_LEN;

/// The headers around the 36 bytes of an IPv4 advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetFrame {
    /// Determines the type of service.
    pub profile: Profile,
    /// The Ethernet source: the virtual MAC address, so that switches learn its port.
    pub ethernet_source: MacAddress,
    /// The Ethernet destination, as returned by [`ethernet_destination`].
    pub ethernet_destination: MacAddress,
    /// The IP source: the interface's own address.
    pub source: Ipv4Addr,
    /// The IP destination: the group, even in a broadcast frame, or the only peer.
    pub destination: Ipv4Addr,
    /// The IP identification. ucarp and OpenBSD choose it at random.
    pub identification: u16,
}

impl InetFrame {
    /// Writes every byte of the frame around `payload`.
    pub fn emit(&self, payload: &[u8; advertisement::HEADER_LEN], buffer: &mut [u8; FRAME_LEN]) {
        let (ether_header, rest) = buffer.split_at_mut(ether::HEADER_LEN);
        let (ip_header, rest) = rest.split_at_mut(IPV4_HEADER_LEN);
        if let Some(ether_header) = ether_header.first_chunk_mut() {
            ether::Header {
                destination: self.ethernet_destination,
                source: self.ethernet_source,
                ether_type: ether::TYPE_IPV4,
            }
            .emit(ether_header);
        }
        if let Some(ip_header) = ip_header.first_chunk_mut() {
            Ipv4Packet {
                tos: type_of_service(self.profile),
                #[expect(clippy::cast_possible_truncation, reason = "36")]
                payload_len: advertisement::HEADER_LEN as u16,
                identification: self.identification,
                ttl: TTL,
                protocol: IP_PROTOCOL,
                source: self.source,
                destination: self.destination,
            }
            .emit(ip_header);
        }
        rest.copy_from_slice(payload);
    }
}

/// The headers around the 36 bytes of an IPv6 advertisement. There is no checksum but CARP's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet6Frame {
    /// Determines the traffic class.
    pub profile: Profile,
    /// The Ethernet source: the virtual MAC address, so that switches learn its port.
    pub ethernet_source: MacAddress,
    /// The Ethernet destination, as returned by [`ethernet_destination`].
    pub ethernet_destination: MacAddress,
    /// The IP source: the interface's own address.
    pub source: Ipv6Addr,
    /// The IP destination: the group, even in a broadcast frame, or the only peer.
    pub destination: Ipv6Addr,
}

impl Inet6Frame {
    /// Writes every byte of the frame around `payload`.
    pub fn emit(
        &self,
        payload: &[u8; advertisement::HEADER_LEN],
        buffer: &mut [u8; INET6_FRAME_LEN],
    ) {
        let (ether_header, rest) = buffer.split_at_mut(ether::HEADER_LEN);
        let (ip_header, rest) = rest.split_at_mut(IPV6_HEADER_LEN);
        if let Some(ether_header) = ether_header.first_chunk_mut() {
            ether::Header {
                destination: self.ethernet_destination,
                source: self.ethernet_source,
                ether_type: ether::TYPE_IPV6,
            }
            .emit(ether_header);
        }
        if let Some(ip_header) = ip_header.first_chunk_mut() {
            Ipv6Packet {
                traffic_class: traffic_class(self.profile),
                #[expect(clippy::cast_possible_truncation, reason = "36")]
                payload_len: advertisement::HEADER_LEN as u16,
                next_header: IP_PROTOCOL,
                hop_limit: TTL,
                source: self.source,
                destination: self.destination,
            }
            .emit(ip_header);
        }
        rest.copy_from_slice(payload);
    }
}

/// Returns the type of service of a profile's advertisements.
///
/// It is 0x10 (low delay) in ucarp 1.5.2 and OpenBSD (`ip_carp.c`, `carp_send_ad`: `IPTOS_LOWDELAY`), and 0xe0
/// (network control) in FreeBSD 14 (`ip_carp.c`, `carp_send_ad_locked`: `IPTOS_DSCP_CS7`).
#[must_use]
pub const fn type_of_service(profile: Profile) -> u8 {
    match profile {
        Profile::Ucarp | Profile::OpenBsd => 0x10,
        Profile::FreeBsd => 0xe0,
    }
}

/// Returns the traffic class of a profile's IPv6 advertisements.
///
/// It is 0 in OpenBSD (`ip_carp.c`, `carp_send_ad`), and 0xe0 (network control) in FreeBSD 14 (`ip_carp.c`,
/// `carp_send_ad_locked`). ucarp has no IPv6.
#[must_use]
pub const fn traffic_class(profile: Profile) -> u8 {
    match profile {
        Profile::Ucarp | Profile::OpenBsd => 0,
        Profile::FreeBsd => 0xe0,
    }
}

/// Returns the Ethernet destination of an advertisement to a group. With ucarp's `--nomcast` every one is a
/// broadcast.
#[must_use]
pub const fn ethernet_destination(group: IpAddr, broadcast: bool) -> MacAddress {
    if broadcast {
        MacAddress::BROADCAST
    } else {
        MacAddress::multicast(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Vhid;
    use crate::wire::advertisement::GROUP_INET6;
    use crate::wire::checksum::internet_checksum;

    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

    fn emitted(profile: Profile, broadcast: bool) -> [u8; FRAME_LEN] {
        let vhid = Vhid::new(42).unwrap();
        let frame = InetFrame {
            profile,
            ethernet_source: MacAddress::virtual_host(profile, vhid),
            ethernet_destination: ethernet_destination(GROUP.into(), broadcast),
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: GROUP,
            identification: 0x1234,
        };
        let mut bytes = [0xa5; FRAME_LEN];
        frame.emit(&[0x5a; advertisement::HEADER_LEN], &mut bytes);
        bytes
    }

    #[test]
    fn ucarp_frame_has_every_byte_in_place() {
        let bytes = emitted(Profile::Ucarp, false);
        assert_eq!(
            bytes[..14],
            [
                0x01, 0x00, 0x5e, 0, 0, 18, 0x00, 0x00, 0x5e, 0x00, 0x00, 42, 0x08, 0x00
            ]
        );
        assert_eq!(
            bytes[14..24],
            [0x45, 0x10, 0, 56, 0x12, 0x34, 0x40, 0x00, 255, 112]
        );
        assert_eq!(internet_checksum(&bytes[14..34]), [0, 0]);
        assert_eq!(bytes[26..34], [192, 0, 2, 1, 224, 0, 0, 18]);
        assert_eq!(bytes[34..], [0x5a; 36]);
    }

    #[test]
    fn profiles_differ_in_source_and_type_of_service_only() {
        let ucarp = emitted(Profile::Ucarp, false);
        for (profile, tos) in [(Profile::FreeBsd, 0xe0), (Profile::OpenBsd, 0x10)] {
            let mut bytes = emitted(profile, false);
            assert_eq!(
                bytes[6..12],
                [0x00, 0x00, 0x5e, 0x00, 0x01, 42],
                "{profile:?}"
            );
            assert_eq!(bytes[15], tos, "{profile:?}");
            assert_eq!(internet_checksum(&bytes[14..34]), [0, 0], "{profile:?}");
            bytes[10] = ucarp[10];
            bytes[15] = ucarp[15];
            bytes[24..26].copy_from_slice(&ucarp[24..26]);
            assert_eq!(bytes, ucarp, "{profile:?}");
        }
    }

    #[test]
    fn broadcast_changes_the_ethernet_destination_only() {
        let bytes = emitted(Profile::Ucarp, true);
        assert_eq!(bytes[..6], [0xff; 6]);
        assert_eq!(bytes[6..], emitted(Profile::Ucarp, false)[6..]);
    }

    fn emitted6(profile: Profile, broadcast: bool) -> [u8; INET6_FRAME_LEN] {
        let vhid = Vhid::new(42).unwrap();
        let frame = Inet6Frame {
            profile,
            ethernet_source: MacAddress::virtual_host(profile, vhid),
            ethernet_destination: ethernet_destination(GROUP_INET6.into(), broadcast),
            source: "fe80::200:ff:fe00:1".parse().unwrap(),
            destination: GROUP_INET6,
        };
        let mut bytes = [0xa5; INET6_FRAME_LEN];
        frame.emit(&[0x5a; advertisement::HEADER_LEN], &mut bytes);
        bytes
    }

    #[test]
    fn an_ipv6_frame_has_every_byte_in_place() {
        let bytes = emitted6(Profile::OpenBsd, false);
        assert_eq!(
            bytes[..54],
            [
                0x33, 0x33, 0, 0, 0, 0x12, 0x00, 0x00, 0x5e, 0x00, 0x01, 42, 0x86,
                0xdd, // Ethernet
                0x60, 0, 0, 0, 0, 36, 112, 255, // hop limit 255
                0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xff, 0xfe, 0, 0, 1, // source
                0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, // group
            ]
        );
        assert_eq!(bytes[54..], [0x5a; 36]);
    }

    #[test]
    fn profile_and_broadcast_change_one_thing_each_in_an_ipv6_frame() {
        let openbsd = emitted6(Profile::OpenBsd, false);
        let broadcast = emitted6(Profile::OpenBsd, true);
        assert_eq!(broadcast[..6], [0xff; 6]);
        assert_eq!(broadcast[6..], openbsd[6..]);
        let mut freebsd = emitted6(Profile::FreeBsd, false);
        assert_eq!(freebsd[14..16], [0x6e, 0], "CS7");
        freebsd[14] = 0x60;
        assert_eq!(freebsd, openbsd);
        let mut ucarp = emitted6(Profile::Ucarp, false);
        assert_eq!(ucarp[10], 0);
        ucarp[10] = 1;
        assert_eq!(ucarp, openbsd);
    }
}
