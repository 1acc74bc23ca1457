//! Tests advertisements of real BSD kernels, and those of carpd that they answered.
//!
//! They were captured with FreeBSD, OpenBSD and carpd on one link: vhid 7, password `secret`, address 10.0.0.10.

use std::net::{IpAddr, Ipv4Addr};

use carp_common::abi::classify::{Ingress, Verdict, classify};
use carp_common::abi::layout::{VhostKey, VhostValue};
use carp_common::proto::{AddressSet, Authenticator, Key};
use carp_common::units::{AdvBase, AdvSkew, Demotion, Profile, Vhid};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};

/// The priority of a header: advbase, advskew, byte 4.
type Shown = (u8, u8, u8);

/// A header, its priority, and its counter.
const HEADERS: [(&str, Shown, u64); 8] = [
    // A FreeBSD and a carpd with equal priorities, which heard each other when a partition healed.
    (
        "210700070001fbfaa1b6226ed304becf4654dd9f8707658fb5c54ccac5d4a1f97cef9523",
        (1, 0, 0),
        0xa1b6_226e_d304_becf,
    ),
    (
        "210700070001d7b9a1b6226ed304bed0527508dea9bd0c0943984b350c3708f9956766bd",
        (1, 0, 0),
        0xa1b6_226e_d304_bed0,
    ),
    // A demoted OpenBSD, and a carpd.
    (
        "210700070101a6e9d33370f60e97e39afcc9c7b3ae8832b4194917754ca6befb3238ec57",
        (1, 0, 1),
        0xd333_70f6_0e97_e39a,
    ),
    (
        "2107640700013cf2d33370f60e97e39b775176f736f9cf9cb9def81f26300b63b30f7c20",
        (1, 100, 0),
        0xd333_70f6_0e97_e39b,
    ),
    // A FreeBSD under an OpenBSD's counter + 1: the same counter twice, with two priorities.
    (
        "210732070001701aae377bbe228084d959f4a15bd15929c86951acce502bd95bd07a64f2",
        (1, 50, 0),
        0xae37_7bbe_2280_84d9,
    ),
    (
        "2107460700015c1aae377bbe228084d959f4a15bd15929c86951acce502bd95bd07a64f2",
        (1, 70, 0),
        0xae37_7bbe_2280_84d9,
    ),
    // A bow-out of OpenBSD.
    (
        "2107ff0700ffffa3738e850b0ded5ba24667ab189f4069062a60f5764dd490eaba3aca8c",
        (255, 255, 0),
        0x738e_850b_0ded_5ba2,
    ),
    // A FreeBSD that sends to one host.
    (
        "21070007000190fc0a6736d6208384b2d85bb36247ab1ffd3a9ee95d19ca7ef8b31d043e",
        (1, 0, 0),
        0x0a67_36d6_2083_84b2,
    ),
];

/// Whole frames: the first two headers above, as they were sent to the group.
const MULTICAST: [(&str, [u8; 4], u8); 2] = [
    (
        "01005e00001200005e00010708004510003891a54000ff70ff8c0a000001e0000012\
         210700070001fbfaa1b6226ed304becf4654dd9f8707658fb5c54ccac5d4a1f97cef9523",
        [10, 0, 0, 1],
        1,
    ),
    (
        "01005e00001200005e00000708004510003808804000ff7088b10a000002e0000012\
         210700070001d7b9a1b6226ed304bed0527508dea9bd0c0943984b350c3708f9956766bd",
        [10, 0, 0, 2],
        0,
    ),
];

/// Whole frame: the last header above, from 10.0.0.2 to 10.0.0.1.
const UNICAST: &str = "020000000101020000000201080045e0003800004000ff7066730a0000020a000001\
                       21070007000190fc0a6736d6208384b2d85bb36247ab1ffd3a9ee95d19ca7ef8b31d043e";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
        .collect()
}

fn vhid() -> Vhid {
    Vhid::new(7).unwrap()
}

fn authenticator(password: &str, address: [u8; 4]) -> Authenticator {
    let addresses = AddressSet::new([IpAddr::V4(Ipv4Addr::from(address))]);
    let key = Key::new(password.as_bytes()).unwrap();
    Authenticator::new(&key, vhid(), &addresses, Profile::Ucarp, None)
}

fn classified(frame: &[u8]) -> Verdict<'static> {
    let ours = VhostKey::new(3, 0, vhid());
    let ingress = Ingress {
        ifindex: 3,
        stripped_tag: None,
    };
    static VALUE: VhostValue =
        VhostValue::NONE.hearing(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)), None);
    classify(frame, ingress, |key| (*key == ours).then_some(&VALUE))
}

#[test]
fn every_header_is_read_as_it_was_meant_and_authenticates() {
    for (hex, (advbase, advskew, demotion), counter) in HEADERS {
        let header: [u8; HEADER_LEN] = bytes(hex).try_into().unwrap();
        let advertisement = Advertisement::parse(&header).unwrap();
        let expected = Advertisement {
            vhid: vhid(),
            advskew: AdvSkew(advskew),
            demotion: Demotion(demotion),
            advbase: AdvBase(advbase),
            counter,
            digest: advertisement.digest,
        };
        assert_eq!(advertisement, expected, "{hex}");
        let verifies = |password, address| {
            authenticator(password, address).verify(counter, &advertisement.digest)
        };
        assert!(verifies("secret", [10, 0, 0, 10]), "{hex}");
        assert!(!verifies("another", [10, 0, 0, 10]), "{hex}");
        assert!(!verifies("secret", [10, 0, 0, 11]), "{hex}");
    }
}

#[test]
fn every_header_is_what_we_would_send() {
    for (hex, (advbase, advskew, demotion), counter) in HEADERS {
        let ours = Advertisement {
            vhid: vhid(),
            advskew: AdvSkew(advskew),
            demotion: Demotion(demotion),
            advbase: AdvBase(advbase),
            counter,
            digest: authenticator("secret", [10, 0, 0, 10]).sign(counter),
        };
        let mut emitted = [0xa5; HEADER_LEN];
        ours.emit(&mut emitted);
        assert_eq!(emitted[..], bytes(hex)[..], "{hex}");
    }
}

#[test]
fn a_frame_to_the_group_is_delivered_and_its_ethernet_source_tells_the_dialect() {
    for (hex, source, dialect) in MULTICAST {
        let frame = bytes(hex);
        let Verdict::Deliver { matched, .. } = classified(&frame) else {
            panic!("{hex}");
        };
        let event = matched.event(frame.as_slice(), 0).unwrap();
        assert_eq!(event.source[..4], source, "{hex}");
        assert_eq!(event.ethernet_source, [0, 0, 0x5e, 0, dialect, 7], "{hex}");
        assert_eq!(event.payload(), &frame[34..], "{hex}");
    }
}

#[test]
fn a_frame_to_one_host_is_passed() {
    let verdict = classified(&bytes(UNICAST));
    assert!(matches!(verdict, Verdict::Pass { .. }), "{verdict:?}");
}
