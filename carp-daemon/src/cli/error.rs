//! Why a command line is refused.

use std::path::PathBuf;

use super::PassfileError;

/// Why the command line was refused. Exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option or a value of its own.
    #[error("{}", .0.to_string().trim_end())]
    Usage(Box<clap::Error>),
    /// Something required is not there.
    #[error("error: You must supply {what} ({options}): {accepted}")]
    Missing {
        /// In ucarp's words.
        what: &'static str,
        /// The options that supply it.
        options: &'static str,
        /// What they take.
        accepted: &'static str,
    },
    /// The password is not usable; it is not shown.
    #[error("error: invalid password from {origin}: {reason}")]
    Password {
        /// `--pass` or the file.
        origin: String,
        /// Why not, and what would be.
        reason: String,
    },
    /// The password file is not usable.
    #[error("error: invalid value '{}' for '--passfile <FILE>': {reason}", .path.display())]
    Passfile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: PassfileError,
    },
    /// The file of virtual hosts cannot be read.
    #[error("error: invalid value '{}' for '--vhosts <FILE>'", .path.display())]
    Vhosts {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// One of its lines is refused.
    #[error("error: {}:{line}: {}", .path.display(), .reason.to_string().trim_start_matches("error: "))]
    VhostsLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: Box<Error>,
    },
    /// An option where it has no meaning, and where it has one.
    #[error("error: {0}")]
    Misplaced(String),
    /// The interfaces could not be listed.
    #[error("error: failed to look for a network interface, name one with --interface (-i)")]
    Interfaces(#[source] nix::errno::Errno),
    /// The current directory, which a relative path starts from, is gone.
    #[error("error: failed to find the directory that '{}' is relative to", .path.display())]
    RelativePath {
        /// The script or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
