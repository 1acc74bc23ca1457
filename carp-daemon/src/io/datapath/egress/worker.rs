//! A thread that attaches the program to one interface.
//!
//! The kernel waits for all processors and, as everybody who changes links does, for a lock of the whole machine (rtnl):
//! that takes 10 ms at best and seconds at worst, and a MASTER has to go on advertising meanwhile.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tracing::warn;

use super::super::pin::{is_attached, unlink};
use crate::io::clock;
use crate::io::errand::Errands;
use crate::sys;

/// What holds a program at the egress of an interface.
#[derive(Debug)]
pub enum Cover {
    /// A link of the pinned set.
    Pin,
    /// A link of this process.
    Link(OwnedFd),
}

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
    errands: Errands<Outcome>,
    /// The interface that was begun last.
    ifindex: u32,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            errands: Errands::new("carpd-egress"),
            ifindex: 0,
        }
    }
}

impl Worker {
    /// Whether it has to finish first.
    pub fn is_busy(&self) -> bool {
        self.errands.is_busy()
    }

    /// Begins with an interface.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn begin(&mut self, job: Job) -> io::Result<()> {
        self.ifindex = job.ifindex;
        self.errands.begin(move || Some(job.run()))
    }

    /// What became of the interface.
    pub fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = ready!(self.errands.poll_outcome(context));
        Poll::Ready(outcome.unwrap_or_else(|panicked| Outcome {
            ifindex: self.ifindex,
            attached: Err(io::Error::other(panicked)),
            took: Duration::ZERO,
        }))
    }

    /// Waits until nothing is under way.
    pub fn finish(mut self) {
        self.errands.finish();
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
