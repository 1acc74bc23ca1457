//! The reasons for which a command line is refused.

use std::path::PathBuf;

use clap::error::ErrorKind;

use crate::config::Mistake;

/// The reason why the command line was refused. The exit status is 1.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// There are no options at all. Contains the help text.
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
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of that file is refused.
    #[error("error: {}:{line}: {}", .path.display(), .reason.to_string().trim_start_matches("error: "))]
    VhostsLine {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The reason.
        reason: Box<CliError>,
    },
    /// An option that is not permitted here. The text says where it belongs.
    #[error("error: {0}")]
    Misplaced(String),
}

/// Returns clap's message without superfluous paragraphs: the usage line; the hint at `--help` if the message itself
/// names the accepted values; and proposals of hidden aliases, which have at most two letters.
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

/// Returns the option that a paragraph of clap's message proposes.
fn hint(paragraph: &str) -> Option<&str> {
    let (_, rest) = paragraph
        .trim_start()
        .strip_prefix("tip: ")?
        .split_once('\'')?;
    Some(rest.split_once('\'')?.0)
}
