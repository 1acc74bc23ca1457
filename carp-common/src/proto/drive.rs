//! The loop around a virtual host: feed it one input, carry out what it decides, and feed it the results.
//!
//! This is the only way to run a [`VirtualHost`], so the daemon, the simulation, the fuzzer and the tests cannot differ
//! in it. The caller feeds everything that arrived with [`feed`], and only then calls [`time_out`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Action, Input, VirtualHost};
use crate::time::Instant;

/// Carries out the actions of a virtual host.
pub trait Executor {
    /// Called before an input is fed, be it one of the caller's or a result.
    fn feeds(&mut self, input: &Input<'_>) {
        let _ = input;
    }

    /// Carries out one action. Returns the result that the virtual host must hear of, if there is one already.
    fn execute(&mut self, host: &VirtualHost, action: Action) -> Option<Input<'static>>;

    /// Called when every action of an input or a timeout has been carried out, before a result is fed.
    fn executed(&mut self, host: &VirtualHost) {
        let _ = host;
    }
}

/// Collects the actions, for callers that carry them out later and feed the results themselves.
impl Executor for Vec<Action> {
    fn execute(&mut self, _host: &VirtualHost, action: Action) -> Option<Input<'static>> {
        self.push(action);
        None
    }
}

/// Feeds one input, and carries out everything that follows from it.
pub fn feed(host: &mut VirtualHost, now: Instant, input: Input<'_>, executor: &mut impl Executor) {
    executor.feeds(&input);
    host.handle_input(now, input);
    carry_out(host, now, executor);
}

/// Does what is due, and carries out everything that follows from it. The caller has fed everything that arrived, and had
/// last done so at `looked_at` before; see [`VirtualHost`].
pub fn time_out(
    host: &mut VirtualHost,
    now: Instant,
    looked_at: Instant,
    executor: &mut impl Executor,
) {
    host.handle_timeout(now, looked_at);
    carry_out(host, now, executor);
}

/// The host hears of results after all actions of one input, in order.
fn carry_out(host: &mut VirtualHost, now: Instant, executor: &mut impl Executor) {
    let mut results = VecDeque::new();
    loop {
        while let Some(action) = host.poll_action() {
            results.extend(executor.execute(host, action));
        }
        executor.executed(host);
        let Some(result) = results.pop_front() else {
            return;
        };
        executor.feeds(&result);
        host.handle_input(now, result);
    }
}
