//! Mistakes in a configuration: the location, the problem, and a value that would be accepted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::config::raw::{Location, Origin};

/// One mistake and its location.
#[derive(Debug)]
pub struct Mistake {
    /// The location of the mistake.
    pub location: Location,
    /// The position among the words of that location, when a single word is wrong.
    pub position: Option<usize>,
    /// The problem.
    pub problem: Problem,
}

impl Mistake {
    /// A word that its option or key does not accept.
    pub(super) fn of(origin: &Origin, value: String, reason: String) -> Self {
        Self {
            location: origin.location.clone(),
            position: Some(origin.position),
            problem: Problem::Value {
                value,
                name: origin.name.clone(),
                reason,
            },
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.location, self.problem)
    }
}

impl std::error::Error for Mistake {}

/// A problem and its remedy. The text includes the system's error, if there is one.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A value that its option or key does not accept.
    #[error("invalid value '{value}' for '{name}': {reason}")]
    Value {
        /// As it was written.
        value: String,
        /// The option or key.
        name: String,
        /// The reason, and the accepted values.
        reason: String,
    },
    /// A required setting is missing.
    #[error("You must supply {what} ({options}): {accepted}")]
    Missing {
        /// The setting, in ucarp's words.
        what: &'static str,
        /// The options that set it.
        options: &'static str,
        /// The accepted values.
        accepted: &'static str,
    },
    /// The password is not usable. The text does not show it.
    #[error("invalid password from {origin}: {reason}")]
    Password {
        /// `--pass` or the file.
        origin: String,
        /// The reason, and the accepted passwords.
        reason: String,
    },
    /// The password file cannot be read.
    #[error("invalid value '{}' for '{name}': {reason}", .path.display())]
    Passfile {
        /// The file.
        path: PathBuf,
        /// The option or key.
        name: String,
        /// The reason.
        reason: PassfileError,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Combination(String),
    /// The interfaces could not be listed.
    #[error("failed to look for a network interface, name one with --interface (-i): {0}")]
    Interfaces(Errno),
    /// The current directory, which a relative path starts from, is gone.
    #[error("failed to find the directory that '{}' is relative to: {cause}", .path.display())]
    RelativePath {
        /// The script or directory.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// The reason why a password file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PassfileError {
    /// Opening it failed.
    #[error("unable to open passfile for reading: {0}")]
    Open(io::Error),
    /// Reading it failed.
    #[error("error reading passfile: {0}")]
    Read(io::Error),
}
