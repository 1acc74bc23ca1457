//! What the operator asks for with `kill`.

use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request that came as a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// USR1: log state and counters.
    Dump,
    /// USR2: step down for a while.
    StepDown,
    /// TERM, INT, QUIT, HUP: stop in an orderly way.
    Stop,
}

/// The signals of [`Request`]. From its creation on none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, Request)>);

impl Signals {
    /// Takes the signals over.
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
        requests
            .into_iter()
            .map(|(kind, request)| Ok((signal(kind)?, request)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next request.
    pub fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Request> {
        for (signal, request) in &mut self.0 {
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
