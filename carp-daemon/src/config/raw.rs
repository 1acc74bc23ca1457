//! Unchecked configuration: plain words, each with the location where it was written.
//!
//! A reader of configuration (the command line in [`crate::cli`]) fills these types and checks nothing but its own
//! spelling; [`super::check()`] knows the rules. A setting that was not written is `None`: only `check` knows the defaults.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

/// A whole configuration as it was written.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// The virtual hosts, in the order in which they were written.
    pub vhosts: Vec<VirtualHost>,
    /// The settings of the whole process.
    pub process: Process,
}

/// The settings of the whole process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// `--datapath`.
    pub datapath: Option<Word<String>>,
    /// `--fence`.
    pub fence: Option<Word<String>>,
    /// `--lease`.
    pub lease: Option<Word<String>>,
    /// `--wait-interface`.
    pub wait_interface: Option<Word<bool>>,
    /// `--realtime`.
    pub realtime: Option<Word<bool>>,
    /// `--state-dir`.
    pub state_directory: Option<Word<PathBuf>>,
    /// `--debug`.
    pub debug: Option<Word<bool>>,
}

/// The settings of one virtual host.
#[derive(Clone, Debug, Default)]
pub struct VirtualHost {
    /// The location that describes it, for errors about settings that are missing.
    pub location: Location,
    /// `--interface`.
    pub interface: Option<Word<String>>,
    /// `--srcip`.
    pub source: Option<Word<String>>,
    /// `--vhid`.
    pub vhid: Option<Word<String>>,
    /// `--pass` or `--passfile`.
    pub password: Option<Password>,
    /// Each `--addr`.
    pub addresses: Vec<Word<String>>,
    /// `--advbase`.
    pub advbase: Option<Word<String>>,
    /// `--advskew`.
    pub advskew: Option<Word<String>>,
    /// `--deadratio`.
    pub deadratio: Option<Word<String>>,
    /// `--preempt`.
    pub preempt: Option<Word<bool>>,
    /// `--profile`.
    pub profile: Option<Word<String>>,
    /// `--strict-counter`.
    pub strict_counter: Option<Word<bool>>,
    /// `--no-openbsd`.
    pub no_openbsd: Option<Word<bool>>,
    /// `--upscript`.
    pub upscript: Option<Word<PathBuf>>,
    /// `--downscript`.
    pub downscript: Option<Word<PathBuf>>,
    /// `--xparam`.
    pub xparam: Option<Word<OsString>>,
    /// `--neutral`.
    pub neutral: Option<Word<bool>>,
    /// `--shutdown`.
    pub shutdown: Option<Word<bool>>,
    /// `--script-timeout`.
    pub script_timeout: Option<Word<String>>,
    /// `--mcast`.
    pub mcast: Option<Word<String>>,
    /// `--nomcast`.
    pub nomcast: Option<Word<bool>>,
    /// `--own-mac`.
    pub own_mac: Option<Word<bool>>,
    /// `--announce-refresh`.
    pub announce_refresh: Option<Word<String>>,
    /// `--ignoreifstate`.
    pub ignore_carrier: Option<Word<bool>>,
}

/// The two ways to give a password.
#[derive(Clone, Debug)]
pub enum Password {
    /// The password itself (`--pass`).
    Inline(Word<Secret>),
    /// A file whose first line is the password (`--passfile`).
    File(Word<PathBuf>),
}

/// A value and the location where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word<T> {
    /// The value, as it was written.
    pub value: T,
    /// The location where it was written.
    pub origin: Origin,
}

/// The location of a word, and the option or key that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The command line, or the line of a file.
    pub location: Location,
    /// The option or key, as messages name it: `--vhid <ID>`.
    pub name: String,
    /// The word's position among those of its location.
    pub position: usize,
}

/// The command line, or a line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// The command line.
    #[default]
    CommandLine,
    /// A line of a file.
    Line {
        /// The file.
        path: Arc<Path>,
        /// Counted from 1.
        line: usize,
    },
}

/// Prefix of a message: `FILE:LINE: `, and nothing for the command line.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => Ok(()),
            Self::Line { path, line } => write!(f, "{}:{line}: ", path.display()),
        }
    }
}

/// A password as it was written. Prints as `***` and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let password = Password::Inline(Word {
            value: Secret::from(Zeroizing::new(b"love".to_vec())),
            origin: Origin {
                location: Location::CommandLine,
                name: "--pass".to_owned(),
                position: 1,
            },
        });
        let shown = format!("{password:?}");
        assert!(shown.contains("***"), "{shown}");
        assert!(!shown.contains("love") && !shown.contains("108"), "{shown}");
    }
}
