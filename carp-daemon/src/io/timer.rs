//! One timer for the whole process. It expires at the earliest deadline, exact to the nanosecond.

use std::io;
use std::task::{Context, Poll, ready};

use carp_common::time::{Duration, Instant};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use crate::sys::{self, Descriptor};

/// A timerfd on CLOCK_MONOTONIC with absolute deadlines.
///
/// tokio's own timer rounds up to whole milliseconds, which is a third of the shortest master-down time.
#[derive(Debug)]
pub struct DeadlineTimer {
    timer: AsyncFd<Descriptor<TimerFd>>,
    armed: Option<Instant>,
}

impl DeadlineTimer {
    /// Creates a timer without a deadline.
    ///
    /// # Errors
    /// Returns any error of `timerfd_create(2)` and of registering with the runtime.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        Ok(Self {
            timer: sys::watch(Descriptor(timer))?,
            armed: None,
        })
    }

    /// Replaces the deadline; `None` disarms the timer. A deadline in the past expires at once.
    ///
    /// # Errors
    /// Returns any error of `timerfd_settime(2)`.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if deadline == self.armed {
            return Ok(());
        }
        let timer = &self.timer.get_ref().0;
        match deadline {
            // An absolute time of zero would disarm the timer.
            Some(at) => timer.set(
                Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(
                    at.as_nanos().max(1),
                ))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )?,
            None => timer.unset()?,
        }
        self.armed = deadline;
        Ok(())
    }

    /// Ready once the deadline has passed. The timer is then disarmed.
    pub fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.timer.poll_read_ready(context))?;
            // Reading consumes the expiration of a non-blocking timer. EAGAIN means that the timer was re-armed in
            // between.
            match guard.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                Ok(outcome) => {
                    self.armed = None;
                    return Poll::Ready(outcome);
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::io::clock;

    #[test]
    fn fires_at_the_deadline_and_not_before() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut timer = DeadlineTimer::new().unwrap();
            let deadline = clock::now() + Duration::from_millis(20);
            timer.set(Some(deadline)).unwrap();
            poll_fn(|context| timer.poll_expired(context))
                .await
                .unwrap();
            assert!(clock::now() >= deadline);
        });
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut timer = DeadlineTimer::new().unwrap();
            timer.set(Some(Instant::ZERO)).unwrap();
            poll_fn(|context| timer.poll_expired(context))
                .await
                .unwrap();
        });
    }
}
