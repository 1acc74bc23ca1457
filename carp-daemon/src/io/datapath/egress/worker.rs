//! A thread that attaches the program to one interface.
//!
//! The kernel waits for all processors and for the lock of the whole machine for links (rtnl). That takes 10 ms at best and
//! seconds at worst, and a MASTER has to go on advertising meanwhile.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::super::pin::{is_attached, unlink};
use crate::api::event::kernel;
use crate::api::{Outbox, Place};
use crate::io::clock;
use crate::io::errand::Errands;
use crate::sys;

/// The link that holds a program at the egress of an interface.
#[derive(Debug)]
pub enum Cover {
    /// A link of the pinned set.
    Pin,
    /// A link of this process.
    Link(OwnedFd),
}

/// An interface to cover.
#[derive(Debug)]
pub struct CoverJob {
    /// The program to attach.
    pub program: OwnedFd,
    pub ifindex: u32,
    /// The path where its link is pinned, if it is.
    pub pin: Option<PathBuf>,
    pub outbox: Outbox,
}

/// The outcome of a job.
#[derive(Debug)]
pub struct CoverOutcome {
    pub ifindex: u32,
    pub attached: io::Result<Cover>,
    pub took: Duration,
}

/// Covers one interface at a time.
#[derive(Debug)]
pub struct Worker {
    errands: Errands<CoverOutcome>,
    /// The interface of the latest job.
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
    /// Returns whether a job is running, or its outcome has not been fetched.
    pub fn is_busy(&self) -> bool {
        self.errands.is_busy()
    }

    /// Begins a job.
    ///
    /// # Errors
    /// Returns an error if no thread could be started.
    pub fn begin(&mut self, job: CoverJob) -> io::Result<()> {
        self.ifindex = job.ifindex;
        self.errands.begin(move || Some(job.run()))
    }

    /// Returns the outcome of the latest job once there is one.
    pub fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<CoverOutcome> {
        let outcome = ready!(self.errands.poll_outcome(context));
        Poll::Ready(outcome.unwrap_or_else(|panicked| CoverOutcome {
            ifindex: self.ifindex,
            attached: Err(io::Error::other(panicked)),
            took: Duration::ZERO,
        }))
    }

    /// Waits until no job is running.
    pub fn finish(mut self) {
        self.errands.finish();
    }
}

impl CoverJob {
    /// Runs the job in the calling thread.
    pub fn run(&self) -> CoverOutcome {
        let begun = clock::now();
        CoverOutcome {
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
        unlink(pin, &self.outbox);
        Ok(pinned(attach()?, pin, &self.outbox))
    }
}

fn pinned(link: OwnedFd, pin: &Path, outbox: &Outbox) -> Cover {
    match sys::pin_bpf_object(link.as_fd(), pin) {
        Ok(()) => Cover::Pin,
        // Another carpd saw the interface appear and was faster.
        Err(_) if is_attached(pin) => Cover::Pin,
        Err(error) => {
            let (path, error) = (pin.to_owned(), error.to_string());
            outbox.tell(Place::Process, kernel::Egress::NotPinned { path, error });
            Cover::Link(link)
        }
    }
}
