//! Everything that the daemon shows of itself, as plain values: events when they happen, and a status on request.
//!
//! Nothing here knows the engine, the system calls or the log. The engine and `io` make these values. The log, SIGUSR1
//! and every other interface only render them.
//!
//! | Module | What it represents |
//! |---|---|
//! | [`event`] | a single event |
//! | [`Outbox`] | the way of an event out of `io` |
//! | [`status`] | the state of every virtual host and interface at one moment |

pub mod event;
mod outbox;
pub mod status;

pub use event::{Event, Place, Severity, What};
pub use outbox::Outbox;
pub use status::Status;
