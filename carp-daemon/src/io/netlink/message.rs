//! Parses rtnetlink datagrams into events.
//!
//! Only the attributes that carpd uses are read, one by one. A newer kernel that enlarges another attribute therefore
//! cannot make us lose the message.

use std::net::IpAddr;

use netlink_packet_core::{
    ErrorBuffer, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};

use super::{Address, AddressFlags, Link, NetlinkEvent, Route};

/// Sizes of `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`. Unit: bytes.
const LINK_HEADER_LEN: usize = 16;
const ADDRESS_HEADER_LEN: usize = 8;
const ROUTE_HEADER_LEN: usize = 12;

/// One netlink message, reduced to what carpd uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sequence number of the request that it answers, or, in a notification, of the request that caused it.
    pub sequence: u32,
    /// The port of the socket that sent the request. 0 if the kernel acted by itself.
    pub port: u32,
    /// The listed objects changed during the dump, so the list is not reliable.
    pub interrupted: bool,
    /// The content.
    pub body: Body,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An event about a link or an address.
    Event(NetlinkEvent),
    /// A route of a list.
    Route(Route),
    /// The end of a dump, or the answer to a request: 0 for success, or a positive errno.
    Done(i32),
    /// Any other message.
    Other,
}

/// Calls `visit` for each message of a datagram. Stops at the first malformed one.
pub fn for_each(datagram: &[u8], mut visit: impl FnMut(Message)) {
    let mut rest = datagram;
    while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        visit(Message {
            sequence: buffer.sequence_number(),
            port: buffer.port_number(),
            interrupted: buffer.flags() & NLM_F_DUMP_INTR != 0,
            body: parse(&buffer),
        });
        // Messages start at multiples of four.
        match rest.get(length.next_multiple_of(4)..) {
            Some(tail) if !tail.is_empty() && length > 0 => rest = tail,
            _ => return,
        }
    }
}

fn parse(buffer: &NetlinkBuffer<&[u8]>) -> Body {
    let payload = buffer.payload();
    let event = match buffer.message_type() {
        NLMSG_DONE | NLMSG_ERROR => {
            let code = ErrorBuffer::new_checked(payload)
                .ok()
                .and_then(|error| error.code());
            return Body::Done(code.map_or(0, |code| code.get().saturating_abs()));
        }
        libc::RTM_NEWROUTE => return route(payload).map_or(Body::Other, Body::Route),
        libc::RTM_NEWLINK => link(payload).map(NetlinkEvent::Link),
        libc::RTM_DELLINK => link(payload).map(|link| NetlinkEvent::LinkGone {
            ifindex: link.index,
        }),
        libc::RTM_NEWADDR => address(payload).map(NetlinkEvent::Address),
        libc::RTM_DELADDR => address(payload).map(|address| NetlinkEvent::AddressGone {
            address,
            by: buffer.port_number(),
        }),
        _ => None,
    };
    event.map_or(Body::Other, Body::Event)
}

/// Parses `struct ifinfomsg` (family, type, index, flags, change) and attributes.
///
/// Bridges report the membership of their ports as links of family AF_BRIDGE. Those say nothing about the link
/// itself.
fn link(payload: &[u8]) -> Option<Link> {
    let header: &[u8; LINK_HEADER_LEN] = payload.first_chunk()?;
    if i32::from(header[0]) != libc::AF_UNSPEC {
        return None;
    }
    let flags = u32::from_ne_bytes(header[8..12].try_into().ok()?);
    let has = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
    let mut link = Link {
        index: u32::from_ne_bytes(header[4..8].try_into().ok()?),
        name: String::new(),
        other_names: Vec::new(),
        ethernet: u16::from_ne_bytes(header[2..4].try_into().ok()?) == libc::ARPHRD_ETHER,
        mac: [0; 6],
        admin_up: has(libc::IFF_UP),
        running: has(libc::IFF_RUNNING),
        upper: None,
        xdp_program: 0,
        kind: String::new(),
    };
    let (mut master, mut role) = (None, String::new());
    for attribute in NlasIterator::new(&payload[LINK_HEADER_LEN..]).map_while(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            libc::IFLA_XDP => link.xdp_program = xdp_program(value),
            libc::IFLA_MASTER => master = value.try_into().ok().map(u32::from_ne_bytes),
            libc::IFLA_LINKINFO => {
                link.kind = info(value, libc::IFLA_INFO_KIND);
                role = info(value, libc::IFLA_INFO_SLAVE_KIND);
            }
            libc::IFLA_PROP_LIST => link.other_names = other_names(value),
            _ => {}
        }
    }
    // The master can also be a VRF, which does not take the interface's frames.
    link.upper = master.filter(|_| TAKES_FRAMES.contains(&role.as_str()));
    Some(link)
}

/// Kinds of interface that take all frames that arrive at their ports.
const TAKES_FRAMES: [&str; 4] = ["bridge", "bond", "team", "openvswitch"];

/// Converts a text without its terminating zero.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into()
}

/// Returns every `IFLA_ALT_IFNAME` of a nested `IFLA_PROP_LIST`.
fn other_names(value: &[u8]) -> Vec<String> {
    NlasIterator::new(value)
        .map_while(Result::ok)
        .filter(|property| property.kind() == libc::IFLA_ALT_IFNAME)
        .map(|property| text(property.value()))
        .collect()
}

/// Returns a text of a nested `IFLA_LINKINFO`.
fn info(value: &[u8], kind: u16) -> String {
    NlasIterator::new(value)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)
        .map_or_else(String::new, |attribute| text(attribute.value()))
}

/// Returns `IFLA_XDP_PROG_ID` of a nested `IFLA_XDP`. If the network card runs a program of its own as well, the
/// kernel reports one id for each mode instead.
fn xdp_program(value: &[u8]) -> u32 {
    let id = |kind| {
        let mut attributes = NlasIterator::new(value).map_while(Result::ok);
        let attribute = attributes.find(|attribute| attribute.kind() == kind)?;
        attribute.value().try_into().ok().map(u32::from_ne_bytes)
    };
    let places = [IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID];
    places.into_iter().find_map(id).unwrap_or(0)
}

/// From include/uapi/linux/if_link.h; not in `libc`.
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// From include/uapi/linux/if_addr.h; not in `libc`.
const IFA_PROTO: u16 = 11;
/// From include/uapi/linux/rtnetlink.h; not in `libc`.
const RTA_VIA: u16 = 18;

/// Parses `struct ifaddrmsg` (family, prefix length, flags, scope, index) and attributes.
fn address(payload: &[u8]) -> Option<Address> {
    let header: &[u8; ADDRESS_HEADER_LEN] = payload.first_chunk()?;
    let family = AddressFamily::of(header[0])?;
    let (mut local, mut peer, mut protocol) = (None, None, 0);
    // The header has room for the first eight flags only.
    let mut flags = u32::from(header[2]);
    for attribute in NlasIterator::new(&payload[ADDRESS_HEADER_LEN..]).map_while(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            libc::IFA_LOCAL => local = family.address(value),
            libc::IFA_ADDRESS => peer = family.address(value),
            libc::IFA_FLAGS => flags = value.try_into().map_or(flags, u32::from_ne_bytes),
            IFA_PROTO => protocol = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    Some(Address {
        ifindex: u32::from_ne_bytes(header[4..8].try_into().ok()?),
        // On a point-to-point link IFA_ADDRESS is the other end. IPv6 only has IFA_ADDRESS.
        address: local.or(peer)?,
        prefix: family.prefix(header[1])?,
        protocol,
        scope: header[3].into(),
        flags: AddressFlags::from_bits_retain(flags),
    })
}

/// Parses `struct rtmsg` (family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags)
/// and attributes. Returns only routes of the main table that lead directly to an interface.
fn route(payload: &[u8]) -> Option<Route> {
    let header: &[u8; ROUTE_HEADER_LEN] = payload.first_chunk()?;
    let family = AddressFamily::of(header[0])?;
    if (header[4], header[7]) != (libc::RT_TABLE_MAIN, libc::RTN_UNICAST) {
        return None;
    }
    let (mut ifindex, mut subnet, mut source) = (None, family.unspecified(), None);
    for attribute in NlasIterator::new(&payload[ROUTE_HEADER_LEN..]).map_while(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            libc::RTA_DST => subnet = family.address(value)?,
            libc::RTA_PREFSRC => source = family.address(value),
            libc::RTA_OIF => ifindex = value.try_into().ok().map(u32::from_ne_bytes),
            libc::RTA_GATEWAY | RTA_VIA => return None,
            _ => {}
        }
    }
    Some(Route {
        ifindex: ifindex?,
        subnet,
        prefix: family.prefix(header[1])?,
        source,
        protocol: header[5],
    })
}

/// The family of the addresses in a message.
#[derive(Clone, Copy)]
enum AddressFamily {
    Inet,
    Inet6,
}

impl AddressFamily {
    fn of(number: u8) -> Option<Self> {
        match i32::from(number) {
            libc::AF_INET => Some(Self::Inet),
            libc::AF_INET6 => Some(Self::Inet6),
            _ => None,
        }
    }

    fn address(self, value: &[u8]) -> Option<IpAddr> {
        match self {
            Self::Inet => <[u8; 4]>::try_from(value).map(IpAddr::from).ok(),
            Self::Inet6 => <[u8; 16]>::try_from(value).map(IpAddr::from).ok(),
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::Inet => [0; 4].into(),
            Self::Inet6 => [0; 16].into(),
        }
    }

    /// Returns a prefix length, unless it is longer than an address.
    fn prefix(self, length: u8) -> Option<u8> {
        let longest = match self {
            Self::Inet => 32,
            Self::Inet6 => 128,
        };
        (length <= longest).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::io::netlink::AddressScope;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
        flagged(kind, 0, parts)
    }

    fn flagged(kind: u16, flags: u16, parts: &[&[u8]]) -> Vec<u8> {
        let payload = parts.concat();
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&7_u32.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Returns the bodies of the messages. All messages have the sequence number that [`flagged`] gives them.
    fn all(datagram: &[u8]) -> Vec<Body> {
        let mut bodies = Vec::new();
        for_each(datagram, |message| {
            assert_eq!(message.sequence, 7);
            bodies.push(message.body);
        });
        bodies
    }

    fn link_header(family: u8, flags: libc::c_int) -> Vec<u8> {
        let mut header = vec![family, 0, 1, 0];
        header.extend_from_slice(&42_u32.to_ne_bytes());
        header.extend_from_slice(&flags.to_ne_bytes());
        header.extend_from_slice(&[0; 4]);
        header
    }

    #[test]
    fn a_link_and_its_end_of_dump_are_read() {
        let link = message(
            libc::RTM_NEWLINK,
            &[
                &link_header(0, libc::IFF_UP | libc::IFF_RUNNING),
                &attribute(libc::IFLA_IFNAME, b"eth0\0"),
                &attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
                &attribute(
                    libc::IFLA_XDP,
                    &attribute(IFLA_XDP_PROG_ID, &99_u32.to_ne_bytes()),
                ),
                &attribute(
                    libc::IFLA_PROP_LIST,
                    &attribute(libc::IFLA_ALT_IFNAME, b"lan0\0"),
                ),
                &attribute(
                    libc::IFLA_LINKINFO,
                    &attribute(libc::IFLA_INFO_KIND, b"veth\0"),
                ),
            ],
        );
        let done = message(NLMSG_DONE, &[&[0; 4]]);
        assert_eq!(
            all(&[link, done].concat()),
            [
                Body::Event(NetlinkEvent::Link(Link {
                    index: 42,
                    name: "eth0".into(),
                    other_names: vec!["lan0".into()],
                    ethernet: true,
                    mac: [2, 0, 0, 0, 0, 1],
                    admin_up: true,
                    running: true,
                    upper: None,
                    xdp_program: 99,
                    kind: "veth".into(),
                })),
                Body::Done(0),
            ]
        );
    }

    #[test]
    fn the_port_of_a_bridge_has_it_above_and_a_member_of_a_vrf_has_nothing() {
        for (role, upper) in [("bridge", Some(9)), ("bond", Some(9)), ("vrf", None)] {
            let member = message(
                libc::RTM_NEWLINK,
                &[
                    &link_header(0, libc::IFF_UP),
                    &attribute(libc::IFLA_MASTER, &9_u32.to_ne_bytes()),
                    &attribute(
                        libc::IFLA_LINKINFO,
                        &[
                            attribute(libc::IFLA_INFO_KIND, b"veth\0"),
                            attribute(libc::IFLA_INFO_SLAVE_KIND, format!("{role}\0").as_bytes()),
                        ]
                        .concat(),
                    ),
                ],
            );
            let Body::Event(NetlinkEvent::Link(link)) = all(&member).remove(0) else {
                panic!("a link");
            };
            assert_eq!((link.upper, link.kind.as_str()), (upper, "veth"), "{role}");
        }
    }

    #[test]
    fn a_bridge_port_message_is_not_a_link() {
        let port = message(libc::RTM_NEWLINK, &[&link_header(7, libc::IFF_UP)]);
        assert_eq!(all(&port), [Body::Other]);
    }

    #[test]
    fn the_local_address_counts_on_a_point_to_point_link() {
        let header = [2, 32, 0, 0, 42, 0, 0, 0];
        let added = message(
            libc::RTM_NEWADDR,
            &[
                &header,
                &attribute(libc::IFA_ADDRESS, &[10, 0, 0, 2]),
                &attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]),
                &attribute(IFA_PROTO, &[112]),
            ],
        );
        let address = Address::new(42, Ipv4Addr::new(10, 0, 0, 1).into(), 32, 112);
        assert_eq!(all(&added), [Body::Event(NetlinkEvent::Address(address))]);
    }

    /// The bytes after the header of the RTM_NEWADDR that follows `ip -6 address add 2001:db8::1/64 dev v0 nodad`,
    /// recorded on Linux 6.18.
    const RECORDED: [u8; 56] = [
        0x0a, 0x40, 0x82, 0x00, 0x03, 0x00, 0x00, 0x00, 0x14, 0x00, 0x01, 0x00, 0x20, 0x01, 0x0d,
        0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x14, 0x00,
        0x06, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0xa1, 0x2a, 0x00, 0xc7,
        0xa1, 0x2a, 0x00, 0x08, 0x00, 0x08, 0x00, 0x82, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn an_ipv6_address_has_its_scope_and_flags() {
        let read = |payload: &[u8]| {
            let body = all(&message(libc::RTM_NEWADDR, &[payload])).remove(0);
            let Body::Event(NetlinkEvent::Address(address)) = body else {
                panic!("{body:?}");
            };
            address
        };
        let mut bytes = RECORDED.to_vec();
        let address = read(&bytes);
        let expected = Address::new(3, "2001:db8::1".parse().unwrap(), 64, 0);
        let flags = AddressFlags::Nodad | AddressFlags::Permanent;
        assert_eq!(address, expected.with_flags(flags));
        assert!(
            address.flags.contains(AddressFlags::Nodad)
                && address.flags.contains(AddressFlags::Permanent)
                && address.is_usable()
        );
        // Flags beyond the eight of the header, and link scope.
        bytes[3] = libc::RT_SCOPE_LINK;
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&0x240_u32.to_ne_bytes());
        let address = read(&bytes);
        assert_eq!(address.scope, AddressScope::Link);
        assert_eq!(
            address.flags,
            AddressFlags::Tentative | AddressFlags::Noprefixroute
        );
        assert!(
            address.is_tentative()
                && !address.flags.contains(AddressFlags::Permanent)
                && !address.is_primary()
        );
        // Without the attribute, the flags come from the header.
        let address = read(&bytes[..last - 4]);
        assert!(
            address.flags.contains(AddressFlags::Nodad)
                && address.flags.contains(AddressFlags::Permanent)
        );
    }

    #[test]
    fn an_address_of_another_family_or_of_excess_length_is_left_out() {
        for (at, value) in [(0, 2), (0, 7), (1, 129)] {
            let mut bytes = RECORDED.to_vec();
            bytes[at] = value;
            let read = all(&message(libc::RTM_NEWADDR, &[&bytes]));
            assert_eq!(read, [Body::Other], "{at}: {value}");
        }
    }

    #[test]
    fn a_route_to_a_subnet_is_read_and_one_through_a_gateway_is_not() {
        let header = [2, 24, 0, 0, libc::RT_TABLE_MAIN, 112, 253, 1, 0, 0, 0, 0];
        let destination = attribute(libc::RTA_DST, &[10, 0, 0, 0]);
        let source = attribute(libc::RTA_PREFSRC, &[10, 0, 0, 1]);
        let interface = attribute(libc::RTA_OIF, &42_u32.to_ne_bytes());
        let gateway = attribute(libc::RTA_GATEWAY, &[10, 0, 0, 9]);
        let direct: [&[u8]; 4] = [&header, &destination, &source, &interface];
        let route = Route {
            ifindex: 42,
            subnet: Ipv4Addr::new(10, 0, 0, 0).into(),
            prefix: 24,
            source: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
            protocol: 112,
        };
        assert_eq!(
            all(&message(libc::RTM_NEWROUTE, &direct)),
            [Body::Route(route)]
        );
        let through = [&direct[..], &[&gateway]].concat();
        assert_eq!(all(&message(libc::RTM_NEWROUTE, &through)), [Body::Other]);
        let nowhere = [&direct[..3], &[]].concat();
        assert_eq!(all(&message(libc::RTM_NEWROUTE, &nowhere)), [Body::Other]);
    }

    #[test]
    fn a_refusal_carries_its_errno() {
        let refused = message(NLMSG_ERROR, &[&(-libc::EEXIST).to_ne_bytes(), &[0; 16]]);
        assert_eq!(all(&refused), [Body::Done(libc::EEXIST)]);
    }

    #[test]
    fn a_dump_that_was_interrupted_says_so_wherever_the_flag_is() {
        let part = message(libc::RTM_NEWLINK, &[&link_header(0, 0)]);
        for flags in [0, NLM_F_DUMP_INTR] {
            let mut interrupted = Vec::new();
            let end = flagged(NLMSG_DONE, flags, &[&[0; 4]]);
            for_each(&[part.clone(), end].concat(), |message| {
                interrupted.push(message.interrupted);
            });
            assert_eq!(interrupted, [false, flags != 0]);
        }
    }

    #[test]
    fn truncated_datagrams_end_quietly() {
        let whole = message(
            libc::RTM_NEWLINK,
            &[&link_header(0, 0), &attribute(libc::IFLA_IFNAME, b"eth0\0")],
        );
        for length in 0..whole.len() {
            assert!(all(&whole[..length]).is_empty());
        }
    }
}
