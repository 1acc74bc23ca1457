//! What the program shares with the daemon: maps and load-time constants. The names are in `carp_common::shared`.

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use carp_common::classify::{Frame, Place};
use carp_common::shared::{AdvertisementEvent, Counter, VHOST_CONFIGURED, VhostKey, VhostValue};

/// Configured virtual hosts. 4096 is eight interfaces with all 255 vhids in both families; an entry takes about
/// 100 bytes of kernel memory.
#[map]
static VHOSTS: HashMap<VhostKey, VhostValue> = HashMap::with_max_entries(4096, 0);

/// Statistics, one slot per [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Advertisements on their way to the daemon. 256 KiB hold 2520 of them (96 bytes and an 8-byte header each): what
/// 252 virtual hosts at one advertisement a second send in the ten seconds that a daemon may hang.
#[map]
static ADVERTISEMENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Whether rejected advertisements are explained in the log. Set before loading; the verifier then removes what it
/// switches off.
#[unsafe(no_mangle)]
pub static DEBUG: Global<u32> = Global::new(0);

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

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the map's own memory, for this CPU alone; the program is not interrupted by itself.
        unsafe { *slot += 1 };
    }
}

/// Hands an advertisement to the daemon. `false` when the ring is full.
#[inline(always)]
pub fn publish(place: &Place, frame: &impl Frame) -> bool {
    let arrival_ns = arrival_ns();
    let Some(mut entry) = ADVERTISEMENTS.reserve::<AdvertisementEvent>(0) else {
        return false;
    };
    let event = zeroed(&mut entry);
    event.arrival_ns = arrival_ns;
    if place.describe(frame, event).is_none() {
        entry.discard(0);
        return false;
    }
    entry.submit(0);
    true
}

/// An empty record in the ring's memory.
#[inline(always)]
fn zeroed(entry: &mut MaybeUninit<AdvertisementEvent>) -> &mut AdvertisementEvent {
    const WORDS: usize = AdvertisementEvent::LEN / size_of::<u64>();
    let words = entry.as_mut_ptr().cast::<u64>();
    for index in 0..WORDS {
        // SAFETY: inside the record.
        let word = unsafe { words.add(index) };
        // SAFETY: reserved memory, aligned to 8. Volatile, or the loop becomes a call of memset.
        unsafe { core::ptr::write_volatile(word, 0) };
    }
    // SAFETY: every byte is written, and zeros are a valid record.
    unsafe { entry.assume_init_mut() }
}

/// The time a frame arrived at, taken as it is judged. Unit: nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
fn arrival_ns() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_ktime_get_ns() }
}
