//! CARP, VRRP and ARP on the wire, written without the daemon's own code so that one mistake cannot hide another.

use std::fmt;
use std::net::Ipv4Addr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// IP protocol of CARP and VRRP.
pub const PROTOCOL: u8 = 112;
/// Group of CARP and VRRP.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// A CARP header, bytes.
pub const CARP_LEN: usize = 36;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Ethernet address of an IPv4 group.
    #[must_use]
    pub fn of_group(group: Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        Self([1, 0, 0x5e, b & 0x7f, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A packet that the lab understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A CARP advertisement.
    Carp(Carp),
    /// Any other packet of protocol 112.
    Vrrp(Vrrp),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
}

/// A CARP advertisement over IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carp {
    /// Ethernet source.
    pub ether_source: Mac,
    /// Ethernet destination.
    pub ether_destination: Mac,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination.
    pub destination: Ipv4Addr,
    /// IP time to live.
    pub ttl: u8,
    /// IP type of service.
    pub tos: u8,
    /// Flag DF.
    pub dont_fragment: bool,
    /// Whether both checksums (IP header, CARP header) are right.
    pub checksums_valid: bool,
    /// Version in the upper four bits, type in the lower.
    pub version_type: u8,
    /// Virtual host id.
    pub vhid: u8,
    /// Unit: 1/256 s.
    pub advskew: u8,
    /// Byte 4: OpenBSD's demotion.
    pub demotion: u8,
    /// Unit: s.
    pub advbase: u8,
    /// Replay counter.
    pub counter: u64,
    /// HMAC-SHA1.
    pub digest: [u8; 20],
    /// Bytes after the header.
    pub trailing: usize,
}

impl Carp {
    /// Whether the digest is the one of this password and these addresses (ascending).
    #[must_use]
    pub fn is_authentic(&self, password: &str, addresses: &[Ipv4Addr]) -> bool {
        self.digest == digest(password.as_bytes(), self.vhid, addresses, self.counter)
    }

    /// Whether it is a bow-out of a leaving MASTER: advbase and advskew 255.
    #[must_use]
    pub fn is_bow_out(&self) -> bool {
        (self.advbase, self.advskew) == (255, 255)
    }
}

/// A VRRP packet over IPv4 (version 2 or 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vrrp {
    /// IP source.
    pub source: Ipv4Addr,
    /// 2 or 3.
    pub version: u8,
    /// Virtual router id.
    pub vrid: u8,
    /// 0..=255; 0 is a leaving master.
    pub priority: u8,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Ethernet source.
    pub ether_source: Mac,
    /// Ethernet destination.
    pub ether_destination: Mac,
    /// A reply, not a request.
    pub reply: bool,
    /// Sender's Ethernet address.
    pub sender: Mac,
    /// Sender's IP address.
    pub sender_address: Ipv4Addr,
    /// IP address asked for.
    pub target_address: Ipv4Addr,
}

impl Arp {
    /// An announcement: who-has or is-at whose sender and target are the same address.
    #[must_use]
    pub fn is_gratuitous_for(&self, address: Ipv4Addr) -> bool {
        self.sender_address == address && self.target_address == address
    }
}

/// The digest of a CARP packet.
///
/// Source: OpenBSD `ip_carp.c`, `carp_hmac_prepare` and `carp_hmac_generate`: version, type, vhid, addresses
/// ascending, counter.
#[must_use]
pub fn digest(password: &[u8], vhid: u8, addresses: &[Ipv4Addr], counter: u64) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(password).expect("HMAC takes a key of any length");
    mac.update(&[2, 1, vhid]);
    for address in addresses {
        mac.update(&address.octets());
    }
    mac.update(&counter.to_be_bytes());
    mac.finalize().into_bytes().into()
}

/// The internet checksum (RFC 1071); 0 over bytes that include a correct one.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// Parses an Ethernet frame; `None` for packets that the lab does not understand.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Packet> {
    let ether_destination = Mac(frame.first_chunk().copied()?);
    let ether_source = Mac(frame.get(6..)?.first_chunk().copied()?);
    let payload = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => parse_ip(ether_source, ether_destination, payload),
        [0x08, 0x06] => parse_arp(ether_source, ether_destination, payload).map(Packet::Arp),
        _ => None,
    }
}

fn parse_ip(ether_source: Mac, ether_destination: Mac, packet: &[u8]) -> Option<Packet> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet
        .get(..header_len)
        .filter(|header| header.len() >= 20)?;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload = packet.get(header_len..total_len)?;
    if header[9] != PROTOCOL {
        return None;
    }
    let source = address(header, 12);
    if payload.len() < CARP_LEN || payload[3] != 7 {
        return Some(Packet::Vrrp(Vrrp {
            source,
            version: payload.first()? >> 4,
            vrid: *payload.get(1)?,
            priority: *payload.get(2)?,
        }));
    }
    let (carp, trailing) = payload.split_at(CARP_LEN);
    Some(Packet::Carp(Carp {
        ether_source,
        ether_destination,
        source,
        destination: address(header, 16),
        ttl: header[8],
        tos: header[1],
        dont_fragment: header[6] & 0x40 != 0,
        checksums_valid: checksum(header) == 0 && checksum(carp) == 0,
        version_type: carp[0],
        vhid: carp[1],
        advskew: carp[2],
        demotion: carp[4],
        advbase: carp[5],
        counter: u64::from_be_bytes(carp[8..16].try_into().ok()?),
        digest: carp[16..36].try_into().ok()?,
        trailing: trailing.len(),
    }))
}

fn parse_arp(ether_source: Mac, ether_destination: Mac, packet: &[u8]) -> Option<Arp> {
    let packet: &[u8; 28] = packet.first_chunk()?;
    if packet[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some(Arp {
        ether_source,
        ether_destination,
        reply: packet[7] == 2,
        sender: Mac(packet[8..14].try_into().ok()?),
        sender_address: address(packet, 14),
        target_address: address(packet, 24),
    })
}

fn address(bytes: &[u8], offset: usize) -> Ipv4Addr {
    Ipv4Addr::new(
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    )
}
