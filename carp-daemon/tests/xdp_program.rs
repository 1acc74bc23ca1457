//! The XDP program in the kernel: what the verifier, the helpers and the maps make of it, by `BPF_PROG_TEST_RUN`.
//!
//! A test run takes frames for the loopback device of the current network namespace, whose index is 1, and attaches
//! nothing. Loading needs root; without it the tests say that they are skipped, or fail when `CARP_REQUIRE_ROOT` or
//! `CI` asks for them.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use carp_common::classify::widen;
use carp_common::shared::{
    ADVERTISEMENTS_MAP, AdvertisementEvent, COUNTERS_MAP, Counter, DEBUG_GLOBAL, VHOST_CONFIGURED,
    VHOSTS_MAP, VhostKey, VhostValue, XDP_PROGRAM,
};
use carp_common::units::{AdvBase, AdvSkew, Demotion, Family, Profile, Vhid};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};
use carp_common::wire::checksum::internet_checksum;
use carp_common::wire::ether::MacAddress;
use carp_common::wire::frame::{FRAME_LEN, InetFrame, ethernet_destination, ethernet_source};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// The device that test runs pretend to come from.
const LOOPBACK: u32 = 1;
const VHID: u8 = 7;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Our own address, where a peer may send to instead of the group; the group of vhid 8.
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// IP header and CARP header of an untagged IPv4 frame.
const IP: usize = 14;
const CARP: usize = 34;

/// The loaded program and its maps.
struct Datapath {
    program: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    advertisements: RingBuf<MapData>,
}

impl Datapath {
    /// Loads the object with vhids 7 and 8 in IPv4, 7 in IPv6 and 7 in VLAN 5. `None` when that is not permitted and
    /// not required.
    fn load(debug: bool) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let required =
                |name: &str| std::env::var(name).is_ok_and(|value| value == "1" || value == "true");
            assert!(
                !required("CARP_REQUIRE_ROOT") && !required("CI"),
                "loading an XDP program needs root"
            );
            eprintln!("SKIPPED: loading an XDP program needs root");
            return None;
        }
        let object =
            std::fs::read(object()).expect("`cargo xtask build-ebpf` has built the object");
        let debug = u32::from(debug);
        let mut program = EbpfLoader::new()
            .override_global(DEBUG_GLOBAL, &debug, true)
            .load(&object)
            .unwrap();
        let mut vhosts: HashMap<_, VhostKey, VhostValue> =
            program.take_map(VHOSTS_MAP).unwrap().try_into().unwrap();
        let vhid = |value| Vhid::new(value).unwrap();
        let value = |group| VhostValue {
            group,
            flags: VHOST_CONFIGURED,
            _pad: 0,
        };
        let inet = VhostKey::new(LOOPBACK, 0, Family::Inet, vhid(VHID));
        let peer = VhostKey::new(LOOPBACK, 0, Family::Inet, vhid(8));
        let tagged = VhostKey::new(LOOPBACK, 5, Family::Inet, vhid(VHID));
        let inet6 = VhostKey::new(LOOPBACK, 0, Family::Inet6, vhid(VHID));
        for (key, group) in [
            (inet, widen(GROUP.octets())),
            (peer, widen(OURS.octets())),
            (tagged, widen(GROUP.octets())),
            (inet6, GROUP6),
        ] {
            vhosts.insert(key, value(group), 0).unwrap();
        }
        let xdp: &mut Xdp = program
            .program_mut(XDP_PROGRAM)
            .unwrap()
            .try_into()
            .unwrap();
        xdp.load().unwrap();
        Some(Self {
            counters: program.take_map(COUNTERS_MAP).unwrap().try_into().unwrap(),
            advertisements: program
                .take_map(ADVERTISEMENTS_MAP)
                .unwrap()
                .try_into()
                .unwrap(),
            program,
        })
    }

    fn xdp(&self) -> &Xdp {
        self.program
            .program(XDP_PROGRAM)
            .unwrap()
            .try_into()
            .unwrap()
    }

    /// Runs the program on one frame, often, and returns its last action and the time of one run.
    fn repeat(&self, frame: &[u8], repeat: u32) -> (u32, Duration) {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::new()
        };
        let result = self.xdp().test_run(options).unwrap();
        (result.return_value, result.duration)
    }

    /// Runs the program on one frame; returns its action and the counters that moved.
    fn run(&self, frame: &[u8]) -> (u32, Vec<(&'static str, u64)>) {
        let before = self.counters();
        let (action, _) = self.repeat(frame, 1);
        let moved = Counter::ALL
            .iter()
            .zip(before.iter().zip(self.counters()))
            .filter(|(_, (before, after))| *before != after)
            .map(|(counter, (before, after))| (counter.name(), after - before))
            .collect();
        (action, moved)
    }

    fn counters(&self) -> Vec<u64> {
        Counter::ALL
            .iter()
            .map(|counter| self.counters.get(&counter.index(), 0).unwrap().iter().sum())
            .collect()
    }

    /// Takes every event out of the ring.
    fn drain(&mut self) -> Vec<AdvertisementEvent> {
        let mut events = Vec::new();
        while let Some(record) = self.advertisements.next() {
            events.push(AdvertisementEvent::from_bytes(&record).expect("a whole record"));
        }
        events
    }
}

/// The object that the daemon embeds.
fn object() -> PathBuf {
    std::env::var_os("CARPD_EBPF_OBJECT").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/bpf/carp-ebpf"
            ))
        },
        PathBuf::from,
    )
}

const GROUP6: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];

fn payload(vhid: u8) -> [u8; HEADER_LEN] {
    let mut payload = [0xa5; HEADER_LEN];
    Advertisement {
        vhid: Vhid::new(vhid).unwrap(),
        advskew: AdvSkew(100),
        demotion: Demotion(0),
        advbase: AdvBase(1),
        counter: 0x0102_0304_0506_0708,
        digest: [0xd1; 20],
    }
    .emit(&mut payload);
    payload
}

/// A genuine IPv4 advertisement.
fn advertisement(vhid: u8, destination: Ipv4Addr) -> Vec<u8> {
    let interface = MacAddress([2, 0, 0, 0, 0, 1]);
    let mut frame = [0xa5; FRAME_LEN];
    InetFrame {
        profile: Profile::Ucarp,
        ethernet_source: ethernet_source(
            Profile::Ucarp,
            Vhid::new(vhid).unwrap(),
            interface,
            destination,
        ),
        ethernet_destination: if destination.is_multicast() {
            ethernet_destination(destination, false)
        } else {
            MacAddress([2, 0, 0, 0, 0, 2])
        },
        source: SOURCE,
        destination,
        identification: 0x1234,
    }
    .emit(&payload(vhid), &mut frame);
    frame.to_vec()
}

fn genuine() -> Vec<u8> {
    advertisement(VHID, GROUP)
}

/// A genuine IPv6 advertisement.
fn genuine6() -> Vec<u8> {
    let mut frame = vec![
        0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, VHID, 0x86, 0xdd,
    ];
    frame.extend([0x60, 0, 0, 0, 0, 36, 112, 255]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend(GROUP6);
    frame.extend(payload(VHID));
    frame
}

/// A TCP segment, the traffic that must not notice us.
fn tcp() -> Vec<u8> {
    let mut frame = advertisement(VHID, OURS);
    frame[IP + 9] = 6;
    resum_ip(&mut frame);
    frame
}

fn resum_ip(frame: &mut [u8]) {
    let header_len = usize::from(frame[IP] & 0x0f) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let sum = internet_checksum(&frame[IP..IP + header_len]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum);
}

fn resum_carp(frame: &mut [u8]) {
    frame[CARP + 6..CARP + 8].fill(0);
    let sum = internet_checksum(&frame[CARP..]);
    frame[CARP + 6..CARP + 8].copy_from_slice(&sum);
}

/// The same frame with a byte of its IP header changed, and a header checksum that holds.
fn with_ip_byte(mut frame: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    frame[IP + offset] = value;
    resum_ip(&mut frame);
    frame
}

/// The same frame inside VLAN tags, the first outermost.
fn tagged(mut frame: Vec<u8>, tags: &[[u8; 4]]) -> Vec<u8> {
    for tag in tags.iter().rev() {
        frame.splice(12..12, *tag);
    }
    frame
}

/// The same frame with IP options of a whole number of words in front of its payload.
fn with_options(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    frame.splice(CARP..CARP, options.iter().copied());
    frame[IP] += u8::try_from(options.len() / 4).unwrap();
    frame[IP + 3] += u8::try_from(options.len()).unwrap();
    resum_ip(&mut frame);
    frame
}

/// A VRRP packet of a version, with some addresses, for VRID 7 or another.
fn vrrp(version: u8, vrid: u8, addresses: u8, len: usize) -> Vec<u8> {
    let mut frame = genuine();
    frame.truncate(CARP);
    frame.extend([version << 4 | 1, vrid, 100, addresses]);
    frame.resize(CARP + len, 0x5a);
    with_ip_byte(frame, 3, u8::try_from(20 + len).unwrap())
}

#[test]
fn every_verdict_has_its_action_and_its_counters() {
    let Some(datapath) = Datapath::load(false) else {
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
        assert_eq!(datapath.run(&frame), (action, counters.clone()), "{name}");
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

/// The two calls of bpf(2) that measuring needs and aya does not have: a program without an object, and the same
/// test run for both.
mod bpf {
    use std::io;
    use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    const BPF_PROG_TYPE_XDP: u32 = 6;

    /// `bpf_attr` of BPF_PROG_LOAD, its first fields; the kernel takes the rest as zeros.
    #[repr(C)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: *const u64,
        license: *const libc::c_char,
        rest: [u64; 4],
    }

    /// `bpf_attr` of BPF_PROG_TEST_RUN, likewise.
    #[repr(C)]
    struct TestRun {
        program: u32,
        return_value: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: *const u8,
        data_out: *mut u8,
        repeat: u32,
        duration: u32,
        rest: [u64; 5],
    }

    /// `r0 = XDP_PASS; exit`.
    pub fn load_pass() -> OwnedFd {
        let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
        let mut load = Load {
            program_type: BPF_PROG_TYPE_XDP,
            instruction_count: 2,
            instructions: instructions.as_ptr(),
            license: c"GPL".as_ptr(),
            rest: [0; 4],
        };
        let size = size_of::<Load>();
        // SAFETY: the attributes are of this command and size, and what they point to outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let fd = i32::try_from(fd).unwrap();
        // SAFETY: the call returned a new descriptor that nobody else has.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// Runs the program on one frame, often; returns its last action.
    pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> u32 {
        let mut run = TestRun {
            program: u32::try_from(program.as_raw_fd()).unwrap(),
            return_value: 0,
            data_size_in: u32::try_from(frame.len()).unwrap(),
            data_size_out: 0,
            data_in: frame.as_ptr(),
            data_out: std::ptr::null_mut(),
            repeat,
            duration: 0,
            rest: [0; 5],
        };
        let size = size_of::<TestRun>();
        // SAFETY: as above; the kernel writes into the attributes alone.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        run.return_value
    }
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(Duration::from(now).as_nanos()).unwrap()
}
