//! Questions to the kernel, each answered before the call returns.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
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
        let refusal = requests.link(0x7fff_fff0).unwrap_err();
        assert_eq!(refusal.raw_os_error(), Some(libc::ENODEV), "{refusal}");
        // The socket stays usable: the answer was read to its end.
        assert!(requests.links().is_ok());
    }
}
