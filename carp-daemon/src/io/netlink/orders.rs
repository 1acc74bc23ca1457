//! Adding, renewing and deleting addresses, and the routes that come with them.
//!
//! The kernel carries out a route request inside `sendmsg` and has queued its refusal, if it has one, by the time that
//! returns. So orders ask for no acknowledgement and never wait: an address is there before the next advertisement
//! leaves, and a bunch of orders costs one system call and one look for refusals. That keeps thousands of renewals cheap.
//! rtnetlink's builders write the messages; its connection, made for a task beside the caller, is not needed.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use tokio::sync::oneshot;

use super::Address;
use super::message::{self, Body};

/// Orders in one datagram. So many refusals fit into the socket's buffer at its default size.
const BUNCH: usize = 64;

/// A thread makes a few system calls; with locked memory its whole stack is resident.
const THREAD_STACK: usize = 128 * 1024;

/// A refusal repeats the order.
const BUFFER_LEN: usize = 8 * 1024;

/// Every other route to the same subnet comes first.
const LAST_METRIC: u32 = u32::MAX;

/// What the kernel is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Add an address, tagged with its protocol number, for a time or for good. `AlreadyExists` when the interface has
    /// it with this prefix length.
    Add(Address, Option<Duration>),
    /// Give an address its whole time again; add it when it is not there.
    Renew(Address, Option<Duration>),
    /// Delete an address. `AddrNotAvailable` when the interface does not have it.
    Delete(Address),
    /// Add a route. `AlreadyExists` when there is the same.
    AddRoute(Route),
    /// Delete a route. `ESRCH` when there is none.
    DeleteRoute(Route),
}

/// A subnet that is reached directly through an interface, from an address of it. The kernel drops it with that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub ifindex: u32,
    /// First address of the subnet.
    pub subnet: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// The preferred source.
    pub source: Ipv4Addr,
    /// Who added it.
    pub protocol: u8,
}

/// Gives orders, each after those before it.
///
/// The kernel carries them out under a lock of the whole machine (rtnl), which others hold for seconds at times: while a
/// driver resets, or many namespaces end. Who cannot wait has them given by a thread.
#[derive(Debug)]
pub struct Orders {
    port: u32,
    line: Arc<Mutex<Line>>,
    /// Gives the latest of [`Orders::give_later`].
    thread: Option<JoinHandle<()>>,
    outcomes: Option<oneshot::Receiver<Vec<io::Result<()>>>>,
}

/// A socket for orders.
#[derive(Debug)]
struct Line {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Orders {
    /// Opens the socket.
    ///
    /// # Errors
    /// What `socket(2)` and `connect(2)` answer.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        let line = Line {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER_LEN),
        };
        Ok(Self {
            port,
            line: Arc::new(Mutex::new(line)),
            thread: None,
            outcomes: None,
        })
    }

    /// What tells notifications of these orders' effects from those of others.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Carries out one order.
    ///
    /// # Errors
    /// What the kernel answers; see [`Order`].
    pub fn give(&mut self, order: Order) -> io::Result<()> {
        self.give_all(&[order]).pop().unwrap_or(Ok(()))
    }

    /// Carries out orders one after the other; what became of each. One that is refused does not keep the next from being
    /// carried out. `ENOBUFS`: nobody knows, because the answer found no room.
    pub fn give_all(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        if let Some(thread) = self.thread.take() {
            // A panic there left nothing behind, and was printed.
            let _ = thread.join();
        }
        lock(&self.line).give_all(orders)
    }

    /// Has orders carried out by a thread, in the order of all that are given. [`Orders::poll_outcomes`] has what became of
    /// them.
    pub fn give_later(&mut self, orders: Vec<Order>) {
        let (done, outcomes) = oneshot::channel();
        self.outcomes = Some(outcomes);
        let before = self.thread.take();
        let line = Arc::clone(&self.line);
        let orders = Arc::new(orders);
        let given = Arc::clone(&orders);
        let thread = thread::Builder::new()
            .name("carpd-orders".to_owned())
            .stack_size(THREAD_STACK)
            .spawn(move || {
                if let Some(before) = before {
                    let _ = before.join();
                }
                // Nobody waits for it where the engine has ended.
                let _ = done.send(lock(&line).give_all(&given));
            });
        match thread {
            Ok(thread) => self.thread = Some(thread),
            // No thread is to be had: right here then.
            Err(_) => {
                let (done, outcomes) = oneshot::channel();
                self.outcomes = Some(outcomes);
                let _ = done.send(self.give_all(&orders));
            }
        }
    }

    /// What became of the orders of [`Orders::give_later`], once.
    pub fn poll_outcomes(&mut self, context: &mut Context<'_>) -> Poll<Vec<io::Result<()>>> {
        let Some(outcomes) = &mut self.outcomes else {
            return Poll::Pending;
        };
        let ended = ready!(Pin::new(outcomes).poll(context));
        self.outcomes = None;
        // Dropped by a thread that panicked.
        Poll::Ready(ended.unwrap_or_default())
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn give_all(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        let mut outcomes = Vec::with_capacity(orders.len());
        for bunch in orders.chunks(BUNCH) {
            outcomes.extend(self.give_bunch(bunch));
        }
        outcomes
    }

    fn give_bunch(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        let first = self.sequence.wrapping_add(1);
        self.buffer.clear();
        for order in orders {
            self.sequence = self.sequence.wrapping_add(1);
            let mut message = order.message();
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = self.buffer.len();
            self.buffer.resize(start + message.buffer_len(), 0);
            message.serialize(&mut self.buffer[start..]);
        }
        let mut refusals: Vec<Option<i32>> = vec![None; orders.len()];
        let sent = loop {
            match self.socket.send(&self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => break sent,
            }
        };
        if let Err(error) = sent {
            refusals.fill(Some(error.raw_os_error().unwrap_or(libc::EIO)));
        } else {
            self.read_refusals(first, &mut refusals);
        }
        let outcome = |errno: Option<i32>| errno.map_or(Ok(()), os_error);
        refusals.into_iter().map(outcome).collect()
    }

    /// Reads everything that the kernel has queued.
    fn read_refusals(&mut self, first: u32, refusals: &mut [Option<i32>]) {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_length) => message::for_each(&self.buffer, |message| {
                    if let Body::Done(errno) = message.body
                        && errno != 0
                        && let Ok(index) = usize::try_from(message.sequence.wrapping_sub(first))
                        && let Some(refusal) = refusals.get_mut(index)
                    {
                        *refusal = Some(errno);
                    }
                }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A refusal may be among what was lost.
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    for refusal in refusals.iter_mut() {
                        refusal.get_or_insert(errno);
                    }
                    if errno != libc::ENOBUFS {
                        return;
                    }
                }
            }
        }
    }
}

fn os_error(errno: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno))
}

impl Order {
    fn message(&self) -> NetlinkMessage<RouteNetlinkMessage> {
        let (flags, message) = match self {
            Self::Add(address, lease) => (
                NLM_F_CREATE | NLM_F_EXCL,
                RouteNetlinkMessage::NewAddress(assignment(address, *lease)),
            ),
            Self::Renew(address, lease) => (
                NLM_F_CREATE | NLM_F_REPLACE,
                RouteNetlinkMessage::NewAddress(assignment(address, *lease)),
            ),
            // Without IFA_ADDRESS the kernel takes the first with that address, whatever its prefix length
            // (`inet_rtm_deladdr`).
            Self::Delete(address) => (0, RouteNetlinkMessage::DelAddress(identity(address))),
            // Several virtual addresses may be in one subnet, each with a route.
            Self::AddRoute(route) => (
                NLM_F_CREATE | NLM_F_APPEND,
                RouteNetlinkMessage::NewRoute(route.message()),
            ),
            Self::DeleteRoute(route) => (0, RouteNetlinkMessage::DelRoute(route.message())),
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        NetlinkMessage::new(header, NetlinkPayload::from(message))
    }
}

/// Which address it is.
fn identity(address: &Address) -> AddressMessage {
    let &Address {
        ifindex, prefix, ..
    } = address;
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
    // A shorter prefix brings one: an earlier run's may still have it.
    message
        .attributes
        .retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    message
}

/// Without a broadcast address, as with `ip address add`.
fn assignment(address: &Address, lease: Option<Duration>) -> AddressMessage {
    let mut message = identity(address);
    message.attributes.extend([
        AddressAttribute::Protocol(AddressProtocol::Other(address.protocol)),
        AddressAttribute::CacheInfo(lifetime(lease)),
    ]);
    if address.address.is_ipv6() {
        // The election has settled who owns it; duplicate address detection would only delay its use.
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
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

impl Route {
    fn message(&self) -> RouteMessage {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.subnet, self.prefix)
            .output_interface(self.ifindex)
            .pref_source(self.source)
            .priority(LAST_METRIC)
            .scope(RouteScope::Link)
            .protocol(RouteProtocol::Other(self.protocol))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    /// On an interface that cannot be there.
    const NOWHERE: Address = Address {
        ifindex: 0x7fff_fff0,
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        prefix: 32,
        protocol: 112,
        primary: true,
    };

    #[test]
    fn where_a_refusal_finds_no_room_the_order_has_failed_and_the_next_is_answered_right() {
        let mut orders = Orders::new().unwrap();
        // The kernel makes it as small as it allows.
        setsockopt(&lock(&orders.line).socket, sockopt::RcvBuf, &0).unwrap();
        let lost = |outcome: &io::Result<()>| {
            let refusal = outcome.as_ref().unwrap_err();
            refusal.raw_os_error() == Some(libc::ENOBUFS)
        };
        for _ in 0..3 {
            let outcomes = orders.give_all(&[Order::Delete(NOWHERE); BUNCH]);
            assert!(outcomes.iter().filter(|outcome| lost(outcome)).count() > BUNCH / 2);
            assert!(!lost(&outcomes[0]));
            assert!(!lost(&orders.give(Order::Delete(NOWHERE))));
        }
    }

    #[test]
    fn orders_for_later_keep_nobody_waiting_and_the_next_one_comes_after_them() {
        let mut orders = Orders::new().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let line = Arc::clone(&orders.line);
        // The thread waits for this as it would for the kernel.
        let busy = lock(&line);
        orders.give_later(vec![Order::Delete(NOWHERE); 2]);
        assert!(orders.poll_outcomes(&mut context).is_pending());
        drop(busy);
        orders.give(Order::Delete(NOWHERE)).unwrap_err();
        let Poll::Ready(outcomes) = orders.poll_outcomes(&mut context) else {
            panic!("they were to be carried out first");
        };
        assert!(outcomes.len() == 2 && outcomes.iter().all(Result::is_err));
        assert!(orders.poll_outcomes(&mut context).is_pending());
    }

    #[test]
    fn each_refused_order_says_why_and_the_next_is_carried_out_too() {
        let mut orders = Orders::new().unwrap();
        let route = Route {
            ifindex: NOWHERE.ifindex,
            subnet: [192, 0, 2, 0].into(),
            prefix: 24,
            source: [192, 0, 2, 1].into(),
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
        let outcomes = orders.give_all(&many);
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
