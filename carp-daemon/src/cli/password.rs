//! The password: from the command line or a file to a key, with as few traces as possible.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use carp_common::proto::Key;
use carp_common::units::Profile;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use zeroize::{Zeroize, Zeroizing};

use super::Error;
use super::getopt::Secret;

/// More than any first line that could be meant.
const MAX_FILE: u64 = 4096;

/// Wiped when dropped.
pub type Password = Zeroizing<Vec<u8>>;

/// Why a password file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum PassfileError {
    /// It cannot be opened.
    #[error("unable to open passfile for reading: {0}")]
    Open(io::Error),
    /// It cannot be read.
    #[error("error reading passfile: {0}")]
    Read(io::Error),
}

/// Makes the key from whichever of the two options is there; clap has kept only the last one.
pub fn key(
    pass: Option<Password>,
    passfile: Option<PathBuf>,
    profile: Profile,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Key, Error> {
    let (password, origin) = match (pass, passfile) {
        (Some(pass), _) => {
            notes.push("The password was on the command line, for everybody to read: better use --passfile".into());
            (pass, "--pass".to_owned())
        }
        (None, Some(path)) => {
            let origin = format!("the first line of '{}'", path.display());
            let password =
                first_line(&path, warnings).map_err(|reason| Error::Passfile { path, reason })?;
            (password, origin)
        }
        (None, None) => {
            return Err(Error::Missing {
                what: "a password",
                options: "--passfile, -o, or --pass, -p",
                accepted: "a file whose first line is the password, or the password, 1 to 19 bytes",
            });
        }
    };
    if password.is_empty() {
        return Err(Error::Password {
            origin,
            reason: "it is empty, 1 to 19 bytes are accepted".into(),
        });
    }
    if password.contains(&0) {
        return Err(Error::Password {
            origin,
            reason: "it contains a NUL byte, where peers would end it".into(),
        });
    }
    match profile {
        Profile::Ucarp => Key::new(&password).map_err(|too_long| Error::Password {
            origin,
            reason: format!(
                "{} bytes are too many, 1 to 19 are accepted",
                too_long.length
            ),
        }),
        Profile::FreeBsd | Profile::OpenBsd => {
            let (key, cut) = Key::truncated(&password);
            if cut {
                warnings.push(format!(
                    "Password from {origin} is {} bytes long, only the first 19 count, as on BSD",
                    password.len()
                ));
            }
            Ok(key)
        }
    }
}

fn first_line(path: &Path, warnings: &mut Vec<String>) -> Result<Password, PassfileError> {
    let file = File::open(path).map_err(PassfileError::Open)?;
    let metadata = file.metadata().map_err(PassfileError::Read)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        warnings.push(format!(
            "Password file {} is open to others than its owner (mode {:03o}): chmod 600 it",
            path.display(),
            metadata.mode() & 0o777
        ));
    }
    let uid = nix::unistd::geteuid().as_raw();
    if metadata.is_file() && metadata.uid() != uid && metadata.uid() != 0 {
        warnings.push(format!(
            "Password file {} belongs to user {}, who can replace the password: chown root it",
            path.display(),
            metadata.uid()
        ));
    }
    // Allocated once, so that no copy is left behind by growing.
    let mut line = Zeroizing::new(Vec::with_capacity(
        usize::try_from(MAX_FILE).unwrap_or_default() + 1,
    ));
    file.take(MAX_FILE)
        .read_to_end(&mut line)
        .map_err(PassfileError::Read)?;
    if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
        line.truncate(end);
    }
    for (there, what) in [
        (line.ends_with(b"\r"), "ends with a carriage return"),
        (
            line.ends_with(b" ") || line.ends_with(b"\t"),
            "ends with a blank",
        ),
        (
            line.starts_with(b" ") || line.starts_with(b"\t"),
            "begins with a blank",
        ),
        (
            line.starts_with(b"\xef\xbb\xbf"),
            "begins with a byte order mark",
        ),
    ] {
        if there {
            warnings.push(format!(
                "Password from {} {what}, which counts as part of it",
                path.display()
            ));
        }
    }
    Ok(line)
}

/// The words after passwords that stand in a word of their own: somebody who forgot the quotes gave the rest there.
pub fn followers(argv: &[OsString], secrets: &[Secret]) -> Vec<Password> {
    let alone = secrets.iter().filter(|secret| secret.offset == 0);
    alone
        .filter_map(|secret| argv.get(secret.word + 1))
        .map(|word| Zeroizing::new(word.as_bytes().to_vec()))
        .collect()
}

/// Whether clap's message would show a word that may belong to a password: one that is no option, or that follows.
pub fn may_be_shown_by(error: &clap::Error, secrets: &[Secret], followers: &[Password]) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => {
            let is_operand = !word.starts_with('-') && error.kind() == ErrorKind::UnknownArgument;
            let follows = |it: &Password| !word.is_empty() && it.starts_with(word.as_bytes());
            !secrets.is_empty() && (is_operand || followers.iter().any(follows))
        }
        Some(_) | None => false,
    }
}

/// Overwrites the secrets in the memory that `ps` and `/proc/PID/cmdline` show, each up to the end of its word.
///
/// The process writes to itself through `/proc/self/mem`, at the place that `/proc/self/stat` names.
pub fn hide(argv: &[OsString], secrets: &[Secret]) -> io::Result<()> {
    if secrets.is_empty() {
        return Ok(());
    }
    let start = argument_start(&fs::read_to_string("/proc/self/stat")?)
        .ok_or_else(|| io::Error::other("/proc/self/stat does not say where the arguments are"))?;
    let mut expected = Zeroizing::new(Vec::new());
    let mut starts = Vec::with_capacity(argv.len());
    for word in argv {
        starts.push(expected.len());
        expected.extend_from_slice(word.as_bytes());
        expected.push(0);
    }
    let memory = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let mut found = Zeroizing::new(vec![0; expected.len()]);
    memory.read_exact_at(&mut found, start)?;
    if found != expected {
        return Err(io::Error::other(
            "the arguments are not where /proc/self/stat says",
        ));
    }
    for &Secret { word, offset } in secrets {
        let length = argv[word].len() - offset;
        let place = u64::try_from(starts[word] + offset).map_err(io::Error::other)?;
        memory.write_all_at(&vec![b'x'; length], start + place)?;
    }
    Ok(())
}

/// Field 48 of `/proc/PID/stat` (proc(5)). The second, in parentheses, may contain spaces.
fn argument_start(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name
        .split_ascii_whitespace()
        .nth(48 - 3)?
        .parse()
        .ok()
        .filter(|&start| start != 0)
}

/// The secrets themselves; the words, which are copies too, are overwritten.
pub fn extract(argv: Vec<OsString>, secrets: &[Secret]) -> Vec<Password> {
    let passwords = secrets
        .iter()
        .map(|secret| Zeroizing::new(argv[secret.word].as_bytes()[secret.offset..].to_vec()))
        .collect();
    for word in argv {
        word.into_vec().zeroize();
    }
    passwords
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(bytes: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn only_the_first_line_counts_and_only_its_newline_goes() {
        let table: [(&[u8], &[u8], usize); 8] = [
            (b"love\n", b"love", 0),
            (b"love", b"love", 0),
            (b" love \nhate\n", b" love ", 2),
            (b"love\t\n", b"love\t", 1),
            (b"\xef\xbb\xbflove\n", b"\xef\xbb\xbflove", 1),
            (b"love\r\n", b"love\r", 1),
            (b"\nlove\n", b"", 0),
            (b"", b"", 0),
        ];
        for (content, expected, warned) in table {
            let mut warnings = Vec::new();
            let line = first_line(file(content, 0o600).path(), &mut warnings).unwrap();
            assert_eq!(
                (line.as_slice(), warnings.len()),
                (expected, warned),
                "{content:?}"
            );
        }
    }

    #[test]
    fn file_that_others_can_read_is_warned_about() {
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            let file = file(b"love\n", mode);
            let mut warnings = Vec::new();
            first_line(file.path(), &mut warnings).unwrap();
            assert_eq!(!warnings.is_empty(), warned, "{mode:o}");
            assert!(
                warnings
                    .iter()
                    .all(|text| text.contains(&format!("{mode:03o}"))),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn endless_file_is_read_up_to_a_bound() {
        let line = first_line(Path::new("/dev/zero"), &mut Vec::new()).unwrap();
        assert_eq!(line.len(), 4096);
    }

    #[test]
    fn password_of_20_bytes_is_an_error_for_ucarp_and_cut_with_a_warning_for_bsd() {
        let key_of = |password: &str, profile| {
            let mut warnings = Vec::new();
            key(
                Some(Zeroizing::new(password.into())),
                None,
                profile,
                &mut Vec::new(),
                &mut warnings,
            )
            .map(|key| (key, warnings))
        };
        let refused = key_of("12345678901234567890", Profile::Ucarp)
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            "error: invalid password from --pass: 20 bytes are too many, 1 to 19 are accepted"
        );
        let whole = key_of("1234567890123456789", Profile::Ucarp).unwrap().0;
        for profile in [Profile::FreeBsd, Profile::OpenBsd] {
            let (cut, warnings) = key_of("12345678901234567890", profile).unwrap();
            assert_eq!(cut, whole);
            assert!(
                warnings[0].contains("20 bytes") && !warnings[0].contains("1234"),
                "{warnings:?}"
            );
        }
        let refused = key_of("", Profile::Ucarp).unwrap_err().to_string();
        assert!(refused.contains("empty"), "{refused}");
    }

    #[test]
    fn nul_byte_in_a_file_is_an_error() {
        let file = file(b"lo\0ve\n", 0o600);
        let path = Some(file.path().to_owned());
        let refused =
            key(None, path, Profile::Ucarp, &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(refused.to_string().contains("NUL"), "{refused}");
    }

    #[test]
    fn arguments_are_found_behind_any_process_name() {
        let fields: Vec<String> = (3..=52).map(|field| (field * 10).to_string()).collect();
        assert_eq!(
            argument_start(&format!("1 (a) b (c) {}", fields.join(" "))),
            Some(480)
        );
        assert_eq!(argument_start("1 (a) S 0"), None);
    }
}
