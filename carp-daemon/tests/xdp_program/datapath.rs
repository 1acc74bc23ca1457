//! The loaded program and its maps.

use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use carp_common::classify::widen;
use carp_common::guard::History;
use carp_common::shared::{
    ADVERTISEMENTS_MAP, AdvertisementEvent, COUNTERS_MAP, Counter, DEBUG_GLOBAL, HISTORY_MAP,
    KEYS_MAP, KernelKeys, SUSPECTS_MAP, VHOSTS_MAP, VhostKey, VhostValue, XDP_PROGRAM,
};
use carp_common::units::{Family, Vhid};

use crate::frames::{ADDRESSES, GROUP, GROUP6, OURS, VHID, authenticator};

/// The device that test runs pretend to come from.
pub const LOOPBACK: u32 = 1;
/// The loaded program and its maps.
pub struct Datapath {
    pub program: Ebpf,
    pub vhosts: HashMap<MapData, VhostKey, VhostValue>,
    pub keys: Array<MapData, KernelKeys>,
    history: PerCpuArray<MapData, History>,
    counters: PerCpuArray<MapData, u64>,
    advertisements: RingBuf<MapData>,
    suspects: RingBuf<MapData>,
}

impl Datapath {
    /// Loads the object with vhids 7 and 8 in IPv4, 7 in IPv6 and 7 in VLAN 5, in slots 0 to 3. `None` when that is not
    /// permitted and not required.
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
        let mut vhosts: HashMap<_, VhostKey, VhostValue> = take(&mut program, VHOSTS_MAP);
        let mut keys: Array<_, KernelKeys> = take(&mut program, KEYS_MAP);
        for (slot, (key, group)) in (0..).zip(configured()) {
            let accepted = authenticator(key.vhid, &ADDRESSES);
            keys.set(slot, accepted.kernel_keys(), 0).unwrap();
            vhosts.insert(key, VhostValue::new(group, slot), 0).unwrap();
        }
        let xdp: &mut Xdp = program
            .program_mut(XDP_PROGRAM)
            .unwrap()
            .try_into()
            .unwrap();
        xdp.load().unwrap();
        Some(Self {
            vhosts,
            keys,
            history: take(&mut program, HISTORY_MAP),
            counters: take(&mut program, COUNTERS_MAP),
            advertisements: take(&mut program, ADVERTISEMENTS_MAP),
            suspects: take(&mut program, SUSPECTS_MAP),
            program,
        })
    }

    /// Forgets what was heard, so that the same advertisement is a new one.
    pub fn forget(&mut self) {
        let processors = aya::util::nr_cpus().unwrap();
        for slot in (0..).take(configured().len()) {
            let empty = PerCpuValues::try_from(vec![History::EMPTY; processors]).unwrap();
            self.history.set(slot, empty, 0).unwrap();
        }
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

    /// Runs the program on one frame, as if nothing had been heard before; returns its action and the counters that
    /// moved.
    pub fn run_afresh(&mut self, frame: &[u8]) -> (u32, Vec<(&'static str, u64)>) {
        self.forget();
        self.run(frame)
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
        drain(&mut self.advertisements)
    }

    /// Takes every sample of what was not authentic.
    pub fn suspects(&mut self) -> Vec<AdvertisementEvent> {
        drain(&mut self.suspects)
    }
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<AdvertisementEvent> {
    let mut events = Vec::new();
    while let Some(record) = ring.next() {
        events.push(AdvertisementEvent::from_bytes(&record).expect("a whole record"));
    }
    events
}

/// The virtual hosts and their groups.
fn configured() -> [(VhostKey, [u8; 16]); 4] {
    let key = |vlan, family, vhid| VhostKey::new(LOOPBACK, vlan, family, Vhid::new(vhid).unwrap());
    [
        (key(0, Family::Inet, VHID), widen(GROUP.octets())),
        (key(0, Family::Inet, 8), widen(OURS.octets())),
        (key(5, Family::Inet, VHID), widen(GROUP.octets())),
        (key(0, Family::Inet6, VHID), GROUP6),
    ]
}

fn take<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    program: &mut Ebpf,
    name: &str,
) -> M {
    M::try_from(program.take_map(name).unwrap()).unwrap()
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
