//! Errors that end the engine.

use std::io;

use caps::Capability;

use crate::io::datapath::{self, Fenced};
use crate::privileges::MissingCapabilities;
use crate::{lock, privileges};

/// Errors that end the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An interface does not exist, and carpd was not told to wait for it.
    #[error("interface {0} does not exist; give --wait-interface to wait for it")]
    NoSuchInterface(String),
    /// The interface is not an Ethernet interface, so it has no frames to send or receive.
    #[error(
        "{0} is not an Ethernet interface (loopback, tun, WireGuard and PPP are not): name one that is with --interface"
    )]
    NotEthernet(String),
    /// A capability is missing, or its use is forbidden by other means.
    #[error("not permitted to {action}: {way_out}")]
    NotPermitted {
        /// The attempted operation.
        action: String,
        /// The advice for the administrator.
        way_out: String,
    },
    /// The configuration does not fit this host.
    #[error("{0}")]
    Unworkable(String),
    /// Another process serves one of our virtual hosts.
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    /// Advertisements cannot be received.
    #[error(transparent)]
    Datapath(#[from] datapath::DatapathError),
    /// The caller could not give up its privileges when the start was complete.
    #[error(transparent)]
    Privileges(#[from] privileges::PrivilegesError),
    /// A socket, timer or signal handler failed.
    #[error("failed to {action}")]
    System {
        /// The attempted operation.
        action: &'static str,
        /// The error.
        source: io::Error,
    },
    /// A socket of one interface failed.
    #[error("failed to {action} on {interface}")]
    Interface {
        /// The attempted operation.
        action: &'static str,
        /// The interface.
        interface: String,
        /// The error.
        source: io::Error,
    },
}

/// A start that failed.
#[derive(Debug)]
pub struct FailedStart<E> {
    /// The host.
    pub effects: E,
    /// The addresses that must stay fenced, because no process looks after them.
    pub orphans: Vec<Fenced>,
    /// The reason.
    pub error: EngineError,
}

/// Returns the error of a socket on an interface, or of one of its settings.
pub fn refused(action: &'static str, interface: &str, source: io::Error) -> EngineError {
    if source.raw_os_error() == Some(libc::EPERM) {
        return EngineError::NotPermitted {
            action: format!("{action} on {interface}"),
            way_out: MissingCapabilities::of(&[Capability::CAP_NET_RAW]).way_out(),
        };
    }
    EngineError::Interface {
        action,
        interface: interface.to_owned(),
        source,
    }
}
