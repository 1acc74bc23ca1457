//! Why a command line is refused.

use std::path::PathBuf;

use clap::error::ErrorKind;

use crate::config::Mistake;

/// Why the command line was refused. Exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No options at all; this is what there are.
    #[error("{}", .0.trim_end())]
    Nothing(String),
    /// An unknown option, a missing value, or a value outside a fixed set.
    #[error("{}", plain(.0))]
    Usage(Box<clap::Error>),
    /// The first mistake among the words, in the order of the command line and then of the file.
    #[error("error: {0}")]
    Config(Box<Mistake>),
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
