//! What a host without a living daemon no longer hears.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carp_common::shared::{FENCE_ALL_GLOBAL, FenceKey, FenceValue};
use carp_common::wire::arp::Operation;

use crate::datapath::{Datapath, Fate, HOOKS, LOOPBACK};
use crate::frames::*;
use crate::monotonic_ns;

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const VIRTUAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const HOUR_NS: u64 = 3_600_000_000_000;

fn ipv6(next_header: u8, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x33, 0x33, 0xff, 0, 1, 0, 2, 0, 0, 0, 0, 9, 0x86, 0xdd];
    frame.extend([
        0x60,
        0,
        0,
        0,
        0,
        u8::try_from(payload.len()).unwrap(),
        next_header,
        255,
    ]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

fn icmp6(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(target.octets());
    payload.extend([1, 1, 2, 0, 0, 0, 0, 9]);
    let solicited_node = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
    ipv6(58, solicited_node, &payload)
}

fn set(datapath: &mut Datapath, address: impl Into<IpAddr>, deadline_ns: u64) {
    let key = FenceKey::new(LOOPBACK, 0, address.into());
    datapath
        .fence
        .insert(
            key,
            FenceValue {
                deadline_ns,
                vhid: 7,
                _pad: 0,
            },
            0,
        )
        .unwrap();
}

fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let unspecified = Ipv4Addr::UNSPECIFIED;
    vec![
        ("request", arp(Operation::Request, SOURCE, VIRTUAL)),
        ("probe", arp(Operation::Request, unspecified, VIRTUAL)),
        ("announcement", arp(Operation::Request, VIRTUAL, VIRTUAL)),
        ("solicitation", icmp6(135, VIRTUAL6)),
    ]
}

/// Packets to the addresses.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let mut to_virtual = advertisement(VHID, VIRTUAL);
    to_virtual[IP + 9] = 6;
    resum_ip(&mut to_virtual);
    vec![("tcp", to_virtual), ("tcp6", ipv6(6, VIRTUAL6, &[0; 20]))]
}

/// What looks like a question for the address, or is one for another.
fn others() -> Vec<(&'static str, Vec<u8>)> {
    let mut cut = arp(Operation::Request, SOURCE, VIRTUAL);
    cut.truncate(14 + 27);
    let mut other_hardware = arp(Operation::Request, SOURCE, VIRTUAL);
    other_hardware[15] = 6;
    let in_vlan = tagged(arp(Operation::Request, SOURCE, VIRTUAL), &[[0x81, 0, 0, 5]]);
    vec![
        ("reply", arp(Operation::Reply, SOURCE, VIRTUAL)),
        ("for another", arp(Operation::Request, VIRTUAL, SOURCE)),
        ("cut short", cut),
        ("other hardware", other_hardware),
        ("in a VLAN", in_vlan),
        ("advertisement", icmp6(136, VIRTUAL6)),
        ("for another, IPv6", icmp6(135, Ipv6Addr::LOCALHOST)),
        (
            "udp that looks like one",
            ipv6(17, Ipv6Addr::LOCALHOST, &icmp6(135, VIRTUAL6)[54..]),
        ),
    ]
}

#[test]
fn fence_lifts_and_closes_with_its_deadline() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let fenced = (Fate::Drop, vec![("dropped-fenced", 1)]);
        let passed = (Fate::Pass, vec![]);
        for (name, frame) in questions() {
            assert_eq!(datapath.run(&frame), passed, "{name}, no entry");
        }
        for (deadline, outcome) in [
            (monotonic_ns() + HOUR_NS, &passed),
            (monotonic_ns(), &fenced),
            (monotonic_ns() + HOUR_NS, &passed),
        ] {
            set(&mut datapath, VIRTUAL, deadline);
            set(&mut datapath, VIRTUAL6, deadline);
            for (name, frame) in questions() {
                assert_eq!(datapath.run(&frame), *outcome, "{name} on {hook:?}");
            }
            for (name, frame) in others().into_iter().chain(packets()) {
                assert_eq!(datapath.run(&frame), passed, "{name} on {hook:?}");
            }
        }
    }
}

#[test]
fn wide_fence_covers_every_packet_to_the_address() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load_with(hook, &[FENCE_ALL_GLOBAL]) else {
            return;
        };
        for (deadline, fate) in [(monotonic_ns() + HOUR_NS, Fate::Pass), (1, Fate::Drop)] {
            set(&mut datapath, VIRTUAL, deadline);
            set(&mut datapath, VIRTUAL6, deadline);
            for (name, frame) in questions().into_iter().chain(packets()) {
                assert_eq!(datapath.run(&frame).0, fate, "{name} on {hook:?}");
            }
            for (name, frame) in others().into_iter().chain([("tcp to another", tcp())]) {
                assert_eq!(datapath.run(&frame).0, Fate::Pass, "{name} on {hook:?}");
            }
            assert_eq!(datapath.run_afresh(&genuine()).1[1], ("delivered", 1));
        }
    }
}
