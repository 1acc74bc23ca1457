//! One socket for all requests to the kernel. It sends requests and reads their answers to the end.
//!
//! An answer counts if it carries our port and the sequence number of one of the requests just sent. Remains of an
//! earlier answer are skipped. A list is requested again if it is not complete: the kernel flags one that changed
//! during the dump, a datagram larger than the buffer is cut, and a full socket loses datagrams.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::order::{Order, with_flags};
use crate::io::netlink::message::{self, Body};
use crate::io::netlink::{NetlinkEvent, Route};

/// Size of the read buffer. If the reader offers that much, the kernel fills a list's datagrams up to 32 KiB.
const BUFFER_LEN: usize = 32 * 1024;

/// The time that the next part of an answer may take. The kernel queues an answer, or the first part of a list, before
/// `send(2)` returns, and makes the other parts while they are read. The timeout therefore only guards against
/// surprises.
const PART_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a list is requested until it is complete. A try fails if something changes during it.
const TRIES: u32 = 10;

/// Orders in one datagram. The refusals of that many fit into the socket's buffer at its default size.
const BUNCH: usize = 64;

type Request = NetlinkMessage<RouteNetlinkMessage>;

/// The outcome of each of several orders.
pub type Outcomes = Vec<io::Result<()>>;

/// The transport of requests and answers. Tests use prepared answers.
pub trait Transport {
    /// Sends one datagram.
    fn send(&mut self, datagram: &[u8]) -> io::Result<()>;

    /// Reads one datagram into the spare capacity of `buffer` and returns its full length, even if not all of it
    /// fitted. Returns `WouldBlock` if there is none; with `wait`, only after [`PART_TIMEOUT`].
    fn receive(&mut self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<usize>;
}

impl Transport for Socket {
    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        Self::send(self, datagram, 0).map(drop)
    }

    fn receive(&mut self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<usize> {
        let wait = if wait { 0 } else { libc::MSG_DONTWAIT };
        self.recv(buffer, libc::MSG_TRUNC | wait)
    }
}

/// A socket for requests, with their sequence numbers.
#[derive(Debug)]
pub struct Line<W = Socket> {
    wire: W,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Line {
    /// Opens the socket.
    ///
    /// # Errors
    /// Returns any error of `socket(2)`, `bind(2)` or `connect(2)`.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        // From here on only the kernel can send to the socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout =
            TimeVal::microseconds(i64::try_from(PART_TIMEOUT.as_micros()).unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self::over(socket, port))
    }
}

impl<W: Transport> Line<W> {
    fn over(wire: W, port: u32) -> Self {
        Self {
            wire,
            port,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER_LEN),
        }
    }

    /// Returns the port of the socket. Notifications name the port that caused them.
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Returns the sequence number of the latest request.
    #[cfg(test)]
    pub const fn sent(&self) -> u32 {
        self.sequence
    }

    /// Requests one object, or a list (`is_list`), until the answer is complete.
    ///
    /// # Errors
    /// Returns the kernel's error or, after [`TRIES`] attempts, the reason why none was complete.
    pub fn ask(&mut self, request: RouteNetlinkMessage, is_list: bool) -> io::Result<Found> {
        let end = if is_list { NLM_F_DUMP } else { NLM_F_ACK };
        let mut requests = [with_flags(request, end)];
        let mut reason = "";
        for _ in 0..TRIES {
            let answer = self.exchange(&mut requests)?;
            match (answer.refusals[0], answer.torn) {
                (Some(errno), _) => return Err(io::Error::from_raw_os_error(errno)),
                (None, Some(torn)) => reason = torn,
                (None, None) => return Ok(answer.found),
            }
        }
        let problem = format!("{TRIES} answers in a row were not whole: {reason}");
        Err(io::Error::other(problem))
    }

    /// Carries out orders one after the other, and returns the outcome of each. A refused order does not prevent the
    /// following ones. `ENOBUFS` and `TimedOut` mean that the outcome is not known, because the answer was lost or is
    /// missing.
    pub fn give_all(&mut self, orders: &[Order]) -> Outcomes {
        let bunches = orders.chunks(BUNCH);
        bunches.flat_map(|bunch| self.give_bunch(bunch)).collect()
    }

    fn give_bunch(&mut self, orders: &[Order]) -> Outcomes {
        let mut requests: Vec<Request> = orders.iter().map(Order::message).collect();
        // The kernel carries the orders out in this sequence, so the answer to the last one ends the exchange.
        if let Some(last) = requests.last_mut() {
            last.header.flags |= NLM_F_ACK;
        }
        match self.exchange(&mut requests) {
            Ok(answer) => {
                // A lost answer may have been a refusal.
                let unknown = answer.torn.map(|_| libc::ENOBUFS);
                let outcome = |refusal: Option<i32>| match refusal.or(unknown) {
                    Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => Ok(()),
                };
                answer.refusals.into_iter().map(outcome).collect()
            }
            Err(error) => orders.iter().map(|_| Err(same(&error))).collect(),
        }
    }

    /// Sends requests in one datagram, and reads until the end of the answer to the last one. The kernel answers the
    /// requests before it only if it refuses them.
    fn exchange(&mut self, requests: &mut [Request]) -> io::Result<Answer> {
        let first = self.sequence.wrapping_add(1);
        self.buffer.clear();
        for request in &mut *requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.header.sequence_number = self.sequence;
            request.finalize();
            let start = self.buffer.len();
            self.buffer.resize(start + request.buffer_len(), 0);
            request.serialize(&mut self.buffer[start..]);
        }
        uninterrupted(|| self.wire.send(&self.buffer))?;
        let mut answer = Answer::new(self.port, first, requests.len());
        loop {
            self.buffer.clear();
            // Once an answer is lost, the end may be lost too. The rest is read all the same, because the kernel
            // starts no other list before that.
            let wait = answer.torn.is_none();
            match uninterrupted(|| self.wire.receive(&mut self.buffer, wait)) {
                Ok(length) if length > self.buffer.len() => {
                    self.buffer.clear();
                    self.buffer.reserve(length);
                    answer.torn = Some("one part was longer than expected");
                }
                Ok(_length) => {
                    if answer.take(&self.buffer) {
                        return Ok(answer);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    answer.torn = Some("there was no room for all of it");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match answer.torn {
                        Some(_) => Ok(answer),
                        None => Err(io::ErrorKind::TimedOut.into()),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The requested objects.
#[derive(Debug, Default)]
pub struct Found {
    /// The links and addresses.
    pub events: Vec<NetlinkEvent>,
    /// The routes.
    pub routes: Vec<Route>,
}

/// The kernel's answers to the requests of one datagram.
#[derive(Debug)]
struct Answer {
    port: u32,
    /// The sequence number of the first request.
    first: u32,
    /// For each request, the errno with which it was refused.
    refusals: Vec<Option<i32>>,
    found: Found,
    /// Why the answer is incomplete or not reliable.
    torn: Option<&'static str>,
}

impl Answer {
    fn new(port: u32, first: u32, requests: usize) -> Self {
        Self {
            port,
            first,
            refusals: vec![None; requests],
            found: Found::default(),
            torn: None,
        }
    }

    /// Takes in one datagram. Returns whether it contains the end of the answer.
    fn take(&mut self, datagram: &[u8]) -> bool {
        let mut has_ended = false;
        message::for_each(datagram, |message| {
            let number = message.sequence.wrapping_sub(self.first);
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            let last = self.refusals.len() - 1;
            if message.port != self.port || number > last {
                return;
            }
            if message.interrupted {
                self.torn = Some("what they list went on changing");
            }
            match message.body {
                Body::Event(event) => self.found.events.push(event),
                Body::Route(route) => self.found.routes.push(route),
                Body::Done(errno) => {
                    self.refusals[number] = (errno != 0).then_some(errno);
                    has_ended |= number == last;
                }
                Body::Other => {}
            }
        });
        has_ended
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn same(error: &io::Error) -> io::Error {
    let errno = error.raw_os_error().map(io::Error::from_raw_os_error);
    errno.unwrap_or_else(|| error.kind().into())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;

    use netlink_packet_core::{NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLMSG_DONE, NLMSG_ERROR};
    use netlink_packet_route::address::AddressMessage;

    use super::super::order::tests::NOWHERE;
    use super::*;

    const PORT: u32 = 4711;

    /// A transport with prepared answers.
    #[derive(Default)]
    struct Script {
        sent: u32,
        /// For each datagram that is sent, in order, the datagrams that are received afterwards.
        answers: VecDeque<Vec<io::Result<Vec<u8>>>>,
        pending: VecDeque<io::Result<Vec<u8>>>,
    }

    impl Transport for Script {
        fn send(&mut self, _: &[u8]) -> io::Result<()> {
            self.sent += 1;
            self.pending
                .extend(self.answers.pop_front().unwrap_or_default());
            Ok(())
        }

        fn receive(&mut self, buffer: &mut Vec<u8>, _: bool) -> io::Result<usize> {
            let next = self.pending.pop_front();
            let datagram = next.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
            let room = buffer.capacity().min(datagram.len());
            buffer.extend_from_slice(&datagram[..room]);
            Ok(datagram.len())
        }
    }

    fn message(kind: u16, flags: u16, sequence: u32, port: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&port.to_ne_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Returns one address of a list (`struct ifaddrmsg` and IFA_LOCAL).
    fn address(last: u8, flags: u16, sequence: u32, port: u32) -> Vec<u8> {
        let payload = [2, 24, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 10, 0, 0, last];
        let flags = NLM_F_MULTIPART | flags;
        message(libc::RTM_NEWADDR, flags, sequence, port, &payload)
    }

    fn done(flags: u16, sequence: u32) -> Vec<u8> {
        message(NLMSG_DONE, NLM_F_MULTIPART | flags, sequence, PORT, &[0; 4])
    }

    /// Returns the listed addresses, by their last byte.
    fn listed(line: &mut Line<Script>) -> io::Result<Vec<u8>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let last = |event| match event {
            NetlinkEvent::Address(address) => match address.address {
                std::net::IpAddr::V4(v4) => v4.octets()[3],
                std::net::IpAddr::V6(_) => unreachable!(),
            },
            NetlinkEvent::Link(_)
            | NetlinkEvent::LinkGone { .. }
            | NetlinkEvent::AddressGone { .. } => unreachable!(),
        };
        Ok(line
            .ask(request, true)?
            .events
            .into_iter()
            .map(last)
            .collect())
    }

    fn line(answers: Vec<Vec<io::Result<Vec<u8>>>>) -> Line<Script> {
        let script = Script {
            answers: answers.into(),
            ..Script::default()
        };
        Line::over(script, PORT)
    }

    #[test]
    fn a_list_that_was_interrupted_is_taken_again() {
        for (on_part, on_end) in [(NLM_F_DUMP_INTR, 0), (0, NLM_F_DUMP_INTR)] {
            let mut line = line(vec![
                vec![Ok(address(1, on_part, 1, PORT)), Ok(done(on_end, 1))],
                vec![Ok([address(2, 0, 2, PORT), done(0, 2)].concat())],
            ]);
            assert_eq!(listed(&mut line).unwrap(), [2]);
            assert_eq!(line.wire.sent, 2);
        }
    }

    #[test]
    fn a_list_that_is_never_whole_is_an_error_after_some_attempts() {
        let interrupted = |sequence| vec![Ok(done(NLM_F_DUMP_INTR, sequence))];
        let mut line = line((1..100).map(interrupted).collect());
        let error = listed(&mut line).unwrap_err().to_string();
        let expected = "10 answers in a row were not whole: what they list went on changing";
        assert_eq!((error.as_str(), line.wire.sent), (expected, TRIES));
    }

    #[test]
    fn answers_to_another_request_or_another_port_are_skipped() {
        let mut line = line(vec![
            vec![Ok(done(0, 1))],
            vec![
                Ok([address(1, NLM_F_DUMP_INTR, 1, PORT), done(0, 1)].concat()),
                Ok(address(2, NLM_F_DUMP_INTR, 2, PORT + 1)),
                Ok(address(3, 0, 3, PORT)),
                Ok([address(4, 0, 2, PORT), done(0, 2)].concat()),
            ],
        ]);
        assert_eq!(listed(&mut line).unwrap(), []);
        assert_eq!(listed(&mut line).unwrap(), [4]);
    }

    #[test]
    fn a_list_of_which_some_was_lost_is_taken_again() {
        let lost = || Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let mut line = line(vec![
            // An answer that is lost with its end.
            vec![Ok(address(1, 0, 1, PORT)), lost()],
            // An answer with its end, but without everything before it.
            vec![lost(), Ok([address(1, 0, 2, PORT), done(0, 2)].concat())],
            // A malformed message, the first or a later one: the end is missing.
            vec![Ok(vec![1; 15]), Ok([done(0, 3), vec![0; 3]].concat())],
        ]);
        assert_eq!(listed(&mut line).unwrap(), []);
        line.wire.answers.push_back(vec![
            interrupted(),
            Ok([address(1, 0, 4, PORT), done(0, 4)].concat()),
        ]);
        assert_eq!(listed(&mut line).unwrap(), [1]);
    }

    #[test]
    fn a_part_that_is_longer_than_the_buffer_is_taken_again_with_room_for_it() {
        let long = |sequence| {
            let mut parts: Vec<_> = (0..50)
                .map(|last| address(last, 0, sequence, PORT))
                .collect();
            parts.push(done(0, sequence));
            vec![Ok(parts.concat())]
        };
        let mut line = line((1..=2).map(long).collect());
        line.buffer = Vec::with_capacity(64);
        assert_eq!(listed(&mut line).unwrap().len(), 50);
        assert_eq!(line.wire.sent, 2);
    }

    #[test]
    fn an_answer_that_does_not_come_is_a_timeout_and_later_not_taken_for_the_next_one() {
        let mut line = line(vec![vec![]]);
        let timeout = |error: io::Error| error.kind() == io::ErrorKind::TimedOut;
        assert!(listed(&mut line).is_err_and(timeout));
        let late = Ok([address(1, 0, 1, PORT), done(0, 1)].concat());
        let right = Ok([address(2, 0, 2, PORT), done(0, 2)].concat());
        line.wire.answers.push_back(vec![late, right]);
        assert_eq!(listed(&mut line).unwrap(), [2]);
        let outcomes = line.give_all(&[Order::Delete(NOWHERE); 2]);
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes.into_iter().all(|it| it.is_err_and(timeout)));
    }

    #[test]
    fn each_order_has_its_own_outcome() {
        let refusal = |errno: i32, sequence| {
            let payload = [&(-errno).to_ne_bytes()[..], &[0; 16]].concat();
            message(NLMSG_ERROR, 0, sequence, PORT, &payload)
        };
        let mut line = line(vec![vec![
            Ok(refusal(libc::EEXIST, 2)),
            // The answer to the last order, which the kernel carries out.
            Ok(refusal(0, 3)),
        ]]);
        let errno = |outcome: io::Result<()>| outcome.err().and_then(|it| it.raw_os_error());
        let outcomes = line.give_all(&[Order::Delete(NOWHERE); 3]);
        let errnos: Vec<_> = outcomes.into_iter().map(errno).collect();
        assert_eq!(errnos, [None, Some(libc::EEXIST), None]);
        assert!(line.give_all(&[]).is_empty());
    }

    #[test]
    fn where_a_refusal_finds_no_room_the_order_has_failed_and_the_next_is_answered_right() {
        let mut line = Line::new().unwrap();
        // The kernel sets the smallest size that it allows.
        setsockopt(&line.wire, sockopt::RcvBuf, &0).unwrap();
        let lost = |outcome: &io::Result<()>| {
            let refusal = outcome.as_ref().unwrap_err();
            refusal.raw_os_error() == Some(libc::ENOBUFS)
        };
        for _ in 0..3 {
            let outcomes = line.give_all(&[Order::Delete(NOWHERE); BUNCH]);
            assert!(outcomes.iter().filter(|outcome| lost(outcome)).count() > BUNCH / 2);
            assert!(!lost(&outcomes[0]));
            assert!(!lost(&line.give_all(&[Order::Delete(NOWHERE)])[0]));
        }
    }

    #[test]
    fn each_refused_order_says_why_and_the_next_is_carried_out_too() {
        let mut line = Line::new().unwrap();
        let route = Route {
            ifindex: NOWHERE.ifindex,
            subnet: Ipv4Addr::new(192, 0, 2, 0).into(),
            prefix: 24,
            source: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            protocol: 112,
        };
        let all = [
            Order::Delete(NOWHERE),
            Order::Add(NOWHERE, None),
            Order::Renew(NOWHERE, Some(Duration::from_secs(2))),
            Order::AddRoute(route),
            Order::DeleteRoute(route),
        ];
        // More than one bunch.
        let many: Vec<Order> = all.into_iter().cycle().take(3 * BUNCH + 1).collect();
        let outcomes = line.give_all(&many);
        assert_eq!(outcomes.len(), many.len());
        for (order, outcome) in many.iter().zip(outcomes) {
            let refusal = outcome.unwrap_err();
            let expected = [
                Some(libc::ENODEV),
                Some(libc::EPERM),
                Some(libc::ESRCH),
                Some(libc::EINVAL),
            ];
            assert!(
                expected.contains(&refusal.raw_os_error()),
                "{order:?}: {refusal}"
            );
        }
    }
}
