//! The loaded program and its maps.

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
use carp_common::units::{Family, Vhid};

use crate::frames::{GROUP, GROUP6, OURS, VHID};

/// The device that test runs pretend to come from.
pub const LOOPBACK: u32 = 1;
/// The loaded program and its maps.
pub struct Datapath {
    pub program: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    advertisements: RingBuf<MapData>,
}

impl Datapath {
    /// Loads the object with vhids 7 and 8 in IPv4, 7 in IPv6 and 7 in VLAN 5. `None` when that is not permitted and
    /// not required.
    pub fn load(debug: bool) -> Option<Self> {
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

    pub fn xdp(&self) -> &Xdp {
        self.program
            .program(XDP_PROGRAM)
            .unwrap()
            .try_into()
            .unwrap()
    }

    /// Runs the program on one frame, often, and returns its last action and the time of one run.
    pub fn repeat(&self, frame: &[u8], repeat: u32) -> (u32, Duration) {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::new()
        };
        let result = self.xdp().test_run(options).unwrap();
        (result.return_value, result.duration)
    }

    /// Runs the program on one frame; returns its action and the counters that moved.
    pub fn run(&self, frame: &[u8]) -> (u32, Vec<(&'static str, u64)>) {
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

    pub fn counters(&self) -> Vec<u64> {
        Counter::ALL
            .iter()
            .map(|counter| self.counters.get(&counter.index(), 0).unwrap().iter().sum())
            .collect()
    }

    /// Takes every event out of the ring.
    pub fn drain(&mut self) -> Vec<AdvertisementEvent> {
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
