//! What the operator asks for with `kill`.

use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// A request that came as a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// USR1: log state and counters.
    Dump,
    /// USR2: step down for a while.
    StepDown,
    /// TERM, INT, QUIT, HUP, and every other signal that would end the process: stop in an orderly way.
    Stop,
}

/// Every other signal that would end the process without a word.
///
/// Not the ones that tell of a fault in the program itself (SEGV and the like), nor SYS, which seccomp sends.
fn others_that_end() -> impl Iterator<Item = i32> {
    [
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGXCPU,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
    ]
    .into_iter()
    .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// The signals of [`Request`]. From its creation on none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    requests: Vec<(Signal, Request)>,
    /// One of [`others_that_end`] came.
    other: mpsc::Receiver<()>,
}

impl Signals {
    /// Takes the signals over. Panics outside a tokio runtime.
    ///
    /// A handler rather than `SIG_IGN`, because scripts would inherit that.
    ///
    /// # Errors
    /// What `sigaction(2)` answers.
    pub fn new() -> io::Result<Self> {
        let requests = [
            // Stopping comes first: it is what remains when several are pending.
            (SignalKind::terminate(), Request::Stop),
            (SignalKind::interrupt(), Request::Stop),
            (SignalKind::quit(), Request::Stop),
            (SignalKind::hangup(), Request::Stop),
            (SignalKind::user_defined2(), Request::StepDown),
            (SignalKind::user_defined1(), Request::Dump),
        ];
        let requests = requests
            .into_iter()
            .map(|(kind, request)| Ok((signal(kind)?, request)))
            .collect::<io::Result<_>>()?;
        let (came, other) = mpsc::channel(1);
        for number in others_that_end() {
            let mut others = signal(SignalKind::from_raw(number))?;
            let came = came.clone();
            // A task each, so that the engine does not look at all of them in every turn.
            tokio::spawn(async move {
                while others.recv().await.is_some() {
                    // One that waits already says the same.
                    let _ = came.try_send(());
                }
            });
        }
        // A log file at its limit (`ulimit -f`) is not a reason to end: the write fails instead. Nobody waits for the signal.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self { requests, other })
    }

    /// The next request.
    pub fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Request> {
        if let Poll::Ready(Some(())) = self.other.poll_recv(context) {
            return Poll::Ready(Request::Stop);
        }
        for (signal, request) in &mut self.requests {
            if signal.poll_recv(context).is_ready() {
                return Poll::Ready(*request);
            }
        }
        Poll::Pending
    }

    /// Waits until someone asks to stop; other requests are let go.
    pub async fn stop(&mut self) {
        while std::future::poll_fn(|context| self.poll_request(context)).await != Request::Stop {}
    }
}
