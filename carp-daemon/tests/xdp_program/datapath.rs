//! The loaded program and its maps.

use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{
    ProgramError, ProgramFd, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp,
};
use aya::{Ebpf, EbpfLoader};
use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::{
    ADDRESSES_MAP, ADVERTISEMENTS_MAP, AddressKey, AddressValue, COUNTERS_MAP, CROWDED_MAP, Counts,
    EGRESS_PROGRAM, INSTANCE_GLOBAL, INTERFACE_SLOTS, INTERFACES_MAP, InterfaceValue, KEYS_MAP,
    KEYS_PER_CHUNK, LEDGERS_MAP, LEDGERS_PER_CHUNK, Ledger, SUSPECTS_MAP, TCX_PROGRAM, VHOSTS_MAP,
    VhostKey, VhostValue, XDP_PROGRAM,
};
use carp_common::units::Vhid;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::frames::{ADDRESSES, GROUP, GROUP6, OURS, VHID, authenticator};

/// The device from which test runs pretend to receive.
pub const LOOPBACK: u32 = 1;
/// The number that identifies the program's process.
pub const INSTANCE: u64 = 77;
/// The slots of the virtual hosts' keys.
const KEYS_OF_7: u32 = 1;
const KEYS_OF_8: u32 = 2;
/// The ledger of the interface, for frames that are for no virtual host.
const LEDGER_OF_INTERFACE: u32 = 5;

/// The hook at which the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tcx,
    /// tcx at egress.
    Egress,
}

/// The hooks at ingress.
pub const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Tcx];

/// The fate of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
}

impl Hook {
    /// Returns the name of its program.
    const fn program(self) -> &'static str {
        match self {
            Self::Xdp => XDP_PROGRAM,
            Self::Tcx => TCX_PROGRAM,
            Self::Egress => EGRESS_PROGRAM,
        }
    }

    /// Returns the meaning of the program's result at this hook (linux/bpf.h, `enum xdp_action` and
    /// `enum tcx_action_base`).
    pub fn fate(self, answer: u32) -> Fate {
        match (self, answer) {
            (Self::Xdp, 2) | (Self::Tcx | Self::Egress, u32::MAX) => Fate::Pass,
            (Self::Xdp, 1) | (Self::Tcx | Self::Egress, 2) => Fate::Drop,
            (Self::Xdp | Self::Tcx | Self::Egress, _) => {
                panic!("{self:?} program answered {answer}")
            }
        }
    }
}

/// The loaded program and its maps.
pub struct Datapath {
    hook: Hook,
    pub program: Ebpf,
    pub vhosts: HashMap<MapData, VhostKey, VhostValue>,
    /// The first arrays of keys and ledgers.
    keys: Array<MapData, KernelKeys>,
    ledgers: PerCpuArray<MapData, Ledger>,
    interfaces: Array<MapData, InterfaceValue>,
    crowded: HashMap<MapData, u32, u32>,
    counters: PerCpuArray<MapData, u64>,
    advertisements: RingBuf<MapData>,
    suspects: RingBuf<MapData>,
    pub addresses: HashMap<MapData, AddressKey, AddressValue>,
}

impl Datapath {
    /// Loads the object with vhid 7 in both families, 8 in IPv4, and 7 in VLAN 5 in IPv4. Returns `None` if that is
    /// not permitted and not required.
    pub fn load(hook: Hook) -> Option<Self> {
        Self::load_with(hook, &[])
    }

    /// The same, with some globals set.
    pub fn load_with(hook: Hook, globals: &[&str]) -> Option<Self> {
        Self::load_for(LOOPBACK, hook, globals)
    }

    /// The same for another interface.
    pub fn load_for(ifindex: u32, hook: Hook, globals: &[&str]) -> Option<Self> {
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
        // The ledgers exist once per processor.
        let mut processor = CpuSet::new();
        processor.set(sched_getcpu().unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &processor).unwrap();
        let object =
            std::fs::read(object()).expect("`cargo xtask build-ebpf` has built the object");
        let mut loader = EbpfLoader::new();
        for global in globals {
            loader.override_global(global, &1_u32, true);
        }
        loader.override_global(INSTANCE_GLOBAL, &INSTANCE, true);
        let mut program = loader.load(&object).unwrap();
        let mut vhosts: HashMap<_, VhostKey, VhostValue> = take(&mut program, VHOSTS_MAP);
        let mut keys: Array<_, KernelKeys> = Array::create(KEYS_PER_CHUNK, 0).unwrap();
        let mut outer: ArrayOfMaps<_, Array<MapData, KernelKeys>> = take(&mut program, KEYS_MAP);
        outer.set(0, &keys, 0).unwrap();
        let ledgers: PerCpuArray<_, Ledger> = PerCpuArray::create(LEDGERS_PER_CHUNK, 0).unwrap();
        let mut outer: ArrayOfMaps<_, PerCpuArray<MapData, Ledger>> =
            take(&mut program, LEDGERS_MAP);
        outer.set(0, &ledgers, 0).unwrap();
        for (key, value) in configured(ifindex) {
            let accepted = authenticator(key.vhid, &ADDRESSES);
            let accepted = KernelKeys::new(accepted.digests());
            keys.set(value.keys, accepted, 0).unwrap();
            vhosts.insert(key, value, 0).unwrap();
        }
        let mut interfaces: Array<_, InterfaceValue> = take(&mut program, INTERFACES_MAP);
        let slot = InterfaceValue::slot(ifindex);
        let ledger = LEDGER_OF_INTERFACE;
        interfaces
            .set(slot, InterfaceValue { ifindex, ledger }, 0)
            .unwrap();
        match hook {
            Hook::Xdp => {
                let xdp: &mut Xdp = found(program.program_mut(XDP_PROGRAM));
                xdp.load().unwrap();
            }
            Hook::Tcx | Hook::Egress => {
                let tcx: &mut SchedClassifier = found(program.program_mut(hook.program()));
                tcx.load().unwrap();
            }
        }
        Some(Self {
            hook,
            vhosts,
            keys,
            ledgers,
            interfaces,
            crowded: take(&mut program, CROWDED_MAP),
            counters: take(&mut program, COUNTERS_MAP),
            advertisements: take(&mut program, ADVERTISEMENTS_MAP),
            suspects: take(&mut program, SUSPECTS_MAP),
            addresses: take(&mut program, ADDRESSES_MAP),
            program,
        })
    }

    /// Forgets what was heard, so that the same advertisement is new again.
    pub fn forget(&mut self) {
        let processors = aya::util::nr_cpus().unwrap();
        for slot in 0..LEDGERS_PER_CHUNK {
            let empty = PerCpuValues::try_from(vec![Ledger::EMPTY; processors]).unwrap();
            self.ledgers.set(slot, empty, 0).unwrap();
        }
    }

    /// Sets the digests that vhid 7 accepts outside of VLANs.
    pub fn accept(&mut self, keys: KernelKeys) {
        self.keys.set(KEYS_OF_7, keys, 0).unwrap();
    }

    /// Returns the untagged entry of a vhid.
    pub fn entry(&self, vhid: u8) -> VhostValue {
        self.vhosts.get(&untagged(vhid), 0).unwrap()
    }

    /// Changes an entry.
    pub fn set_entry(&mut self, vhid: u8, value: VhostValue) {
        self.vhosts.insert(untagged(vhid), value, 0).unwrap();
    }

    /// Returns what was counted for a ledger since it was last reset.
    pub fn counts_of(&self, ledger: u32) -> Vec<(&'static str, u64)> {
        let ledgers = self.ledgers.get(&ledger, 0).unwrap();
        named(ledgers.iter().map(|ledger| ledger.counts))
    }

    /// Returns what was counted for the interface.
    pub fn counts_of_others(&self) -> Vec<(&'static str, u64)> {
        self.counts_of(LEDGER_OF_INTERFACE)
    }

    /// Returns what was counted for the interface that [`Datapath::crowd`] makes up.
    pub fn counts_of_crowd(&self) -> Vec<(&'static str, u64)> {
        self.counts_of(LEDGER_OF_INTERFACE + 1)
    }

    /// Gives the place of the interface to another one that wants the same.
    pub fn crowd(&mut self, ifindex: u32) {
        let slot = InterfaceValue::slot(ifindex);
        let other = InterfaceValue {
            ifindex: ifindex + INTERFACE_SLOTS,
            ledger: LEDGER_OF_INTERFACE + 1,
        };
        self.interfaces.set(slot, other, 0).unwrap();
        self.crowded
            .insert(ifindex, LEDGER_OF_INTERFACE, 0)
            .unwrap();
    }

    pub fn info(&self) -> ProgramInfo {
        let program = self.program.program(self.hook.program());
        program.unwrap().info().unwrap()
    }

    /// Returns the program.
    pub fn fd(&self) -> &ProgramFd {
        let program = self.program.program(self.hook.program());
        match self.hook {
            Hook::Xdp => found::<&Xdp, _>(program).fd(),
            Hook::Tcx | Hook::Egress => found::<&SchedClassifier, _>(program).fd(),
        }
        .unwrap()
    }

    /// Runs the program on one frame many times. Returns its last verdict and the time of one run.
    pub fn repeat(&self, frame: &[u8], repeat: u32) -> (Fate, Duration) {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::new()
        };
        let program = self.program.program(self.hook.program());
        let result = match self.hook {
            Hook::Xdp => found::<&Xdp, _>(program).test_run(options),
            Hook::Tcx | Hook::Egress => found::<&SchedClassifier, _>(program).test_run(options),
        }
        .unwrap();
        (self.hook.fate(result.return_value), result.duration)
    }

    /// Runs the program on one frame, as if nothing had been heard before. Returns its action and the counters that
    /// changed.
    pub fn run_afresh(&mut self, frame: &[u8]) -> (Fate, Vec<(&'static str, u64)>) {
        self.forget();
        self.run(frame)
    }

    /// Runs the program on one frame. Returns its action and the counters that changed.
    pub fn run(&self, frame: &[u8]) -> (Fate, Vec<(&'static str, u64)>) {
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

    /// Returns every counter that is not 0.
    pub fn moved(&self) -> Vec<(&'static str, u64)> {
        let all = Counter::ALL.iter().zip(self.counters());
        all.filter(|(_, value)| *value != 0)
            .map(|(counter, value)| (counter.name(), value))
            .collect()
    }

    pub fn counters(&self) -> Vec<u64> {
        Counter::ALL
            .iter()
            .map(|counter| self.count(*counter))
            .collect()
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.counters.get(&counter.index(), 0).unwrap().iter().sum()
    }

    /// Takes every event out of the ring.
    pub fn drain(&mut self) -> Vec<AdvertisementEvent> {
        drain(&mut self.advertisements)
    }

    /// Takes every sample of frames that were not authentic.
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

/// Returns the sums that are not 0.
fn named(counts: impl Iterator<Item = Counts>) -> Vec<(&'static str, u64)> {
    let mut sums = [0; Counter::ALL.len()];
    for counts in counts {
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    let all = Counter::ALL.iter().zip(sums);
    all.filter(|(_, sum)| *sum != 0)
        .map(|(counter, sum)| (counter.name(), sum))
        .collect()
}

/// Returns the key of a virtual host on the device of test runs.
pub fn untagged(vhid: u8) -> VhostKey {
    VhostKey::new(LOOPBACK, 0, Vhid::new(vhid).unwrap())
}

/// Returns the virtual hosts; their ledgers are 1 to 4.
fn configured(ifindex: u32) -> [(VhostKey, VhostValue); 3] {
    let key = |vlan, vhid| VhostKey::new(ifindex, vlan, Vhid::new(vhid).unwrap());
    let value = |keys, ledger| VhostValue {
        alive_until_ns: u64::MAX,
        instance: INSTANCE,
        keys,
        ledger,
        ..VhostValue::NONE
    };
    let both = VhostValue {
        ledger6: 4,
        ..value(KEYS_OF_7, 1)
    };
    let both = both
        .hearing(GROUP.into(), None)
        .hearing(GROUP6.into(), None);
    [
        (key(0, VHID), both),
        (key(0, 8), value(KEYS_OF_8, 2).hearing(OURS.into(), None)),
        (key(5, VHID), value(3, 3).hearing(GROUP.into(), None)),
    ]
}

fn take<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    program: &mut Ebpf,
    name: &str,
) -> M {
    M::try_from(program.take_map(name).unwrap()).unwrap()
}

fn found<T: TryFrom<P, Error = ProgramError>, P>(program: Option<P>) -> T {
    T::try_from(program.unwrap()).unwrap()
}

/// Returns the path of the object that the daemon embeds.
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
