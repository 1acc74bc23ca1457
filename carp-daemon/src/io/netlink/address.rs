//! Addresses of interfaces, of both families.

use std::net::IpAddr;

pub use netlink_packet_route::address::{AddressFlags, AddressScope};

use crate::api::event::Cidr;

/// An address of an interface, as the kernel reports it or as it is to be added.
///
/// Lifetimes are not included: the kernel reports each renewal, and an address that changed in nothing else must
/// compare equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// The program that added it (`IFA_PROTO`, kernel 5.18). 0 if unknown.
    pub protocol: u8,
    /// The scope in which it is valid.
    pub scope: AddressScope,
    /// State and requests (`IFA_F_*`). When an address is added, the kernel accepts the flags of [`Address::WISHES`].
    pub flags: AddressFlags,
}

impl Address {
    /// The flags that a program may set when it adds an address. The kernel sets the others.
    pub const WISHES: AddressFlags = AddressFlags::Nodad
        .union(AddressFlags::Optimistic)
        .union(AddressFlags::Homeaddress)
        .union(AddressFlags::Managetempaddr)
        .union(AddressFlags::Noprefixroute)
        .union(AddressFlags::Mcautojoin);

    /// Creates an address that is valid everywhere and has no flags.
    #[must_use]
    pub const fn new(ifindex: u32, address: IpAddr, prefix: u8, protocol: u8) -> Self {
        Self {
            ifindex,
            address,
            prefix,
            protocol,
            scope: AddressScope::Universe,
            flags: AddressFlags::empty(),
        }
    }

    /// Returns the same address with these flags.
    #[must_use]
    pub const fn with_flags(self, flags: AddressFlags) -> Self {
        Self { flags, ..self }
    }

    /// Returns whether the kernel treats both as the same address.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |it: &Self| (it.ifindex, it.address, it.prefix);
        identity(self) == identity(other)
    }

    /// Returns the address with its prefix length, for events.
    #[must_use]
    pub const fn cidr(&self) -> Cidr {
        let Self {
            address, prefix, ..
        } = *self;
        Cidr { address, prefix }
    }

    /// Returns whether the kernel may choose it as the source of packets to any destination. It then has no narrow
    /// scope, and is neither secondary (IPv4) nor temporary (IPv6, the same flag).
    #[must_use]
    pub fn is_primary(&self) -> bool {
        !self.flags.contains(AddressFlags::Secondary) && self.scope == AddressScope::Universe
    }

    /// Returns whether duplicate address detection is still running. Until it ends, the kernel does not answer for
    /// the address.
    #[must_use]
    pub const fn is_tentative(&self) -> bool {
        self.flags.contains(AddressFlags::Tentative)
    }

    /// Returns whether duplicate address detection found it at another host. The kernel then never uses it.
    #[must_use]
    pub const fn is_duplicate(&self) -> bool {
        self.flags.contains(AddressFlags::Dadfailed)
    }

    /// Returns whether it can be used during duplicate address detection, if no other source is available.
    #[must_use]
    pub const fn is_optimistic(&self) -> bool {
        self.flags.contains(AddressFlags::Optimistic)
    }

    /// Returns whether packets can be sent from it now.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        !self.is_duplicate() && (!self.is_tentative() || self.is_optimistic())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn address(flags: AddressFlags) -> Address {
        Address::new(2, Ipv6Addr::LOCALHOST.into(), 64, 0).with_flags(flags)
    }

    #[test]
    fn packets_are_sent_from_what_is_not_a_duplicate_and_no_longer_tentative() {
        let table = [
            (AddressFlags::empty(), true),
            (AddressFlags::Permanent, true),
            (AddressFlags::Deprecated, true),
            (AddressFlags::Tentative, false),
            (AddressFlags::Tentative | AddressFlags::Optimistic, true),
            (AddressFlags::Dadfailed, false),
            (AddressFlags::Dadfailed | AddressFlags::Optimistic, false),
        ];
        for (flags, expected) in table {
            assert_eq!(address(flags).is_usable(), expected, "{flags:?}");
        }
    }

    #[test]
    fn an_address_of_a_narrow_scope_and_a_secondary_one_are_no_source_to_anywhere() {
        assert!(address(AddressFlags::Permanent).is_primary());
        assert!(!address(AddressFlags::Secondary).is_primary());
        let scope = AddressScope::Link;
        let narrow = Address {
            scope,
            ..address(AddressFlags::empty())
        };
        assert!(!narrow.is_primary());
    }

    #[test]
    fn flags_and_scope_do_not_make_another_address() {
        let (one, other) = (
            address(AddressFlags::Tentative),
            address(AddressFlags::Nodad),
        );
        assert!(one != other && one.is_same(&other));
        let longer = Address { prefix: 128, ..one };
        assert!(!one.is_same(&longer));
    }
}
