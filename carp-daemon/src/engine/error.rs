//! What ends the engine before its time.

use std::io;

use caps::Capability;

use crate::io::datapath::{self, Fenced};
use crate::privileges::Lacking;
use crate::{lock, privileges};

/// What ends the engine before its time.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
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

/// A start that failed.
#[derive(Debug)]
pub struct FailedStart<E> {
    /// The host.
    pub effects: E,
    /// The addresses that are to stay fenced, because nobody sees to them.
    pub orphans: Vec<Fenced>,
    /// Why.
    pub error: EngineError,
}

/// Returns the error of a socket on an interface, or of one of its settings.
pub fn refused(action: &'static str, interface: &str, source: io::Error) -> EngineError {
    if source.raw_os_error() == Some(libc::EPERM) {
        return EngineError::NotPermitted {
            action: format!("{action} on {interface}"),
            way_out: Lacking::of(&[Capability::CAP_NET_RAW]).way_out(),
        };
    }
    EngineError::Interface {
        action,
        interface: interface.to_owned(),
        source,
    }
}
