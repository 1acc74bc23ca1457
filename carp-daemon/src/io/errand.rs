//! A thread that runs errands for the event loop: work that may wait for the kernel or for a disk.
//!
//! Some calls wait for a lock of the whole machine (rtnl), for every processor or for a file system, for seconds at worst,
//! and a MASTER has to go on advertising meanwhile. The event loop hands such a call to [`Errands`] and fetches its outcome
//! in a later turn. Errands of one `Errands` run one after the other, in the order in which they were begun.
//!
//! The thread starts with the first errand and ends when it has nothing left to do, so an idle carpd has none. It inherits
//! the capabilities that the event loop has at that moment. It inherits real-time scheduling (`--realtime`) only if the
//! event loop waits for its errands ([`Errands::awaited`]), because otherwise a slow disk or the kernel's work on links
//! would take the processor from the event loop.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::error;

use crate::sys;

/// Bytes of stack. An errand makes a few system calls and may log; with locked memory the whole stack is resident.
const STACK: usize = 128 * 1024;

/// Errands that may wait for their turn. More would only collect memory while the kernel or the disk stands still.
const WAITING_MAX: usize = 8192;

/// An errand panicked. The panic has already been logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread panicked")]
pub struct Panicked;

/// Runs errands in one thread, and keeps their outcomes of type `T` until the event loop fetches them.
pub struct Errands<T> {
    /// Name of the thread.
    name: &'static str,
    /// The time for which the thread waits for another errand before it ends.
    linger: Duration,
    /// The thread keeps the scheduling of the event loop.
    is_awaited: bool,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
    outcome: mpsc::UnboundedSender<Result<T, Panicked>>,
    outcomes: mpsc::UnboundedReceiver<Result<T, Panicked>>,
}

/// The state that the event loop and the thread share.
#[derive(Default)]
struct Desk {
    state: Mutex<ErrandState>,
    changed: Condvar,
}

#[derive(Default)]
struct ErrandState {
    waiting: VecDeque<Job>,
    is_running: bool,
    has_thread: bool,
    is_closing: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl<T: Send + 'static> Errands<T> {
    /// Creates an empty queue. The kernel shows the first 15 bytes of the thread's name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let (outcome, outcomes) = mpsc::unbounded_channel();
        Self {
            name,
            linger: Duration::ZERO,
            is_awaited: false,
            desk: Arc::default(),
            thread: None,
            outcome,
            outcomes,
        }
    }

    /// Like [`Errands::new`], for errands that the event loop waits for. The thread has the scheduling of the event loop,
    /// and waits for another errand for `linger` before it ends: starting a thread takes longer than many a short
    /// errand.
    #[must_use]
    pub fn awaited(name: &'static str, linger: Duration) -> Self {
        Self {
            linger,
            is_awaited: true,
            ..Self::new(name)
        }
    }

    /// Queues an errand behind those begun before it. An outcome wakes the event loop; `None` does not.
    ///
    /// # Errors
    /// Returns an error if no thread could be started, or `WouldBlock` if too many errands wait already. The errand
    /// then does not run.
    pub fn begin(&mut self, errand: impl FnOnce() -> Option<T> + Send + 'static) -> io::Result<()> {
        let (name, outcome) = (self.name, self.outcome.clone());
        let job = move || match catch_unwind(AssertUnwindSafe(errand)) {
            Ok(None) => {}
            // If the engine has ended, nobody fetches the outcome.
            Ok(Some(value)) => drop(outcome.send(Ok(value))),
            Err(panic) => {
                error!(
                    "thread {name} panicked, carpd goes on without its result: {}",
                    message(&*panic)
                );
                let _ = outcome.send(Err(Panicked));
            }
        };
        let mut state = self.desk.lock();
        if state.waiting.len() >= WAITING_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.waiting.push_back(Box::new(job));
        if state.has_thread {
            self.desk.changed.notify_one();
            return Ok(());
        }
        let (desk, linger) = (Arc::clone(&self.desk), self.linger);
        let is_awaited = self.is_awaited;
        let started = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if !is_awaited {
                    // If the system refuses this, the errand runs with the scheduling of the event loop.
                    let _ = sys::schedule_ordinarily();
                }
                desk.work(linger);
            });
        match started {
            Ok(thread) => {
                state.has_thread = true;
                self.thread = Some(thread);
                Ok(())
            }
            Err(error) => {
                state.waiting.pop_back();
                Err(error)
            }
        }
    }

    /// Returns whether an errand waits or runs, or an outcome has not been fetched yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        // The order matters: an errand leaves its outcome before it ends.
        self.is_working() || !self.outcomes.is_empty()
    }

    /// Returns whether an errand waits or runs.
    #[must_use]
    pub fn is_working(&self) -> bool {
        let state = self.desk.lock();
        state.is_running || !state.waiting.is_empty()
    }

    /// Returns the next outcome once there is one.
    pub fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Panicked>> {
        match ready!(self.outcomes.poll_recv(context)) {
            Some(outcome) => Poll::Ready(outcome),
            // This cannot happen: we hold a sender, so the channel stays open.
            None => Poll::Pending,
        }
    }

    /// Returns the next outcome if there is one already.
    pub fn take_outcome(&mut self) -> Option<Result<T, Panicked>> {
        self.outcomes.try_recv().ok()
    }

    /// Waits until every errand that was begun has ended, and the thread with it.
    pub fn finish(&mut self) {
        self.desk.lock().is_closing = true;
        self.desk.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // Panics of errands are caught, so the join always succeeds.
            let _ = thread.join();
        }
        self.desk.lock().is_closing = false;
    }

    /// Waits until every errand that was begun has ended, but no longer than `limit`. Returns whether they have.
    pub fn finish_within(&mut self, limit: Duration) -> bool {
        let works = |state: &mut ErrandState| state.is_running || !state.waiting.is_empty();
        let state = self.desk.lock();
        let waited = self.desk.changed.wait_timeout_while(state, limit, works);
        let has_ended = !works(&mut waited.unwrap_or_else(PoisonError::into_inner).0);
        if has_ended {
            self.finish();
        }
        has_ended
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, ErrandState> {
        // No errand runs under this lock, and the code that does run leaves the state consistent at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs errands until none is left.
    fn work(&self, linger: Duration) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.waiting.pop_front() {
                state.is_running = true;
                drop(state);
                job();
                state = self.lock();
                state.is_running = false;
                self.changed.notify_all();
                continue;
            }
            let is_idle = |state: &mut ErrandState| state.waiting.is_empty() && !state.is_closing;
            let waited = self.changed.wait_timeout_while(state, linger, is_idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.waiting.is_empty() {
                state.has_thread = false;
                return;
            }
        }
    }
}

/// Returns the message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl<T> Debug for Errands<T> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Errands")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Waker;

    use super::*;

    /// Longer than any errand of these tests takes.
    const LONG: Duration = Duration::from_secs(60);

    /// Returns an errand that waits for the test, and the sender that lets it continue.
    fn held() -> (impl FnOnce() -> Option<u32> + Send + 'static, Sender<u32>) {
        let (release, released): (Sender<u32>, Receiver<u32>) = channel();
        (move || released.recv().ok(), release)
    }

    #[test]
    fn errands_run_in_their_order_and_nobody_waits_for_them() {
        let mut errands = Errands::new("test");
        assert!(!errands.is_busy());
        let (first, release) = held();
        errands.begin(first).unwrap();
        errands.begin(|| Some(2)).unwrap();
        assert!(errands.is_busy() && errands.take_outcome().is_none());
        release.send(1).unwrap();
        errands.finish();
        // The outcomes have not been fetched yet.
        assert!(errands.is_busy() && !errands.is_working());
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(errands.poll_outcome(&mut context), Poll::Ready(Ok(1)));
        assert_eq!(errands.take_outcome(), Some(Ok(2)));
        assert!(errands.poll_outcome(&mut context).is_pending());
        assert!(!errands.is_busy());
    }

    #[test]
    fn a_wait_with_a_limit_ends_with_the_last_errand_or_at_the_limit() {
        let mut errands = Errands::new("test");
        let (first, release) = held();
        errands.begin(first).unwrap();
        assert!(!errands.finish_within(Duration::from_millis(1)));
        release.send(1).unwrap();
        assert!(errands.finish_within(LONG));
        assert_eq!(errands.take_outcome(), Some(Ok(1)));
        assert!(errands.finish_within(Duration::ZERO));
    }

    #[test]
    fn an_errand_without_an_outcome_leaves_nothing_to_fetch() {
        let mut errands: Errands<u32> = Errands::new("test");
        errands.begin(|| None).unwrap();
        errands.finish();
        assert!(!errands.is_busy() && errands.take_outcome().is_none());
    }

    #[test]
    fn a_panic_is_an_outcome_and_the_next_errand_runs() {
        let mut errands = Errands::new("test");
        for linger in [Duration::ZERO, LONG] {
            errands.linger = linger;
            errands.begin(|| panic!("on purpose")).unwrap();
            errands.begin(|| Some(2)).unwrap();
            errands.finish();
            assert_eq!(errands.take_outcome(), Some(Err(Panicked)));
            assert_eq!(errands.take_outcome(), Some(Ok(2)));
        }
    }

    #[test]
    fn a_lingering_thread_serves_the_next_errand_and_ends_when_asked_to() {
        let mut errands = Errands::awaited("test", LONG);
        let mut threads = Vec::new();
        for _ in 0..2 {
            errands.begin(|| Some(thread::current().id())).unwrap();
            while errands.is_working() {
                thread::yield_now();
            }
            threads.push(errands.take_outcome().unwrap().unwrap());
        }
        assert_eq!(threads[0], threads[1]);
        errands.finish();
        assert!(!errands.desk.lock().has_thread);
        errands.begin(|| None).unwrap();
        errands.finish();
    }

    /// Returns the scheduling policy of the calling thread: field 41 of `/proc/PID/stat` (proc(5)).
    fn policy() -> libc::c_int {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.split_whitespace()
            .nth(41 - 3)
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn only_a_thread_that_is_waited_for_has_the_scheduling_of_the_event_loop() {
        sys::schedule_in_batches().unwrap();
        for (mut errands, expected) in [
            (Errands::new("test"), libc::SCHED_OTHER),
            (Errands::awaited("test", Duration::ZERO), libc::SCHED_BATCH),
        ] {
            errands.begin(|| Some(policy())).unwrap();
            errands.finish();
            assert_eq!(errands.take_outcome(), Some(Ok(expected)));
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut errands = Errands::new("test");
        let (first, release) = held();
        errands.begin(first).unwrap();
        while !errands.desk.lock().is_running {
            thread::yield_now();
        }
        for _ in 0..WAITING_MAX {
            errands.begin(|| None).unwrap();
        }
        let refused = errands.begin(|| None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        release.send(1).unwrap();
        errands.finish();
        errands.begin(|| None).unwrap();
    }
}
