//! Questions to the kernel, each answered before the call returns.
//!
//! An answer that is not whole is asked for again: the kernel flags a list that changed while it was made, a datagram
//! that is larger than the buffer is cut, and a full socket loses some.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::message::{self, Body};
use super::{Address, Event, Link};

/// The kernel fills a dump's datagrams up to 32 KiB when the reader offers that much.
const BUFFER_LEN: usize = 32 * 1024;

/// How long an answer may take. The kernel has it ready when the request has been sent, so this only keeps a surprise from
/// holding the whole daemon.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often a question is asked until the answer is whole. Each try takes a moment, in which nothing may change.
const TRIES: u32 = 10;

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
        Self::with_buffer(BUFFER_LEN)
    }

    fn with_buffer(length: usize) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let patience =
            TimeVal::microseconds(i64::try_from(PATIENCE.as_micros()).unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(length),
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
        let events = self.ask(RouteNetlinkMessage::GetLink(request), NLM_F_DUMP)?;
        Ok(links_of(events).collect())
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
        let events = self.ask(RouteNetlinkMessage::GetLink(request), NLM_F_ACK)?;
        let found = links_of(events).last();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Every address of this network namespace, in the kernel's order: an interface's primary addresses first.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let events = self.ask(request, NLM_F_DUMP)?;
        let addresses = events.into_iter().filter_map(|event| match event {
            Event::Address(address) => Some(address),
            Event::Link(_) | Event::LinkGone { .. } | Event::AddressGone { .. } => None,
        });
        Ok(addresses.collect())
    }

    /// Asks until the answer is whole.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Event>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        let mut reason = "";
        for _ in 0..TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            match self.ask_once(&mut message)? {
                Answer::Whole(events) => return Ok(events),
                Answer::Torn(why) => reason = why,
            }
        }
        let problem = format!("{TRIES} answers in a row were not whole: {reason}");
        Err(io::Error::other(problem))
    }

    /// Sends one request and reads its answer to the end.
    fn ask_once(
        &mut self,
        message: &mut NetlinkMessage<RouteNetlinkMessage>,
    ) -> io::Result<Answer> {
        message.finalize();
        self.buffer.clear();
        self.buffer.resize(message.buffer_len(), 0);
        message.serialize(&mut self.buffer);
        self.socket.send(&self.buffer, 0)?;
        let mut torn = None;
        let mut events = Vec::new();
        // With this flag it returns the datagram's whole length, however much of it there was room for.
        let mut flags = libc::MSG_TRUNC;
        loop {
            self.buffer.clear();
            let lost = match self.socket.recv(&mut self.buffer, flags) {
                Ok(length) if length > self.buffer.len() => {
                    self.buffer.reserve(length);
                    Some("one was longer than expected")
                }
                Ok(_length) => None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match torn {
                        Some(reason) => Ok(Answer::Torn(reason)),
                        None => Err(io::ErrorKind::TimedOut.into()),
                    };
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    Some("there was no room")
                }
                Err(error) => return Err(error),
            };
            if lost.is_some() {
                // The end may have been in it. The rest is read all the same: until then the kernel begins no other list.
                torn = lost;
                flags |= libc::MSG_DONTWAIT;
                continue;
            }
            let mut outcome = None;
            message::for_each(&self.buffer, |message| {
                // What is left of an earlier answer.
                if message.sequence != self.sequence {
                    return;
                }
                if message.interrupted {
                    torn = Some("what they list went on changing");
                }
                match message.body {
                    Body::Event(event) => events.push(event),
                    Body::Done(errno) => outcome = Some(errno),
                    Body::Other => {}
                }
            });
            match outcome {
                None => {}
                Some(0) => return Ok(torn.map_or(Answer::Whole(events), Answer::Torn)),
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

/// What came back.
enum Answer {
    Whole(Vec<Event>),
    /// Some of it is missing, for this reason.
    Torn(&'static str),
}

fn links_of(events: Vec<Event>) -> impl Iterator<Item = Link> {
    events.into_iter().filter_map(|event| match event {
        Event::Link(link) => Some(link),
        Event::LinkGone { .. } | Event::Address(_) | Event::AddressGone { .. } => None,
    })
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
    fn a_list_that_is_cut_is_taken_again_with_room_for_it() {
        let mut cut = Requests::with_buffer(64).unwrap();
        let (short, whole) = (cut.links(), Requests::new().unwrap().links());
        let names = |links: io::Result<Vec<Link>>| -> Vec<String> {
            links.unwrap().into_iter().map(|link| link.name).collect()
        };
        assert_eq!(names(short), names(whole));
        assert!(cut.buffer.capacity() > 64, "nothing was cut");
        assert!(cut.addresses().is_ok());
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
