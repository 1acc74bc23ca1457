//! What happens to a frame, and what the daemon receives.

use std::net::Ipv4Addr;

use aya::maps::{MapData, RingBuf};
use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::widen;
use carp_common::abi::layout::{DEBUG_GLOBAL, FAMILY_INET, FAMILY_INET6, VhostKey};
use carp_common::units::Vhid;
use carp_common::wire::advertisement::Advertisement;

use crate::datapath::{Datapath, Fate, HOOKS, Hook, LOOPBACK, untagged};
use crate::frames::*;
use crate::monotonic_ns;

#[test]
fn every_verdict_has_its_action_and_its_counters() {
    let received = ("received-inet-packets", 1);
    let received6 = ("received-inet6-packets", 1);
    let delivered = ("delivered", 1);
    let priority = [0x81, 0, 0xe0, 0];
    let vlan5 = [0x81, 0, 0xe0, 5];
    let service9 = [0x88, 0xa8, 0, 9];

    let forged = [("received-inet-packets", 1), ("suspects-delivered", 1)];
    let mut broken_checksum = genuine();
    broken_checksum[CARP + 20] ^= 1;
    let mut version3 = genuine();
    version3[CARP] = 0x41;
    resum_carp(&mut version3);
    let mut authlen = genuine();
    authlen[CARP + 3] = 6;
    resum_carp(&mut authlen);
    let mut broadcast = genuine();
    broadcast[..6].fill(0xff);
    let mut hop_limit = genuine6();
    hop_limit[21] = 254;
    let mut group6 = genuine6();
    group6[53] = 0x13;
    let mut oversized = genuine();
    oversized.extend([0; 28]);
    let mut padded = genuine();
    padded.extend([0; 28]);
    let mut bad_ip_checksum = genuine();
    bad_ip_checksum[IP + 1] ^= 1;
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);

    type Row = (&'static str, Vec<u8>, Fate, Vec<(&'static str, u64)>);
    let rows: Vec<Row> = vec![
        ("tcp", tcp(), Fate::Pass, vec![]),
        (
            "tagged tcp",
            tagged(tcp(), &[service9, vlan5]),
            Fate::Pass,
            vec![],
        ),
        ("arp", arp, Fate::Pass, vec![]),
        (
            "ethernet header only",
            genuine()[..14].to_vec(),
            Fate::Pass,
            vec![],
        ),
        ("genuine", genuine(), Fate::Pass, vec![received, delivered]),
        (
            "genuine, padded",
            padded,
            Fate::Pass,
            vec![received, delivered],
        ),
        (
            "genuine, broadcast",
            broadcast,
            Fate::Pass,
            vec![received, delivered],
        ),
        (
            "genuine, ipv6",
            genuine6(),
            Fate::Pass,
            vec![received6, delivered],
        ),
        (
            "genuine, options",
            with_options(genuine(), &[1; 40]),
            Fate::Pass,
            vec![received, delivered],
        ),
        (
            "genuine, priority tag",
            tagged(genuine(), &[priority]),
            Fate::Pass,
            vec![received, delivered],
        ),
        (
            "genuine, vlan 5",
            tagged(genuine(), &[vlan5]),
            Fate::Pass,
            vec![received, delivered],
        ),
        (
            "genuine, priority and vlan 5",
            tagged(genuine(), &[priority, vlan5]),
            Fate::Pass,
            vec![received, delivered],
        ),
        (
            "genuine, vlan 9",
            tagged(genuine(), &[service9]),
            Fate::Pass,
            vec![("passed-other-vlan", 1)],
        ),
        (
            "genuine, vlan 5 in vlan 9",
            tagged(genuine(), &[service9, vlan5]),
            Fate::Pass,
            vec![("passed-other-vlan", 1)],
        ),
        (
            "genuine, vlan 9 in vlan 5",
            tagged(genuine(), &[vlan5, service9]),
            Fate::Pass,
            vec![("passed-other-vlan", 1)],
        ),
        (
            "genuine, three tags",
            tagged(genuine(), &[priority, priority, vlan5]),
            Fate::Pass,
            vec![],
        ),
        (
            "unicast to us",
            advertisement(8, OURS),
            Fate::Drop,
            vec![received, delivered],
        ),
        (
            "ttl 254",
            with_ip_byte(genuine(), 8, 254),
            Fate::Drop,
            vec![received, ("dropped-wrong-ttl", 1)],
        ),
        (
            "hop limit 254",
            hop_limit,
            Fate::Drop,
            vec![received6, ("dropped-wrong-ttl", 1)],
        ),
        (
            "cut short",
            genuine()[..69].to_vec(),
            Fate::Drop,
            vec![received, ("dropped-short-packet", 1)],
        ),
        (
            "checksum",
            broken_checksum,
            Fate::Drop,
            vec![received, ("dropped-bad-checksum", 1)],
        ),
        (
            "version",
            version3,
            Fate::Drop,
            vec![received, ("dropped-bad-version", 1)],
        ),
        (
            "forged",
            carrying(&Advertisement {
                digest: [0xd1; 20],
                ..authentic(VHID, COUNTER)
            }),
            Fate::Drop,
            forged.to_vec(),
        ),
        (
            "authentic, of another vhid",
            carrying(&Advertisement {
                vhid: Vhid::new(VHID).unwrap(),
                ..authentic(8, COUNTER)
            }),
            Fate::Drop,
            forged.to_vec(),
        ),
        (
            "another vhid",
            advertisement(9, GROUP),
            Fate::Pass,
            vec![("passed-unknown-vhid", 1)],
        ),
        (
            "another group",
            advertisement(VHID, Ipv4Addr::new(239, 0, 0, 1)),
            Fate::Pass,
            vec![("passed-other-group", 1)],
        ),
        (
            "another group, ipv6",
            group6,
            Fate::Pass,
            vec![("passed-other-group", 1)],
        ),
        (
            "another host's address",
            advertisement(VHID, OURS),
            Fate::Pass,
            vec![("passed-unicast", 1)],
        ),
        (
            "first fragment",
            with_ip_byte(genuine(), 6, 0x20),
            Fate::Pass,
            vec![("passed-fragment", 1)],
        ),
        (
            "last fragment",
            with_ip_byte(genuine(), 7, 0x08),
            Fate::Pass,
            vec![("passed-fragment", 1)],
        ),
        (
            "authentication length",
            authlen,
            Fate::Pass,
            vec![("passed-malformed", 1)],
        ),
        (
            "oversized",
            with_ip_byte(oversized, 3, 84),
            Fate::Pass,
            vec![("passed-malformed", 1)],
        ),
        (
            "truncated",
            with_ip_byte(genuine(), 3, 55),
            Fate::Pass,
            vec![("passed-malformed", 1)],
        ),
        (
            "ip header checksum",
            bad_ip_checksum,
            Fate::Pass,
            vec![("passed-malformed", 1)],
        ),
        (
            "vrrp 2",
            vrrp(2, 9, 1, 20),
            Fate::Pass,
            vec![("passed-vrrp", 1)],
        ),
        (
            "vrrp 2, our vhid",
            vrrp(2, VHID, 7, 44),
            Fate::Pass,
            vec![("passed-vrrp", 1), ("passed-vrrp-same-vhid", 1)],
        ),
        (
            "vrrp 3 that looks like carp",
            vrrp(3, VHID, 7, 36),
            Fate::Pass,
            vec![("passed-vrrp", 1), ("passed-vrrp-same-vhid", 1)],
        ),
    ];
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        for (name, frame, fate, counters) in &rows {
            // The kernel creates no packet buffer for a frame with nothing but an Ethernet header.
            if hook == Hook::Tcx && frame.len() == 14 {
                continue;
            }
            assert_eq!(
                datapath.run_afresh(frame),
                (*fate, counters.clone()),
                "{name} on {hook:?}"
            );
        }
    }
    let reached = |counter: &Counter| {
        let mut all = rows.iter().flat_map(|(_, _, _, counters)| counters);
        all.any(|(name, _)| *name == counter.name())
    };
    let unreached: Vec<_> = Counter::ALL
        .into_iter()
        .filter(|counter| !reached(counter))
        .collect();
    // Each of these has a test of its own.
    assert_eq!(
        unreached,
        [
            Counter::DroppedOwnSource,
            Counter::DroppedBadAuthentication,
            Counter::DroppedDuplicate,
            Counter::DroppedRateLimited,
            Counter::DroppedFenced,
            Counter::DatapathEventsLost,
            Counter::PassedLeftover,
        ]
    );
}

#[test]
fn event_carries_the_packet_its_link_and_its_arrival() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    let before = monotonic_ns();
    datapath.run(&tagged(genuine(), &[[0x81, 0, 0xe0, 5]]));
    datapath.run(&genuine6());
    let after = monotonic_ns();
    let events = datapath.drain();
    let [inet, inet6] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert!(
        before <= inet.arrival_ns
            && inet.arrival_ns <= inet6.arrival_ns
            && inet6.arrival_ns <= after
    );
    assert_eq!(
        *inet,
        AdvertisementEvent {
            key: VhostKey::new(LOOPBACK, 5, Vhid::new(VHID).unwrap()),
            family: FAMILY_INET,
            length: 36,
            source: widen(SOURCE.octets()),
            destination: widen(GROUP.octets()),
            ethernet_source: [0, 0, 0x5e, 0, 0, VHID],
            payload: inet.payload,
            ..AdvertisementEvent::empty(inet.arrival_ns)
        }
    );
    assert_eq!(inet.payload(), payload(VHID));
    assert_eq!((inet6.key, inet6.family), (untagged(VHID), FAMILY_INET6));
    assert_eq!(inet6.source[..2], [0xfe, 0x80]);
    assert_eq!(inet6.destination, GROUP6);
    assert_eq!(inet6.payload(), payload(VHID));
}

#[test]
fn full_ring_is_counted_and_recovers_when_drained() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    let sent = 4000;
    for counter in (COUNTER..).take(sent) {
        let (fate, _) = datapath.repeat(&carrying(&authentic(VHID, counter)), 1);
        assert_eq!(fate, Fate::Pass);
    }
    let sent = u64::try_from(sent).unwrap();
    let kept = u64::try_from(datapath.drain().len()).unwrap();
    assert!((2000..sent).contains(&kept), "{kept} kept");
    assert_eq!(datapath.count(Counter::Delivered), kept);
    assert_eq!(datapath.count(Counter::DatapathEventsLost), sent - kept);
    assert_eq!(
        datapath.run_afresh(&genuine()).1,
        [("received-inet-packets", 1), ("delivered", 1)]
    );
    assert_eq!(datapath.drain().len(), 1);
}

#[test]
fn debug_explains_rejections_and_nothing_else() {
    let Some(mut datapath) = Datapath::load_with(Hook::Xdp, &[DEBUG_GLOBAL]) else {
        return;
    };
    let mut log: RingBuf<MapData> = datapath
        .program
        .take_map("AYA_LOGS")
        .unwrap()
        .try_into()
        .unwrap();
    datapath.run(&tcp());
    datapath.run(&genuine());
    assert!(log.next().is_none());
    datapath.run(&with_ip_byte(genuine(), 8, 254));
    let text = log
        .next()
        .map(|record| String::from_utf8_lossy(&record).into_owned());
    assert!(
        text.as_ref()
            .is_some_and(|text| text.contains("dropped-wrong-ttl")),
        "{text:?}"
    );
    assert!(log.next().is_none());
}

#[test]
fn jumbo_frames_in_several_buffers_pass() {
    let Some(datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    let mut frame = tcp();
    frame.resize(9014, 0);
    assert_eq!(datapath.run(&frame), (Fate::Pass, vec![]));
    let mut frame = genuine();
    frame.resize(9014, 0);
    let moved = vec![("received-inet-packets", 1), ("delivered", 1)];
    assert_eq!(datapath.run(&frame), (Fate::Pass, moved));
}
