//! Orders to the kernel as messages, written with rtnetlink's builders.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol, CacheInfo};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use crate::io::netlink::{Address, Route};

/// The worst metric: every other route to the same subnet takes precedence.
const LAST_METRIC: u32 = u32::MAX;

/// An order to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Add an address with its protocol number, for a limited time or without limit. `AlreadyExists` if the interface
    /// already has it with this prefix length.
    Add(Address, Option<Duration>),
    /// Restart the lifetime of an address, or add it if it is missing.
    Renew(Address, Option<Duration>),
    /// Delete an address. `AddrNotAvailable` if the interface does not have it.
    Delete(Address),
    /// Add a route. `AlreadyExists` if the same one exists.
    AddRoute(Route),
    /// Delete a route. `ESRCH` if it does not exist.
    DeleteRoute(Route),
}

impl Order {
    /// Returns the message for the kernel.
    pub(super) fn message(&self) -> NetlinkMessage<RouteNetlinkMessage> {
        let (flags, message) = match self {
            Self::Add(address, lease) => (
                NLM_F_CREATE | NLM_F_EXCL,
                RouteNetlinkMessage::NewAddress(assignment(address, *lease)),
            ),
            Self::Renew(address, lease) => (
                NLM_F_CREATE | NLM_F_REPLACE,
                RouteNetlinkMessage::NewAddress(assignment(address, *lease)),
            ),
            // Without IFA_ADDRESS the kernel deletes the first match of the address, whatever its prefix length
            // (`inet_rtm_deladdr`).
            Self::Delete(address) => (0, RouteNetlinkMessage::DelAddress(identity(address))),
            // Several virtual addresses may be in one subnet, each with a route, so the route is appended.
            Self::AddRoute(route) => (
                NLM_F_CREATE | NLM_F_APPEND,
                RouteNetlinkMessage::NewRoute(route_message(route)),
            ),
            Self::DeleteRoute(route) => (0, RouteNetlinkMessage::DelRoute(route_message(route))),
        };
        with_flags(message, flags)
    }
}

/// Returns a request with `flags` in addition to those that its kind has.
pub(super) fn with_flags(
    request: RouteNetlinkMessage,
    flags: u16,
) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    NetlinkMessage::new(header, NetlinkPayload::from(request))
}

/// Returns a message that identifies an address.
fn identity(address: &Address) -> AddressMessage {
    let (ifindex, prefix) = (address.ifindex, address.prefix);
    let mut message = match address.address {
        IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(ifindex)
            .address(v4, prefix)
            .build(),
        IpAddr::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(ifindex)
            .address(v6, prefix)
            .build(),
    };
    // With a shorter prefix, the builder adds a broadcast address. An address of an earlier run may have such a
    // prefix.
    message
        .attributes
        .retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    message
}

/// Returns a message that adds an address without a broadcast address, as `ip address add` does.
fn assignment(address: &Address, lease: Option<Duration>) -> AddressMessage {
    let mut message = identity(address);
    message.attributes.extend([
        AddressAttribute::Protocol(AddressProtocol::Other(address.protocol)),
        AddressAttribute::CacheInfo(lifetime(lease)),
    ]);
    message.header.scope = address.scope;
    let wishes = address.flags.intersection(Address::WISHES);
    if !wishes.is_empty() {
        message.attributes.push(AddressAttribute::Flags(wishes));
    }
    message
}

/// Returns the lifetimes. The address is preferred as long as it is valid, because a deprecated address is not a
/// source for new connections.
fn lifetime(lease: Option<Duration>) -> CacheInfo {
    // `INFINITY_LIFE_TIME` of the kernel.
    let seconds = lease.map_or(u32::MAX, |lease| {
        u32::try_from(lease.as_secs()).unwrap_or(u32::MAX)
    });
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = seconds;
    lifetime.ifa_valid = seconds;
    lifetime
}

fn route_message(route: &Route) -> RouteMessage {
    match route.subnet {
        IpAddr::V4(subnet) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(subnet, route.prefix)
                .output_interface(route.ifindex)
                .priority(LAST_METRIC)
                .scope(RouteScope::Link)
                .protocol(RouteProtocol::Other(route.protocol));
            match route.source {
                Some(IpAddr::V4(source)) => builder.pref_source(source).build(),
                Some(IpAddr::V6(_)) | None => builder.build(),
            }
        }
        IpAddr::V6(subnet) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(subnet, route.prefix)
                .output_interface(route.ifindex)
                .priority(LAST_METRIC)
                .protocol(RouteProtocol::Other(route.protocol));
            match route.source {
                Some(IpAddr::V6(source)) => builder.pref_source(source).build(),
                Some(IpAddr::V4(_)) | None => builder.build(),
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An address on an interface that cannot exist.
    pub const NOWHERE: Address = Address::new(
        0x7fff_fff0,
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        32,
        112,
    );
}
