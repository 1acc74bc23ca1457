//! Chooses the state directory: `--state-dir`, else the one that systemd offers, else the usual one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::config::StateDirectory;

/// The variable that systemd sets from `StateDirectory=`: one absolute path, or several separated by colons.
pub const VARIABLE: &str = "STATE_DIRECTORY";
/// The usual directory. It is used if it exists; packages create it.
pub const DEFAULT: &str = "/var/lib/carpd";

/// Returns the first of these directories that is available. Only the directory of the option is created if it is
/// missing, so that trying carpd out leaves nothing behind.
///
/// # Errors
///
/// Returns an error if the option's path is relative to a directory that is gone.
pub fn choose(
    option: Option<&Path>,
    variable: Option<OsString>,
    default: &Path,
) -> io::Result<Option<StateDirectory>> {
    if let Some(path) = option {
        // The path is resolved now, because a daemon changes its directory to `/`.
        let path = std::path::absolute(path)?;
        return Ok(Some(StateDirectory { path, create: true }));
    }
    let existing = |path| StateDirectory {
        path,
        create: false,
    };
    let offered = variable.as_ref().and_then(|list| {
        let first = list.as_bytes().split(|byte| *byte == b':').next()?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(first));
        path.is_absolute().then_some(path)
    });
    Ok(match offered {
        Some(path) => Some(existing(path)),
        None => default.is_dir().then(|| existing(default.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        option: Option<&str>,
        variable: Option<&str>,
        default: &Path,
    ) -> Option<(PathBuf, bool)> {
        choose(option.map(Path::new), variable.map(OsString::from), default)
            .unwrap()
            .map(|directory| (directory.path, directory.create))
    }

    #[test]
    fn the_option_comes_first_then_systemd_then_the_usual_place() {
        let place = tempfile::tempdir().unwrap();
        let (default, absent) = (place.path(), place.path().join("absent"));
        let by_name = Some((PathBuf::from("/a"), true));
        assert_eq!(chosen(Some("/a"), Some("/b"), default), by_name);
        for (variable, expected) in [
            ("/b", Some("/b")),
            ("/b:/c", Some("/b")),
            ("", None),
            ("relative", None),
            (":/c", None),
        ] {
            let expected = expected.map(|path| (PathBuf::from(path), false));
            let usual = Some((default.to_owned(), false));
            assert_eq!(
                chosen(None, Some(variable), default),
                expected.clone().or(usual),
                "{variable:?}"
            );
            assert_eq!(chosen(None, Some(variable), &absent), expected);
        }
        assert_eq!(chosen(None, None, &absent), None);
    }

    #[test]
    fn a_relative_path_is_the_one_the_operator_sees() {
        let expected = std::env::current_dir().unwrap().join("state");
        assert_eq!(
            chosen(Some("state"), None, Path::new("/")),
            Some((expected, true))
        );
    }
}
