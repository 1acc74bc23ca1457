//! Fuzzes the parser of datagrams from rtnetlink.
//!
//! Input: a datagram.

use std::net::IpAddr;

use carp_daemon::io::netlink::NetlinkEvent;
use carp_daemon::io::netlink::message::{Body, Message, for_each};

/// Size of `struct nlmsghdr`. Unit: bytes.
const HEADER_LEN: usize = 16;

/// Runs one input; see the module.
pub fn target(data: &[u8]) {
    let whole = messages(data);
    assert!(whole.len() * HEADER_LEN <= data.len());
    for message in &whole {
        match &message.body {
            Body::Event(NetlinkEvent::Link(link)) => {
                // A byte that is not UTF-8 becomes three bytes.
                assert!(link.name.len() <= 3 * data.len());
            }
            Body::Done(errno) => assert!(*errno >= 0),
            Body::Event(
                NetlinkEvent::Address(address) | NetlinkEvent::AddressGone { address, .. },
            ) => assert_prefix(address.address, address.prefix),
            Body::Route(route) => {
                assert_prefix(route.subnet, route.prefix);
                let source = route.source.unwrap_or(route.subnet);
                assert_eq!(source.is_ipv4(), route.subnet.is_ipv4());
            }
            Body::Event(NetlinkEvent::LinkGone { .. }) | Body::Other => {}
        }
    }
    // A datagram that is cut anywhere has the same messages up to there.
    let part = messages(&data[..data.len() / 2]);
    assert_eq!(part, whole[..part.len()]);
}

fn assert_prefix(address: IpAddr, prefix: u8) {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    assert!(prefix <= longest);
}

fn messages(datagram: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    for_each(datagram, |message| messages.push(message));
    messages
}
