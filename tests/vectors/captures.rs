//! Tests every captured packet of a real ucarp.

use std::net::{IpAddr, Ipv4Addr};

use carp_common::abi::classify::{Ingress, Verdict, classify};
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::{VhostKey, VhostValue};
use carp_common::proto::{AddressSet, Authenticator, Key};
use carp_common::units::{AdvBase, AdvSkew, Demotion, Priority, Profile, Vhid};
use carp_common::wire::advertisement::Advertisement;
use carp_common::wire::arp::gratuitous_frame;
use carp_common::wire::ether::{MacAddress, TYPE_ARP};
use pcap_file::pcap::PcapReader;

/// A capture file, and the options of the ucarp that sent its packets.
struct Capture {
    name: &'static str,
    bytes: &'static [u8],
    vhid: u8,
    password: &'static str,
    address: Ipv4Addr,
    advbase: u8,
    advskew: u8,
    group: Ipv4Addr,
    advertisements: usize,
}

const fn v4([a, b, c, d]: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

macro_rules! capture {
    (
        $name:literal, $vhid:literal, $password:literal, $address:expr,
        $advbase:literal / $advskew:literal, $group:expr, $count:literal
    ) => {
        Capture {
            name: $name,
            bytes: include_bytes!(concat!("../captures/", $name, ".pcap")),
            vhid: $vhid,
            password: $password,
            address: v4($address),
            advbase: $advbase,
            advskew: $advskew,
            group: v4($group),
            advertisements: $count,
        }
    };
}

const GROUP: [u8; 4] = [224, 0, 0, 18];

const CAPTURES: [Capture; 6] = [
    capture!("basic", 1, "secret", [192, 0, 2, 10], 1 / 0, GROUP, 3),
    capture!(
        "vhid42_love_skew100",
        42,
        "love",
        [192, 0, 2, 252],
        1 / 100,
        GROUP,
        1
    ),
    capture!(
        "vhid255_pass19",
        255,
        "1234567890123456789",
        [203, 0, 113, 7],
        1 / 254,
        GROUP,
        2
    ),
    capture!(
        "mcast",
        7,
        "pass word",
        [192, 0, 2, 77],
        1 / 0,
        [239, 192, 0, 7],
        3
    ),
    capture!("nomcast", 9, "x", [192, 0, 2, 99], 1 / 0, GROUP, 3),
    capture!("fast", 11, "fast", [192, 0, 2, 111], 0 / 26, GROUP, 53),
];

impl Capture {
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut reader = PcapReader::new(self.bytes).unwrap();
        std::iter::from_fn(|| Some(reader.next_packet()?.unwrap().data.into_owned())).collect()
    }

    fn vhid(&self) -> Vhid {
        Vhid::new(self.vhid).unwrap()
    }

    /// Classifies a frame on a link where only this group is configured.
    fn classify<'v>(&self, frame: &[u8], value: &'v VhostValue) -> Verdict<'v> {
        let ours = VhostKey::new(7, 0, self.vhid());
        let ingress = Ingress {
            ifindex: 7,
            stripped_tag: None,
        };
        classify(frame, ingress, |key| (*key == ours).then_some(value))
    }

    /// Returns the advertisements, as the classifier delivers them.
    fn advertised(&self) -> Vec<AdvertisementEvent> {
        let frames = self.frames().into_iter();
        let value = VhostValue::NONE.hearing(self.group.into(), None);
        frames
            .filter_map(|frame| match self.classify(&frame, &value) {
                Verdict::Deliver { matched, .. } => matched.event(frame.as_slice(), 0),
                Verdict::Foreign => None,
                verdict @ (Verdict::Pass { .. } | Verdict::Vrrp { .. } | Verdict::Drop { .. }) => {
                    panic!("{}: {verdict:?}", self.name)
                }
            })
            .collect()
    }

    fn authenticator(&self, password: &str) -> Authenticator {
        let key = Key::new(password.as_bytes()).unwrap();
        let addresses = AddressSet::new([IpAddr::V4(self.address)]);
        Authenticator::new(&key, self.vhid(), &addresses, Profile::Ucarp, None)
    }
}

#[test]
fn every_advertisement_is_delivered_with_what_ucarp_was_told() {
    for capture in CAPTURES {
        let advertised = capture.advertised();
        assert_eq!(advertised.len(), capture.advertisements, "{}", capture.name);
        for advertised in advertised {
            assert_eq!(advertised.source[..4], [192, 0, 2, 1], "{}", capture.name);
            assert_eq!(
                advertised.destination[..4],
                capture.group.octets(),
                "{}",
                capture.name
            );
            let mac = MacAddress(advertised.ethernet_source);
            assert_eq!(
                mac,
                MacAddress::virtual_host(Profile::Ucarp, capture.vhid())
            );
            let advertisement = Advertisement::parse(&advertised.payload).unwrap();
            let Advertisement {
                vhid,
                advbase,
                advskew,
                demotion,
                ..
            } = advertisement;
            assert_eq!(vhid, capture.vhid(), "{}", capture.name);
            let expected = Priority {
                advbase: AdvBase(capture.advbase),
                advskew: AdvSkew(capture.advskew),
            };
            assert_eq!(Priority { advbase, advskew }, expected, "{}", capture.name);
            assert_eq!(demotion, Demotion::NONE, "{}", capture.name);
        }
    }
}

#[test]
fn every_advertisement_authenticates_with_its_password_and_with_no_other() {
    for capture in CAPTURES {
        for advertised in capture.advertised() {
            let Advertisement {
                counter, digest, ..
            } = Advertisement::parse(&advertised.payload).unwrap();
            for password in CAPTURES.map(|capture| capture.password) {
                let accepted = capture.authenticator(password).verify(counter, &digest);
                assert_eq!(
                    accepted,
                    password == capture.password,
                    "{} as {password}",
                    capture.name
                );
            }
        }
    }
}

#[test]
fn no_advertisement_authenticates_for_another_group() {
    for capture in CAPTURES {
        for advertised in capture.advertised() {
            let Advertisement {
                counter, digest, ..
            } = Advertisement::parse(&advertised.payload).unwrap();
            for other in CAPTURES.iter().filter(|other| other.name != capture.name) {
                let same_password = other.authenticator(capture.password);
                assert!(
                    !same_password.verify(counter, &digest),
                    "{} as {}",
                    capture.name,
                    other.name
                );
            }
        }
    }
}

#[test]
fn our_gratuitous_arp_is_the_one_that_ucarp_sends() {
    for capture in CAPTURES {
        let frames = capture.frames();
        let arps: Vec<_> = frames
            .iter()
            .filter(|frame| frame[12..14] == TYPE_ARP.to_be_bytes())
            .collect();
        assert!(!arps.is_empty(), "{}", capture.name);
        for arp in arps {
            let interface = MacAddress(*arp[6..].first_chunk().unwrap());
            let ours = gratuitous_frame(interface, capture.address);
            assert_eq!(arp[..], ours[..], "{}", capture.name);
        }
    }
}
