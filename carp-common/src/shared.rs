//! Keys, values and events that pass between the kernel program and the daemon through eBPF maps.
//!
//! `repr(C)`, wire values as big-endian byte arrays, explicit zeroed padding. A map slot that was never written
//! reads as zeros, so zero always means "not configured".

#![cfg_attr(feature = "user", expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait"))]

use crate::units::{Family, Vhid};
use crate::wire::advertisement::HEADER_LEN;

/// Name of the hash map of configured virtual hosts: [`VhostKey`] to [`VhostValue`].
pub const VHOSTS_MAP: &str = "VHOSTS";
/// Name of the per-CPU array of `u64` statistics, indexed by [`Counter`].
pub const COUNTERS_MAP: &str = "COUNTERS";
/// Name of the ring buffer of [`AdvertisementEvent`].
pub const ADVERTISEMENTS_MAP: &str = "ADVERTISEMENTS";
/// Name of the XDP program.
pub const XDP_PROGRAM: &str = "carpd_xdp";
/// Name of the read-only `u32` global that switches the program's log on: anything but 0 does.
pub const DEBUG_GLOBAL: &str = "DEBUG";

/// [`VhostKey::family`] of IPv4.
pub const FAMILY_INET: u8 = 4;
/// [`VhostKey::family`] of IPv6.
pub const FAMILY_INET6: u8 = 6;

/// [`VhostValue::flags`]: the slot is configured.
pub const VHOST_CONFIGURED: u32 = 1;

/// `VHOSTS` key: which advertisements are ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VhostKey {
    /// Interface the frame arrived on.
    pub ifindex: u32,
    /// VLAN id of the outermost tag that has one, in host order; 0 for untagged and priority-tagged frames.
    pub vlan: u16,
    /// VLAN id of a second tag inside that one; 0 when there is none.
    pub inner_vlan: u16,
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u8,
    /// Virtual host id, 1..=255.
    pub vhid: u8,
    /// Zero.
    pub _pad: [u8; 2],
}

impl VhostKey {
    /// The key of a virtual host on a link: `vlan` 0 for the untagged traffic of the interface.
    #[must_use]
    pub const fn new(ifindex: u32, vlan: u16, family: Family, vhid: Vhid) -> Self {
        let family = match family {
            Family::Inet => FAMILY_INET,
            Family::Inet6 => FAMILY_INET6,
        };
        Self { ifindex, vlan, inner_vlan: 0, family, vhid: vhid.get(), _pad: [0; 2] }
    }

    /// The family, when it is one.
    #[must_use]
    pub const fn family(&self) -> Option<Family> {
        match self.family {
            FAMILY_INET => Some(Family::Inet),
            FAMILY_INET6 => Some(Family::Inet6),
            _ => None,
        }
    }
}

/// `VHOSTS` value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhostValue {
    /// Destination that advertisements of this group carry, IPv4 in the first four bytes and zeros after it. A CARP
    /// packet for another destination is another group's and passes.
    pub group: [u8; 16],
    /// Bit set of `VHOST_*` flags.
    pub flags: u32,
    /// Zero.
    pub _pad: u32,
}

/// One advertisement that passed every check the kernel side makes; the ring buffer's record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertisementEvent {
    /// Arrival: `bpf_ktime_get_ns`, CLOCK_MONOTONIC nanoseconds.
    pub arrival_ns: u64,
    /// Where and for whom it arrived.
    pub key: VhostKey,
    /// Source address, IPv4 in the first four bytes and zeros after it.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Ethernet source.
    pub ethernet_source: [u8; 6],
    /// Zero.
    pub _pad: [u8; 2],
    /// The CARP header.
    pub payload: [u8; HEADER_LEN],
}

const _: () = assert!(size_of::<VhostKey>() == 12);
const _: () = assert!(size_of::<VhostValue>() == 24);
const _: () = assert!(size_of::<AdvertisementEvent>() == 96);

/// Statistics of the receive path, one per reason; the index into the `COUNTERS` array.
///
/// The kernel program and the socket path bump the same ones. A frame of protocol 112 raises exactly one of
/// `passed-…`, `dropped-…`, `delivered` and `datapath-events-lost`; `received-…` and `passed-vrrp-same-vhid` count
/// beside them. Names and order of checks follow `netstat -s -p carp` of the BSDs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// IPv4 advertisements for a configured vhid and group, before any further check (ipackets).
    ReceivedInetPackets,
    /// Likewise IPv6 (ipackets6).
    ReceivedInet6Packets,
    /// TTL or hop limit other than 255 (badttl).
    DroppedWrongTtl,
    /// The frame ends before the IP header says it does (badlen).
    DroppedShortPacket,
    /// Checksum over the 36 bytes (badsum).
    DroppedBadChecksum,
    /// Version other than 2 or type other than 1 (badver).
    DroppedBadVersion,
    /// Handed to the daemon.
    Delivered,
    /// Valid, but the ring buffer was full.
    DatapathEventsLost,
    /// CARP, untagged, with a vhid that is not configured here.
    PassedUnknownVhid,
    /// CARP in a VLAN in which its vhid is not configured.
    PassedOtherVlan,
    /// CARP with a configured vhid, sent to another group.
    PassedOtherGroup,
    /// VRRP, version 2 or 3.
    PassedVrrp,
    /// Those of them whose VRID equals a configured vhid of that link: both would use one virtual MAC.
    PassedVrrpSameVhid,
    /// A fragment of protocol 112, which no advertisement is.
    PassedFragment,
    /// Protocol 112, but neither CARP nor VRRP: other lengths, broken IP headers.
    PassedMalformed,
}

impl Counter {
    /// Every counter, in index order.
    pub const ALL: [Self; 15] = [
        Self::ReceivedInetPackets,
        Self::ReceivedInet6Packets,
        Self::DroppedWrongTtl,
        Self::DroppedShortPacket,
        Self::DroppedBadChecksum,
        Self::DroppedBadVersion,
        Self::Delivered,
        Self::DatapathEventsLost,
        Self::PassedUnknownVhid,
        Self::PassedOtherVlan,
        Self::PassedOtherGroup,
        Self::PassedVrrp,
        Self::PassedVrrpSameVhid,
        Self::PassedFragment,
        Self::PassedMalformed,
    ];

    /// How many there are: the array's length.
    #[expect(clippy::cast_possible_truncation, reason = "a handful")]
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Index into the array.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The name in logs and status output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReceivedInetPackets => "received-inet-packets",
            Self::ReceivedInet6Packets => "received-inet6-packets",
            Self::DroppedWrongTtl => "dropped-wrong-ttl",
            Self::DroppedShortPacket => "dropped-short-packet",
            Self::DroppedBadChecksum => "dropped-bad-checksum",
            Self::DroppedBadVersion => "dropped-bad-version",
            Self::Delivered => "delivered",
            Self::DatapathEventsLost => "datapath-events-lost",
            Self::PassedUnknownVhid => "passed-unknown-vhid",
            Self::PassedOtherVlan => "passed-other-vlan",
            Self::PassedOtherGroup => "passed-other-group",
            Self::PassedVrrp => "passed-vrrp",
            Self::PassedVrrpSameVhid => "passed-vrrp-same-vhid",
            Self::PassedFragment => "passed-fragment",
            Self::PassedMalformed => "passed-malformed",
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{VhostKey, VhostValue};

    // SAFETY: `repr(C)`, integers only, every byte named (the size is asserted), so any bit pattern is valid and no
    // padding is read.
    unsafe impl aya::Pod for VhostKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for VhostValue {}
}
