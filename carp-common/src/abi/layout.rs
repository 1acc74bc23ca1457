//! Keys, values and events that pass between the kernel program and the daemon through eBPF maps.
//!
//! `repr(C)`, wire values as big-endian byte arrays, explicit zeroed padding. A map slot that was never written
//! reads as zeros, so zero always means "not configured".
//!
//! | Map | Kind | Key | Value | Written by |
//! |---|---|---|---|---|
//! | [`VHOSTS_MAP`] | hash | [`VhostKey`] | [`VhostValue`] | daemon |
//! | [`KEYS_MAP`] | array | [`VhostValue::slot`] | [`KernelKeys`](super::hmac::KernelKeys) | daemon |
//! | [`HISTORY_MAP`] | array | [`VhostValue::slot`] | [`History`](super::admission::History) | program; zeros by the daemon |
//! | [`FENCE_MAP`] | hash | [`FenceKey`] | [`FenceValue`] | daemon |
//! | [`COUNTERS_MAP`] | per-CPU array | [`Counter`](super::counters::Counter) | `u64` | program |
//! | [`ADVERTISEMENTS_MAP`] | ring buffer | | [`AdvertisementEvent`] | program |
//! | [`SUSPECTS_MAP`] | ring buffer | | [`AdvertisementEvent`] | program |
//!
//! Key material is in an array, whose elements are written in place: what a hash map lets go of stays in the kernel's
//! memory, and so does what an update of one replaces.

#![cfg_attr(
    feature = "user",
    expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")
)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::units::{Family, Vhid};
use crate::wire::advertisement::HEADER_LEN;

/// Name of the hash map of configured virtual hosts: [`VhostKey`] to [`VhostValue`].
pub const VHOSTS_MAP: &str = "VHOSTS";
/// Name of the per-CPU array of `u64` statistics, indexed by [`Counter`](super::counters::Counter).
pub const COUNTERS_MAP: &str = "COUNTERS";
/// Name of the ring buffer of [`AdvertisementEvent`].
pub const ADVERTISEMENTS_MAP: &str = "ADVERTISEMENTS";
/// Name of the array of [`KernelKeys`](super::hmac::KernelKeys).
pub const KEYS_MAP: &str = "KEYS";
/// Name of the array of what each virtual host heard lately.
pub const HISTORY_MAP: &str = "HISTORY";
/// Name of the hash map of fenced addresses: [`FenceKey`] to [`FenceValue`].
pub const FENCE_MAP: &str = "FENCE";
/// Name of the ring buffer of samples of what was not authentic or came back to us, for the daemon to warn of it.
pub const SUSPECTS_MAP: &str = "SUSPECTS";
/// Name of the XDP program.
pub const XDP_PROGRAM: &str = "carpd_xdp";
/// Name of the tcx program at ingress.
pub const TCX_PROGRAM: &str = "carpd_tcx";
/// Name of the tcx program at egress.
pub const EGRESS_PROGRAM: &str = "carpd_egress";
/// Name of the read-only `u32` global that switches the program's log on: anything but 0 does.
pub const DEBUG_GLOBAL: &str = "DEBUG";
/// Name of the read-only `u32` global that makes the fence cover every packet to a fenced address: anything but 0 does.
pub const FENCE_ALL_GLOBAL: &str = "FENCE_ALL";

/// [`VhostKey::family`] of IPv4.
pub const FAMILY_INET: u8 = 4;
/// [`VhostKey::family`] of IPv6.
pub const FAMILY_INET6: u8 = 6;

/// [`VhostValue::flags`]: the slot is configured.
pub const VHOST_CONFIGURED: u32 = 1;

/// `VHOSTS` key: which advertisements are ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        Self {
            ifindex,
            vlan,
            inner_vlan: 0,
            family,
            vhid: vhid.get(),
            _pad: [0; 2],
        }
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
    /// The address that the host itself sends advertisements from, written likewise; zeros for none. A packet from it is an
    /// echo or a recording, never a peer. Zeros too when the host sends from a virtual address, which peers may do as well.
    pub own_source: [u8; 16],
    /// Until when the daemon is taken to be alive, on the clock of [`crate::time`]. Afterwards nothing is dropped any
    /// more (what the fence covers apart): the program may be a leftover. What is authentic still goes to the ring, for a
    /// daemon that was only stopped.
    pub alive_until_ns: u64,
    /// Bit set of `VHOST_*` flags.
    pub flags: u32,
    /// Index of its [`KernelKeys`](super::hmac::KernelKeys) and its history. No two entries share one.
    pub slot: u32,
}

impl VhostValue {
    /// A configured one without a source of its own that never becomes a leftover.
    #[must_use]
    pub const fn new(group: [u8; 16], slot: u32) -> Self {
        Self {
            group,
            own_source: [0; 16],
            alive_until_ns: u64::MAX,
            flags: VHOST_CONFIGURED,
            slot,
        }
    }
}

/// `FENCE` key: an address that the host answers for while it is MASTER.
///
/// The address alone: a host answers for its addresses on every interface and in every VLAN, so it must be silent there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FenceKey {
    /// The address, IPv4 in the first four bytes and zeros after it.
    pub address: [u8; 16],
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

impl FenceKey {
    /// The key of an address.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        let (family, address) = match address {
            IpAddr::V4(address) => (FAMILY_INET, widen(address.octets())),
            IpAddr::V6(address) => (FAMILY_INET6, address.octets()),
        };
        Self {
            address,
            family,
            _pad: [0; 3],
        }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        address(self.family, self.address)
    }
}

/// How many addresses can be fenced. One map for every carpd of a network namespace, so made large; its memory is only
/// taken when it is used.
pub const FENCE_ENTRIES_MAX: u32 = 16 * 1024;

/// `FENCE` value. An entry is there while the host is MASTER, and afterwards until the address is gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceValue {
    /// From when on the host no longer answers for the address, unless the daemon moved it forward in time: another host
    /// may have taken over. On the clock of [`crate::time`].
    pub deadline_ns: u64,
    /// Interface of the virtual host that the address belongs to. With the vhid it tells a later start whose entry this
    /// is, and so whether that daemon lives. The program does not look.
    pub ifindex: u32,
    /// Its vhid.
    pub vhid: u8,
    /// Not 0: the fence covers every IP packet to and from the address (`--fence all`).
    pub every_packet: u8,
    /// Zero.
    pub _pad: [u8; 2],
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

impl AdvertisementEvent {
    /// Length of the record. Unit: bytes.
    pub const LEN: usize = size_of::<Self>();

    /// A record with nothing but its time.
    #[inline(always)]
    #[must_use]
    pub const fn empty(arrival_ns: u64) -> Self {
        Self {
            arrival_ns,
            key: VhostKey {
                ifindex: 0,
                vlan: 0,
                inner_vlan: 0,
                family: 0,
                vhid: 0,
                _pad: [0; 2],
            },
            source: [0; 16],
            destination: [0; 16],
            ethernet_source: [0; 6],
            _pad: [0; 2],
            payload: [0; HEADER_LEN],
        }
    }

    /// Decodes a record of the ring buffer, which holds the value as it lies in memory. `None` for other lengths.
    #[must_use]
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        let record: &[u8; Self::LEN] = record.try_into().ok()?;
        let (arrival_ns, rest) = record.split_first_chunk()?;
        let (ifindex, rest) = rest.split_first_chunk()?;
        let (vlan, rest) = rest.split_first_chunk()?;
        let (inner_vlan, rest) = rest.split_first_chunk()?;
        let ([family, vhid, _, _], rest) = rest.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (destination, rest) = rest.split_first_chunk()?;
        let (ethernet_source, rest) = rest.split_first_chunk()?;
        let (_pad, rest) = rest.split_first_chunk::<2>()?;
        Some(Self {
            arrival_ns: u64::from_ne_bytes(*arrival_ns),
            key: VhostKey {
                ifindex: u32::from_ne_bytes(*ifindex),
                vlan: u16::from_ne_bytes(*vlan),
                inner_vlan: u16::from_ne_bytes(*inner_vlan),
                family: *family,
                vhid: *vhid,
                _pad: [0; 2],
            },
            source: *source,
            destination: *destination,
            ethernet_source: *ethernet_source,
            _pad: [0; 2],
            payload: rest.try_into().ok()?,
        })
    }

    /// The source address; the kernel side writes no other family than the two.
    #[must_use]
    pub fn source_address(&self) -> IpAddr {
        address(self.key.family, self.source)
    }

    /// The destination address, likewise.
    #[must_use]
    pub fn destination_address(&self) -> IpAddr {
        address(self.key.family, self.destination)
    }
}

/// An IPv4 address in the space of an IPv6 one.
#[inline(always)]
#[must_use]
pub const fn widen([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The first four bytes for IPv4, all of them for IPv6.
fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    if family == FAMILY_INET6 {
        return Ipv6Addr::from(bytes).into();
    }
    let [a, b, c, d, ..] = bytes;
    Ipv4Addr::new(a, b, c, d).into()
}

const _: () = assert!(size_of::<VhostKey>() == 12);
const _: () = assert!(size_of::<VhostValue>() == 48);
const _: () = assert!(size_of::<FenceKey>() == 20);
const _: () = assert!(size_of::<FenceValue>() == 16);
const _: () = assert!(size_of::<AdvertisementEvent>() == 96);

#[cfg(feature = "user")]
mod pod {
    use super::{FenceKey, FenceValue, VhostKey, VhostValue};
    use crate::abi::admission::History;
    use crate::abi::hmac::KernelKeys;

    // SAFETY: `repr(C)`, integers only, every byte named (the size is asserted), so any bit pattern is valid and no
    // padding is read.
    unsafe impl aya::Pod for VhostKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for VhostValue {}
    // SAFETY: as above; its elements are `repr(C)` integers too, sized likewise.
    unsafe impl aya::Pod for KernelKeys {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FenceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FenceValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for History {}
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    fn sample() -> AdvertisementEvent {
        AdvertisementEvent {
            arrival_ns: 0x0102_0304_0506_0708,
            key: VhostKey {
                ifindex: 0x1112_1314,
                vlan: 0x0151,
                inner_vlan: 0x0252,
                family: FAMILY_INET6,
                vhid: 0xfe,
                _pad: [0; 2],
            },
            source: [0x21; 16],
            destination: [0x31; 16],
            ethernet_source: [0x41; 6],
            _pad: [0; 2],
            payload: core::array::from_fn(|index| 0x80 + u8::try_from(index).unwrap()),
        }
    }

    /// The record as the kernel side leaves it in memory, written by the offsets that the compiler chose.
    fn record(event: &AdvertisementEvent) -> [u8; AdvertisementEvent::LEN] {
        let mut bytes = [0xa5; AdvertisementEvent::LEN];
        let mut put = |offset: usize, field: &[u8]| {
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        let key = offset_of!(AdvertisementEvent, key);
        put(
            offset_of!(AdvertisementEvent, arrival_ns),
            &event.arrival_ns.to_ne_bytes(),
        );
        put(
            key + offset_of!(VhostKey, ifindex),
            &event.key.ifindex.to_ne_bytes(),
        );
        put(
            key + offset_of!(VhostKey, vlan),
            &event.key.vlan.to_ne_bytes(),
        );
        put(
            key + offset_of!(VhostKey, inner_vlan),
            &event.key.inner_vlan.to_ne_bytes(),
        );
        put(key + offset_of!(VhostKey, family), &[event.key.family]);
        put(key + offset_of!(VhostKey, vhid), &[event.key.vhid]);
        put(key + offset_of!(VhostKey, _pad), &event.key._pad);
        put(offset_of!(AdvertisementEvent, source), &event.source);
        put(
            offset_of!(AdvertisementEvent, destination),
            &event.destination,
        );
        put(
            offset_of!(AdvertisementEvent, ethernet_source),
            &event.ethernet_source,
        );
        put(offset_of!(AdvertisementEvent, _pad), &event._pad);
        put(offset_of!(AdvertisementEvent, payload), &event.payload);
        bytes
    }

    #[test]
    fn event_round_trips_through_its_bytes() {
        let bytes = record(&sample());
        assert_eq!(AdvertisementEvent::from_bytes(&bytes), Some(sample()));
    }

    #[test]
    fn every_shorter_record_is_refused() {
        let bytes = record(&sample());
        for length in 0..bytes.len() {
            assert_eq!(
                AdvertisementEvent::from_bytes(&bytes[..length]),
                None,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn addresses_follow_the_family() {
        let mut event = sample();
        assert_eq!(event.source_address(), IpAddr::from([0x21; 16]));
        event.key.family = FAMILY_INET;
        assert_eq!(event.source_address(), IpAddr::from([0x21; 4]));
        assert_eq!(event.destination_address(), IpAddr::from([0x31; 4]));
    }

    #[test]
    fn zeroed_value_is_not_configured() {
        let value = VhostValue {
            group: [0; 16],
            own_source: [0; 16],
            alive_until_ns: 0,
            flags: 0,
            slot: 0,
        };
        assert_eq!(value.flags & VHOST_CONFIGURED, 0);
    }
}
