//! Everything that carpd asks of the kernel about links, addresses and routes, and how long it waits for that.
//!
//! The kernel works on a request inside `sendmsg`, and has queued the answer by the time that returns: an address is there
//! before the next advertisement leaves, in program order. But it works under a lock of the whole machine (rtnl), which
//! others hold for seconds at times: while a driver resets, or many namespaces end. No timeout of a socket and no signal
//! ends the wait for that lock, so a caller who has other things to do must not be the one who waits. Once it serves, the
//! engine therefore has a thread send its requests ([`Client::limit_waits`]), and waits for the thread no longer than
//! [`PATIENCE`]. Renewals of leases are not waited for at all ([`Client::give_later`]).
//!
//! # Why not rtnetlink's own connection
//!
//! rtnetlink's builders write the messages. Its `Handle` and `Connection` do not carry this client:
//!
//! - The connection is a task that sends. On the event loop's thread it waits for rtnl with the whole loop: while 7000 veths
//!   were deleted, which took 1.1 s, everything else on that thread was late by 1.1 s. A thread would be needed all the same,
//!   with a runtime of its own.
//! - An answer that was lost (ENOBUFS) is reported in a message without a number, which belongs to no request: the request
//!   that it answered never ends (netlink-proto 0.14, `framed.rs` and `protocol.rs`), and there is no timeout.
//! - The typed calls (`handle.address().get()` and others) return payloads without their headers, so whether a list was
//!   interrupted (`NLM_F_DUMP_INTR`) cannot be seen.
//! - Every attribute is parsed, and a message with one that this version of the parser does not accept is dropped with a
//!   log line: a newer kernel could cost us a link.
//! - Each order is one datagram with an acknowledgement: renewing 4000 leases took 25 µs for each, and in bunches, as here,
//!   12 µs.

mod line;
mod order;

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use tokio::sync::oneshot;

use self::line::{Found, Line};
pub use self::order::Order;
use super::{Address, Event, Link, Route};
use crate::io::errand::{Errands, Panicked};

/// How long the event loop waits for an answer. Well below the time after which a silent MASTER is replaced, and longer than
/// any request takes while nobody else holds rtnl.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the thread waits for another request: a takeover gives one order after the other.
const LINGER: Duration = Duration::from_millis(50);

/// The one client of the kernel's rtnetlink.
#[derive(Debug)]
pub struct Client {
    port: u32,
    line: Arc<Mutex<Line>>,
    /// Sends while the caller has limited patience, and what is for later. Its errands have no outcome: each has a channel of
    /// its own for that.
    errands: Errands<()>,
    /// `None`: the caller waits as long as it takes, and sends itself.
    patience: Option<Duration>,
    /// A request that took longer than that. It is gone once the request has ended.
    overdue: Weak<()>,
    /// Of the latest [`Client::give_later`].
    outcomes: Option<oneshot::Receiver<Vec<io::Result<()>>>>,
}

impl Client {
    /// Opens the socket. Every call waits for the kernel as long as it takes, until [`Client::limit_waits`].
    ///
    /// # Errors
    /// What `socket(2)`, `bind(2)` and `connect(2)` return.
    pub fn new() -> io::Result<Self> {
        let line = Line::new()?;
        Ok(Self {
            port: line.port(),
            line: Arc::new(Mutex::new(line)),
            errands: Errands::with_linger("carpd-netlink", LINGER),
            patience: None,
            overdue: Weak::new(),
            outcomes: None,
        })
    }

    /// From now on no call takes much longer than `PATIENCE`, and several in a row do not either. `TimedOut` means that the
    /// kernel may still carry out what was asked for.
    pub const fn limit_waits(&mut self) {
        self.patience = Some(PATIENCE);
    }

    /// What tells notifications of the effects of our orders from those of others.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Lists every interface of this network namespace.
    ///
    /// # Errors
    /// What the kernel returns, or that the list was never whole.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        Ok(links_of(self.ask(get_link(0), true)?.events).collect())
    }

    /// Returns one interface as it is now; its XDP hook is not part of every notification.
    ///
    /// # Errors
    /// ENODEV when it is gone; else what the kernel returns.
    pub fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        let found = links_of(self.ask(get_link(ifindex), false)?.events).last();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Lists every address of this network namespace, in the kernel's order: an interface's primary addresses first.
    ///
    /// # Errors
    /// What the kernel returns, or that the list was never whole.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let events = self.ask(question, true)?.events.into_iter();
        let addresses = events.filter_map(|event| match event {
            Event::Address(address) => Some(address),
            Event::Link(_) | Event::LinkGone { .. } | Event::AddressGone { .. } => None,
        });
        Ok(addresses.collect())
    }

    /// Lists the routes of the main table that lead straight to an interface, of both families.
    ///
    /// # Errors
    /// What the kernel returns, or that the list was never whole.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let question = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        Ok(self.ask(question, true)?.routes)
    }

    /// Carries out one order.
    ///
    /// # Errors
    /// What the kernel returns, see [`Order`], and [`Client::give_all`].
    pub fn give(&mut self, order: Order) -> io::Result<()> {
        self.give_all(&[order]).pop().unwrap_or(Ok(()))
    }

    /// Carries out orders one after the other, after all that were given before, and returns what became of each. One that is
    /// refused does not keep the next from being carried out.
    ///
    /// `TimedOut` and `ENOBUFS` mean that nobody knows, or that nobody knows yet. While an earlier request is overdue, orders
    /// wait for their turn without the caller; but where one is to add an address none is given, because the caller will try
    /// again.
    pub fn give_all(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        let adds = orders.iter().any(|it| matches!(it, Order::Add(..)));
        let given = orders.to_vec();
        let outcomes = if adds && self.is_overdue() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            self.run(move |line| line.give_all(&given))
        };
        outcomes.unwrap_or_else(|error| orders.iter().map(|_| Err(error.kind().into())).collect())
    }

    /// Has orders carried out by a thread, after all that were given before. [`Client::poll_outcomes`] has what became of
    /// them.
    pub fn give_later(&mut self, orders: Vec<Order>) {
        let (done, outcomes) = oneshot::channel();
        self.outcomes = Some(outcomes);
        let orders = Arc::new(orders);
        let (line, given) = (Arc::clone(&self.line), Arc::clone(&orders));
        let begun = self.begin(move || {
            // Nobody waits for it where the engine has ended.
            let _ = done.send(lock(&line).give_all(&given));
        });
        // No thread is to be had: right here then.
        if begun.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            let (done, outcomes) = oneshot::channel();
            self.outcomes = Some(outcomes);
            let _ = done.send(lock(&self.line).give_all(&orders));
        }
    }

    /// Ready once with what became of the orders of [`Client::give_later`]: with nothing if the thread panicked, or if too much
    /// waits for it already.
    pub fn poll_outcomes(&mut self, context: &mut Context<'_>) -> Poll<Vec<io::Result<()>>> {
        let Some(outcomes) = &mut self.outcomes else {
            return Poll::Pending;
        };
        let ended = ready!(Pin::new(outcomes).poll(context));
        self.outcomes = None;
        Poll::Ready(ended.unwrap_or_default())
    }

    /// Waits until the kernel has answered everything.
    pub fn finish(&mut self) {
        self.errands.finish();
    }

    /// Whether a request that took too long is still under way.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.overdue.strong_count() > 0
    }

    /// Has a question answered, unless an earlier request is overdue: nobody would wait for the answer.
    fn ask(&mut self, question: RouteNetlinkMessage, is_list: bool) -> io::Result<Found> {
        if self.is_overdue() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.run(move |line| line.ask(question.clone(), is_list))?
    }

    /// Does something with the line, after all that was begun before: in the thread once the caller has limited patience.
    fn run<T: Send + 'static>(
        &mut self,
        work: impl Fn(&mut Line) -> T + Send + Sync + 'static,
    ) -> io::Result<T> {
        let Some(patience) = self.patience else {
            self.errands.finish();
            return Ok(work(&mut lock(&self.line)));
        };
        let work = Arc::new(work);
        let (done, outcome) = sync_channel(1);
        let alive = Arc::new(());
        let under_way = Arc::downgrade(&alive);
        let (line, given) = (Arc::clone(&self.line), Arc::clone(&work));
        let begun = self.begin(move || {
            // Nobody waits for it any more where the caller ran out of patience.
            let _ = done.send(given(&mut lock(&line)));
            drop(alive);
        });
        match begun {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // No thread is to be had, so nothing is under way in one.
            Err(_) => return Ok(work(&mut lock(&self.line))),
        }
        let patience = if self.is_overdue() {
            Duration::ZERO
        } else {
            patience
        };
        match outcome.recv_timeout(patience) {
            Ok(outcome) => Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {
                if !self.is_overdue() {
                    self.overdue = under_way;
                }
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other(Panicked)),
        }
    }

    fn begin(&mut self, errand: impl FnOnce() + Send + 'static) -> io::Result<()> {
        // A panic is all that there can be; it has been logged, and its caller has noticed by itself.
        while self.errands.take_outcome().is_some() {}
        self.errands.begin(move || {
            errand();
            None
        })
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // After a panic the next request has a number of its own again.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The question about one interface, or about all of them (0).
fn get_link(ifindex: u32) -> RouteNetlinkMessage {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    // Counters would be most of each answer.
    let without_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    question.attributes.push(without_counters);
    RouteNetlinkMessage::GetLink(question)
}

fn links_of(events: Vec<Event>) -> impl Iterator<Item = Link> {
    events.into_iter().filter_map(|event| match event {
        Event::Link(link) => Some(link),
        Event::LinkGone { .. } | Event::Address(_) | Event::AddressGone { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::order::tests::NOWHERE;
    use super::*;
    use crate::io::clock;

    /// More than any request takes, also where the tests have little of the processor.
    const LONG: Duration = Duration::from_secs(60);

    fn errno(outcome: &io::Result<()>) -> Option<i32> {
        outcome.as_ref().err().and_then(io::Error::raw_os_error)
    }

    fn is_timeout<T>(outcome: &io::Result<T>) -> bool {
        let kind = outcome.as_ref().err().map(io::Error::kind);
        kind == Some(io::ErrorKind::TimedOut)
    }

    #[test]
    fn the_loopback_interface_is_listed_and_a_refusal_says_why() {
        for limited in [false, true] {
            let mut client = Client::new().unwrap();
            client.patience = limited.then_some(LONG);
            let links = client.links().unwrap();
            let loopback = links.iter().find(|link| link.name == "lo");
            let index = loopback.expect("every namespace has one").index;
            assert_eq!(client.link(index).unwrap().name, "lo");
            let refusal = client.link(0x7fff_fff0).unwrap_err();
            assert_eq!(refusal.raw_os_error(), Some(libc::ENODEV), "{refusal}");
            // Its answer was read to the end.
            assert!(client.links().is_ok() && client.addresses().is_ok());
        }
    }

    #[test]
    fn orders_for_later_keep_nobody_waiting_and_the_next_one_comes_after_them() {
        for limited in [false, true] {
            let mut client = Client::new().unwrap();
            client.patience = limited.then_some(LONG);
            let mut context = Context::from_waker(Waker::noop());
            let line = Arc::clone(&client.line);
            // The thread waits for this as it would for the kernel.
            let busy = lock(&line);
            client.give_later(vec![Order::Delete(NOWHERE); 2]);
            assert!(client.poll_outcomes(&mut context).is_pending());
            drop(busy);
            client.give(Order::Delete(NOWHERE)).unwrap_err();
            let Poll::Ready(outcomes) = client.poll_outcomes(&mut context) else {
                panic!("they were to be carried out first");
            };
            assert!(outcomes.len() == 2 && outcomes.iter().all(Result::is_err));
            assert!(client.poll_outcomes(&mut context).is_pending());
        }
    }

    #[test]
    fn a_kernel_that_takes_long_holds_the_caller_once_and_not_for_long() {
        let mut client = Client::new().unwrap();
        client.limit_waits();
        let line = Arc::clone(&client.line);
        let busy = lock(&line);
        let begun = clock::now();
        assert!(is_timeout(&client.give(Order::Delete(NOWHERE))));
        assert!(clock::now().saturating_duration_since(begun) >= PATIENCE && client.is_overdue());
        let begun = clock::now();
        for _ in 0..100 {
            assert!(is_timeout(&client.give(Order::Delete(NOWHERE))));
            assert!(is_timeout(&client.give(Order::Add(NOWHERE, None))));
            assert!(is_timeout(&client.links()));
        }
        // 100 of these would be far more than one wait.
        assert!(clock::now().saturating_duration_since(begun) < 10 * PATIENCE);
        let sent = busy.sent();
        drop(busy);
        client.finish();
        assert!(!client.is_overdue());
        // The orders to delete, and nothing else.
        assert_eq!(lock(&line).sent() - sent, 101);
        client.patience = Some(LONG);
        assert!(!is_timeout(&client.give(Order::Delete(NOWHERE))));
        assert!(client.links().is_ok());
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_and_the_next_request_is_answered() {
        let mut client = Client::new().unwrap();
        client.patience = Some(LONG);
        for _ in 0..3 {
            // Without the hook, which writes a backtrace and may take longer than the patience.
            let panics =
                |_: &mut Line| -> u32 { std::panic::resume_unwind(Box::new("on purpose")) };
            let panicked = client.run(panics).unwrap_err();
            assert_eq!(panicked.kind(), io::ErrorKind::Other);
            assert!(errno(&client.give(Order::Delete(NOWHERE))).is_some());
        }
    }
}
