//! Questions and orders to the kernel, each answered before the call returns.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::message::{self, Message};
use super::{Address, Event, Link};

/// The kernel fills a dump's datagrams up to 32 KiB when the reader offers that much.
const BUFFER_LEN: usize = 32 * 1024;

/// A socket for requests.
#[derive(Debug)]
pub struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens the socket.
    ///
    /// # Errors
    /// What `socket(2)` and `connect(2)` answer.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER_LEN),
        })
    }

    /// Every interface of this network namespace.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut request = LinkMessage::default();
        // Counters would be most of each answer.
        request
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut links = Vec::new();
        self.request(RouteNetlinkMessage::GetLink(request), NLM_F_DUMP, |event| {
            if let Event::Link(link) = event {
                links.push(link);
            }
        })?;
        Ok(links)
    }

    /// One interface as it is now; its XDP hook is not part of every notification.
    ///
    /// # Errors
    /// ENODEV when it is gone; else what the kernel answers.
    pub fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        request
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        self.request(RouteNetlinkMessage::GetLink(request), NLM_F_ACK, |event| {
            if let Event::Link(link) = event {
                found = Some(link);
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Every address of this network namespace, in the kernel's order: an interface's primary addresses first.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        self.request(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            NLM_F_DUMP,
            |event| {
                if let Event::Address(address) = event {
                    addresses.push(address);
                }
            },
        )?;
        Ok(addresses)
    }

    /// Adds an address, tagged with its protocol number, for `lease` or, with `None`, for good.
    ///
    /// # Errors
    /// `AlreadyExists` when the interface has it with this prefix length; else what the kernel answers.
    pub fn add_address(&mut self, address: &Address, lease: Option<Duration>) -> io::Result<()> {
        self.assign(address, lease, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Gives an address its whole `lease` again; adds it when it is not there.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn renew_address(&mut self, address: &Address, lease: Option<Duration>) -> io::Result<()> {
        self.assign(address, lease, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn assign(&mut self, address: &Address, lease: Option<Duration>, flags: u16) -> io::Result<()> {
        let mut request = address_message(address);
        request
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::Other(
                address.protocol,
            )));
        request
            .attributes
            .push(AddressAttribute::CacheInfo(lifetime(lease)));
        if address.address.is_ipv6() {
            // The election has settled who owns it; duplicate address detection would only delay its use.
            request
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.request(
            RouteNetlinkMessage::NewAddress(request),
            NLM_F_ACK | flags,
            |_| {},
        )
    }

    /// Deletes an address.
    ///
    /// # Errors
    /// `AddrNotAvailable` when the interface does not have it; else what the kernel answers.
    pub fn delete_address(&mut self, address: &Address) -> io::Result<()> {
        self.request(
            RouteNetlinkMessage::DelAddress(address_message(address)),
            NLM_F_ACK,
            |_| {},
        )
    }

    /// Sends one request and reads its answer to the end.
    fn request(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut visit: impl FnMut(Event),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        self.buffer.clear();
        self.buffer.resize(message.buffer_len(), 0);
        message.serialize(&mut self.buffer);
        self.socket.send(&self.buffer, 0)?;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_length) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut outcome = None;
            message::for_each(&self.buffer, |message| match message {
                Message::Event(event) => visit(event),
                Message::Done { sequence, errno } if sequence == self.sequence => {
                    outcome = Some(errno)
                }
                Message::Done { .. } | Message::Other => {}
            });
            match outcome {
                None => {}
                Some(0) => return Ok(()),
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

/// Preferred as long as it is valid: a deprecated address is not a source for new connections.
fn lifetime(lease: Option<Duration>) -> CacheInfo {
    // INFINITY_LIFE_TIME of the kernel.
    let seconds = lease.map_or(u32::MAX, |lease| {
        u32::try_from(lease.as_secs()).unwrap_or(u32::MAX)
    });
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = seconds;
    lifetime.ifa_valid = seconds;
    lifetime
}

fn address_message(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix;
    message.header.index = address.ifindex;
    message
        .attributes
        .push(AddressAttribute::Local(address.address));
    message
        .attributes
        .push(AddressAttribute::Address(address.address));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let mut requests = Requests::new().unwrap();
        let links = requests.links().unwrap();
        let loopback = links
            .iter()
            .find(|link| link.name == "lo")
            .expect("every namespace has one");
        assert_eq!(requests.link(loopback.index).unwrap().name, "lo");
    }

    #[test]
    fn a_refused_request_says_why() {
        let mut requests = Requests::new().unwrap();
        let nowhere = Address {
            ifindex: 0x7fff_fff0,
            address: [192, 0, 2, 1].into(),
            prefix: 32,
            protocol: 112,
        };
        let refusal = requests.delete_address(&nowhere).unwrap_err();
        assert!(
            matches!(refusal.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{refusal}"
        );
        // The socket stays usable: the answer was read to its end.
        assert!(requests.links().is_ok());
    }
}
