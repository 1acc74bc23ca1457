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

use super::checksum;
use crate::units::{AdvBase, AdvSkew, Demotion, Vhid};

/// Length of the header, which is the whole IP payload. Unit: bytes.
pub const HEADER_LEN: usize = 36;
/// CARP's IP protocol number; VRRP has the same one.
pub const IP_PROTOCOL: u8 = 112;
/// TTL and hop limit of every advertisement: it came from this link.
pub const TTL: u8 = 255;
/// Byte 0: version 2, type 1.
pub const VERSION_AND_TYPE: u8 = 0x21;
/// Byte 3: 32-bit words of counter and digest.
pub const AUTH_LEN: u8 = 7;
/// Length of an HMAC-SHA1. Unit: bytes.
pub const DIGEST_LEN: usize = 20;
