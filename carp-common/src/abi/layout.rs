//! Keys and values of the eBPF maps between the kernel program and the daemon.
//!
//! The types are `repr(C)`, with wire values as big-endian byte arrays and padding that is named and zero. Memory that was
//! never written reads as zeros, so zero always means "not configured".
//!
//! | Map | Kind | Key | Value | Written by |
//! |---|---|---|---|---|
//! | [`VHOSTS_MAP`] | hash, shared | [`VhostKey`] | [`VhostValue`] | daemon |
//! | [`ADDRESSES_MAP`] | hash, shared | [`AddressKey`] | [`AddressValue`] | daemon |
//! | [`KEYS_MAP`] | array of arrays | [`VhostValue::keys`] | [`KernelKeys`](super::hmac::KernelKeys) | daemon |
//! | [`LEDGERS_MAP`] | array of per-CPU arrays | [`VhostValue::ledger`], [`InterfaceValue::ledger`] | [`Ledger`] | program |
//! | [`INTERFACES_MAP`] | array | [`InterfaceValue::slot`] | [`InterfaceValue`] | daemon |
//! | [`CROWDED_MAP`] | hash | interface index | slot of a [`Ledger`] | daemon |
//! | [`COUNTERS_MAP`] | per-CPU array | [`Counter`] | `u64` | program |
//! | [`ADVERTISEMENTS_MAP`] | ring buffer | | [`AdvertisementEvent`](super::event::AdvertisementEvent) | program |
//! | [`SUSPECTS_MAP`] | ring buffer | | [`AdvertisementEvent`](super::event::AdvertisementEvent) | program |
//!
//! Every carpd of a network namespace uses the same shared maps, which are pinned under names that end with [`VERSION`].
//! The other maps belong to one process. Only the entry of a virtual host contains its deadlines, and an address only
//! names its owner, so one write renews a virtual host with all of its addresses. A hash map replaces an entry as a
//! whole, so the program never sees half of a deadline.
//!
//! All maps grow at run time. A hash map allocates an entry when it is inserted. The arrays of arrays get another array of
//! [`KEYS_PER_CHUNK`] or [`LEDGERS_PER_CHUNK`] slots when one is needed. Key material is in arrays, because their elements are
//! written in place: an entry that a hash map deletes or replaces stays in the kernel's memory.

#![cfg_attr(
    feature = "user",
    expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")
)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::admission::History;
use super::counters::Counter;
use crate::units::{Family, State, Vhid};
use crate::wire::advertisement::TTL;

/// The number of this layout. A change of a shared map's key, value, kind or meaning requires the next number.
///
/// In every version the table of addresses is a hash map whose keys begin with the 16 bytes of an address and its family.
/// A carpd can therefore tell which addresses a version that it does not know has fenced.
pub const VERSION: u32 = 3;

/// Name of the hash map of virtual hosts: [`VhostKey`] to [`VhostValue`].
pub const VHOSTS_MAP: &str = "VHOSTS";
/// Name of the hash map of the addresses that this host answers for only as MASTER: [`AddressKey`] to [`AddressValue`].
pub const ADDRESSES_MAP: &str = "ADDRESSES";
/// Name of the array of arrays of [`KernelKeys`](super::hmac::KernelKeys).
pub const KEYS_MAP: &str = "KEYS";
/// Name of the array of per-CPU arrays of [`Ledger`].
pub const LEDGERS_MAP: &str = "LEDGERS";
/// Name of the array of [`InterfaceValue`].
pub const INTERFACES_MAP: &str = "INTERFACES";
/// Name of the hash map of the interfaces whose slot in [`INTERFACES_MAP`] is taken by another one.
pub const CROWDED_MAP: &str = "CROWDED";
/// Name of the per-CPU array of `u64` statistics, indexed by [`Counter`].
pub const COUNTERS_MAP: &str = "COUNTERS";
/// Name of the ring buffer of [`AdvertisementEvent`](super::event::AdvertisementEvent).
pub const ADVERTISEMENTS_MAP: &str = "ADVERTISEMENTS";
/// Name of the ring buffer of sampled advertisements that are not authentic or have our own source. The daemon warns of them.
pub const SUSPECTS_MAP: &str = "SUSPECTS";
/// Name of the XDP program.
pub const XDP_PROGRAM: &str = "carpd_xdp";
/// Name of the tcx program at ingress.
pub const TCX_PROGRAM: &str = "carpd_tcx";
/// Name of the tcx program at egress.
pub const EGRESS_PROGRAM: &str = "carpd_egress";
/// Name of the read-only `u32` global that switches the program's log on when it is not 0.
pub const DEBUG_GLOBAL: &str = "DEBUG";
/// Name of the read-only `u32` global that makes the fence cover every packet of a fenced address when it is not 0.
pub const FENCE_ALL_GLOBAL: &str = "FENCE_ALL";
/// Name of the read-only `u64` global with the number of the process that loaded the program: see [`VhostValue::instance`].
pub const INSTANCE_GLOBAL: &str = "INSTANCE";

/// The most virtual hosts of all carpds of a network namespace together: 32 links with every vhid. Only 16 bytes for each
/// are allocated in advance.
pub const VHOSTS_MAX: u32 = 8 * 1024;
/// The most virtual addresses of all carpds of a network namespace together.
pub const ADDRESSES_MAX: u32 = 16 * 1024;
/// Slots of [`INTERFACES_MAP`].
pub const INTERFACE_SLOTS: u32 = 1024;
/// The most interfaces in [`CROWDED_MAP`].
pub const CROWDED_MAX: u32 = 1024;
/// Slots of one array in [`KEYS_MAP`]. The array has 38 KiB, and the kernel allocates whole pages.
pub const KEYS_PER_CHUNK: u32 = 32;
/// Slots of one array in [`LEDGERS_MAP`]. The array has 4.3 KiB for each processor.
pub const LEDGERS_PER_CHUNK: u32 = 8;
/// The most arrays in [`KEYS_MAP`]: enough for a slot for each virtual host.
pub const KEY_CHUNKS: u32 = VHOSTS_MAX / KEYS_PER_CHUNK;
/// The most arrays in [`LEDGERS_MAP`]: enough for two slots for each virtual host and one for each interface.
pub const LEDGER_CHUNKS: u32 = (2 * VHOSTS_MAX + INTERFACE_SLOTS + CROWDED_MAX) / LEDGERS_PER_CHUNK;

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
    /// VLAN id of the outermost tag with a nonzero id, in host order; 0 for untagged and priority-tagged frames.
    pub vlan: u16,
    /// VLAN id of a second tag inside that one; 0 if there is none.
    pub inner_vlan: u16,
    /// Virtual host id, 1..=255.
    pub vhid: u8,
    /// Zero. It is not an array, because the kernel program would call a function to fill one.
    pub _pad: u8,
    /// Zero.
    pub _pad2: u16,
}

impl VhostKey {
    /// The owner of an address whose owner is not known.
    pub const NONE: Self = Self {
        ifindex: 0,
        vlan: 0,
        inner_vlan: 0,
        vhid: 0,
        _pad: 0,
        _pad2: 0,
    };

    /// Returns the key of a virtual host on a link. `vlan` is 0 for the untagged traffic of the interface.
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

/// Bit of [`VhostValue::families`]: the virtual host hears IPv4 advertisements.
pub const HEARS_INET: u8 = 1;
/// Bit of [`VhostValue::families`]: the virtual host hears IPv6 advertisements.
pub const HEARS_INET6: u8 = 2;

/// `VHOSTS` value: the advertisements that a virtual host hears, and its deadlines.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhostValue {
    /// End of the time for which the daemon counts as alive, on the clock of [`crate::time`]. After it the program may be a
    /// leftover, so it drops only what the fence covers. Authentic advertisements still go to the ring, for a daemon that
    /// was only stopped.
    pub alive_until_ns: u64,
    /// End of the time for which this host answers for the addresses of this virtual host, unless the daemon extends it.
    /// After it another host may have taken over. Zero for a host that is not MASTER.
    pub owns_until_ns: u64,
    /// The number of the process that serves the virtual host, unique on the machine. A program treats an entry with the
    /// number of another process as not configured.
    pub instance: u64,
    /// Destination of its IPv6 advertisements. A CARP packet to another destination belongs to another group and passes.
    pub destination6: [u8; 16],
    /// The IPv6 address that the host itself sends advertisements from; zeros for none. A packet from it is an echo or a
    /// recording and never comes from a peer. It is also zeros while the host sends from a virtual address, because peers
    /// may use that too.
    pub own_source6: [u8; 16],
    /// As `destination6`, for IPv4.
    pub destination: [u8; 4],
    /// As `own_source6`, for IPv4.
    pub own_source: [u8; 4],
    /// Slot of its keys. Keys and ledgers are in maps of its process, and no two entries of a process share a slot.
    pub keys: u32,
    /// Slot of its [`Ledger`] for IPv4; 0 for none.
    pub ledger: u32,
    /// Slot of its [`Ledger`] for IPv6; 0 for none.
    pub ledger6: u32,
    /// Bit set of [`HEARS_INET`] and [`HEARS_INET6`].
    pub families: u8,
    /// The lowest TTL or hop limit that an advertisement may have: 255 proves that it was not routed.
    pub min_ttl: u8,
    /// Its state for inspection: 0 INIT, 1 BACKUP, 2 MASTER. The program decides by `owns_until_ns` alone.
    pub state: u8,
    /// Zero.
    pub _pad: u8,
}

impl VhostValue {
    /// A virtual host that hears nothing and owns nothing.
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

    /// Adds a family, with the destination of its advertisements and the source of our own.
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

    /// Returns whether the virtual host hears advertisements of a family.
    #[inline(always)]
    #[must_use]
    pub const fn hears(&self, family: Family) -> bool {
        let bit = match family {
            Family::Inet => HEARS_INET,
            Family::Inet6 => HEARS_INET6,
        };
        self.families & bit != 0
    }

    /// Returns the slot of its ledger for a family.
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
/// A host answers for its addresses on every interface and in every VLAN, so it must be silent on all of them, and the key
/// contains no interface. Only the key of an IPv6 link-local address does, because it is a different address on each.
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
    /// Returns the key of an address on an interface.
    #[must_use]
    pub const fn new(address: IpAddr, ifindex: u32) -> Self {
        match address {
            IpAddr::V4(address) => Self::of(FAMILY_INET, widen(address.octets()), ifindex),
            IpAddr::V6(address) => Self::of(FAMILY_INET6, address.octets(), ifindex),
        }
    }

    /// Returns the key of an address in the form of [`AddressKey::address`].
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

    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        address(self.family, self.address)
    }
}

/// Bit of [`AddressValue::flags`]: the fence covers every IP packet to and from the address (`--fence all`).
pub const EVERY_PACKET: u32 = 1;

/// `ADDRESSES` value. An entry exists while the host is MASTER, and afterwards until the address is removed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressValue {
    /// The virtual host whose [`VhostValue::owns_until_ns`] decides. If it has no entry, or the deadline is zero, this host
    /// is silent about the address. A later start learns from it which daemon the address belongs to, and whether that
    /// daemon is still alive.
    pub owner: VhostKey,
    /// Bit set of [`EVERY_PACKET`].
    pub flags: u32,
}

/// `INTERFACES` value: an interface that the process serves; zeros for none.
///
/// The map is an array, because a lookup in a hash map would take as long as the rest of the work for a frame with a foreign
/// vhid. Interfaces whose numbers differ by a multiple of [`INTERFACE_SLOTS`] share a slot, and all but one of them are in
/// [`CROWDED_MAP`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceValue {
    /// Interface index.
    pub ifindex: u32,
    /// Slot of the [`Ledger`] that counts frames without a virtual host.
    pub ledger: u32,
}

impl InterfaceValue {
    /// Returns the slot of an interface in [`INTERFACES_MAP`].
    #[inline(always)]
    #[must_use]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex % INTERFACE_SLOTS
    }
}

/// A value for each [`Counter`].
pub type Counts = [u64; Counter::ALL.len()];

/// All counters are 0.
pub const NO_COUNTS: Counts = [0; Counter::ALL.len()];

/// `LEDGERS` value: the recent advertisements for one virtual host in one family on one processor, and counters of the
/// outcomes. The ledger of an interface only counts, for frames without a virtual host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// History of the authentic advertisements.
    pub history: History,
    /// Counters of all frames for the virtual host.
    pub counts: Counts,
}

impl Ledger {
    /// A ledger without advertisements.
    pub const EMPTY: Self = Self {
        history: History::EMPTY,
        counts: [0; Counter::ALL.len()],
    };
}

/// Returns an IPv4 address in the first four of 16 bytes, with zeros after it.
#[inline(always)]
#[must_use]
pub const fn widen([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Returns an address from the first four bytes for IPv4, from all of them for IPv6.
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
    // SAFETY: as above; its elements are `repr(C)` integers too, and their size is asserted.
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
