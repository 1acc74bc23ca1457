//! IPv4 and IPv6 headers: only the fields that carpd inspects or sends.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::checksum::internet_checksum;

/// Size of an IPv4 header without options. Unit: bytes.
pub const IPV4_HEADER_LEN: usize = 20;
/// Size of an IPv6 header. Unit: bytes.
pub const IPV6_HEADER_LEN: usize = 40;
/// Offset of the protocol in an IPv4 header.
pub const IPV4_PROTOCOL_OFFSET: usize = 9;
/// Offset of the source address in an IPv4 header.
pub const IPV4_SOURCE_OFFSET: usize = 12;
/// Offset of the destination address in an IPv4 header.
pub const IPV4_DESTINATION_OFFSET: usize = 16;
/// Offset of the next header in an IPv6 header.
pub const IPV6_NEXT_HEADER_OFFSET: usize = 6;
/// Offset of the source address in an IPv6 header.
pub const IPV6_SOURCE_OFFSET: usize = 8;
/// Offset of the destination address in an IPv6 header.
pub const IPV6_DESTINATION_OFFSET: usize = 24;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header (RFC 791, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Size of the header with its options. Unit: bytes. Range: 20..=60.
    pub header_len: usize,
    /// Type of service.
    pub tos: u8,
    /// Size of header and payload. Unit: bytes. Range: from `header_len`.
    pub total_len: usize,
    /// Identification.
    pub identification: u16,
    /// Routers must not fragment the packet.
    pub dont_fragment: bool,
    /// The packet is a fragment, which includes the first and the last one.
    pub is_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Ipv4Header {
    /// Decodes the fixed part. Returns `None` if the version is not 4 or the lengths contradict each other. The
    /// caller must verify the checksum, which also covers the options.
    #[inline(always)]
    #[must_use]
    pub fn parse(bytes: &[u8; IPV4_HEADER_LEN]) -> Option<Self> {
        let [
            version_ihl,
            tos,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *bytes;
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([l0, l1]));
        if version_ihl >> 4 != 4 || header_len < IPV4_HEADER_LEN || total_len < header_len {
            return None;
        }
        let flags = u16::from_be_bytes([f0, f1]);
        Some(Self {
            header_len,
            tos,
            total_len,
            identification: u16::from_be_bytes([i0, i1]),
            dont_fragment: flags & DONT_FRAGMENT != 0,
            is_fragment: flags & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0,
            ttl,
            protocol,
            source: Ipv4Addr::new(s0, s1, s2, s3),
            destination: Ipv4Addr::new(d0, d1, d2, d3),
        })
    }

    /// Returns the size of the payload according to the header. Unit: bytes.
    #[inline(always)]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.total_len.saturating_sub(self.header_len)
    }
}

/// The fields that differ between the IPv4 packets that carpd sends. None has options, and none may be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Packet {
    /// Type of service.
    pub tos: u8,
    /// Size of the payload. Unit: bytes.
    pub payload_len: u16,
    /// Identification.
    pub identification: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Ipv4Packet {
    /// Writes every byte of the header, including the checksum.
    pub fn emit(&self, buffer: &mut [u8; IPV4_HEADER_LEN]) {
        #[expect(clippy::cast_possible_truncation, reason = "20")]
        let total_len = self.payload_len.saturating_add(IPV4_HEADER_LEN as u16);
        buffer[0] = 0x45;
        buffer[1] = self.tos;
        buffer[2..4].copy_from_slice(&total_len.to_be_bytes());
        buffer[4..6].copy_from_slice(&self.identification.to_be_bytes());
        buffer[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
        buffer[8] = self.ttl;
        buffer[9] = self.protocol;
        buffer[10..12].fill(0);
        buffer[12..16].copy_from_slice(&self.source.octets());
        buffer[16..].copy_from_slice(&self.destination.octets());
        let sum = internet_checksum(buffer);
        buffer[10..12].copy_from_slice(&sum);
    }
}

/// An IPv6 header (RFC 8200, section 3), without traffic class and flow label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Size of the payload. Unit: bytes.
    pub payload_len: usize,
    /// The type of the payload, or of the next extension header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ipv6Header {
    /// Decodes the header. Returns `None` if the version is not 6.
    #[inline(always)]
    #[must_use]
    pub fn parse(bytes: &[u8; IPV6_HEADER_LEN]) -> Option<Self> {
        let [
            version,
            _,
            _,
            _,
            l0,
            l1,
            next_header,
            hop_limit,
            addresses @ ..,
        ] = *bytes;
        if version >> 4 != 6 {
            return None;
        }
        let mut source = [0; 16];
        let mut destination = [0; 16];
        source.copy_from_slice(&addresses[..16]);
        destination.copy_from_slice(&addresses[16..]);
        Some(Self {
            payload_len: usize::from(u16::from_be_bytes([l0, l1])),
            next_header,
            hop_limit,
            source: source.into(),
            destination: destination.into(),
        })
    }
}

/// The fields that differ between the IPv6 packets that carpd sends. None has a flow label or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Packet {
    /// Traffic class.
    pub traffic_class: u8,
    /// Size of the payload. Unit: bytes.
    pub payload_len: u16,
    /// Type of the payload.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ipv6Packet {
    /// Writes every byte of the header.
    pub fn emit(&self, buffer: &mut [u8; IPV6_HEADER_LEN]) {
        buffer[0] = 0x60 | self.traffic_class >> 4;
        buffer[1] = self.traffic_class << 4;
        buffer[2..4].fill(0);
        buffer[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        buffer[6] = self.next_header;
        buffer[7] = self.hop_limit;
        buffer[8..24].copy_from_slice(&self.source.octets());
        buffer[24..].copy_from_slice(&self.destination.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Ipv4Packet {
        Ipv4Packet {
            tos: 0x10,
            payload_len: 36,
            identification: 0xbeef,
            ttl: 255,
            protocol: 112,
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(224, 0, 0, 18),
        }
    }

    fn emitted() -> [u8; IPV4_HEADER_LEN] {
        let mut bytes = [0xa5; IPV4_HEADER_LEN];
        packet().emit(&mut bytes);
        bytes
    }

    #[test]
    fn emit_writes_every_byte() {
        let bytes = emitted();
        assert_eq!(
            bytes[..10],
            [0x45, 0x10, 0, 56, 0xbe, 0xef, 0x40, 0x00, 255, 112]
        );
        assert_eq!(bytes[12..], [192, 0, 2, 1, 224, 0, 0, 18]);
        assert_eq!(internet_checksum(&bytes), [0, 0]);
    }

    #[test]
    fn emitted_headers_parse_to_the_same_values() {
        let header = Ipv4Header::parse(&emitted()).unwrap();
        assert_eq!(
            (header.header_len, header.total_len, header.payload_len()),
            (20, 56, 36)
        );
        assert_eq!(
            (
                header.tos,
                header.identification,
                header.ttl,
                header.protocol
            ),
            (0x10, 0xbeef, 255, 112)
        );
        assert_eq!((header.dont_fragment, header.is_fragment), (true, false));
        assert_eq!(
            (header.source, header.destination),
            (packet().source, packet().destination)
        );
    }

    #[test]
    fn contradicting_lengths_and_other_versions_are_refused() {
        for (offset, value) in [(0, 0x65), (0, 0x44), (0, 0x40), (3, 19)] {
            let mut bytes = emitted();
            bytes[offset] = value;
            assert_eq!(
                Ipv4Header::parse(&bytes),
                None,
                "byte {offset} = {value:#x}"
            );
        }
    }

    #[test]
    fn options_lengthen_the_header() {
        let mut bytes = emitted();
        bytes[0] = 0x4f;
        bytes[3] = 96;
        let header = Ipv4Header::parse(&bytes).unwrap();
        assert_eq!((header.header_len, header.payload_len()), (60, 36));
    }

    #[test]
    fn first_middle_and_last_fragment_are_fragments() {
        for flags in [[0x20, 0x00], [0x20, 0x05], [0x00, 0x05], [0x60, 0x00]] {
            let mut bytes = emitted();
            bytes[6..8].copy_from_slice(&flags);
            assert!(Ipv4Header::parse(&bytes).unwrap().is_fragment, "{flags:?}");
        }
    }

    #[test]
    fn ipv6_fields_are_at_their_offsets() {
        let mut bytes: [u8; IPV6_HEADER_LEN] =
            core::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(Ipv6Header::parse(&bytes), None);
        bytes[0] = 0x6f;
        let header = Ipv6Header::parse(&bytes).unwrap();
        assert_eq!(
            (header.payload_len, header.next_header, header.hop_limit),
            (0x0405, 6, 7)
        );
        assert_eq!(
            header.source.octets(),
            core::array::from_fn(|index| 8 + u8::try_from(index).unwrap())
        );
        assert_eq!(
            header.destination.octets(),
            core::array::from_fn(|index| 24 + u8::try_from(index).unwrap())
        );
    }

    #[test]
    fn emit_writes_every_byte_of_an_ipv6_header() {
        let packet = Ipv6Packet {
            traffic_class: 0xe1,
            payload_len: 0x0124,
            next_header: 112,
            hop_limit: 255,
            source: "fe80::1:2".parse().unwrap(),
            destination: "ff02::12".parse().unwrap(),
        };
        let mut bytes = [0xa5; IPV6_HEADER_LEN];
        packet.emit(&mut bytes);
        assert_eq!(bytes[..8], [0x6e, 0x10, 0, 0, 1, 0x24, 112, 255]);
        assert_eq!(
            bytes[8..24],
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]
        );
        assert_eq!(
            bytes[24..],
            [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12]
        );
        let parsed = Ipv6Header {
            payload_len: 0x0124,
            next_header: packet.next_header,
            hop_limit: packet.hop_limit,
            source: packet.source,
            destination: packet.destination,
        };
        assert_eq!(Ipv6Header::parse(&bytes), Some(parsed));
    }
}
