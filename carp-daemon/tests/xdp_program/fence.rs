//! The fence: what a host without a living daemon no longer receives or sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carp_common::abi::layout::{
    AddressKey, AddressValue, EVERY_PACKET, FENCE_ALL_GLOBAL, VhostValue,
};
use carp_common::wire::arp::Operation;

use crate::datapath::{Datapath, Fate, HOOKS, Hook, INSTANCE, LOOPBACK, untagged};
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
    set_for(datapath, address, deadline_ns, false);
}

/// Makes vhid 7 the owner of the address until then.
fn set_for(
    datapath: &mut Datapath,
    address: impl Into<IpAddr>,
    deadline_ns: u64,
    every_packet: bool,
) {
    own(datapath, address.into(), every_packet);
    let entry = VhostValue {
        owns_until_ns: deadline_ns,
        ..datapath.entry(VHID)
    };
    datapath.set_entry(VHID, entry);
}

fn own(datapath: &mut Datapath, address: IpAddr, every_packet: bool) {
    let value = AddressValue {
        owner: untagged(VHID),
        flags: if every_packet { EVERY_PACKET } else { 0 },
    };
    let key = AddressKey::new(address, LOOPBACK);
    datapath.addresses.insert(key, value, 0).unwrap();
}

fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let unspecified = Ipv4Addr::UNSPECIFIED;
    vec![
        ("request", arp(Operation::Request, SOURCE, VIRTUAL)),
        ("probe", arp(Operation::Request, unspecified, VIRTUAL)),
        ("announcement", arp(Operation::Request, VIRTUAL, VIRTUAL)),
        ("solicitation", icmp6(135, VIRTUAL6)),
        ("other hardware", {
            let mut frame = arp(Operation::Request, SOURCE, VIRTUAL);
            frame[15] = 6;
            frame
        }),
        (
            "in a VLAN",
            tagged(arp(Operation::Request, SOURCE, VIRTUAL), &[[0x81, 0, 0, 5]]),
        ),
        (
            "behind three priority tags",
            tagged(
                arp(Operation::Request, SOURCE, VIRTUAL),
                &[[0x81, 0, 0, 0]; 3],
            ),
        ),
        (
            "solicitation behind eight priority tags",
            tagged(icmp6(135, VIRTUAL6), &[[0x88, 0xa8, 0xe0, 0]; 8]),
        ),
    ]
}

/// Packets to the addresses.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let mut to_virtual = advertisement(VHID, VIRTUAL);
    to_virtual[IP + 9] = 6;
    resum_ip(&mut to_virtual);
    vec![("tcp", to_virtual), ("tcp6", ipv6(6, VIRTUAL6, &[0; 20]))]
}

/// Frames that resemble a request for the address, or that ask for another address.
fn others() -> Vec<(&'static str, Vec<u8>)> {
    let mut cut = arp(Operation::Request, SOURCE, VIRTUAL);
    cut.truncate(14 + 27);
    let mut other_hardware = arp(Operation::Request, SOURCE, VIRTUAL);
    other_hardware[15] = 7;
    let many_tags = tagged(
        arp(Operation::Request, VIRTUAL, SOURCE),
        &[[0x81, 0, 0, 0]; 8],
    );
    vec![
        ("reply", arp(Operation::Reply, SOURCE, VIRTUAL)),
        ("for another", arp(Operation::Request, VIRTUAL, SOURCE)),
        ("cut short", cut),
        ("other hardware", other_hardware),
        ("for another, behind eight tags", many_tags),
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
            set_for(&mut datapath, VIRTUAL, deadline, true);
            set_for(&mut datapath, VIRTUAL6, deadline, true);
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

/// The entry of another carpd, whose fence is narrower.
#[test]
fn wide_fence_covers_only_the_addresses_that_want_it() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load_with(hook, &[FENCE_ALL_GLOBAL]) else {
            return;
        };
        set(&mut datapath, VIRTUAL, 1);
        set(&mut datapath, VIRTUAL6, 1);
        for (name, frame) in questions() {
            assert_eq!(datapath.run(&frame).0, Fate::Drop, "{name} on {hook:?}");
        }
        for (name, frame) in packets() {
            assert_eq!(datapath.run(&frame).0, Fate::Pass, "{name} on {hook:?}");
        }
    }
}

#[test]
fn more_tags_than_can_be_looked_behind_are_dropped() {
    for hook in HOOKS {
        let Some(datapath) = Datapath::load(hook) else {
            return;
        };
        let fenced = (Fate::Drop, vec![("dropped-fenced", 1)]);
        // A test run does not take the tag out of the frame, as the kernel does before tcx.
        let frame = tagged(tcp(), &[[0x81, 0, 0, 0]; 9]);
        assert_eq!(datapath.run(&frame), fenced, "{hook:?}");
        let frame = tagged(tcp(), &[[0x81, 0, 0, 0]; 8]);
        assert_eq!(datapath.run(&frame).0, Fate::Pass, "{hook:?}");
    }
}

/// Frames that the host itself would send in the name of the addresses.
fn spoken() -> Vec<(&'static str, Vec<u8>)> {
    let mut advertisement = icmp6(136, Ipv6Addr::LOCALHOST);
    advertisement[IP + 40 + 8..][..16].copy_from_slice(&VIRTUAL6.octets());
    let mut probe = icmp6(135, VIRTUAL6);
    probe[IP + 8..][..16].fill(0);
    let mut asks = icmp6(135, Ipv6Addr::LOCALHOST);
    asks[IP + 8..][..16].copy_from_slice(&VIRTUAL6.octets());
    let mut inverse = arp(Operation::Reply, VIRTUAL, SOURCE);
    inverse[21] = 9;
    vec![
        ("reply", arp(Operation::Reply, VIRTUAL, SOURCE)),
        ("request", arp(Operation::Request, VIRTUAL, SOURCE)),
        ("announcement", arp(Operation::Request, VIRTUAL, VIRTUAL)),
        ("inverse reply", inverse),
        ("neighbour advertisement", advertisement),
        ("duplicate address detection", probe),
        ("solicitation", asks),
    ]
}

fn packets_from() -> Vec<(&'static str, Vec<u8>)> {
    let mut from_virtual = tcp();
    from_virtual[IP + 12..][..4].copy_from_slice(&VIRTUAL.octets());
    resum_ip(&mut from_virtual);
    let mut tcp6 = ipv6(6, Ipv6Addr::LOCALHOST, &[0; 20]);
    tcp6[IP + 8..][..16].copy_from_slice(&VIRTUAL6.octets());
    vec![("tcp", from_virtual), ("tcp6", tcp6)]
}

#[test]
fn egress_drops_frames_that_speak_for_a_fenced_address() {
    for wide in [false, true] {
        let globals: &[&str] = if wide { &[FENCE_ALL_GLOBAL] } else { &[] };
        let Some(mut datapath) = Datapath::load_with(Hook::Egress, globals) else {
            return;
        };
        let passed = (Fate::Pass, vec![]);
        let fenced = (Fate::Drop, vec![("dropped-fenced", 1)]);
        for (deadline, outcome) in [
            (monotonic_ns() + HOUR_NS, &passed),
            (monotonic_ns(), &fenced),
        ] {
            set_for(&mut datapath, VIRTUAL, deadline, wide);
            set_for(&mut datapath, VIRTUAL6, deadline, wide);
            for (name, frame) in spoken() {
                assert_eq!(datapath.run(&frame), *outcome, "{name}");
            }
            for (name, frame) in packets_from() {
                let outcome = if wide { outcome } else { &passed };
                assert_eq!(datapath.run(&frame), *outcome, "{name}");
            }
            for (name, frame) in [
                (
                    "asks for the new MASTER",
                    arp(Operation::Request, SOURCE, VIRTUAL),
                ),
                ("solicits the new MASTER", icmp6(135, VIRTUAL6)),
                ("tcp", tcp()),
                ("tcp6", tcp6()),
            ] {
                assert_eq!(datapath.run(&frame), passed, "{name}");
            }
        }
    }
}

/// A daemon writes one entry, however many addresses it has.
#[test]
fn one_write_opens_and_closes_every_address_of_an_owner() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let addresses: Vec<Ipv4Addr> = (1..=16).map(|last| [203, 0, 113, last].into()).collect();
        for address in &addresses {
            own(&mut datapath, (*address).into(), false);
        }
        for (owns_until_ns, fate) in [
            (0, Fate::Drop),
            (monotonic_ns() + HOUR_NS, Fate::Pass),
            (monotonic_ns(), Fate::Drop),
        ] {
            let entry = VhostValue {
                owns_until_ns,
                ..datapath.entry(VHID)
            };
            datapath.set_entry(VHID, entry);
            for address in &addresses {
                let question = arp(Operation::Request, SOURCE, *address);
                assert_eq!(datapath.run(&question).0, fate, "{address} on {hook:?}");
            }
        }
    }
}

#[test]
fn an_address_whose_owner_is_gone_is_silent() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        set(&mut datapath, VIRTUAL, monotonic_ns() + HOUR_NS);
        let question = arp(Operation::Request, SOURCE, VIRTUAL);
        assert_eq!(datapath.run(&question).0, Fate::Pass);
        datapath.vhosts.remove(&untagged(VHID)).unwrap();
        assert_eq!(datapath.run(&question).0, Fate::Drop, "{hook:?}");
        // It belongs to no virtual host, so the interface counts it.
        assert_eq!(datapath.counts_of_others(), [("dropped-fenced", 1)]);
        datapath
            .addresses
            .remove(&AddressKey::new(VIRTUAL.into(), 0))
            .unwrap();
        assert_eq!(datapath.run(&question).0, Fate::Pass, "{hook:?}");
    }
}

/// Two carpds share the tables: each program delivers for its own virtual hosts, and fences for all.
#[test]
fn the_fence_covers_the_addresses_of_every_process() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    set(&mut datapath, VIRTUAL, monotonic_ns());
    let entry = VhostValue {
        instance: INSTANCE + 1,
        ..datapath.entry(VHID)
    };
    datapath.set_entry(VHID, entry);
    assert_eq!(
        datapath.run(&genuine()),
        (Fate::Pass, vec![("passed-unknown-vhid", 1)])
    );
    let question = arp(Operation::Request, SOURCE, VIRTUAL);
    assert_eq!(datapath.run(&question).0, Fate::Drop);
    let others = [("dropped-fenced", 1), ("passed-unknown-vhid", 1)];
    assert_eq!(datapath.counts_of_others(), others);
}

#[test]
fn a_link_local_address_is_fenced_on_its_own_interface() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x100);
    let question = icmp6(135, address);
    for (ifindex, fate) in [(LOOPBACK + 1, Fate::Pass), (LOOPBACK, Fate::Drop)] {
        let value = AddressValue {
            owner: untagged(VHID),
            flags: 0,
        };
        let key = AddressKey::new(address.into(), ifindex);
        datapath.addresses.insert(key, value, 0).unwrap();
        assert_eq!(datapath.run(&question).0, fate);
    }
}
