//! The check that turns a password, or the file that holds it, into a key.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use carp_common::proto::Key;
use carp_common::units::Profile;
use zeroize::Zeroizing;

use super::error::PassfileError;
use super::{Findings, Problem};
use crate::config::raw::{Location, Password, Secret};

/// The largest part of the file that is read. It is more than any sensible first line. Unit: bytes.
const MAX_FILE: u64 = 4096;

/// Returns the key, or adds a mistake.
pub fn key(
    password: Option<Password>,
    profile: Profile,
    location: &Location,
    findings: &mut Findings,
) -> Option<Key> {
    let (password, origin) = match password {
        Some(Password::Inline(word)) => {
            findings.note(
                "The password was on the command line, for everybody to read: better use --passfile"
                    .to_owned(),
            );
            (word.value, word.origin.name)
        }
        Some(Password::File(word)) => {
            let path = word.value;
            match first_line(&path, findings) {
                Ok(line) => (line, format!("the first line of '{}'", path.display())),
                Err(reason) => {
                    let name = word.origin.name;
                    findings.mistake(location, Problem::Passfile { path, name, reason });
                    return None;
                }
            }
        }
        None => {
            findings.mistake(
                location,
                Problem::Missing {
                    what: "a password",
                    options: "--passfile, -o, or --pass, -p",
                    accepted: "a file whose first line is the password, or the password, 1 to 19 bytes",
                },
            );
            return None;
        }
    };
    match usable(&password, profile, &origin, findings) {
        Ok(key) => Some(key),
        Err(reason) => {
            findings.mistake(location, Problem::Password { origin, reason });
            None
        }
    }
}

/// Returns the key of a password that peers accept too.
///
/// # Errors
/// Returns the reason why peers would not accept it, and the accepted passwords.
fn usable(
    password: &Secret,
    profile: Profile,
    origin: &str,
    findings: &mut Findings,
) -> Result<Key, String> {
    let password = password.as_bytes();
    if password.is_empty() {
        return Err("it is empty, 1 to 19 bytes are accepted".to_owned());
    }
    if password.contains(&0) {
        return Err("it contains a NUL byte, where peers would end it".to_owned());
    }
    match profile {
        Profile::Ucarp => Key::new(password).map_err(|too_long| {
            let length = too_long.length;
            format!("{length} bytes are too many, 1 to 19 are accepted")
        }),
        Profile::FreeBsd | Profile::OpenBsd => {
            let (key, cut) = Key::truncated(password);
            if cut {
                findings.warn(format!(
                    "Password from {origin} is {} bytes long, only the first 19 count, as on BSD",
                    password.len()
                ));
            }
            Ok(key)
        }
    }
}

fn first_line(path: &Path, findings: &mut Findings) -> Result<Secret, PassfileError> {
    let file = File::open(path).map_err(PassfileError::Open)?;
    let metadata = file.metadata().map_err(PassfileError::Read)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        findings.warn(format!(
            "Password file {} is open to others than its owner (mode {:03o}): chmod 600 it",
            path.display(),
            metadata.mode() & 0o777
        ));
    }
    let uid = nix::unistd::geteuid().as_raw();
    if metadata.is_file() && metadata.uid() != uid && metadata.uid() != 0 {
        findings.warn(format!(
            "Password file {} belongs to user {}, who can replace the password: chown root it",
            path.display(),
            metadata.uid()
        ));
    }
    // The buffer has its full size from the start, so that growing leaves no copy behind.
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
            findings.warn(format!(
                "Password from {} {what}, which counts as part of it",
                path.display()
            ));
        }
    }
    Ok(Secret::from(line))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::config::raw::{Origin, Word};

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
            let mut findings = Findings::default();
            let line = first_line(file(content, 0o600).path(), &mut findings).unwrap();
            assert_eq!(
                (line.as_bytes(), findings.warnings.len()),
                (expected, warned),
                "{content:?}"
            );
        }
    }

    #[test]
    fn file_that_others_can_read_is_warned_about() {
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            let file = file(b"love\n", mode);
            let mut findings = Findings::default();
            first_line(file.path(), &mut findings).unwrap();
            let warnings = findings.warnings;
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
        let line = first_line(Path::new("/dev/zero"), &mut Findings::default()).unwrap();
        assert_eq!(line.as_bytes().len(), 4096);
    }

    fn word<T>(name: &str, value: T) -> Word<T> {
        Word {
            value,
            origin: Origin {
                location: Location::CommandLine,
                name: name.to_owned(),
                position: 1,
            },
        }
    }

    /// Returns the key and the warnings, or the mistake.
    fn checked(password: Password, profile: Profile) -> Result<(Key, Vec<String>), String> {
        let mut findings = Findings::default();
        let key = key(
            Some(password),
            profile,
            &Location::CommandLine,
            &mut findings,
        );
        match (key, findings.mistakes.first()) {
            (Some(key), None) => Ok((key, findings.warnings)),
            (None, Some(mistake)) => Err(mistake.to_string()),
            other => panic!("neither a key nor a mistake, or both: {other:?}"),
        }
    }

    #[test]
    fn password_of_20_bytes_is_an_error_for_ucarp_and_cut_with_a_warning_for_bsd() {
        let key_of = |password: &str, profile| {
            let secret = Secret::from(Zeroizing::new(password.into()));
            checked(Password::Inline(word("--pass", secret)), profile)
        };
        assert_eq!(
            key_of("12345678901234567890", Profile::Ucarp).unwrap_err(),
            "invalid password from --pass: 20 bytes are too many, 1 to 19 are accepted"
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
        let refused = key_of("", Profile::Ucarp).unwrap_err();
        assert!(refused.contains("empty"), "{refused}");
    }

    #[test]
    fn nul_byte_in_a_file_is_an_error() {
        let file = file(b"lo\0ve\n", 0o600);
        let path = word("--passfile <FILE>", file.path().to_owned());
        let refused = checked(Password::File(path), Profile::Ucarp).unwrap_err();
        assert!(refused.contains("NUL"), "{refused}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_option() {
        let path = word("--passfile <FILE>", PathBuf::from("/nowhere/pass"));
        let refused = checked(Password::File(path), Profile::Ucarp).unwrap_err();
        assert_eq!(
            refused,
            "invalid value '/nowhere/pass' for '--passfile <FILE>': unable to open passfile for reading: No such file \
             or directory (os error 2)"
        );
    }
}
