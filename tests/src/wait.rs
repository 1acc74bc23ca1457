//! Waiting for a condition with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Evaluates `condition` until it returns a value; fails after `within`, naming `what` was awaited.
///
/// Use it for what cannot notify us (an address in another namespace, a file). Evaluates every 5 ms.
///
/// # Errors
/// When the deadline passes, or `condition` itself fails.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {within:?}: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
