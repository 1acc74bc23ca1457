//! The internet checksum (RFC 1071).

use core::net::Ipv6Addr;

/// Returns the internet checksum of `bytes`, as the two bytes that are sent.
///
/// For data that contains its own correct checksum the result is `[0, 0]`. An odd last byte counts as the high half
/// of a word. Range: at most 128 KiB, so that the sum cannot overflow; nothing here is longer than an IP header.
#[inline(always)]
#[must_use]
pub fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    fold(add_words(bytes))
}

/// Returns the checksum of a payload of IPv6, which also covers the addresses, the length and the type of the payload (RFC
/// 8200, section 8.1).
///
/// For a payload that contains its own correct checksum the result is `[0, 0]`. Range: at most 64 KiB, as a payload of
/// IPv6 without options is.
#[must_use]
pub fn inet6_checksum(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    payload: &[u8],
) -> [u8; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "at most 64 KiB")]
    let length = payload.len() as u32;
    let sum = add_words(&source.octets())
        + add_words(&destination.octets())
        + add_words(&length.to_be_bytes())
        + add_words(&[0, next_header])
        + add_words(payload);
    fold(sum)
}

/// Returns the sum of the 16-bit words, with the carries in the high half. It uses the machine's byte order, because
/// one's complement addition does not depend on it as long as load and store agree (RFC 1071, section 2 B).
#[inline(always)]
pub(crate) fn add_words(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u32 = 0;
    for word in words {
        sum += u32::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        sum += u32::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// Adds the carries to the sum and returns its complement. Two folds are enough for any 32-bit sum.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub(crate) fn fold(sum: u32) -> [u8; 2] {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_example_of_rfc_1071() {
        let sum = internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum, (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn data_with_its_checksum_sums_to_zero() {
        let mut bytes = [0xa5, 0xff, 0x00, 0x01, 0xfe, 0xdc, 0x00, 0x00];
        let sum = internet_checksum(&bytes);
        bytes[6..].copy_from_slice(&sum);
        assert_eq!(internet_checksum(&bytes), [0, 0]);
        bytes[0] ^= 1;
        assert_ne!(internet_checksum(&bytes), [0, 0]);
    }

    #[test]
    fn an_odd_last_byte_is_a_high_half() {
        assert_eq!(
            internet_checksum(&[0x12, 0x34, 0x56]),
            internet_checksum(&[0x12, 0x34, 0x56, 0x00])
        );
        assert_eq!(internet_checksum(&[]), [0xff, 0xff]);
    }

    #[test]
    fn carries_are_added_back_twice() {
        assert_eq!(internet_checksum(&[0xff; 64]), [0, 0]);
        assert_eq!(fold(0xffff_ffff), [0, 0]);
        assert_eq!(fold(0x0001_ffff), 0xfffe_u16.to_ne_bytes());
    }
}
