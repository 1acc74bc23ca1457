//! What the daemon shows of itself, as plain values: events as they happen, and a status on request.
//!
//! Nothing here knows the engine, the system calls or the log. The engine makes these values; the log, SIGUSR1 and every
//! other way to ask only render them.
//!
//! | Module | What it is |
//! |---|---|
//! | [`event`] | one thing that happened |
//! | [`status`] | how every virtual host and interface is at one moment |

pub mod event;
pub mod status;

pub use event::{Event, Place, Severity, What};
pub use status::Status;
