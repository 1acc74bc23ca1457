//! A thread that looks whether programs are still where we put them.
//!
//! The kernel tells that under a lock of the whole machine (rtnl), which others hold for seconds at times, and a MASTER
//! has to go on advertising meanwhile. What the thread suspects, the engine looks at itself.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::task::{Context, Poll};

use super::egress;
use crate::io::errand::Errands;
use crate::io::netlink::Client;
use crate::sys;

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
    fn is_lost(&self, netlink: &mut Client) -> bool {
        match self {
            Self::Xdp { ifindex, program } => netlink
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
    errands: Errands<()>,
    /// There was no thread to be had for the last look.
    is_blind: bool,
}

impl Default for Lookout {
    fn default() -> Self {
        Self {
            errands: Errands::new("carpd-lookout"),
            is_blind: false,
        }
    }
}

impl Lookout {
    /// Begins to look, unless an earlier look still waits for the kernel.
    pub fn begin(&mut self, sights: Vec<Sight>) {
        if self.errands.is_working() || sights.is_empty() {
            return;
        }
        let look = move || is_any_lost(&sights).then_some(());
        self.is_blind = self.errands.begin(look).is_err();
    }

    /// Ready when a look found something gone, or could not be taken: the engine has to look itself then.
    pub fn poll_suspicion(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.is_blind) {
            return Poll::Ready(());
        }
        self.errands.poll_outcome(context).map(drop)
    }
}

fn is_any_lost(sights: &[Sight]) -> bool {
    // Without a socket the next look has to do.
    Client::new().is_ok_and(|mut netlink| sights.iter().any(|it| it.is_lost(&mut netlink)))
}
