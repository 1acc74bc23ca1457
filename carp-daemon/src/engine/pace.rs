//! The intervals at which the engine repeats failed attempts, and the amount of work of one turn.

use std::time::Duration;

/// Time between two attempts at something that failed, such as attaching, listing, or removing an address.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two log lines about one thing.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The number of virtual hosts whose timers fire in one turn, and the number whose chores are done in one.
///
/// Before the next ones, the engine looks again at what has arrived and at the clock. Virtual hosts that are due at one
/// instant, as all are after a start, therefore do not stay so: when they take over, each bunch gets a phase of its own. A
/// smaller number would mean more wake-ups, and a larger one a longer wait for everything else.
pub const AT_ONCE: usize = 64;
