//! The state directory. It stores what each virtual host has heard on the network, so that a restart does not lose
//! it.
//!
//! Each virtual host has one file, in a format of the protocol core. It contains what anyone on the link has heard,
//! and no key material. Losing a file, or reading an old or damaged one, only costs the protection it gave, so no
//! error here is fatal and nothing is flushed to the disk.
//!
//! The lock of the virtual host ([`crate::lock`]) is held while its file is in use. That lock belongs to one network
//! namespace. Two namespaces that serve the same vhid on interfaces of the same name therefore need different
//! directories.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use carp_common::units::Vhid;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::api::event::process::Memory;
use crate::config::StateDirectory;
use crate::io::chain::Chain;

/// The largest file that is read. Unit: bytes. It exceeds the core's bound to leave room for later versions.
const FILE_MAX: u64 = 128 * 1024;

/// The reason why a file or the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// A system call failed.
    #[error("failed to {action} {}", .path.display())]
    System {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others could write to the directory.
    #[error("{} must be a directory that only its owner (uid {uid}) can write", .path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Our effective user id.
        uid: u32,
    },
    /// carpd did not write the file.
    #[error("{} is not a regular file of at most {FILE_MAX} bytes", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// An open state directory. Any thread may use it.
#[derive(Debug)]
pub struct StateDir {
    /// The directory that names are resolved in, even if the path has changed since.
    directory: OwnedFd,
    /// The path, for messages.
    path: PathBuf,
    /// The last write failed and was logged.
    complained: AtomicBool,
}

impl StateDir {
    /// Opens the directory. Creates it first if the configuration asks for that and it does not exist.
    ///
    /// Later writes run with fewer capabilities, so the directory must belong to our user. Others cannot write to it
    /// either then.
    ///
    /// # Errors
    ///
    /// Returns the reason why the directory cannot be used.
    pub fn open(wanted: &StateDirectory) -> Result<Self, StateDirError> {
        let path = wanted.path.as_path();
        let failed = |action| move |source| system_error(action, path, source);
        if wanted.create {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create")(source));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = File::from(
            open(path, flags, Mode::empty()).map_err(|errno| failed("open")(errno.into()))?,
        );
        let metadata = directory.metadata().map_err(failed("inspect"))?;
        let uid = nix::unistd::geteuid().as_raw();
        if metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
            return Err(StateDirError::Untrusted {
                path: path.to_owned(),
                uid,
            });
        }
        Ok(Self {
            directory: directory.into(),
            path: path.to_owned(),
            complained: AtomicBool::new(false),
        })
    }

    /// Returns the path of the directory, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file of a virtual host. Returns `None` if there is no file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or carpd did not write it.
    pub fn read(&self, name: &FileName) -> Result<Option<Vec<u8>>, StateDirError> {
        let failed = |source| system_error("read", &self.path_of(name), source);
        // O_NONBLOCK keeps a pipe from blocking us, and O_NOFOLLOW refuses symbolic links.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.directory, name.0.as_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(self.foreign(name)),
            Err(errno) => return Err(failed(errno.into())),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(self.foreign(name));
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        match bytes.len() as u64 > FILE_MAX {
            true => Err(self.foreign(name)),
            false => Ok(Some(bytes)),
        }
    }

    /// Replaces the file of a virtual host. The new file has all of `bytes`, or the old one stays.
    ///
    /// # Errors
    ///
    /// Returns any error of the system calls.
    pub fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), StateDirError> {
        let new = format!("{}.new", name.0);
        let path = || self.path.join(&new);
        let failed = |action| move |source| system_error(action, &path(), source);
        let mut file = self
            .create(&new)
            .map_err(|errno| failed("create")(errno.into()))?;
        let written = file
            .write_all(bytes)
            .map_err(failed("write"))
            .and_then(|()| {
                let (directory, to) = (self.directory.as_fd(), name.0.as_str());
                renameat(directory, new.as_str(), directory, to)
                    .map_err(|errno| failed("rename")(errno.into()))
            });
        if written.is_err() {
            // An error does not matter: the next write removes the file as well.
            let _ = self.remove(&new);
        }
        written
    }

    /// Writes the file. Returns a failure to be told, but no further ones until a write succeeds again.
    #[must_use]
    pub fn keep(&self, name: &FileName, bytes: &[u8]) -> Option<Memory> {
        match self.write(name, bytes) {
            Ok(()) => {
                self.complained.store(false, Ordering::Relaxed);
                None
            }
            Err(error) => self.complaint(&error),
        }
    }

    /// Returns why the files cannot be written, to be told. Returns `None` after further failures, until a write
    /// succeeds.
    #[must_use]
    pub fn complaint(&self, error: &dyn std::error::Error) -> Option<Memory> {
        let is_new = !self.complained.swap(true, Ordering::Relaxed);
        is_new.then(|| Memory::NotKept {
            error: Chain(error).to_string(),
        })
    }

    /// Creates a new file. Only the process that holds the virtual host's lock does so, therefore a file that exists
    /// already was left by a killed process.
    fn create(&self, name: &str) -> Result<File, Errno> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || openat(&self.directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        match create() {
            Err(Errno::EEXIST) => {
                self.remove(name)?;
                create()
            }
            outcome => outcome,
        }
        .map(File::from)
    }

    fn remove(&self, name: &str) -> Result<(), Errno> {
        unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Returns the path of a file, for messages.
    #[must_use]
    pub fn path_of(&self, name: &FileName) -> PathBuf {
        self.path.join(&name.0)
    }

    fn foreign(&self, name: &FileName) -> StateDirError {
        StateDirError::Foreign {
            path: self.path_of(name),
        }
    }
}

/// The name of the file of a virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName(String);

impl FileName {
    /// Names the file for a vhid on an interface. Names of interfaces contain neither `/` nor `:` (`dev_valid_name`,
    /// net/core/dev.c).
    #[must_use]
    pub fn new(interface: &str, vhid: Vhid) -> Self {
        Self(format!("heard:{interface}:{vhid}"))
    }
}

fn system_error(action: &'static str, path: &Path, source: io::Error) -> StateDirError {
    StateDirError::System {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn name() -> FileName {
        FileName::new("eth0", Vhid::new(7).unwrap())
    }

    fn open(path: &Path, create: bool) -> Result<StateDir, StateDirError> {
        StateDir::open(&StateDirectory {
            path: path.to_owned(),
            create,
        })
    }

    #[test]
    fn a_written_state_is_read_by_the_next_run_and_by_nobody_else() {
        let place = tempfile::tempdir().unwrap();
        let state = open(place.path(), false).unwrap();
        assert_eq!(state.read(&name()).unwrap(), None);
        for content in [&b"first"[..], b"", &[7; 80 * 1024]] {
            state.write(&name(), content).unwrap();
            let again = open(place.path(), false).unwrap();
            assert_eq!(again.read(&name()).unwrap().as_deref(), Some(content));
        }
        let other = FileName::new("eth1", Vhid::new(7).unwrap());
        assert_eq!(state.read(&other).unwrap(), None);
        let file = place.path().join("heard:eth0:7");
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_a_directory_that_was_asked_for_by_name_is_made() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("carpd");
        assert!(matches!(
            open(&path, false),
            Err(StateDirError::System { .. })
        ));
        open(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        open(&path, true).unwrap();
        open(&path, false).unwrap();
        let deep = path.join("not/there");
        assert!(matches!(
            open(&deep, true),
            Err(StateDirError::System { .. })
        ));
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            open(&file, true),
            Err(StateDirError::System { .. })
        ));
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let place = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o770, 0o1777] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = open(place.path(), true).unwrap_err();
            assert!(
                matches!(refused, StateDirError::Untrusted { .. }),
                "{refused}"
            );
        }
    }

    #[test]
    fn links_pipes_and_huge_files_are_not_read() {
        let place = tempfile::tempdir().unwrap();
        let state = open(place.path(), false).unwrap();
        let file = place.path().join("heard:eth0:7");
        let is_foreign = || {
            let refused = state.read(&name()).unwrap_err();
            assert!(
                matches!(refused, StateDirError::Foreign { .. }),
                "{refused}"
            );
            fs::remove_file(&file).unwrap();
        };
        let secret = place.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, &file).unwrap();
        is_foreign();
        nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        is_foreign();
        fs::write(&file, vec![0; 128 * 1024 + 1]).unwrap();
        is_foreign();
        fs::write(&file, vec![0; 128 * 1024]).unwrap();
        assert!(state.read(&name()).is_ok());
    }

    #[test]
    fn a_write_replaces_links_and_leftovers_instead_of_following_them() {
        let place = tempfile::tempdir().unwrap();
        let state = open(place.path(), false).unwrap();
        let secret = place.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        for planted in ["heard:eth0:7", "heard:eth0:7.new"] {
            symlink(&secret, place.path().join(planted)).unwrap();
            state.write(&name(), b"content").unwrap();
            assert_eq!(fs::read_to_string(&secret).unwrap(), "secret", "{planted}");
            assert_eq!(
                state.read(&name()).unwrap().as_deref(),
                Some(&b"content"[..])
            );
        }
        fs::write(place.path().join("heard:eth0:7.new"), "of a crash").unwrap();
        state.write(&name(), b"content again").unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_and_ends_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("carpd");
        let state = open(&path, true).unwrap();
        fs::remove_dir(&path).unwrap();
        let refused = state.write(&name(), b"content").unwrap_err();
        assert!(
            refused.to_string().starts_with("failed to create "),
            "{refused}"
        );
        let told = state.keep(&name(), b"content");
        assert!(matches!(told, Some(Memory::NotKept { .. })), "{told:?}");
        assert_eq!(state.keep(&name(), b"content"), None);
    }
}
