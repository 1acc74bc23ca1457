//! A program that other processes can detach, in a form that a thread can check.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::pin;
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
    /// At the interface of a link.
    Link {
        /// The link.
        link: OwnedFd,
        /// The program's id, if another program could have taken its place.
        program: Option<u32>,
    },
    /// At the interface of a pinned link.
    Pin(PathBuf),
}

impl Sight {
    /// Returns whether the program is certainly not there any more.
    pub fn is_lost(&self, netlink: &mut Client) -> bool {
        match self {
            Self::Xdp { ifindex, program } => netlink
                .link(*ifindex)
                .is_ok_and(|link| link.xdp_program != *program),
            Self::Link { link, program } => sys::bpf_link_info(link.as_fd()).is_ok_and(|info| {
                info.ifindex == 0 || program.is_some_and(|program| info.program != program)
            }),
            Self::Pin(path) => !pin::is_attached(path),
        }
    }
}
