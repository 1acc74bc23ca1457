//! Checks scripts at the start, so that a script that cannot run is not first noticed at a takeover.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::config::VhostConfig;

/// The part of a script's first line that the kernel reads (`BINPRM_BUF_SIZE`, include/uapi/linux/binfmts.h). Unit:
/// bytes.
const FIRST_LINE_MAX: u64 = 256;

/// The directory with the file formats that the kernel runs through another program.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// A script that cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("error: invalid value '{}' for '{option} <FILE>': {reason}", .path.display())]
pub struct Unusable {
    /// The option that names the script.
    option: &'static str,
    /// The script.
    path: PathBuf,
    /// Why the script cannot be run, and how to correct it.
    reason: Obstacle,
}

/// The reason why a script cannot be run.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("{0}")]
    System(io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    #[error(
        "it is not executable (mode {0:03o}): chmod +x it, and mount its file system without noexec"
    )]
    NotExecutable(u32),
    #[error("its first line names the interpreter {interpreter:?}, which cannot be run: {cause}")]
    Interpreter { interpreter: String, cause: Errno },
    #[error(
        "the kernel cannot run it: its first line must be #! and an interpreter, such as #!/bin/sh"
    )]
    NoInterpreter,
}

/// Checks every script of the virtual hosts. Returns a warning for each file or directory through which other users
/// can become root.
///
/// # Errors
/// Returns the first script that cannot be run.
pub fn check(vhosts: &[VhostConfig]) -> Result<Vec<String>, Unusable> {
    let mut seen = BTreeSet::new();
    let mut warnings = Vec::new();
    for vhost in vhosts {
        let scripts = [
            ("--upscript", &vhost.scripts.up),
            ("--downscript", &vhost.scripts.down),
        ];
        for (option, path) in scripts {
            let Some(path) = path else { continue };
            if !seen.insert(path) {
                continue;
            }
            is_runnable(path).map_err(|reason| Unusable {
                option,
                path: path.clone(),
                reason,
            })?;
            warnings.extend(others_who_may_write(path));
        }
    }
    Ok(warnings)
}

fn is_runnable(path: &Path) -> Result<(), Obstacle> {
    let metadata = fs::metadata(path).map_err(Obstacle::System)?;
    if !metadata.is_file() {
        return Err(Obstacle::NotAFile);
    }
    access(path, AccessFlags::X_OK).map_err(|errno| {
        if errno == Errno::EACCES {
            Obstacle::NotExecutable(metadata.mode() & 0o7777)
        } else {
            Obstacle::System(errno.into())
        }
    })?;
    let mut start = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        // A program may be executable although it is not readable.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(Obstacle::System(error)),
    };
    file.take(FIRST_LINE_MAX)
        .read_to_end(&mut start)
        .map_err(Obstacle::System)?;
    if start.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let Some(interpreter) = interpreter(&start) else {
        return match has_other_formats(Path::new(BINFMT_MISC)) {
            true => Ok(()),
            false => Err(Obstacle::NoInterpreter),
        };
    };
    access(Path::new(interpreter), AccessFlags::X_OK).map_err(|cause| Obstacle::Interpreter {
        interpreter: interpreter.to_string_lossy().into_owned(),
        cause,
    })
}

/// Returns the interpreter in the first line as the kernel reads it: up to the next blank. A carriage return is part
/// of it.
fn interpreter(start: &[u8]) -> Option<&OsStr> {
    let line = start
        .strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    words.find(|word| !word.is_empty()).map(OsStr::from_bytes)
}

/// Returns whether formats other than the kernel's own are registered. Only the kernel knows then whether a file can
/// run.
fn has_other_formats(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| !matches!(entry.file_name().to_str(), Some("register" | "status")))
    })
}

/// Returns a warning for each file or directory through which another user controls what the script does.
fn others_who_may_write(path: &Path) -> Vec<String> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directories: BTreeSet<_> = [path, &real]
        .into_iter()
        .flat_map(|path| path.ancestors().skip(1))
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    let uid = nix::unistd::geteuid().as_raw();
    std::iter::once(real.as_path())
        .chain(directories)
        .filter_map(|place| {
            let metadata = fs::metadata(place).ok()?;
            let danger = danger(&metadata, uid)?;
            Some(format!(
                "Script {}: {} {danger}, who can make it do anything as the user of carpd: it and the directories above it \
                 must belong to root and be writable by nobody else (chown root, chmod go-w)",
                path.display(),
                place.display(),
            ))
        })
        .collect()
}

/// Returns who else may write to the file, if anyone. In a sticky directory users cannot replace files of others.
fn danger(metadata: &Metadata, uid: u32) -> Option<String> {
    let mode = metadata.mode();
    let by_others = mode & 0o002 != 0 || (mode & 0o020 != 0 && metadata.gid() != 0);
    let sticky = metadata.is_dir() && mode & 0o1000 != 0;
    if metadata.uid() != 0 && metadata.uid() != uid {
        Some(format!("belongs to user {}", metadata.uid()))
    } else if by_others && !sticky {
        Some(format!(
            "can be written by others (mode {:04o})",
            mode & 0o7777
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(directory: &Path, content: &[u8], mode: u32) -> PathBuf {
        let path = directory.join("up");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_script_that_cannot_run_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let table: [(&[u8], u32, Option<&str>); 6] = [
            (b"#!/bin/sh\n", 0o755, None),
            (b"#! /bin/sh -e\n", 0o755, None),
            (b"\x7fELF\x02", 0o755, None),
            (b"#!/bin/sh\n", 0o644, Some("chmod +x")),
            (b"#!/nowhere/sh\n", 0o755, Some("\"/nowhere/sh\"")),
            (b"#!/bin/sh\r\n", 0o755, Some("\"/bin/sh\\r\"")),
        ];
        for (content, mode, expected) in table {
            let path = script(directory.path(), content, mode);
            let outcome = is_runnable(&path).map_err(|reason| reason.to_string());
            match (outcome, expected) {
                (Ok(()), None) => {}
                (Err(reason), Some(expected)) => assert!(reason.contains(expected), "{reason}"),
                (outcome, expected) => panic!("{content:?}: {outcome:?}, not {expected:?}"),
            }
        }
        assert!(matches!(
            is_runnable(directory.path()),
            Err(Obstacle::NotAFile)
        ));
        assert!(is_runnable(&directory.path().join("absent")).is_err());
        assert_eq!(interpreter(b"echo"), None);
        assert_eq!(interpreter(b"#!\n"), None);
    }

    #[test]
    fn formats_are_there_when_one_is_registered() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("register"), "").unwrap();
        assert!(!has_other_formats(directory.path()));
        fs::write(directory.path().join("qemu"), "").unwrap();
        assert!(has_other_formats(directory.path()));
        assert!(!has_other_formats(Path::new("/nowhere")));
    }

    #[test]
    fn a_script_or_directory_that_others_may_write_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), b"#!/bin/sh\n", 0o755);
        assert_eq!(others_who_may_write(&path), Vec::<String>::new());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o757)).unwrap();
        let warnings = others_who_may_write(&path);
        assert!(
            matches!(&warnings[..], [one] if one.contains("mode 0757")),
            "{warnings:?}"
        );
        let mode = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode));
        mode(0o777).unwrap();
        assert_eq!(others_who_may_write(&path).len(), 2);
        mode(0o1777).unwrap();
        assert_eq!(others_who_may_write(&path).len(), 1);
    }
}
