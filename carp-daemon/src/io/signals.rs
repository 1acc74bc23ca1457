//! The signals by which the operator makes requests.

use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// A request that arrived as a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRequest {
    /// USR1: log the status and the counters.
    Dump,
    /// USR2: step down for a while.
    StepDown,
    /// TERM, INT, QUIT, HUP and every other signal that would end the process: stop in an orderly way.
    Stop,
}

/// Returns every other signal that would end the process without a log line.
///
/// Signals about a fault of the program itself (SEGV and the like) are not among them, nor is SYS, which seccomp
/// sends.
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

/// Receives the signals of [`SignalRequest`]. None of them ends the process by itself once this value exists.
#[derive(Debug)]
pub struct Signals {
    requests: Vec<(Signal, SignalRequest)>,
    /// Receives a message when one of [`others_that_end`] arrived.
    other: mpsc::Receiver<()>,
}

impl Signals {
    /// Installs the signal handlers. Panics outside a tokio runtime.
    ///
    /// Handlers are used rather than `SIG_IGN`, because scripts would inherit the latter.
    ///
    /// # Errors
    /// Returns any error of `sigaction(2)`.
    pub fn new() -> io::Result<Self> {
        let requests = [
            // Stop comes first, so that it wins when several signals are pending.
            (SignalKind::terminate(), SignalRequest::Stop),
            (SignalKind::interrupt(), SignalRequest::Stop),
            (SignalKind::quit(), SignalRequest::Stop),
            (SignalKind::hangup(), SignalRequest::Stop),
            (SignalKind::user_defined2(), SignalRequest::StepDown),
            (SignalKind::user_defined1(), SignalRequest::Dump),
        ];
        let requests = requests
            .into_iter()
            .map(|(kind, request)| Ok((signal(kind)?, request)))
            .collect::<io::Result<_>>()?;
        let (came, other) = mpsc::channel(1);
        for number in others_that_end() {
            let mut others = signal(SignalKind::from_raw(number))?;
            let came = came.clone();
            // Each signal has a task, so that the engine does not poll all of them in every turn.
            tokio::spawn(async move {
                while others.recv().await.is_some() {
                    // A message that already waits says the same.
                    let _ = came.try_send(());
                }
            });
        }
        // A log file at its size limit (`ulimit -f`) must not end the process: the write fails instead. The signal
        // itself is not read.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self { requests, other })
    }

    /// Returns the next request.
    pub fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<SignalRequest> {
        if let Poll::Ready(Some(())) = self.other.poll_recv(context) {
            return Poll::Ready(SignalRequest::Stop);
        }
        for (signal, request) in &mut self.requests {
            if signal.poll_recv(context).is_ready() {
                return Poll::Ready(*request);
            }
        }
        Poll::Pending
    }

    /// Waits until a signal asks to stop. Other requests are dropped.
    pub async fn stop(&mut self) {
        while std::future::poll_fn(|context| self.poll_request(context)).await
            != SignalRequest::Stop
        {}
    }
}
