//! Keys, values and events that pass between the kernel program and the daemon through eBPF maps.
//!
//! `repr(C)`, wire values as big-endian byte arrays, explicit zeroed padding. What was never written reads as zeros, so
//! zero always means "not configured".
//!
//! | Map | Kind | Key | Value | Written by |
//! |---|---|---|---|---|
//! | [`VHOSTS_MAP`] | hash, shared | [`VhostKey`] | [`VhostValue`] | daemon |
//! | [`ADDRESSES_MAP`] | hash, shared | [`AddressKey`] | [`AddressValue`] | daemon |
//! | [`KEYS_MAP`] | array of arrays | [`VhostValue::keys`] | [`KernelKeys`](super::hmac::KernelKeys) | daemon |
//! | [`LEDGERS_MAP`] | array of per-CPU arrays | [`VhostValue::ledger`], [`InterfaceValue::ledger`] | [`Ledger`] | program; zeros by the daemon |
//! | [`INTERFACES_MAP`] | array | [`InterfaceValue::place`] | [`InterfaceValue`] | daemon |
//! | [`CROWDED_MAP`] | hash | interface index | slot of a [`Ledger`] | daemon |
//! | [`COUNTERS_MAP`] | per-CPU array | [`Counter`] | `u64` | program |
//! | [`ADVERTISEMENTS_MAP`] | ring buffer | | [`AdvertisementEvent`](super::event::AdvertisementEvent) | program |
//! | [`SUSPECTS_MAP`] | ring buffer | | [`AdvertisementEvent`](super::event::AdvertisementEvent) | program |
//!
//! The shared ones are the same for every carpd of a network namespace, which pins them under names that end with
//! [`VERSION`]; the others belong to one process. A virtual host's deadlines are in its entry alone, and an address only
//! names its owner, so that one write renews a virtual host with all of its addresses. A hash map replaces an entry as a
//! whole: the program never sees half of a deadline.
//!
//! All of them grow at run time. Entries of hash maps are allocated when they are made, and arrays are added to the
//! arrays of arrays, [`KEYS_PER_CHUNK`] and [`LEDGERS_PER_CHUNK`] slots at a time. Key material is in arrays, whose elements
//! are written in place: what a hash map lets go of stays in the kernel's memory, and so does what an update of one replaces.

#![cfg_attr(
    feature = "user",
    expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")
)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::admission::History;
use super::counters::Counter;
use crate::units::{Family, State, Vhid};
use crate::wire::advertisement::TTL;

/// The number of this layout. A change of a shared map's key, value, kind or meaning takes the next one.
///
/// Whatever else changes, the keys of every version's table of addresses begin with the 16 bytes of an address and its
/// family, and it is a hash map: a carpd can tell which addresses a version that it does not know has fenced.
pub const VERSION: u32 = 3;

/// Name of the hash map of virtual hosts: [`VhostKey`] to [`VhostValue`].
pub const VHOSTS_MAP: &str = "VHOSTS";
/// Name of the hash map of the addresses that this host answers for as MASTER only: [`AddressKey`] to [`AddressValue`].
pub const ADDRESSES_MAP: &str = "ADDRESSES";
/// Name of the array of arrays of [`KernelKeys`](super::hmac::KernelKeys).
pub const KEYS_MAP: &str = "KEYS";
/// Name of the array of per-CPU arrays of [`Ledger`].
pub const LEDGERS_MAP: &str = "LEDGERS";
/// Name of the array of [`InterfaceValue`].
pub const INTERFACES_MAP: &str = "INTERFACES";
/// Name of the hash map of the interfaces whose place in [`INTERFACES_MAP`] another one has.
pub const CROWDED_MAP: &str = "CROWDED";
/// Name of the per-CPU array of `u64` statistics, indexed by [`Counter`].
pub const COUNTERS_MAP: &str = "COUNTERS";
/// Name of the ring buffer of [`AdvertisementEvent`](super::event::AdvertisementEvent).
pub const ADVERTISEMENTS_MAP: &str = "ADVERTISEMENTS";
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
/// Name of the read-only `u64` global that says which process a program belongs to: see [`VhostValue::instance`].
pub const INSTANCE_GLOBAL: &str = "INSTANCE";

/// How many virtual hosts fit, of every carpd of a network namespace together: 32 links with every vhid. A limit, not what is
/// allocated, but for 16 bytes each.
pub const VHOSTS_MAX: u32 = 8 * 1024;
/// How many addresses fit, likewise.
pub const ADDRESSES_MAX: u32 = 16 * 1024;
/// Places in [`INTERFACES_MAP`].
pub const INTERFACE_PLACES: u32 = 1024;
/// How many interfaces fit into [`CROWDED_MAP`].
pub const CROWDED_MAX: u32 = 1024;
/// Slots of an array in [`KEYS_MAP`]: 38 KiB, which take whole pages.
pub const KEYS_PER_CHUNK: u32 = 32;
/// Slots of an array in [`LEDGERS_MAP`]: 4.3 KiB for each processor.
pub const LEDGERS_PER_CHUNK: u32 = 8;
/// Arrays in [`KEYS_MAP`] at most: a slot for each virtual host.
pub const KEY_CHUNKS: u32 = VHOSTS_MAX / KEYS_PER_CHUNK;
/// Arrays in [`LEDGERS_MAP`] at most: a slot for each virtual host in either family, and for each interface.
pub const LEDGER_CHUNKS: u32 =
    (2 * VHOSTS_MAX + INTERFACE_PLACES + CROWDED_MAX) / LEDGERS_PER_CHUNK;

/// [`AdvertisementEvent::family`](super::event::AdvertisementEvent::family) and [`AddressKey::family`] of IPv4.
pub const FAMILY_INET: u8 = 4;
/// [`AdvertisementEvent::family`](super::event::AdvertisementEvent::family) and [`AddressKey::family`] of IPv6.
pub const FAMILY_INET6: u8 = 6;

/// `VHOSTS` key: a virtual host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VhostKey {
    /// Interface that its advertisements arrive on.
    pub ifindex: u32,
    /// VLAN id of the outermost tag that has one, in host order; 0 for untagged and priority-tagged frames.
    pub vlan: u16,
    /// VLAN id of a second tag inside that one; 0 when there is none.
    pub inner_vlan: u16,
    /// Virtual host id, 1..=255.
    pub vhid: u8,
    /// Zero. Not an array, because the kernel program would call a function to fill it.
    pub _pad: u8,
    /// Zero.
    pub _pad2: u16,
}

impl VhostKey {
    /// Nobody: of an address whose owner is not known.
    pub const NONE: Self = Self {
        ifindex: 0,
        vlan: 0,
        inner_vlan: 0,
        vhid: 0,
        _pad: 0,
        _pad2: 0,
    };

    /// The key of a virtual host on a link: `vlan` 0 for the untagged traffic of the interface.
    #[must_use]
    pub const fn new(ifindex: u32, vlan: u16, vhid: Vhid) -> Self {
        Self {
            ifindex,
            vlan,
            inner_vlan: 0,
            vhid: vhid.get(),
            _pad: 0,
            _pad2: 0,
        }
    }
}

/// [`VhostValue::families`]: IPv4 advertisements are for it.
pub const HEARS_INET: u8 = 1;
/// [`VhostValue::families`]: IPv6 advertisements are for it.
pub const HEARS_INET6: u8 = 2;

/// `VHOSTS` value: what a virtual host listens to, and until when it is what it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhostValue {
    /// Until when the daemon is taken to be alive, on the clock of [`crate::time`]. Afterwards nothing is dropped any
    /// more (what the fence covers apart): the program may be a leftover. What is authentic still goes to the ring, for a
    /// daemon that was only stopped.
    pub alive_until_ns: u64,
    /// Until when this host answers for the addresses that name this virtual host as their owner, unless the daemon moves it
    /// forward in time: another host may have taken over then. Zero for whoever is not MASTER.
    pub owns_until_ns: u64,
    /// The process whose programs hear for it, by a number that no other process of the machine has: an entry of another
    /// one is not configured, as far as a program is concerned.
    pub instance: u64,
    /// Destination of its IPv6 advertisements. A CARP packet for another destination is another group's and passes.
    pub destination6: [u8; 16],
    /// The IPv6 address that the host itself sends advertisements from; zeros for none. A packet from it is an echo or a
    /// recording, never a peer's. Zeros too when the host sends from a virtual address, which peers may do as well.
    pub own_source6: [u8; 16],
    /// As `destination6`, for IPv4.
    pub destination: [u8; 4],
    /// As `own_source6`, for IPv4.
    pub own_source: [u8; 4],
    /// Slot of its keys. Like the ledgers, of its process's own maps; no two entries of a process share one.
    pub keys: u32,
    /// Slot of its [`Ledger`] for IPv4; 0 for none.
    pub ledger: u32,
    /// Slot of its [`Ledger`] for IPv6; 0 for none.
    pub ledger6: u32,
    /// Bit set of [`HEARS_INET`] and [`HEARS_INET6`].
    pub families: u8,
    /// The lowest TTL or hop limit that an advertisement may have: 255 proves that it was not routed.
    pub min_ttl: u8,
    /// Its state, for whoever looks: 0 INIT, 1 BACKUP, 2 MASTER. Only `owns_until_ns` counts.
    pub state: u8,
    /// Zero.
    pub _pad: u8,
}

impl VhostValue {
    /// Hears nothing and owns nothing.
    pub const NONE: Self = Self {
        alive_until_ns: 0,
        owns_until_ns: 0,
        instance: 0,
        destination6: [0; 16],
        own_source6: [0; 16],
        destination: [0; 4],
        own_source: [0; 4],
        keys: 0,
        ledger: 0,
        ledger6: 0,
        families: 0,
        min_ttl: TTL,
        state: 0,
        _pad: 0,
    };

    /// Adds a family: the destination of its advertisements, and where ours come from.
    #[must_use]
    pub const fn hearing(mut self, destination: IpAddr, own_source: Option<IpAddr>) -> Self {
        match destination {
            IpAddr::V4(destination) => {
                self.families |= HEARS_INET;
                self.destination = destination.octets();
                self.own_source = match own_source {
                    Some(IpAddr::V4(source)) => source.octets(),
                    Some(IpAddr::V6(_)) | None => [0; 4],
                };
            }
            IpAddr::V6(destination) => {
                self.families |= HEARS_INET6;
                self.destination6 = destination.octets();
                self.own_source6 = match own_source {
                    Some(IpAddr::V6(source)) => source.octets(),
                    Some(IpAddr::V4(_)) | None => [0; 16],
                };
            }
        }
        self
    }

    /// Whether advertisements of a family are for it.
    #[inline(always)]
    #[must_use]
    pub const fn hears(&self, family: Family) -> bool {
        let bit = match family {
            Family::Inet => HEARS_INET,
            Family::Inet6 => HEARS_INET6,
        };
        self.families & bit != 0
    }

    /// The slot of its ledger for a family.
    #[inline(always)]
    #[must_use]
    pub const fn ledger_of(&self, family: Family) -> u32 {
        match family {
            Family::Inet => self.ledger,
            Family::Inet6 => self.ledger6,
        }
    }

    /// Sets [`VhostValue::state`].
    pub const fn set_state(&mut self, state: State) {
        self.state = match state {
            State::Init => 0,
            State::Backup => 1,
            State::Master => 2,
        };
    }
}

/// `ADDRESSES` key: an address that the host answers for only while its owner is MASTER.
///
/// A host answers for its addresses on every interface and in every VLAN, so it must be silent there: an address has no
/// interface. An IPv6 link-local address has one, because it is another address on each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey {
    /// The address, IPv4 in the first four bytes and zeros after it.
    pub address: [u8; 16],
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 3],
    /// The interface of an IPv6 link-local address; 0 for others.
    pub scope: u32,
}

impl AddressKey {
    /// The key of an address on an interface.
    #[must_use]
    pub const fn new(address: IpAddr, ifindex: u32) -> Self {
        match address {
            IpAddr::V4(address) => Self::of(FAMILY_INET, widen(address.octets()), ifindex),
            IpAddr::V6(address) => Self::of(FAMILY_INET6, address.octets(), ifindex),
        }
    }

    /// The same from the bytes of an address, IPv4 as in [`AddressKey::address`].
    #[inline(always)]
    pub(super) const fn of(family: u8, address: [u8; 16], ifindex: u32) -> Self {
        let is_link_local =
            family == FAMILY_INET6 && address[0] == 0xfe && address[1] & 0xc0 == 0x80;
        Self {
            address,
            family,
            _pad: [0; 3],
            scope: if is_link_local { ifindex } else { 0 },
        }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        address(self.family, self.address)
    }
}

/// [`AddressValue::flags`]: the fence covers every IP packet to and from the address (`--fence all`).
pub const EVERY_PACKET: u32 = 1;

/// `ADDRESSES` value. An entry is there while the host is MASTER, and afterwards until the address is gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressValue {
    /// The virtual host whose [`VhostValue::owns_until_ns`] counts. Where there is no such entry, or it says zero, this host
    /// is silent about the address. It tells a later start whose address this is, and so whether that daemon lives.
    pub owner: VhostKey,
    /// Bit set: [`EVERY_PACKET`].
    pub flags: u32,
}

/// `INTERFACES` value: an interface that the process serves; zeros for none.
///
/// An array, because looking an interface up in a hash map takes as long as everything else that is done about a frame of a
/// foreign vhid. Interfaces whose numbers differ by a multiple of [`INTERFACE_PLACES`] share a place; all but one of them
/// are in [`CROWDED_MAP`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceValue {
    /// Its number.
    pub ifindex: u32,
    /// Slot of the [`Ledger`] that counts what belongs to no virtual host.
    pub ledger: u32,
}

impl InterfaceValue {
    /// The place of an interface in [`INTERFACES_MAP`].
    #[inline(always)]
    #[must_use]
    pub const fn place(ifindex: u32) -> u32 {
        ifindex % INTERFACE_PLACES
    }
}

/// One value per [`Counter`].
pub type Counts = [u64; Counter::ALL.len()];

/// All counters at 0.
pub const NO_COUNTS: Counts = [0; Counter::ALL.len()];

/// `LEDGERS` value: what one virtual host heard lately in one family on one processor, and what became of it. An interface has
/// one as well, which only counts what belongs to no virtual host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Of what is authentic.
    pub history: History,
    /// Of everything for it.
    pub counts: Counts,
}

impl Ledger {
    /// Nothing was heard yet.
    pub const EMPTY: Self = Self {
        history: History::EMPTY,
        counts: [0; Counter::ALL.len()],
    };
}

/// An IPv4 address in the space of an IPv6 one.
#[inline(always)]
#[must_use]
pub const fn widen([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The first four bytes for IPv4, all of them for IPv6.
pub(super) fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    if family == FAMILY_INET6 {
        return Ipv6Addr::from(bytes).into();
    }
    let [a, b, c, d, ..] = bytes;
    Ipv4Addr::new(a, b, c, d).into()
}

const _: () = assert!(size_of::<VhostKey>() == 12);
const _: () = assert!(size_of::<VhostValue>() == 80);
const _: () = assert!(size_of::<AddressKey>() == 24);
const _: () = assert!(size_of::<AddressValue>() == 16);
const _: () = assert!(size_of::<InterfaceValue>() == 8);
const _: () = assert!(size_of::<Ledger>() == size_of::<History>() + size_of::<Counts>());

#[cfg(feature = "user")]
mod pod {
    use super::{AddressKey, AddressValue, InterfaceValue, Ledger, VhostKey, VhostValue};
    use crate::abi::hmac::KernelKeys;

    // SAFETY: `repr(C)`, integers only, every byte named (the size is asserted), so any bit pattern is valid and no
    // padding is read.
    unsafe impl aya::Pod for VhostKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for VhostValue {}
    // SAFETY: as above; its elements are `repr(C)` integers too, sized likewise.
    unsafe impl aya::Pod for KernelKeys {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AddressKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AddressValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InterfaceValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Ledger {}
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn only_link_local_addresses_belong_to_an_interface() {
        for (text, scope) in [
            ("192.0.2.1", 0),
            ("169.254.0.1", 0),
            ("2001:db8::1", 0),
            ("fe80::1", 3),
            ("febf::1", 3),
            ("fec0::1", 0),
            ("fd00::1", 0),
        ] {
            let address: IpAddr = text.parse().unwrap();
            let key = AddressKey::new(address, 3);
            assert_eq!((key.scope, key.address()), (scope, address), "{text}");
        }
    }

    #[test]
    fn a_table_of_addresses_begins_with_address_and_family_in_every_version() {
        assert_eq!(offset_of!(AddressKey, address), 0);
        assert_eq!(offset_of!(AddressKey, family), 16);
    }

    #[test]
    fn each_family_is_heard_when_it_was_added() {
        let group: IpAddr = "224.0.0.18".parse().unwrap();
        let group6: IpAddr = "ff02::12".parse().unwrap();
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        let heard = |value: VhostValue| (value.hears(Family::Inet), value.hears(Family::Inet6));
        assert_eq!(heard(VhostValue::NONE), (false, false));
        let inet = VhostValue::NONE.hearing(group, Some(own));
        assert_eq!(heard(inet), (true, false));
        assert_eq!(inet.own_source, [192, 0, 2, 1]);
        let both = inet.hearing(group6, Some(own));
        assert_eq!(heard(both), (true, true));
        assert_eq!(
            (both.own_source6, both.destination),
            ([0; 16], [224, 0, 0, 18])
        );
    }

    #[test]
    fn zeros_are_a_virtual_host_that_hears_nothing() {
        assert_eq!(VhostValue::NONE.families, 0);
        assert_eq!(VhostValue::NONE.owns_until_ns, 0);
    }
}
