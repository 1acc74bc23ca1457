//! Maps and load-time constants, which the program shares with the daemon. Their names are in `carp_common::abi::layout`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY};
use aya_ebpf::btf_maps::ArrayOfMaps;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_map_lookup_elem};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use carp_common::abi::classify::FenceSubject;
use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::hmac::{KernelKeys, is_authentic};
use carp_common::abi::layout::{
    ADDRESSES_MAX, AddressKey, AddressValue, CROWDED_MAX, EVERY_PACKET, INTERFACE_SLOTS,
    InterfaceValue, KEY_CHUNKS, KEYS_PER_CHUNK, LEDGER_CHUNKS, LEDGERS_PER_CHUNK, Ledger,
    VHOSTS_MAX, VhostKey, VhostValue,
};

/// Virtual hosts of every carpd of this network namespace; an entry takes about 190 bytes of kernel memory.
#[map]
static VHOSTS: HashMap<VhostKey, VhostValue> =
    HashMap::with_max_entries(VHOSTS_MAX, BPF_F_NO_PREALLOC);

/// Addresses that this host answers for only while their owner is MASTER, of every carpd of this network namespace.
#[map]
static ADDRESSES: HashMap<AddressKey, AddressValue> =
    HashMap::with_max_entries(ADDRESSES_MAX, BPF_F_NO_PREALLOC);

/// The definition of an inner array of an array of arrays.
///
/// It has sizes and no types. The arrays that the daemon adds at run time have no types, and kernels before 6.2 refuse an
/// inner array whose types differ from the definition.
#[repr(C)]
pub struct Chunk<const KIND: usize, const VALUE_LEN: usize, const SLOTS: usize> {
    r#type: *const [i32; KIND],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; VALUE_LEN],
    max_entries: *const [i32; SLOTS],
}

/// The digests that each virtual host of our process accepts: 1216 bytes.
#[btf_map]
static KEYS: ArrayOfMaps<
    Chunk<
        { BPF_MAP_TYPE_ARRAY as usize },
        { size_of::<KernelKeys>() },
        { KEYS_PER_CHUNK as usize },
    >,
    { KEY_CHUNKS as usize },
> = ArrayOfMaps::new();

/// The recent advertisements of each virtual host in a family, and counters of the outcomes: 544 bytes on each CPU.
#[btf_map]
static LEDGERS: ArrayOfMaps<
    Chunk<
        { BPF_MAP_TYPE_PERCPU_ARRAY as usize },
        { size_of::<Ledger>() },
        { LEDGERS_PER_CHUNK as usize },
    >,
    { LEDGER_CHUNKS as usize },
> = ArrayOfMaps::new();

/// Returns an element of an inner array, whose elements are `V`.
#[inline(always)]
fn element<V, C>(chunk: &C, place: u32) -> Option<*mut V> {
    let chunk = core::ptr::from_ref(chunk).cast_mut().cast();
    // SAFETY: what an array of arrays holds is a map, and its keys are of 4 bytes.
    let element = unsafe { bpf_map_lookup_elem(chunk, (&raw const place).cast()) };
    (!element.is_null()).then_some(element.cast())
}

/// The interfaces that our process serves.
#[map]
static INTERFACES: Array<InterfaceValue> = Array::with_max_entries(INTERFACE_SLOTS, 0);

/// Ledgers of the interfaces whose slot in [`INTERFACES`] is taken by another one.
#[map]
static CROWDED: HashMap<u32, u32> = HashMap::with_max_entries(CROWDED_MAX, BPF_F_NO_PREALLOC);

/// One advertisement at a time.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Statistics, one slot per [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Advertisements on their way to the daemon. 256 KiB hold 2340 of them (100 bytes and an 8-byte header each, in multiples of
/// 8). This is as many as 234 virtual hosts at one advertisement a second send in the ten seconds that a daemon may hang.
#[map]
static ADVERTISEMENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Samples of advertisements that are not authentic or have our own source. They have a separate ring, so that a flood of
/// them takes no room in [`ADVERTISEMENTS`]. One page holds 36.
#[map]
static SUSPECTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Whether rejected advertisements are explained in the log. The daemon sets it before loading, so the verifier removes
/// code that it switches off.
#[unsafe(no_mangle)]
pub static DEBUG: Global<u32> = Global::new(0);

/// Whether the fence covers every packet to and from a fenced address, and not only ARP and neighbour discovery. The daemon
/// sets it before loading.
#[unsafe(no_mangle)]
pub static FENCE_ALL: Global<u32> = Global::new(0);

/// The number of the process that loads the program. The daemon sets it before loading.
#[unsafe(no_mangle)]
pub static INSTANCE: Global<u64> = Global::new(0);

/// The licence. The kernel offers some helpers that the program calls only to GPL-compatible programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Returns a virtual host of our process.
#[inline(always)]
pub fn vhost(key: &VhostKey) -> Option<&'static VhostValue> {
    any_vhost(key).filter(|value| value.instance == INSTANCE.load())
}

/// Returns a virtual host of any carpd.
#[inline(always)]
fn any_vhost(key: &VhostKey) -> Option<&'static VhostValue> {
    // SAFETY: the element stays readable until the program returns. If the daemon replaces it meanwhile and the kernel
    // reuses its memory, this reads another valid configuration, as it may for a packet at the moment of a change.
    unsafe { VHOSTS.get(key) }
}

/// Returns the ledger of an address's owner if the address is fenced, which means that the host may neither answer for it nor
/// speak in its name. The ledger is 0 if the owner belongs to another process.
#[inline(always)]
pub fn fenced(claim: &FenceSubject) -> Option<u32> {
    let AddressKey {
        address: [a, b, c, d, e, f, g, h, low @ ..],
        family,
        scope,
        ..
    } = claim.key;
    let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_ne_bytes(low);
    carpd_fenced(high, low, family.into(), scope, claim.resolves.into()).checked_sub(1)
}

/// Returns one more than the result of [`fenced`] for an address in two halves, or 0 if the address is not fenced.
///
/// This is a global function for the same reason as [`carpd_authentic`]: it is called behind any number of tags.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_fenced(high: u64, low: u64, family: u32, scope: u32, resolves: u32) -> u32 {
    // The key is made of words, because the compiler would write its fields byte by byte.
    let key = [high, low, u64::from(scope) << 32 | u64::from(family)];
    // SAFETY: the words have the size of a key, no padding and at least its alignment, and the target is little-endian.
    let key: &AddressKey = unsafe { &*(&raw const key).cast() };
    // SAFETY: as for virtual hosts.
    let Some(address) = (unsafe { ADDRESSES.get(key) }) else {
        return 0;
    };
    if resolves == 0 && address.flags & EVERY_PACKET == 0 {
        return 0;
    }
    // A dead carpd left an address whose owner has no entry.
    let Some(owner) = any_vhost(&address.owner) else {
        return 1;
    };
    if now_ns() <= owner.owns_until_ns {
        return 0;
    }
    match owner.instance == INSTANCE.load() {
        true => owner.ledger.wrapping_add(1),
        false => 1,
    }
}

/// Adds one to a counter of this CPU, in the totals and in a ledger.
#[inline(always)]
pub fn count_in(ledger: Option<&mut Ledger>, counter: u32) {
    if let Some(total) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the map's own memory, for this CPU alone; the program is not interrupted by itself.
        unsafe { *total += 1 };
    }
    if let Some(ledger) = ledger
        && let Some(count) = ledger.counts.get_mut(counter as usize)
    {
        *count += 1;
    }
}

/// Counts a frame in the ledger of this slot, or in that of the interface if the slot is 0.
///
/// It is inlined, unlike [`count`], because frames that pass should cost little and a call takes as long as the counting.
#[inline(always)]
pub fn count_passed(counter: Counter, slot: u32, ifindex: u32) {
    let slot = match slot {
        0 => ledger_of_interface(ifindex),
        slot => slot,
    };
    count_in(ledger(slot), counter.index());
}

/// Counts a frame as [`count_passed`] does, with a call.
#[inline(always)]
pub fn count(counter: Counter, slot: u32, ifindex: u32) {
    let _ = carpd_count(counter.index(), slot, ifindex);
}

/// Counts a frame as [`count`] does, by the index of the counter.
///
/// This is a global function for the same reason as [`carpd_authentic`]. The result has no meaning.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn carpd_count(counter: u32, slot: u32, ifindex: u32) -> u32 {
    let slot = match slot {
        0 => ledger_of_interface(ifindex),
        slot => slot,
    };
    count_in(ledger(slot), counter);
    0
}

/// Returns the slot of an interface's ledger, or 0 if our process does not serve the interface. Slot 0 is never read.
#[inline(always)]
fn ledger_of_interface(ifindex: u32) -> u32 {
    match INTERFACES.get(InterfaceValue::slot(ifindex)) {
        Some(interface) if interface.ifindex == ifindex => interface.ledger,
        _ => carpd_crowded(ifindex),
    }
}

/// Returns the slot of an interface's ledger if another interface has its slot in [`INTERFACES`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn carpd_crowded(ifindex: u32) -> u32 {
    // SAFETY: as for virtual hosts.
    unsafe { CROWDED.get(ifindex) }.copied().unwrap_or(0)
}

/// The state of the program for one advertisement. It is in a map, because the stack is too small for it and the hashes, and
/// because [`carpd_authentic`] gets its input from there.
#[repr(C)]
pub struct Scratch {
    /// The record for the daemon.
    pub event: AdvertisementEvent,
    /// Slot of its virtual host's keys.
    pub keys: u32,
    /// Slot of its ledger.
    pub ledger: u32,
    /// [`VhostValue::alive_until_ns`] of its virtual host.
    pub alive_until_ns: u64,
    /// Whether it was sent to this host alone.
    pub unicast: bool,
    /// Whether it is from the address that the host itself sends from.
    pub own: bool,
    /// Number of refusals that this CPU has explained since [`Scratch::explaining_since_ns`].
    pub explained: u32,
    /// Start of that count. Unit: nanoseconds.
    pub explaining_since_ns: u64,
}

/// Returns the scratch memory of this CPU. It is never `None`, but the verifier does not know that.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the map's own memory, for this CPU alone; the program is not interrupted by itself, and holds one reference
    // at a time.
    Some(unsafe { &mut *scratch })
}

/// Returns whether the advertisement in [`scratch`] is authentic by the keys whose slot is there: 0 if it is not. An
/// advertisement from the host's own address is not from a peer, so its digest is not checked.
///
/// This is a global function without arguments. The verifier checks such a function once, and an inlined one on every path
/// to it. Both ingress programs call it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_authentic() -> u32 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    if scratch.own {
        return 0;
    }
    let slot = scratch.keys;
    let keys = KEYS
        .get(slot / KEYS_PER_CHUNK)
        .and_then(|chunk| element::<KernelKeys, _>(chunk, slot % KEYS_PER_CHUNK));
    let Some(keys) = keys else {
        return 0;
    };
    // SAFETY: elements of arrays are never freed. An element that is written meanwhile accepts nothing, or the digests that
    // the old or the new content accepts.
    let keys = unsafe { &*keys };
    u32::from(is_authentic(keys, scratch.event.header()))
}

/// Returns a ledger of this CPU.
#[inline(always)]
pub fn ledger(slot: u32) -> Option<&'static mut Ledger> {
    let chunk = LEDGERS.get(slot / LEDGERS_PER_CHUNK)?;
    let ledger = element::<Ledger, _>(chunk, slot % LEDGERS_PER_CHUNK)?;
    // SAFETY: as for the scratch memory.
    Some(unsafe { &mut *ledger })
}

/// The record of a CARP header without a trailer.
type PlainRecord = [u8; AdvertisementEvent::PLAIN_LEN];

/// Hands an advertisement to the daemon. Returns `false` if the ring is full.
#[inline(always)]
pub fn publish(event: &AdvertisementEvent) -> bool {
    ADVERTISEMENTS
        .output::<PlainRecord>(record(event), 0)
        .is_ok()
}

/// Hands a sample of a dropped advertisement to the daemon. Returns `false` if the ring is full.
#[inline(always)]
pub fn report(event: &AdvertisementEvent) -> bool {
    SUSPECTS.output::<PlainRecord>(record(event), 0).is_ok()
}

/// Returns the part of an event that is sent to the daemon.
#[inline(always)]
fn record(event: &AdvertisementEvent) -> &PlainRecord {
    // SAFETY: an event is longer than that, has no padding, and bytes need no alignment.
    unsafe { &*core::ptr::from_ref(event).cast() }
}

/// Returns the current time. Unit: nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_ktime_get_ns() }
}
