//! The sender and the receiver of a packet.

use std::boxed::Box;

use super::*;

#[test]
fn only_a_packet_to_this_host_alone_is_unicast() {
    let address = Ipv4Addr::new(192, 0, 2, 2);
    let value = VhostValue::NONE.hearing(address.into(), None);
    let ingress = Ingress {
        ifindex: IFINDEX,
        stripped_tag: None,
    };
    let is_unicast = |frame: &[u8], value: &VhostValue| {
        let verdict = classify(frame, ingress, |_| Some(value));
        let Verdict::Deliver { unicast, .. } = verdict else {
            panic!("{verdict:?}");
        };
        unicast
    };
    let to_group = value.hearing(GROUP.into(), None);
    let mut frame = inet_frame(VHID, address);
    assert!(!is_unicast(&frame, &value), "multicast frame");
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    assert!(is_unicast(&frame, &value));
    let mut frame = genuine();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    assert!(
        !is_unicast(&frame, &to_group),
        "multicast packet, as a switch may convert it"
    );
}

#[test]
fn only_a_well_formed_packet_from_the_source_of_the_host_is_its_own() {
    let (inet, inet6) = ([192, 0, 2, 1], {
        let mut address = [0; 16];
        (address[0], address[1], address[15]) = (0xfe, 0x80, 1);
        address
    });
    let verdict_of = |frame: &[u8], group: IpAddr, own_source: IpAddr| {
        let value: &'static _ =
            Box::leak(Box::new(VhostValue::NONE.hearing(group, Some(own_source))));
        let ingress = Ingress {
            ifindex: IFINDEX,
            stripped_tag: None,
        };
        classify(frame, ingress, |_| Some(value))
    };
    let (group, group6) = (IpAddr::from(GROUP), IpAddr::from(GROUP6));
    let is_own = |verdict| matches!(verdict, Verdict::Deliver { own: true, .. });
    assert!(is_own(verdict_of(&genuine(), group, inet.into())));
    assert!(is_own(verdict_of(&genuine6(), group6, inet6.into())));
    // With any bit changed it is another host's.
    for bit in 0..32 {
        let mut other = inet;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(
            !is_own(verdict_of(&genuine(), group, other.into())),
            "bit {bit}"
        );
    }
    for bit in 0..128 {
        let mut other = inet6;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(
            !is_own(verdict_of(&genuine6(), group6, other.into())),
            "bit {bit}"
        );
    }
    // Zeros match no packet, not even one whose source is zeros.
    let unspecified = with(
        genuine(),
        &[(IP + 12, 0), (IP + 13, 0), (IP + 14, 0), (IP + 15, 0)],
    );
    assert!(!is_own(verdict_of(&unspecified, group, [0; 4].into())));
    let mut unspecified = genuine6();
    unspecified[IP + 8..IP + 24].fill(0);
    assert!(!is_own(verdict_of(&unspecified, group6, [0; 16].into())));
    // Other faults take precedence, and a packet for another group still passes as such.
    assert!(matches!(
        verdict_of(&with(genuine(), &[(IP + 8, 254)]), group, inet.into()),
        Verdict::Drop {
            reason: Counter::DroppedWrongTtl,
            ..
        }
    ));
    assert_eq!(
        verdict_of(&genuine(), [224, 0, 0, 19].into(), inet.into()),
        passes(Counter::PassedOtherGroup)
    );
}

#[test]
fn a_virtual_host_of_one_family_does_not_hear_the_other() {
    let ingress = Ingress {
        ifindex: IFINDEX,
        stripped_tag: None,
    };
    let inet = VhostValue::NONE.hearing(GROUP.into(), None);
    let inet6 = VhostValue::NONE.hearing(GROUP6.into(), None);
    for (frame, hears, other) in [(genuine(), inet, inet6), (genuine6(), inet6, inet)] {
        let verdict_of = |value| classify(frame.as_slice(), ingress, |_| Some(value));
        assert!(matches!(verdict_of(&hears), Verdict::Deliver { .. }));
        assert_eq!(verdict_of(&other), passes(Counter::PassedUnknownVhid));
    }
    let vrrp6 = vrrp6(1);
    let verdict = classify(vrrp6.as_slice(), ingress, |_| Some(&inet));
    assert_eq!(verdict, Verdict::Vrrp { same_vhid: None });
}

#[test]
fn the_lowest_ttl_is_the_virtual_hosts() {
    let ingress = Ingress {
        ifindex: IFINDEX,
        stripped_tag: None,
    };
    for (min_ttl, ttl, is_heard) in [
        (255, 255, true),
        (255, 254, false),
        (64, 64, true),
        (64, 63, false),
        (1, 0, false),
    ] {
        let value = VhostValue {
            min_ttl,
            ..CONFIGURED
        };
        let frame = with(genuine(), &[(IP + 8, ttl)]);
        let verdict = classify(frame.as_slice(), ingress, |_| Some(&value));
        assert_eq!(
            matches!(verdict, Verdict::Deliver { .. }),
            is_heard,
            "{verdict:?}"
        );
    }
}
