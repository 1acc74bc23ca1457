//! Sends every request about links, addresses and routes to the kernel, and bounds the time spent on waiting for the
//! answers.
//!
//! The kernel carries out a request inside `sendmsg` and has queued the answer when that returns. Program order is
//! therefore enough to have an address in place before the next advertisement leaves. But the kernel works under a
//! lock of the whole machine (rtnl), which others sometimes hold for seconds, for example while a driver resets or
//! many namespaces end. Neither a socket timeout nor a signal ends the wait for that lock, so the event loop must not
//! be the one that waits. Once carpd serves, a thread therefore sends the engine's requests
//! ([`Client::limit_waits`]), and the engine waits for that thread no longer than [`PATIENCE`]. It does not wait for
//! renewals of leases at all ([`Client::give_later`]).
//!
//! # Why not rtnetlink's own connection
//!
//! rtnetlink's builders write the messages. Its `Handle` and `Connection` are not suitable here:
//!
//! - The connection is a task that sends. On the event loop's thread it would wait for rtnl and block the whole loop:
//!   while 7000 veths were deleted, which took 1.1 s, everything else on that thread was late by 1.1 s. It would need
//!   a thread as well, with a runtime of its own.
//! - The message that reports a lost answer (ENOBUFS) has no sequence number and so matches no request. The affected
//!   request never ends (netlink-proto 0.14, `framed.rs` and `protocol.rs`), and there is no timeout.
//! - The typed calls (`handle.address().get()` and others) return payloads without their headers, so a caller cannot
//!   see whether a list was interrupted (`NLM_F_DUMP_INTR`).
//! - Every attribute is parsed, and a message with an attribute that this version of the parser rejects is dropped
//!   with a log line. With a newer kernel, carpd could miss a link.
//! - Each order is one datagram with an acknowledgement. Renewing 4000 leases took 25 µs each that way, and 12 µs in
//!   bunches as here.

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
use super::{Address, Link, NetlinkEvent, Route};
use crate::io::errand::{Errands, Panicked};

/// The time that the event loop waits for an answer. This is longer than any request takes while no other process holds
/// rtnl, and well below the time after which a silent MASTER is replaced, unless advbase is 0.
const PATIENCE: Duration = Duration::from_millis(500);

/// The time for which the thread waits for another request. A takeover gives several orders in a row.
const LINGER: Duration = Duration::from_millis(50);

/// The only client of the kernel's rtnetlink.
#[derive(Debug)]
pub struct Client {
    port: u32,
    line: Arc<Mutex<Line>>,
    /// Sends requests whose waiting time is limited, and deferred orders. Its errands have no outcome, because each
    /// has a channel of its own for that.
    errands: Errands<()>,
    /// `None` means that the caller sends requests itself and waits as long as it takes.
    patience: Option<Duration>,
    /// Refers to the last request that nobody waited for, because it or one before it took longer than `patience`. The
    /// reference is dead once the request has ended.
    overdue: Weak<()>,
    /// Outcomes of the latest [`Client::give_later`].
    outcomes: Option<oneshot::Receiver<Vec<io::Result<()>>>>,
}

impl Client {
    /// Opens the socket. Until [`Client::limit_waits`], every call waits for the kernel as long as it takes.
    ///
    /// # Errors
    /// Returns any error of `socket(2)`, `bind(2)` or `connect(2)`.
    pub fn new() -> io::Result<Self> {
        let line = Line::new()?;
        Ok(Self {
            port: line.port(),
            line: Arc::new(Mutex::new(line)),
            errands: Errands::awaited("carpd-netlink", LINGER),
            patience: None,
            overdue: Weak::new(),
            outcomes: None,
        })
    }

    /// Limits every later call to about `PATIENCE`, and several calls in a row to that time in total. `TimedOut`
    /// means that the kernel may still carry out the request.
    pub const fn limit_waits(&mut self) {
        self.patience = Some(PATIENCE);
    }

    /// Returns the port of the socket. It tells the effects of our orders from those of others in notifications.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Lists every interface of this network namespace.
    ///
    /// # Errors
    /// Returns the kernel's error, or an error if no attempt gave a complete list.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        Ok(links_of(self.ask(get_link(0), true)?.events).collect())
    }

    /// Returns one interface as it is now. Not every notification contains its XDP hook.
    ///
    /// # Errors
    /// Returns ENODEV if the interface is gone, and any other error of the kernel.
    pub fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        let found = links_of(self.ask(get_link(ifindex), false)?.events).last();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Lists every address of this network namespace in the kernel's order: an interface's primary addresses come
    /// first.
    ///
    /// # Errors
    /// Returns the kernel's error, or an error if no attempt gave a complete list.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let events = self.ask(question, true)?.events.into_iter();
        let addresses = events.filter_map(|event| match event {
            NetlinkEvent::Address(address) => Some(address),
            NetlinkEvent::Link(_)
            | NetlinkEvent::LinkGone { .. }
            | NetlinkEvent::AddressGone { .. } => None,
        });
        Ok(addresses.collect())
    }

    /// Lists the routes of the main table that lead directly to an interface, of both families.
    ///
    /// # Errors
    /// Returns the kernel's error, or an error if no attempt gave a complete list.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let question = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        Ok(self.ask(question, true)?.routes)
    }

    /// Carries out one order.
    ///
    /// # Errors
    /// Returns the kernel's error (see [`Order`]), and those of [`Client::give_all`].
    pub fn give(&mut self, order: Order) -> io::Result<()> {
        self.give_all(&[order]).pop().unwrap_or(Ok(()))
    }

    /// Carries out orders one after the other, after all that were given before, and returns the outcome of each. A
    /// refused order does not prevent the following ones.
    ///
    /// `TimedOut` and `ENOBUFS` mean that the outcome is not known, or not yet. While an earlier request is overdue,
    /// orders are queued and the caller does not wait. Orders that include an addition are not queued then, because
    /// the caller will try again.
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

    /// Has a thread carry out orders, after all that were given before. [`Client::poll_outcomes`] returns the
    /// outcomes.
    pub fn give_later(&mut self, orders: Vec<Order>) {
        let (done, outcomes) = oneshot::channel();
        self.outcomes = Some(outcomes);
        let orders = Arc::new(orders);
        let (line, given) = (Arc::clone(&self.line), Arc::clone(&orders));
        let begun = self.begin(move || {
            // If the engine has ended, nobody waits for the outcomes.
            let _ = done.send(lock(&line).give_all(&given));
        });
        // If no thread can be started, the orders are carried out here.
        if begun.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            let (done, outcomes) = oneshot::channel();
            self.outcomes = Some(outcomes);
            let _ = done.send(lock(&self.line).give_all(&orders));
        }
    }

    /// Ready once, with the outcomes of the orders of [`Client::give_later`]. The list is empty if the thread
    /// panicked or if too many errands wait for it.
    pub fn poll_outcomes(&mut self, context: &mut Context<'_>) -> Poll<Vec<io::Result<()>>> {
        let Some(outcomes) = &mut self.outcomes else {
            return Poll::Pending;
        };
        let ended = ready!(Pin::new(outcomes).poll(context));
        self.outcomes = None;
        Poll::Ready(ended.unwrap_or_default())
    }

    /// Waits until the kernel has answered every request, but no longer than `limit`. Returns whether it has.
    pub fn finish(&mut self, limit: Duration) -> bool {
        self.errands.finish_within(limit)
    }

    /// Returns whether a request that took too long is still running, or one that was queued behind it.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.overdue.strong_count() > 0
    }

    /// Sends a request and returns the answer, unless an earlier request is overdue: the answer would come too late.
    fn ask(&mut self, question: RouteNetlinkMessage, is_list: bool) -> io::Result<Found> {
        if self.is_overdue() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.run(move |line| line.ask(question.clone(), is_list))?
    }

    /// Runs `work` with the line after everything begun before, in the thread if the waiting time is limited.
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
            // If the caller has given up waiting, nobody reads the outcome.
            let _ = done.send(given(&mut lock(&line)));
            drop(alive);
        });
        match begun {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // No thread could be started, so no other request is running.
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
                // The requests before it end first, so all have ended when this one has.
                self.overdue = under_way;
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other(Panicked)),
        }
    }

    fn begin(&mut self, errand: impl FnOnce() + Send + 'static) -> io::Result<()> {
        // Only panics are possible outcomes. They have been logged, and the callers have noticed them.
        while self.errands.take_outcome().is_some() {}
        self.errands.begin(move || {
            errand();
            None
        })
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // After a panic the next request gets a sequence number of its own, so the line stays usable.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the request for one interface, or for all of them (0).
fn get_link(ifindex: u32) -> RouteNetlinkMessage {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    // Without this, counters would fill most of each answer.
    let without_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    question.attributes.push(without_counters);
    RouteNetlinkMessage::GetLink(question)
}

fn links_of(events: Vec<NetlinkEvent>) -> impl Iterator<Item = Link> {
    events.into_iter().filter_map(|event| match event {
        NetlinkEvent::Link(link) => Some(link),
        NetlinkEvent::LinkGone { .. }
        | NetlinkEvent::Address(_)
        | NetlinkEvent::AddressGone { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::order::tests::NOWHERE;
    use super::*;
    use crate::io::clock;

    /// Longer than any request takes, even when the tests get little processor time.
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
            // The whole answer was read.
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
            // The thread waits for this lock as it would for the kernel.
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
        // 100 separate waits would take far longer.
        assert!(clock::now().saturating_duration_since(begun) < 10 * PATIENCE);
        let sent = busy.sent();
        drop(busy);
        assert!(client.finish(Duration::from_secs(60)));
        assert!(!client.is_overdue());
        // Only the orders to delete were sent.
        assert_eq!(lock(&line).sent() - sent, 101);
        client.patience = Some(LONG);
        assert!(!is_timeout(&client.give(Order::Delete(NOWHERE))));
        assert!(client.links().is_ok());
    }

    #[test]
    fn a_request_behind_a_slow_one_is_overdue_when_that_has_ended() {
        let mut client = Client::new().unwrap();
        client.patience = Some(Duration::ZERO);
        let mut give = || {
            let (begin, begun) = sync_channel(1);
            let (end, gate) = sync_channel(1);
            let gate = Mutex::new(gate);
            let waits = move |_: &mut Line| {
                begin.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            };
            assert!(is_timeout(&client.run(waits)));
            (begun, end)
        };
        let [(_, end_slow), (behind_begun, end_behind)] = [give(), give()];
        end_slow.send(()).unwrap();
        behind_begun.recv().unwrap();
        assert!(client.is_overdue());
        end_behind.send(()).unwrap();
        assert!(client.finish(Duration::from_secs(60)));
        assert!(!client.is_overdue());
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_and_the_next_request_is_answered() {
        let mut client = Client::new().unwrap();
        client.patience = Some(LONG);
        for _ in 0..3 {
            // `resume_unwind` skips the panic hook, which writes a backtrace and may take longer than the patience.
            let panics =
                |_: &mut Line| -> u32 { std::panic::resume_unwind(Box::new("on purpose")) };
            let panicked = client.run(panics).unwrap_err();
            assert_eq!(panicked.kind(), io::ErrorKind::Other);
            assert!(errno(&client.give(Order::Delete(NOWHERE))).is_some());
        }
    }
}
