//! A thread that looks whether programs are still where we put them.
//!
//! The kernel tells that under a lock of the whole machine (rtnl), which others hold for seconds at times, and a MASTER
//! has to go on advertising meanwhile. What the thread suspects, the engine looks at itself.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use super::egress;
use crate::io::netlink::Requests;
use crate::sys;

/// It makes a few system calls; with locked memory its whole stack is resident.
const STACK: usize = 128 * 1024;

/// A program, and where it should be.
#[derive(Debug)]
pub enum Sight {
    /// At the XDP hook of an interface.
    Xdp {
        /// The interface.
        ifindex: u32,
        /// The program's id.
        program: u32,
    },
    /// Where a link has it.
    Link {
        /// The link.
        link: OwnedFd,
        /// The program's id, where another one could have taken its place.
        program: Option<u32>,
    },
    /// Where a pinned link has it.
    Pin(PathBuf),
}

impl Sight {
    /// Whether it is gone for certain.
    fn is_lost(&self, requests: &mut Requests) -> bool {
        match self {
            Self::Xdp { ifindex, program } => requests
                .link(*ifindex)
                .is_ok_and(|link| link.xdp_program != *program),
            Self::Link { link, program } => sys::bpf_link_info(link.as_fd()).is_ok_and(|info| {
                info.ifindex == 0 || program.is_some_and(|program| info.program != program)
            }),
            Self::Pin(path) => !egress::is_attached(path),
        }
    }
}

/// One look at a time. Nobody is woken when everything is in its place.
#[derive(Debug)]
pub struct Lookout {
    thread: Option<JoinHandle<()>>,
    suspicion: mpsc::UnboundedSender<()>,
    suspicions: mpsc::UnboundedReceiver<()>,
}

impl Default for Lookout {
    fn default() -> Self {
        let (suspicion, suspicions) = mpsc::unbounded_channel();
        Self {
            thread: None,
            suspicion,
            suspicions,
        }
    }
}

impl Lookout {
    /// Begins to look, unless an earlier look still waits for the kernel.
    pub fn begin(&mut self, sights: Vec<Sight>) {
        let is_looking = self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        if is_looking || sights.is_empty() {
            return;
        }
        let suspicion = self.suspicion.clone();
        let thread = thread::Builder::new()
            .name("carpd-lookout".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if is_any_lost(&sights) {
                    // Nobody waits for it where the engine has ended.
                    let _ = suspicion.send(());
                }
            });
        if thread.is_err() {
            // No thread is to be had: the engine has to look.
            let _ = self.suspicion.send(());
        }
        self.thread = thread.ok();
    }

    /// A look found something gone.
    pub fn poll_suspicion(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.suspicions.poll_recv(context).map(|_| ())
    }
}

fn is_any_lost(sights: &[Sight]) -> bool {
    // Without a socket the next look has to do.
    Requests::new().is_ok_and(|mut requests| sights.iter().any(|it| it.is_lost(&mut requests)))
}
