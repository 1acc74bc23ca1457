//! Keys, values and events that pass between the kernel program and the daemon through eBPF maps.
//!
//! `repr(C)`, wire values as big-endian byte arrays, explicit zeroed padding. A map slot that was never written
//! reads as zeros, so zero always means "not configured".

/// `VHOSTS` key: which advertisements are ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VhostKey {
    /// Interface the frame arrived on.
    pub ifindex: u32,
    /// VLAN id of the outermost tag in host order; 0 for untagged and priority-tagged frames.
    pub vlan: u16,
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u8,
    /// Virtual host id, 1..=255.
    pub vhid: u8,
}

/// [`VhostKey::family`] of IPv4.
pub const FAMILY_INET: u8 = 4;
/// [`VhostKey::family`] of IPv6.
pub const FAMILY_INET6: u8 = 6;

/// `VHOSTS` value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhostValue {
    /// Destination that advertisements of this group carry, IPv4 in the first four bytes. A CARP packet for
    /// another destination is another group's and passes.
    pub group: [u8; 16],
    /// Bit set of `VHOST_*` flags.
    pub flags: u32,
    /// Zero.
    pub _pad: u32,
}

/// [`VhostValue::flags`]: the slot is configured.
pub const VHOST_CONFIGURED: u32 = 1;

/// One advertisement that passed every check the kernel side makes; the ring buffer's record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertisementEvent {
    /// Arrival: `bpf_ktime_get_ns`, CLOCK_MONOTONIC nanoseconds.
    pub arrival_ns: u64,
    /// Where and for whom it arrived.
    pub key: VhostKey,
    /// Source address, IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Ethernet source.
    pub ethernet_source: [u8; 6],
    /// Zero.
    pub _pad: [u8; 2],
    /// The CARP header, 36 bytes.
    pub payload: [u8; 36],
    /// Zero.
    pub _pad2: [u8; 4],
}

const _: () = assert!(size_of::<VhostKey>() == 8);
const _: () = assert!(size_of::<VhostValue>() == 24);
const _: () = assert!(size_of::<AdvertisementEvent>() == 96);
