//! The XDP program in the kernel: what the verifier, the helpers and the maps make of it, by `BPF_PROG_TEST_RUN`.
//!
//! A test run takes frames for the loopback device of the current network namespace, whose index is 1, and attaches
//! nothing. Loading needs root; without it the tests say that they are skipped, or fail when `CARP_REQUIRE_ROOT` or
//! `CI` asks for them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bpf;
mod datapath;
mod frames;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use carp_common::classify::widen;
use carp_common::shared::{AdvertisementEvent, Counter, VhostKey};
use carp_common::units::{Family, Vhid};

use datapath::{Datapath, LOOPBACK};
use frames::*;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

#[test]
fn every_verdict_has_its_action_and_its_counters() {
    let Some(mut datapath) = Datapath::load(false) else {
        return;
    };
    let received = ("received-inet-packets", 1);
    let received6 = ("received-inet6-packets", 1);
    let delivered = ("delivered", 1);
    let priority = [0x81, 0, 0xe0, 0];
    let vlan5 = [0x81, 0, 0xe0, 5];
    let service9 = [0x88, 0xa8, 0, 9];

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

    type Row = (&'static str, Vec<u8>, u32, Vec<(&'static str, u64)>);
    let rows: Vec<Row> = vec![
        ("tcp", tcp(), XDP_PASS, vec![]),
        (
            "tagged tcp",
            tagged(tcp(), &[service9, vlan5]),
            XDP_PASS,
            vec![],
        ),
        ("arp", arp, XDP_PASS, vec![]),
        (
            "ethernet header only",
            genuine()[..14].to_vec(),
            XDP_PASS,
            vec![],
        ),
        ("genuine", genuine(), XDP_PASS, vec![received, delivered]),
        (
            "genuine, padded",
            padded,
            XDP_PASS,
            vec![received, delivered],
        ),
        (
            "genuine, broadcast",
            broadcast,
            XDP_PASS,
            vec![received, delivered],
        ),
        (
            "genuine, ipv6",
            genuine6(),
            XDP_PASS,
            vec![received6, delivered],
        ),
        (
            "genuine, options",
            with_options(genuine(), &[1; 40]),
            XDP_PASS,
            vec![received, delivered],
        ),
        (
            "genuine, priority tag",
            tagged(genuine(), &[priority]),
            XDP_PASS,
            vec![received, delivered],
        ),
        (
            "genuine, vlan 5",
            tagged(genuine(), &[vlan5]),
            XDP_PASS,
            vec![received, delivered],
        ),
        (
            "genuine, priority and vlan 5",
            tagged(genuine(), &[priority, vlan5]),
            XDP_PASS,
            vec![received, delivered],
        ),
        (
            "genuine, vlan 9",
            tagged(genuine(), &[service9]),
            XDP_PASS,
            vec![("passed-other-vlan", 1)],
        ),
        (
            "genuine, vlan 5 in vlan 9",
            tagged(genuine(), &[service9, vlan5]),
            XDP_PASS,
            vec![("passed-other-vlan", 1)],
        ),
        (
            "genuine, vlan 9 in vlan 5",
            tagged(genuine(), &[vlan5, service9]),
            XDP_PASS,
            vec![("passed-other-vlan", 1)],
        ),
        (
            "genuine, three tags",
            tagged(genuine(), &[priority, priority, vlan5]),
            XDP_PASS,
            vec![],
        ),
        (
            "unicast to us",
            advertisement(8, OURS),
            XDP_DROP,
            vec![received, delivered],
        ),
        (
            "ttl 254",
            with_ip_byte(genuine(), 8, 254),
            XDP_DROP,
            vec![received, ("dropped-wrong-ttl", 1)],
        ),
        (
            "hop limit 254",
            hop_limit,
            XDP_DROP,
            vec![received6, ("dropped-wrong-ttl", 1)],
        ),
        (
            "cut short",
            genuine()[..69].to_vec(),
            XDP_DROP,
            vec![received, ("dropped-short-packet", 1)],
        ),
        (
            "checksum",
            broken_checksum,
            XDP_DROP,
            vec![received, ("dropped-bad-checksum", 1)],
        ),
        (
            "version",
            version3,
            XDP_DROP,
            vec![received, ("dropped-bad-version", 1)],
        ),
        (
            "another vhid",
            advertisement(9, GROUP),
            XDP_PASS,
            vec![("passed-unknown-vhid", 1)],
        ),
        (
            "another group",
            advertisement(VHID, Ipv4Addr::new(239, 0, 0, 1)),
            XDP_PASS,
            vec![("passed-other-group", 1)],
        ),
        (
            "another group, ipv6",
            group6,
            XDP_PASS,
            vec![("passed-other-group", 1)],
        ),
        (
            "first fragment",
            with_ip_byte(genuine(), 6, 0x20),
            XDP_PASS,
            vec![("passed-fragment", 1)],
        ),
        (
            "last fragment",
            with_ip_byte(genuine(), 7, 0x08),
            XDP_PASS,
            vec![("passed-fragment", 1)],
        ),
        (
            "authentication length",
            authlen,
            XDP_PASS,
            vec![("passed-malformed", 1)],
        ),
        (
            "oversized",
            with_ip_byte(oversized, 3, 84),
            XDP_PASS,
            vec![("passed-malformed", 1)],
        ),
        (
            "truncated",
            with_ip_byte(genuine(), 3, 55),
            XDP_PASS,
            vec![("passed-malformed", 1)],
        ),
        (
            "ip header checksum",
            bad_ip_checksum,
            XDP_PASS,
            vec![("passed-malformed", 1)],
        ),
        (
            "vrrp 2",
            vrrp(2, 9, 1, 20),
            XDP_PASS,
            vec![("passed-vrrp", 1)],
        ),
        (
            "vrrp 2, our vhid",
            vrrp(2, VHID, 7, 44),
            XDP_PASS,
            vec![("passed-vrrp", 1), ("passed-vrrp-same-vhid", 1)],
        ),
        (
            "vrrp 3 that looks like carp",
            vrrp(3, VHID, 7, 36),
            XDP_PASS,
            vec![("passed-vrrp", 1), ("passed-vrrp-same-vhid", 1)],
        ),
    ];
    let mut reached = Vec::new();
    for (name, frame, action, counters) in rows {
        assert_eq!(
            datapath.run_afresh(&frame),
            (action, counters.clone()),
            "{name}"
        );
        reached.extend(counters.iter().map(|(counter, _)| *counter));
    }
    for counter in Counter::ALL {
        let is_reached =
            reached.contains(&counter.name()) || counter == Counter::DatapathEventsLost;
        assert!(is_reached, "{} is reached", counter.name());
    }
}

#[test]
fn event_carries_the_packet_its_link_and_its_arrival() {
    let Some(mut datapath) = Datapath::load(false) else {
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
            arrival_ns: inet.arrival_ns,
            key: VhostKey::new(LOOPBACK, 5, Family::Inet, Vhid::new(VHID).unwrap()),
            source: widen(SOURCE.octets()),
            destination: widen(GROUP.octets()),
            ethernet_source: [0, 0, 0x5e, 0, 0, VHID],
            _pad: [0; 2],
            payload: payload(VHID),
        }
    );
    assert_eq!(
        inet6.key,
        VhostKey::new(LOOPBACK, 0, Family::Inet6, Vhid::new(VHID).unwrap())
    );
    assert_eq!(inet6.source[..2], [0xfe, 0x80]);
    assert_eq!(inet6.destination, GROUP6);
    assert_eq!(inet6.payload, payload(VHID));
}

#[test]
fn full_ring_is_counted_and_recovers_when_drained() {
    let Some(mut datapath) = Datapath::load(false) else {
        return;
    };
    let sent: u32 = 4000;
    assert_eq!(datapath.repeat(&genuine(), sent).0, XDP_PASS);
    let kept = u64::try_from(datapath.drain().len()).unwrap();
    let counted = |datapath: &Datapath, counter: Counter| {
        datapath.counters()[usize::try_from(counter.index()).unwrap()]
    };
    assert!((2000..u64::from(sent)).contains(&kept), "{kept} kept");
    assert_eq!(counted(&datapath, Counter::Delivered), kept);
    assert_eq!(
        counted(&datapath, Counter::DatapathEventsLost),
        u64::from(sent) - kept
    );
    assert_eq!(
        datapath.run(&genuine()).1,
        [("received-inet-packets", 1), ("delivered", 1)]
    );
    assert_eq!(datapath.drain().len(), 1);
}

#[test]
fn debug_explains_rejections_and_nothing_else() {
    let Some(mut datapath) = Datapath::load(true) else {
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
    let Some(datapath) = Datapath::load(false) else {
        return;
    };
    let mut frame = tcp();
    frame.resize(9014, 0);
    assert_eq!(datapath.run(&frame), (XDP_PASS, vec![]));
    let mut frame = genuine();
    frame.resize(9014, 0);
    let moved = vec![("received-inet-packets", 1), ("delivered", 1)];
    assert_eq!(datapath.run(&frame), (XDP_PASS, moved));
}

#[test]
fn verifier_accepts_the_program_within_its_budget() {
    for debug in [false, true] {
        let Some(datapath) = Datapath::load(debug) else {
            return;
        };
        let info = datapath.xdp().info().unwrap();
        let processed = info.verified_instruction_count();
        println!(
            "debug {debug}: {processed:?} instructions processed by the verifier, {} bytes jited",
            info.size_jitted()
        );
        assert!(
            processed.is_none_or(|count| count < 100_000),
            "{processed:?}"
        );
    }
}

/// The fast path's budget: the link must not notice us.
///
/// Medians of interleaved rounds; the best of a few attempts, because a busy machine makes either side slower for a
/// while, but never makes ours faster.
#[test]
fn tcp_costs_at_most_a_quarter_more_than_passing_everything() {
    let Some(datapath) = Datapath::load(false) else {
        return;
    };
    let trivial = bpf::load_pass();
    let frame = tcp();
    let attempts = (0..8).map(|_| {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..9 {
            theirs.push(cost(trivial.as_fd(), &frame));
            ours.push(cost(datapath.xdp().fd().unwrap().as_fd(), &frame));
        }
        (median(ours), median(theirs))
    });
    let mut best = u64::MAX;
    for (ours, theirs) in attempts {
        let percent = ours * 100 / theirs.max(1);
        println!("1000 TCP packets: {ours} ns, XDP_PASS alone {theirs} ns, {percent} %");
        best = best.min(percent);
        if best <= 125 {
            return;
        }
    }
    panic!(
        "a TCP packet costs {best} % of a program that only returns XDP_PASS; the budget is 125 %"
    );
}

/// What 1000 runs take. Unit: nanoseconds.
///
/// The kernel's own figure is whole nanoseconds for one run, too coarse here. Its fixed cost (repeated runs patch the
/// XDP dispatcher, which takes milliseconds) is measured and taken off.
fn cost(program: BorrowedFd<'_>, frame: &[u8]) -> u64 {
    const RUNS: u32 = 4_000_000;
    let timed = |runs| {
        let before = monotonic_ns();
        assert_eq!(bpf::test_run(program, frame, runs), XDP_PASS);
        monotonic_ns() - before
    };
    let fixed = timed(2);
    timed(RUNS).saturating_sub(fixed) * 1000 / u64::from(RUNS)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(Duration::from(now).as_nanos()).unwrap()
}
