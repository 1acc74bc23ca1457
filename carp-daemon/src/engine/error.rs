//! What ends the engine before its time.

use std::io;

use crate::io::datapath;
use crate::{lock, privileges};

/// What ends the engine before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An interface is not there, and we were not told to wait for it.
    #[error("interface {0} does not exist; give --wait-interface to wait for it")]
    NoSuchInterface(String),
    /// It has no frames that could be sent or heard.
    #[error(
        "{0} is not an Ethernet interface (loopback, tun, WireGuard and PPP are not): name one that is with --interface"
    )]
    NotEthernet(String),
    /// A capability is missing, or what it allows is forbidden all the same.
    #[error("not permitted to {action}: {way_out}")]
    NotPermitted {
        /// What was attempted.
        action: String,
        /// What the administrator can do.
        way_out: String,
    },
    /// The configuration does not fit this host.
    #[error("{0}")]
    Unworkable(String),
    /// Someone else serves one of our virtual hosts.
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    /// Advertisements cannot be received.
    #[error(transparent)]
    Datapath(#[from] datapath::DatapathError),
    /// The caller, told that we are ready, could not give up its privileges.
    #[error(transparent)]
    Privileges(#[from] privileges::PrivilegesError),
    /// A socket, timer or signal handler.
    #[error("failed to {action}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A socket of one interface.
    #[error("failed to {action} on {interface}")]
    Interface {
        /// What was attempted.
        action: &'static str,
        /// Where.
        interface: String,
        /// Why not.
        source: io::Error,
    },
}
