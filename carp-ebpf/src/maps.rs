//! What the program shares with the daemon: maps and load-time constants. The names are in `carp_common::abi::layout`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use carp_common::abi::admission::History;
use carp_common::abi::classify::Claim;
use carp_common::abi::counters::Counter;
use carp_common::abi::hmac::{KernelKeys, is_authentic};
use carp_common::abi::layout::{
    AdvertisementEvent, FENCE_ENTRIES_MAX, FenceKey, FenceValue, VHOST_CONFIGURED, VhostKey,
    VhostValue,
};

/// How many virtual hosts fit unless the daemon says otherwise, as it does: all 255 vhids in both families.
const VHOSTS_MAX: u32 = 512;

/// Configured virtual hosts; an entry takes about 120 bytes of kernel memory.
#[map]
static VHOSTS: HashMap<VhostKey, VhostValue> = HashMap::with_max_entries(VHOSTS_MAX, 0);

/// The digests that each of them accepts: 1216 bytes.
#[map]
static KEYS: Array<KernelKeys> = Array::with_max_entries(VHOSTS_MAX, 0);

/// What each of them heard lately: 360 bytes on each CPU.
#[map]
static HISTORY: PerCpuArray<History> = PerCpuArray::with_max_entries(VHOSTS_MAX, 0);

/// Addresses that this host answers for only until a deadline.
#[map]
static FENCE: HashMap<FenceKey, FenceValue> =
    HashMap::with_max_entries(FENCE_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// One advertisement at a time.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Statistics, one slot per [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Advertisements on their way to the daemon. 256 KiB hold 2520 of them (96 bytes and an 8-byte header each): what
/// 252 virtual hosts at one advertisement a second send in the ten seconds that a daemon may hang.
#[map]
static ADVERTISEMENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Samples of what is not authentic or from our own address, a ring of their own: whatever a flood does to it,
/// [`ADVERTISEMENTS`] has room. One page holds 39.
#[map]
static SUSPECTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Whether rejected advertisements are explained in the log. Set before loading; the verifier then removes what it
/// switches off.
#[unsafe(no_mangle)]
pub static DEBUG: Global<u32> = Global::new(0);

/// Whether the fence is about every packet to and from a fenced address, not only about ARP and neighbour discovery. Set
/// before loading, likewise.
#[unsafe(no_mangle)]
pub static FENCE_ALL: Global<u32> = Global::new(0);

/// The helpers that the program calls are for GPL-compatible programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The configuration of a virtual host.
#[inline(always)]
pub fn vhost(key: &VhostKey) -> Option<&'static VhostValue> {
    // SAFETY: the element stays readable until the program returns. Should the daemon remove it meanwhile and the
    // kernel give its memory to another one, we read another valid configuration: a packet at the moment of a change.
    let value = unsafe { VHOSTS.get(key) }?;
    (value.flags & VHOST_CONFIGURED != 0).then_some(value)
}

/// Whether the time to answer for an address, or to speak in its name, is over.
#[inline(always)]
pub fn is_fenced(claim: &Claim) -> bool {
    // SAFETY: as above.
    unsafe { FENCE.get(claim.key) }.is_some_and(|fence| {
        now_ns() > fence.deadline_ns && (claim.resolves || fence.every_packet != 0)
    })
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    count_index(counter.index());
}

/// The same for a counter that is known by its index.
#[inline(always)]
pub fn count_index(index: u32) {
    if let Some(slot) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the map's own memory, for this CPU alone; the program is not interrupted by itself.
        unsafe { *slot += 1 };
    }
}

/// What the running program knows about one advertisement. A map, because the stack is too small to hold it beside the
/// hashes, and because it is how [`carpd_authentic`] is told.
#[repr(C)]
pub struct Scratch {
    /// The record for the daemon.
    pub event: AdvertisementEvent,
    /// Index of its virtual host.
    pub slot: u32,
    /// For [`unknown`].
    unknown: [bool; 2],
    /// How many refusals this CPU has explained since [`Scratch::explaining_since_ns`].
    pub explained: u32,
    /// When it began to count them.
    pub explaining_since_ns: u64,
}

/// The scratch memory of this CPU. Never `None`, but the verifier does not know.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the map's own memory, for this CPU alone; the program is not interrupted by itself, and holds one reference
    // at a time.
    Some(unsafe { &mut *scratch })
}

/// The same two answers, but the verifier no longer knows what they are, because it does not know what is in a map. If it did,
/// it would judge all that comes after once for each of their values, and for each way that led to one.
#[inline(always)]
pub fn unknown(answers: [bool; 2]) -> [bool; 2] {
    let Some(scratch) = scratch() else {
        return [false; 2];
    };
    scratch.unknown = answers;
    *core::hint::black_box(&scratch.unknown)
}

/// The digests that a virtual host accepts.
#[inline(always)]
pub fn keys(slot: u32) -> Option<&'static KernelKeys> {
    KEYS.get(slot)
}

/// Whether [`scratch`] holds an authentic advertisement of the virtual host whose slot is there: anything but 0.
///
/// A global function without arguments: the verifier judges it once and for itself, instead of once for every way that
/// leads to the call. Both programs call it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_authentic() -> u32 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    let Some(keys) = keys(scratch.slot) else {
        return 0;
    };
    u32::from(is_authentic(keys, &scratch.event.payload))
}

/// What a virtual host heard lately on this CPU.
#[inline(always)]
pub fn history(slot: u32) -> Option<&'static mut History> {
    let history = HISTORY.get_ptr_mut(slot)?;
    // SAFETY: as for the scratch memory.
    Some(unsafe { &mut *history })
}

/// Hands an advertisement to the daemon. `false` when the ring is full.
#[inline(always)]
pub fn publish(event: &AdvertisementEvent) -> bool {
    ADVERTISEMENTS
        .output::<AdvertisementEvent>(event, 0)
        .is_ok()
}

/// Shows the daemon one that is dropped. `false` when nobody looks at the ring, so that it is full.
#[inline(always)]
pub fn report(event: &AdvertisementEvent) -> bool {
    SUSPECTS.output::<AdvertisementEvent>(event, 0).is_ok()
}

/// The time. Unit: nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_ktime_get_ns() }
}
