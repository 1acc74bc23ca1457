//! Which host sent a packet, and to which.

use super::*;

#[test]
fn only_a_packet_to_this_host_alone_is_unicast() {
    let address = Ipv4Addr::new(192, 0, 2, 2);
    let value = VhostValue::new(widen(address.octets()), 0);
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
    let to_group = VhostValue {
        group: widen(GROUP.octets()),
        ..value
    };
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
    let judge = |frame: &[u8], group, own_source| {
        let value = VhostValue {
            own_source,
            ..VhostValue::new(group, 0)
        };
        let ingress = Ingress {
            ifindex: IFINDEX,
            stripped_tag: None,
        };
        classify(frame, ingress, |_| Some(&value))
    };
    let group = widen(GROUP.octets());
    let is_own = |verdict| matches!(verdict, Verdict::Deliver { own: true, .. });
    assert!(is_own(judge(&genuine(), group, widen(inet))));
    assert!(is_own(judge(&genuine6(), GROUP6, inet6)));
    // Any other bit, and it is another host's.
    for bit in 0..32 {
        let mut other = inet;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_own(judge(&genuine(), group, widen(other))), "bit {bit}");
    }
    for bit in 0..128 {
        let mut other = inet6;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_own(judge(&genuine6(), GROUP6, other)), "bit {bit}");
    }
    // Zeros are nobody's, also where a packet has them.
    let unspecified = with(
        genuine(),
        &[(IP + 12, 0), (IP + 13, 0), (IP + 14, 0), (IP + 15, 0)],
    );
    assert!(!is_own(judge(&unspecified, group, [0; 16])));
    let mut unspecified = genuine6();
    unspecified[IP + 8..IP + 24].fill(0);
    assert!(!is_own(judge(&unspecified, GROUP6, [0; 16])));
    // What is wrong with it is said first, and another group stays another group's.
    assert!(matches!(
        judge(&with(genuine(), &[(IP + 8, 254)]), group, widen(inet)),
        Verdict::Drop {
            reason: Counter::DroppedWrongTtl,
            ..
        }
    ));
    assert_eq!(
        judge(&genuine(), widen([224, 0, 0, 19]), widen(inet)),
        Verdict::Pass(Counter::PassedOtherGroup)
    );
}
