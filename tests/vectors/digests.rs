//! Tests every vector of every dialect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carp_common::proto::key::{KEY_LEN, PASSWORD_MAX};
use carp_common::proto::{AddressSet, Authenticator, Key};
use carp_common::units::{AdvBase, AdvSkew, Demotion, Profile, Vhid};
use carp_common::wire::advertisement::{Advertisement, DIGEST_LEN, HEADER_LEN};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    dialect: Dialect,
    password: String,
    vhid: u8,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    /// Hexadecimal.
    counter: String,
    advskew: u8,
    advbase: u8,
    /// The virtual MAC address of an OpenBSD, if it was changed by hand.
    lladdr: Option<String>,
    hmac_sha1: String,
    carp_header: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Dialect {
    Ucarp,
    FreeBsd,
    OpenBsd,
}

impl Dialect {
    const fn profile(self) -> Profile {
        match self {
            Self::Ucarp => Profile::Ucarp,
            Self::FreeBsd => Profile::FreeBsd,
            Self::OpenBsd => Profile::OpenBsd,
        }
    }
}

impl Vector {
    fn all() -> Vec<Self> {
        serde_json::from_str(include_str!("hmac.json")).unwrap()
    }

    /// Returns the key. Some BSD vectors use all 20 bytes of the kernel's key, which no password of `ifconfig` can
    /// fill.
    fn key(&self) -> Key {
        let mut key = [0; KEY_LEN];
        key[..self.password.len()].copy_from_slice(self.password.as_bytes());
        Key::from_bytes(key)
    }

    fn vhid(&self) -> Vhid {
        Vhid::new(self.vhid).unwrap()
    }

    fn addresses(&self) -> AddressSet {
        let inet = self.v4.iter().copied().map(IpAddr::V4);
        AddressSet::new(inet.chain(self.v6.iter().copied().map(IpAddr::V6)))
    }

    fn custom_mac(&self) -> Option<[u8; 6]> {
        let digits: String = self.lladdr.as_ref()?.split(':').collect();
        Some(bytes(&digits))
    }

    fn authenticator(&self, profile: Profile) -> Authenticator {
        Authenticator::new(
            &self.key(),
            self.vhid(),
            &self.addresses(),
            profile,
            self.custom_mac(),
        )
    }

    fn counter(&self) -> u64 {
        u64::from_str_radix(self.counter.strip_prefix("0x").unwrap(), 16).unwrap()
    }

    fn digest(&self) -> [u8; DIGEST_LEN] {
        bytes(&self.hmac_sha1)
    }
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N, "{hex}");
    std::array::from_fn(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
}

#[test]
fn there_are_eight_vectors_of_each_dialect() {
    for dialect in [Dialect::Ucarp, Dialect::FreeBsd, Dialect::OpenBsd] {
        let count = Vector::all()
            .iter()
            .filter(|vector| vector.dialect == dialect)
            .count();
        assert_eq!(count, 8, "{dialect:?}");
    }
}

#[test]
fn we_send_every_digest_of_the_dialect() {
    for vector in Vector::all() {
        let ours = vector.authenticator(vector.dialect.profile());
        assert_eq!(ours.sign(vector.counter()), vector.digest(), "{vector:?}");
    }
}

#[test]
fn we_emit_every_header_of_the_dialect() {
    for vector in Vector::all() {
        let ours = vector.authenticator(vector.dialect.profile());
        let advertisement = Advertisement {
            vhid: vector.vhid(),
            advskew: AdvSkew(vector.advskew),
            demotion: Demotion::NONE,
            advbase: AdvBase(vector.advbase),
            counter: vector.counter(),
            digest: ours.sign(vector.counter()),
        };
        let expected: [u8; HEADER_LEN] = bytes(&vector.carp_header);
        let mut emitted = [0xa5; HEADER_LEN];
        advertisement.emit(&mut emitted);
        assert_eq!(emitted, expected, "{vector:?}");
        assert_eq!(
            Advertisement::parse(&expected),
            Ok(advertisement),
            "{vector:?}"
        );
    }
}

#[test]
fn every_profile_accepts_every_dialect() {
    for vector in Vector::all() {
        for profile in [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd] {
            let ours = vector.authenticator(profile);
            assert!(
                ours.verify(vector.counter(), &vector.digest()),
                "{profile:?}: {vector:?}"
            );
        }
    }
}

#[test]
fn no_other_password_vhid_or_address_is_accepted() {
    for vector in Vector::all() {
        let profile = vector.dialect.profile();
        let key = Key::new(b"another").unwrap();
        let vhid = Vhid::new(vector.vhid % 255 + 1).unwrap();
        let addresses = vector.addresses();
        let more = addresses
            .inet()
            .iter()
            .copied()
            .chain([Ipv4Addr::new(192, 0, 2, 254)]);
        let more = AddressSet::new(
            more.map(IpAddr::V4)
                .chain(addresses.inet6().iter().copied().map(IpAddr::V6)),
        );
        let mac = vector.custom_mac();
        for other in [
            Authenticator::new(&key, vector.vhid(), &addresses, profile, mac),
            Authenticator::new(&vector.key(), vhid, &addresses, profile, mac),
            Authenticator::new(&vector.key(), vector.vhid(), &more, profile, mac),
            Authenticator::new(
                &vector.key(),
                vector.vhid(),
                &addresses,
                profile,
                Some([2; 6]),
            ),
        ] {
            assert!(
                !other.verify(vector.counter(), &vector.digest()),
                "{vector:?}"
            );
        }
    }
}

#[test]
fn a_password_makes_the_key_of_its_vectors() {
    let vectors = Vector::all();
    let fitting: Vec<_> = vectors
        .iter()
        .filter(|vector| vector.password.len() <= PASSWORD_MAX)
        .collect();
    assert!(fitting.len() >= 16, "{}", fitting.len());
    for vector in fitting {
        let password = vector.password.as_bytes();
        assert_eq!(Key::new(password).unwrap(), vector.key(), "{vector:?}");
        assert_eq!(
            Key::truncated(password),
            (vector.key(), false),
            "{vector:?}"
        );
    }
}
