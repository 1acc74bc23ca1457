//! What the program shares with the daemon: maps and load-time constants. The names are in `carp_common::shared`.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
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
pub fn vhost(key: &VhostKey) -> Option<VhostValue> {
    // SAFETY: the daemon may replace the value while we copy it; every mix of two values is a valid one, and its group
    // never changes while the entry is there.
    let value = unsafe { VHOSTS.get(key) }?;
    (value.flags & VHOST_CONFIGURED != 0).then_some(*value)
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
pub fn publish(event: AdvertisementEvent) -> bool {
    let Some(mut entry) = ADVERTISEMENTS.reserve::<AdvertisementEvent>(0) else {
        return false;
    };
    entry.write(event);
    entry.submit(0);
    true
}
