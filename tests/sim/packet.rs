//! CARP's 36 bytes as the model hosts and the attacker read and write them.
//!
//! Written from the description of the protocol, without code of `carp_common::wire` or `carp_common::proto::auth`,
//! so that a mistake there meets a peer that does not share it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carp_common::units::Family;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// The length of an advertisement. Unit: bytes.
pub const LENGTH: usize = 36;

/// The families.
pub const FAMILIES: [Family; 2] = [Family::Inet, Family::Inet6];

/// An IP packet of protocol 112 on the simulated wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP version.
    pub family: Family,
    /// IP source.
    pub source: IpAddr,
    /// Ethernet source.
    pub ethernet_source: [u8; 6],
    /// IP payload; 36 bytes, unless a host sends garbage.
    pub payload: Vec<u8>,
}

/// The contents of an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ad {
    /// Seconds.
    pub advbase: u8,
    /// 256ths of a second.
    pub advskew: u8,
    /// Byte 4.
    pub demotion: u8,
    /// Bytes 8 to 15.
    pub counter: u64,
}

impl Ad {
    /// Returns the rank of its sender among masters; less is better.
    #[must_use]
    pub const fn standing(self) -> (u8, (u8, u8)) {
        (self.demotion, (self.advbase, self.advskew))
    }
}

/// The settings that two hosts must have in common to hear each other.
#[derive(Clone, Debug)]
pub struct Group {
    /// Virtual host id.
    pub vhid: u8,
    /// Password.
    pub password: &'static [u8],
    /// IPv4 virtual addresses, ascending.
    pub inet: Vec<Ipv4Addr>,
    /// IPv6 virtual addresses, ascending.
    pub inet6: Vec<Ipv6Addr>,
}

impl Group {
    /// Whether the group advertises in the family.
    #[must_use]
    pub fn uses(&self, family: Family) -> bool {
        match family {
            Family::Inet => !self.inet.is_empty(),
            Family::Inet6 => !self.inet6.is_empty(),
        }
    }

    /// Returns every virtual address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let inet6 = self.inet6.iter().copied().map(IpAddr::from);
        self.inet.iter().copied().map(IpAddr::from).chain(inet6)
    }

    /// Whether this is one of the virtual addresses.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses().any(|known| known == ip)
    }

    /// Returns the HMAC over version, type, vhid, addresses and counter.
    fn digest(&self, counter: u64) -> [u8; 20] {
        let mut mac =
            Hmac::<Sha1>::new_from_slice(self.password).expect("HMAC takes a key of any length");
        mac.update(&[2, 1, self.vhid]);
        for address in &self.inet {
            mac.update(&address.octets());
        }
        for address in &self.inet6 {
            mac.update(&address.octets());
        }
        mac.update(&counter.to_be_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Returns the advertisement's 36 bytes.
    #[must_use]
    pub fn seal(&self, ad: Ad) -> Vec<u8> {
        let mut bytes = vec![
            0x21,
            self.vhid,
            ad.advskew,
            7,
            ad.demotion,
            ad.advbase,
            0,
            0,
        ];
        bytes.extend(ad.counter.to_be_bytes());
        bytes.extend(self.digest(ad.counter));
        fix_checksum(&mut bytes);
        bytes
    }

    /// Returns the contents of the bytes if they belong to this group and are authentic. Bytes after the 36th are
    /// ignored.
    #[must_use]
    pub fn open(&self, payload: &[u8]) -> Option<Ad> {
        let payload = payload.get(..LENGTH)?;
        let ad = read(payload)?;
        let authentic = checksum(payload) == 0
            && payload[0] == 0x21
            && payload[1] == self.vhid
            && payload[16..36] == self.digest(ad.counter);
        authentic.then_some(ad)
    }
}

/// Returns the fields of 36 bytes, authentic or not.
#[must_use]
pub fn read(payload: &[u8]) -> Option<Ad> {
    if payload.len() != LENGTH {
        return None;
    }
    let counter = payload[8..16].try_into().map(u64::from_be_bytes).ok()?;
    Some(Ad {
        advskew: payload[2],
        demotion: payload[4],
        advbase: payload[5],
        counter,
    })
}

/// Corrects the checksum after a change of fields.
pub fn fix_checksum(payload: &mut [u8]) {
    payload[6..8].fill(0);
    let sum = checksum(payload);
    payload[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// Returns the internet checksum of an even number of bytes; 0 if they include a correct one.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
