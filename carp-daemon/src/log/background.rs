//! Writes to a destination of lines in a thread of its own, so that only this thread waits for it.
//!
//! A destination can block: a pipe whose reader stopped, a halted terminal, a log daemon that hangs. Lines then queue
//! up to a limit and are only counted beyond it. The count is written once there is room again.
//!
//! The thread lives as long as the destination is used, and gives up every privilege before its first line.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::poll::PollTimeout;

use super::line::Line;
use crate::privileges;

/// Size of the text that may wait for one destination, about ten thousand ordinary lines. Unit: bytes.
const QUEUE_MAX: usize = 2 * 1024 * 1024;

/// The time for which the thread waits for room before it drops a line. Unit: milliseconds.
const PATIENCE: u16 = 1000;

/// Time between two attempts to write the number of lost lines while there are no new lines.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);

/// Stack of the thread. Unit: bytes.
const STACK: usize = 128 * 1024;

/// A destination of lines.
pub trait Destination: Send + 'static {
    /// Writes one line. If there is no room within `patience`, drops and counts it.
    fn write(&mut self, line: &Line, patience: PollTimeout);

    /// Writes how many lines were lost, if any. Returns whether that must be tried again.
    fn settle(&mut self) -> bool;
}

/// The caller's side of a destination.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The queue. It is only locked for a few instructions.
    queue: Mutex<Queue>,
    /// Signals that there are lines.
    filled: Condvar,
    /// Signals that no lines are left.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// The size of their texts.
    bytes: usize,
    /// The number of lines for which there was no room.
    lost: u64,
    /// The thread is writing.
    is_busy: bool,
    /// No further lines will come.
    is_closed: bool,
}

impl Output {
    /// Starts the thread that writes to `destination`.
    ///
    /// # Errors
    /// Returns an error if no thread could be started, or it could not give up its privileges.
    pub fn start(mut destination: impl Destination) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let with = Arc::clone(&shared);
        let (given_up, outcome) = mpsc::channel();
        thread::Builder::new()
            .name("carpd-log".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let (outcome, may_write) = match privileges::give_up_everything() {
                    Ok(powerless) => (Ok(()), Some(powerless)),
                    Err(error) => (Err(error), None),
                };
                // The caller is waiting for the result.
                let _ = given_up.send(outcome);
                if may_write.is_some() {
                    with.work(&mut destination);
                }
            })?;
        match outcome.recv() {
            Ok(outcome) => outcome.map_err(io::Error::other)?,
            Err(gone) => return Err(io::Error::other(gone)),
        }
        Ok(Self { shared })
    }

    /// Queues one line.
    pub fn write(&self, line: &Line) {
        self.shared.push(line.clone());
    }

    /// Waits until everything is written, but not longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let is_at_work =
            |queue: &mut Queue| queue.is_busy || !queue.lines.is_empty() || queue.lost > 0;
        let queue = self.shared.lock();
        // Whether this timed out does not matter: nothing more can be done.
        let _ = self
            .shared
            .emptied
            .wait_timeout_while(queue, limit, is_at_work);
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock, so the value is consistent even if the lock is poisoned.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        let mut queue = self.lock();
        if queue.lost > 0 || queue.bytes + line.text.len() > QUEUE_MAX {
            queue.lost += 1;
        } else {
            queue.bytes += line.text.len();
            queue.lines.push_back(line);
        }
        self.filled.notify_one();
    }

    fn work(&self, destination: &mut impl Destination) {
        let patience = PollTimeout::from(PATIENCE);
        let mut owes = false;
        while let Some((lines, lost)) = self.next(owes) {
            for line in &lines {
                destination.write(line, patience);
            }
            if lost > 0 {
                destination.write(&Line::about_losses(lost), patience);
            }
            owes = destination.settle();
        }
    }

    /// Waits for lines, and returns them with the number of lines lost after them. If the destination `owes` the
    /// number of lost lines, it returns nothing once it is time to try that again. Returns `None` at the end.
    fn next(&self, owes: bool) -> Option<(VecDeque<Line>, u64)> {
        let mut queue = self.lock();
        queue.is_busy = false;
        self.emptied.notify_all();
        let is_idle =
            |queue: &mut Queue| queue.lines.is_empty() && queue.lost == 0 && !queue.is_closed;
        queue = if owes {
            let waited = self
                .filled
                .wait_timeout_while(queue, SETTLE_INTERVAL, is_idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            let waited = self.filled.wait_while(queue, is_idle);
            waited.unwrap_or_else(PoisonError::into_inner)
        };
        if queue.is_closed && queue.lines.is_empty() && queue.lost == 0 {
            return None;
        }
        queue.is_busy = true;
        queue.bytes = 0;
        Some((
            std::mem::take(&mut queue.lines),
            std::mem::take(&mut queue.lost),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Severity;
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const LONG: Duration = Duration::from_secs(20);

    /// A destination that writes a line only when the test permits it.
    struct Gate {
        allowed: Receiver<()>,
        written: Sender<String>,
    }

    impl Destination for Gate {
        fn write(&mut self, line: &Line, _: PollTimeout) {
            // The test may have ended.
            let _ = self.allowed.recv();
            let _ = self.written.send(line.text.clone());
        }

        fn settle(&mut self) -> bool {
            false
        }
    }

    fn line(text: &str) -> Line {
        Line::new(Severity::Info, text)
    }

    #[test]
    fn a_destination_that_blocks_holds_up_nobody_and_hears_later_what_it_missed() {
        let ((allow, allowed), (written, lines)) = (channel(), channel());
        let output = Output::start(Gate { allowed, written }).unwrap();
        let long = line(&"x".repeat(4000));
        let many = QUEUE_MAX / 4000;
        // No line is written before the last one is queued, so a caller that waited would hang.
        for _ in 0..many * 3 {
            output.write(&long);
        }
        output.flush(Duration::from_millis(10));
        assert!(lines.try_recv().is_err());
        drop(allow);
        let (mut whole, mut lost) = (0, 0);
        while whole + lost < many * 3 {
            let text = lines.recv_timeout(LONG).unwrap();
            match text.split_once(" log lines were lost here") {
                // The count is written once for lines lost before the thread was blocked, and once for the rest.
                Some((number, _)) => lost += number.parse::<usize>().unwrap(),
                None => whole += 1,
            }
        }
        assert_eq!(whole + lost, many * 3);
        // These are the lines that fit into the queue, and perhaps as many that the thread had taken before.
        assert!((many..=2 * many).contains(&whole), "{whole}");
        output.write(&line("last"));
        output.flush(LONG);
        assert_eq!(lines.try_recv().as_deref(), Ok("last"));
    }

    #[test]
    fn lines_logged_before_the_end_are_written() {
        let ((allow, allowed), (written, lines)) = (channel(), channel());
        let output = Output::start(Gate { allowed, written }).unwrap();
        output.write(&line("last"));
        drop(output);
        drop(allow);
        assert_eq!(lines.recv_timeout(LONG).as_deref(), Ok("last"));
        // The thread has ended.
        assert!(lines.recv_timeout(LONG).is_err());
    }
}
