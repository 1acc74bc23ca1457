//! The 36-byte CARP header.
//!
//! | Offset | Bytes | Field | Value |
//! |---|---|---|---|
//! | 0 | 1 | version, type | 0x21: version 2 in the high half, type 1 (advertisement) in the low one |
//! | 1 | 1 | vhid | 1..=255 |
//! | 2 | 1 | advskew | unit 1/256 s |
//! | 3 | 1 | authlen | 7: counter and digest in 32-bit words |
//! | 4 | 1 | demotion | OpenBSD's demotion count; zero from ucarp and FreeBSD |
//! | 5 | 1 | advbase | unit s |
//! | 6 | 2 | checksum | internet checksum over these 36 bytes, no pseudo header in either family |
//! | 8 | 8 | counter | replay counter, big endian |
//! | 16 | 20 | digest | HMAC-SHA1 |
//!
//! Source: OpenBSD `sys/netinet/ip_carp.h` r1.50, `struct carp_header`; FreeBSD 14 `sys/netinet/ip_carp.h`.

use core::net::Ipv6Addr;

use super::checksum;
use crate::drop_reason::DropReason;
use crate::units::{AdvBase, AdvSkew, Demotion, Vhid};

/// Length of the header, which is the whole IP payload. Unit: bytes.
pub const HEADER_LEN: usize = 36;
/// CARP's IP protocol number, which is also VRRP's.
pub const IP_PROTOCOL: u8 = 112;
/// TTL and hop limit of every advertisement. They prove that it came from this link.
pub const TTL: u8 = 255;
/// CARP's IPv6 multicast group (IANA), which is also VRRP's.
pub const GROUP_INET6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Byte 0: version 2, type 1.
pub const VERSION_AND_TYPE: u8 = 0x21;
/// Byte 3: the length of counter and digest in 32-bit words.
pub const AUTH_LEN: u8 = 7;
/// Size of an HMAC-SHA1. Unit: bytes.
pub const DIGEST_LEN: usize = 20;

/// Offset of the checksum.
const CHECKSUM_OFFSET: usize = 6;

/// One advertisement, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Virtual host id.
    pub vhid: Vhid,
    /// Fraction of the interval. It includes the demotion, except from OpenBSD.
    pub advskew: AdvSkew,
    /// Byte 4: the sender's demotion if it runs OpenBSD. Others send zero.
    pub demotion: Demotion,
    /// Whole seconds of the interval.
    pub advbase: AdvBase,
    /// Replay counter.
    pub counter: u64,
    /// HMAC-SHA1 over vhid, addresses and counter.
    pub digest: [u8; DIGEST_LEN],
}

impl Advertisement {
    /// Decodes the first 36 bytes of an IP payload. Further bytes are ignored, as in every implementation.
    ///
    /// # Errors
    ///
    /// Returns the first check that fails, in OpenBSD's order (`ip_carp.c` r1.370, `carp_proto_input_if`): length,
    /// checksum, version. Only vhid 0 is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(DropReason::ShortPacket)?;
        if !checksum_is_valid(header) {
            return Err(DropReason::BadChecksum);
        }
        // From here on all offsets are constants below HEADER_LEN.
        let [
            version_and_type,
            vhid,
            advskew,
            auth_len,
            demotion,
            advbase,
            _,
            _,
            rest @ ..,
        ] = *header;
        if version_and_type != VERSION_AND_TYPE {
            return Err(DropReason::BadVersion);
        }
        if auth_len != AUTH_LEN {
            return Err(DropReason::BadAuthLength);
        }
        let vhid = Vhid::new(vhid).ok_or(DropReason::BadVhid)?;
        let [c0, c1, c2, c3, c4, c5, c6, c7, digest @ ..] = rest;
        Ok(Self {
            vhid,
            advskew: AdvSkew(advskew),
            demotion: Demotion(demotion),
            advbase: AdvBase(advbase),
            counter: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            digest,
        })
    }

    /// Writes every byte of the header, including the checksum.
    pub fn emit(&self, buffer: &mut [u8; HEADER_LEN]) {
        let head = [
            VERSION_AND_TYPE,
            self.vhid.get(),
            self.advskew.0,
            AUTH_LEN,
            self.demotion.0,
            self.advbase.0,
            0,
            0,
        ];
        buffer[..8].copy_from_slice(&head);
        buffer[8..16].copy_from_slice(&self.counter.to_be_bytes());
        buffer[16..].copy_from_slice(&self.digest);
        let sum = checksum::internet_checksum(buffer);
        buffer[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&sum);
    }
}

/// Returns whether the checksum over the 36 bytes is right.
#[inline(always)]
#[must_use]
pub fn checksum_is_valid(header: &[u8; HEADER_LEN]) -> bool {
    checksum::internet_checksum(header) == [0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Advertisement {
        Advertisement {
            vhid: Vhid::new(42).unwrap(),
            advskew: AdvSkew(100),
            demotion: Demotion(3),
            advbase: AdvBase(1),
            counter: 0x0102_0304_0506_0708,
            digest: core::array::from_fn(|index| 0xe0 + u8::try_from(index).unwrap()),
        }
    }

    fn emitted() -> [u8; HEADER_LEN] {
        let mut bytes = [0xa5; HEADER_LEN];
        sample().emit(&mut bytes);
        bytes
    }

    /// Corrects the header's checksum, so that a later check fails.
    fn resum(bytes: &mut [u8; HEADER_LEN]) {
        bytes[6..8].fill(0);
        let sum = checksum::internet_checksum(bytes);
        bytes[6..8].copy_from_slice(&sum);
    }

    #[test]
    fn emit_puts_every_field_at_its_offset() {
        let bytes = emitted();
        assert_eq!(bytes[..6], [0x21, 42, 100, 7, 3, 1]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], sample().digest);
        assert!(checksum_is_valid(&bytes));
    }

    #[test]
    fn an_emitted_header_parses_to_the_same_value() {
        assert_eq!(Advertisement::parse(&emitted()), Ok(sample()));
    }

    #[test]
    fn bytes_after_the_header_are_ignored() {
        let mut bytes = [0xa5; HEADER_LEN + 28];
        bytes[..HEADER_LEN].copy_from_slice(&emitted());
        assert_eq!(Advertisement::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn every_shorter_length_is_a_short_packet() {
        for length in 0..HEADER_LEN {
            assert_eq!(
                Advertisement::parse(&emitted()[..length]),
                Err(DropReason::ShortPacket),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn every_single_bit_flip_is_a_bad_checksum() {
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = emitted();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Advertisement::parse(&bytes),
                Err(DropReason::BadChecksum),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn other_versions_types_and_lengths_are_refused_by_name() {
        for (offset, value, reason) in [
            (0, 0x31, DropReason::BadVersion),
            (0, 0x22, DropReason::BadVersion),
            (3, 5, DropReason::BadAuthLength),
            (1, 0, DropReason::BadVhid),
        ] {
            let mut bytes = emitted();
            bytes[offset] = value;
            resum(&mut bytes);
            assert_eq!(
                Advertisement::parse(&bytes),
                Err(reason),
                "byte {offset} = {value:#x}"
            );
        }
    }
}
