//! What the program shares with the daemon: maps and load-time constants. The names are in `carp_common::abi::layout`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY};
use aya_ebpf::btf_maps::ArrayOfMaps;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_map_lookup_elem};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use carp_common::abi::classify::Claim;
use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::hmac::{KernelKeys, is_authentic};
use carp_common::abi::layout::{
    ADDRESSES_MAX, AddressKey, AddressValue, CROWDED_MAX, EVERY_PACKET, INTERFACE_PLACES,
    InterfaceValue, KEY_CHUNKS, KEYS_PER_CHUNK, LEDGER_CHUNKS, LEDGERS_PER_CHUNK, Ledger,
    VHOSTS_MAX, VhostKey, VhostValue,
};

/// Virtual hosts of every carpd of this network namespace; an entry takes about 190 bytes of kernel memory.
#[map]
static VHOSTS: HashMap<VhostKey, VhostValue> =
    HashMap::with_max_entries(VHOSTS_MAX, BPF_F_NO_PREALLOC);

/// Addresses that this host answers for only as long as their owner is MASTER, of every carpd likewise.
#[map]
static ADDRESSES: HashMap<AddressKey, AddressValue> =
    HashMap::with_max_entries(ADDRESSES_MAX, BPF_F_NO_PREALLOC);

/// The definition of an array that an array of arrays holds.
///
/// It names sizes and no types: kernels before 6.2 take an array that the daemon adds at run time, which has no types, for one
/// of another kind otherwise.
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

/// What each of them heard lately in a family, and what became of it: 544 bytes on each CPU.
#[btf_map]
static LEDGERS: ArrayOfMaps<
    Chunk<
        { BPF_MAP_TYPE_PERCPU_ARRAY as usize },
        { size_of::<Ledger>() },
        { LEDGERS_PER_CHUNK as usize },
    >,
    { LEDGER_CHUNKS as usize },
> = ArrayOfMaps::new();

/// An element of an array that an array of arrays holds, whose elements are `V`.
#[inline(always)]
fn element<V, C>(chunk: &C, place: u32) -> Option<*mut V> {
    let chunk = core::ptr::from_ref(chunk).cast_mut().cast();
    // SAFETY: what an array of arrays holds is a map, and its keys are of 4 bytes.
    let element = unsafe { bpf_map_lookup_elem(chunk, (&raw const place).cast()) };
    (!element.is_null()).then_some(element.cast())
}

/// The interfaces that our process serves.
#[map]
static INTERFACES: Array<InterfaceValue> = Array::with_max_entries(INTERFACE_PLACES, 0);

/// Ledgers of the interfaces that find their place there taken.
#[map]
static CROWDED: HashMap<u32, u32> = HashMap::with_max_entries(CROWDED_MAX, BPF_F_NO_PREALLOC);

/// One advertisement at a time.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Statistics, one slot per [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Advertisements on their way to the daemon. 256 KiB hold 2340 of them (100 bytes and an 8-byte header each, in multiples of 8): what
/// 234 virtual hosts at one advertisement a second send in the ten seconds that a daemon may hang.
#[map]
static ADVERTISEMENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Samples of what is not authentic or from our own address, a ring of their own: whatever a flood does to it,
/// [`ADVERTISEMENTS`] has room. One page holds 36.
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

/// The number of the process that loads the program. Set before loading, likewise.
#[unsafe(no_mangle)]
pub static INSTANCE: Global<u64> = Global::new(0);

/// The helpers that the program calls are for GPL-compatible programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A virtual host of our process.
#[inline(always)]
pub fn vhost(key: &VhostKey) -> Option<&'static VhostValue> {
    any_vhost(key).filter(|value| value.instance == INSTANCE.load())
}

/// A virtual host of any carpd.
#[inline(always)]
fn any_vhost(key: &VhostKey) -> Option<&'static VhostValue> {
    // SAFETY: the element stays readable until the program returns. Should the daemon replace it meanwhile and the
    // kernel give its memory to another one, we read another valid configuration: a packet at the moment of a change.
    unsafe { VHOSTS.get(key) }
}

/// Whether the time to answer for an address, or to speak in its name, is over; then the ledger of its owner, or 0 when that
/// is not our process's.
#[inline(always)]
pub fn fenced(claim: &Claim) -> Option<u32> {
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

/// The same for an address in two halves: 0, or one more than the ledger.
///
/// A global function for the reason that [`carpd_authentic`] is one: it is called behind any number of tags.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_fenced(high: u64, low: u64, family: u32, scope: u32, resolves: u32) -> u32 {
    // Made of words: the compiler would write the fields byte by byte.
    let key = [high, low, u64::from(scope) << 32 | u64::from(family)];
    // SAFETY: as long as a key, without padding, aligned at least as well; and the target is little-endian.
    let key: &AddressKey = unsafe { &*(&raw const key).cast() };
    // SAFETY: as for virtual hosts.
    let Some(address) = (unsafe { ADDRESSES.get(key) }) else {
        return 0;
    };
    if resolves == 0 && address.flags & EVERY_PACKET == 0 {
        return 0;
    }
    // An address that nobody owns any more is one that a dead carpd left.
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

/// Adds one to a counter of this CPU, in total and in a ledger.
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

/// Counts a frame for a virtual host by the slot of its ledger, or for the interface when that is 0.
///
/// Inlined, unlike [`count`]: what is left to others passes through here, and a call takes as long as the counting.
#[inline(always)]
pub fn count_passed(counter: Counter, slot: u32, ifindex: u32) {
    let slot = match slot {
        0 => ledger_of_interface(ifindex),
        slot => slot,
    };
    count_in(ledger(slot), counter.index());
}

/// The same.
#[inline(always)]
pub fn count(counter: Counter, slot: u32, ifindex: u32) {
    let _ = carpd_count(counter.index(), slot, ifindex);
}

/// The same by the index of the counter.
///
/// A global function for the reason that [`carpd_authentic`] is one. The result means nothing.
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

/// The slot of the ledger of an interface. 0 for one that our process does not serve; nobody reads that slot.
#[inline(always)]
fn ledger_of_interface(ifindex: u32) -> u32 {
    match INTERFACES.get(InterfaceValue::place(ifindex)) {
        Some(interface) if interface.ifindex == ifindex => interface.ledger,
        _ => carpd_crowded(ifindex),
    }
}

/// The same for an interface that has no place of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn carpd_crowded(ifindex: u32) -> u32 {
    // SAFETY: as for virtual hosts.
    unsafe { CROWDED.get(ifindex) }.copied().unwrap_or(0)
}

/// What the running program knows about one advertisement. A map, because the stack is too small to hold it beside the
/// hashes, and because it is how [`carpd_authentic`] is told.
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
    /// It was sent to this host alone.
    pub unicast: bool,
    /// It is from the address that the host itself sends from.
    pub own: bool,
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

/// Whether [`scratch`] holds an authentic advertisement of a peer of the virtual host whose keys have the slot that is there:
/// anything but 0. One from the host's own address is no peer's, and its digest is not looked at.
///
/// A global function without arguments: the verifier judges it once and for itself, instead of once for every way that
/// leads to the call. Both programs call it.
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
    // SAFETY: elements of arrays stay; one that is written meanwhile accepts nothing, or what either content does.
    let keys = unsafe { &*keys };
    u32::from(is_authentic(keys, scratch.event.header()))
}

/// What a virtual host heard lately in a family on this CPU, and what became of it.
#[inline(always)]
pub fn ledger(slot: u32) -> Option<&'static mut Ledger> {
    let chunk = LEDGERS.get(slot / LEDGERS_PER_CHUNK)?;
    let ledger = element::<Ledger, _>(chunk, slot % LEDGERS_PER_CHUNK)?;
    // SAFETY: as for the scratch memory.
    Some(unsafe { &mut *ledger })
}

/// The record of a CARP header that nothing follows.
type PlainRecord = [u8; AdvertisementEvent::PLAIN_LEN];

/// Hands an advertisement to the daemon. `false` when the ring is full.
#[inline(always)]
pub fn publish(event: &AdvertisementEvent) -> bool {
    ADVERTISEMENTS
        .output::<PlainRecord>(record(event), 0)
        .is_ok()
}

/// Shows the daemon one that is dropped. `false` when nobody looks at the ring, so that it is full.
#[inline(always)]
pub fn report(event: &AdvertisementEvent) -> bool {
    SUSPECTS.output::<PlainRecord>(record(event), 0).is_ok()
}

/// The part of an event that the daemon is sent.
#[inline(always)]
fn record(event: &AdvertisementEvent) -> &PlainRecord {
    // SAFETY: an event is longer than that, has no padding, and bytes need no alignment.
    unsafe { &*core::ptr::from_ref(event).cast() }
}

/// The time. Unit: nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_ktime_get_ns() }
}
