//! A thread that attaches the program to one interface.
//!
//! The kernel waits for all processors and, as everybody who changes links does, for a lock of the whole machine (rtnl):
//! that takes 10 ms at best and seconds at worst, and a MASTER has to go on advertising meanwhile.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::warn;

use super::Cover;
use super::set::{is_attached, unlink};
use crate::io::clock;
use crate::sys;

/// It makes a few system calls and may log; with locked memory its whole stack is resident.
const STACK: usize = 128 * 1024;

/// An interface to be covered.
#[derive(Debug)]
pub struct Job {
    pub program: OwnedFd,
    pub ifindex: u32,
    /// Where its link is pinned, if it is.
    pub pin: Option<PathBuf>,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    pub ifindex: u32,
    pub attached: io::Result<Cover>,
    pub took: Duration,
}

/// One interface at a time.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    /// An outcome was not fetched yet.
    is_busy: bool,
    outcome: mpsc::UnboundedSender<Outcome>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

impl Default for Worker {
    fn default() -> Self {
        let (outcome, outcomes) = mpsc::unbounded_channel();
        Self {
            thread: None,
            is_busy: false,
            outcome,
            outcomes,
        }
    }
}

impl Worker {
    /// Whether it has to finish first.
    pub const fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Begins with an interface.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn begin(&mut self, job: Job) -> io::Result<()> {
        let sender = self.outcome.clone();
        let thread = thread::Builder::new()
            .name("carpd-egress".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Nobody waits for it where the engine has ended.
                let _ = sender.send(job.run());
            })?;
        self.thread = Some(thread);
        self.is_busy = true;
        Ok(())
    }

    /// What became of the interface.
    pub fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        // We hold a sender, so the channel is open.
        let Some(outcome) = ready!(self.outcomes.poll_recv(context)) else {
            return Poll::Pending;
        };
        self.is_busy = false;
        Poll::Ready(outcome)
    }

    /// Waits until nothing is under way.
    pub fn finish(self) {
        if let Some(thread) = self.thread {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Job {
    /// Does it in the calling thread.
    pub fn run(&self) -> Outcome {
        let begun = clock::now();
        Outcome {
            ifindex: self.ifindex,
            attached: self.attach(),
            took: clock::now().saturating_duration_since(begun),
        }
    }

    fn attach(&self) -> io::Result<Cover> {
        let attach = || sys::attach_tcx_egress(self.program.as_fd(), self.ifindex);
        let Some(pin) = &self.pin else {
            return attach().map(Cover::Link);
        };
        if is_attached(pin) {
            return Ok(Cover::Pin);
        }
        unlink(pin);
        Ok(pinned(attach()?, pin))
    }
}

fn pinned(link: OwnedFd, pin: &Path) -> Cover {
    match sys::pin_bpf_object(link.as_fd(), pin) {
        Ok(()) => Cover::Pin,
        // Another carpd saw the interface come and was faster.
        Err(_) if is_attached(pin) => Cover::Pin,
        Err(error) => {
            warn!(
                "failed to pin {}, going on unpinned: {error}",
                pin.display()
            );
            Cover::Link(link)
        }
    }
}
