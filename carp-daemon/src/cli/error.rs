//! Why a command line is refused.

use std::path::PathBuf;

use clap::error::ErrorKind;

use super::PassfileError;

/// Why the command line was refused. Exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No options at all; this is what there are.
    #[error("{}", .0.trim_end())]
    Nothing(String),
    /// An option or a value of its own.
    #[error("{}", plain(.0))]
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

/// clap's message without its usage line, which says nothing, without the way to `--help` where the message itself
/// says what is right, and without the hint at a hidden alias, of which none has more than two letters.
fn plain(error: &clap::Error) -> String {
    let says_what_is_right = matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    );
    let text = error.to_string();
    let is_superfluous = |paragraph: &&str| {
        paragraph.starts_with("Usage:")
            || says_what_is_right && paragraph.starts_with("For more information")
            || hint(paragraph).is_some_and(|option| option.len() <= "--xx".len())
    };
    let kept = text.split("\n\n").filter(|it| !is_superfluous(it));
    kept.collect::<Vec<_>>().join("\n\n").trim_end().to_owned()
}

/// The option that a paragraph of clap's proposes.
fn hint(paragraph: &str) -> Option<&str> {
    let (_, rest) = paragraph
        .trim_start()
        .strip_prefix("tip: ")?
        .split_once('\'')?;
    Some(rest.split_once('\'')?.0)
}
