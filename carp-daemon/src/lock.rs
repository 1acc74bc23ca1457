//! One process per (network namespace, interface, vhid), and per place of a kernel program.
//!
//! Two elections for one vhid on one interface would fight over one identity. A lock is an `flock` on a file in
//! [`DIRECTORY`]: the kernel drops it with its owner, however that ends, and the descriptor is close-on-exec, so a
//! script cannot keep it. An `flock` survives `fork`: take it after daemonizing, or the parent shares it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use carp_common::units::Vhid;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Where the lock files are; created with mode 0700.
pub const DIRECTORY: &str = "/run/carpd";

/// How often the owner's pid is looked for in a file that it has locked but not written yet, [`PID_RETRY`] apart.
const PID_ATTEMPTS: u32 = 50;
const PID_RETRY: Duration = Duration::from_millis(1);

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else serves it.
    #[error("{what} is already served by pid {pid}")]
    Busy {
        /// Which virtual host or hook, and of which interface.
        what: String,
        /// The owner's process id, in the owner's own pid namespace; `unknown` when it could not be read.
        pid: String,
    },
    /// A file or directory could not be used.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory could be written by somebody else, who could then lock us out or mislead us.
    #[error("{} must be a directory that only its owner (uid {uid}) can write", .path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Our effective user id.
        uid: u32,
    },
}

/// Held as long as this value lives.
#[derive(Debug)]
pub struct Lock {
    /// Closing it releases the lock.
    _file: Flock<File>,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is still locked: who opened it before now sees, once the lock is theirs, that the file
        // has no name any more and starts again. A crash leaves the file behind, unlocked.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes this process the only one that serves the vhid on the interface, in the calling thread's network namespace.
///
/// # Errors
///
/// [`Error::Busy`] when another process (or this one) holds it; otherwise what went wrong with [`DIRECTORY`].
pub fn acquire(interface: &str, vhid: Vhid) -> Result<Lock, Error> {
    acquire_vhid_in(Path::new(DIRECTORY), namespace()?, interface, vhid)
}

/// Makes this process the only one with a kernel program at a hook of an interface, likewise.
///
/// The interface goes by its index, which a new name does not change; `interface` is its name for the error.
///
/// # Errors
///
/// As [`acquire`].
pub fn acquire_hook(ifindex: u32, interface: &str, hook: &str) -> Result<Lock, Error> {
    let (device, inode) = namespace()?;
    acquire_in(
        Path::new(DIRECTORY),
        &format!("lock:{device}:{inode}:{ifindex}:{hook}"),
        || format!("datapath {hook} on {interface}"),
    )
}

/// Which network namespace the calling thread is in: a pair that is unique on the machine. An interface's name or index
/// means something only inside it.
///
/// # Errors
///
/// When `/proc` is not there.
pub fn namespace() -> Result<(u64, u64), Error> {
    const NAMESPACE: &str = "/proc/thread-self/ns/net";
    let namespace = fs::metadata(NAMESPACE)
        .map_err(|source| file_error("identify", Path::new(NAMESPACE), source))?;
    Ok((namespace.dev(), namespace.ino()))
}

/// [`DIRECTORY`], which is there now and ours.
///
/// # Errors
///
/// When it cannot be made, or others can write it.
pub fn directory() -> Result<&'static Path, Error> {
    let directory = Path::new(DIRECTORY);
    prepare(directory)?;
    Ok(directory)
}

fn acquire_vhid_in(
    directory: &Path,
    (device, inode): (u64, u64),
    interface: &str,
    vhid: Vhid,
) -> Result<Lock, Error> {
    // `/` and `:` cannot occur in an interface name (dev_valid_name, net/core/dev.c).
    let name = format!("lock:{device}:{inode}:{interface}:{vhid}");
    acquire_in(directory, &name, || format!("vhid {vhid} on {interface}"))
}

fn acquire_in(directory: &Path, name: &str, what: impl Fn() -> String) -> Result<Lock, Error> {
    prepare(directory)?;
    let path = directory.join(name);
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| file_error("open", &path, source))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let pid = read_pid(&mut file);
                return Err(Error::Busy { what: what(), pid });
            }
            Err((_, errno)) => return Err(file_error("lock", &path, errno.into())),
        };
        let metadata = file
            .metadata()
            .map_err(|source| file_error("inspect", &path, source))?;
        if metadata.nlink() == 0 {
            continue; // its last owner removed it between our open and our lock
        }
        // Emptied first: who reads in between finds nothing and asks again, instead of a dead owner's pid.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| file_error("write", &path, source))?;
        return Ok(Lock { _file: file, path });
    }
}

fn prepare(directory: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(file_error("create", directory, source)),
    }
    let metadata = fs::symlink_metadata(directory)
        .map_err(|source| file_error("inspect", directory, source))?;
    let uid = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
        return Err(Error::Untrusted {
            path: directory.to_owned(),
            uid,
        });
    }
    Ok(())
}

/// The owner's pid, or `unknown` when the owner does not get around to writing it.
fn read_pid(file: &mut File) -> String {
    for _ in 0..PID_ATTEMPTS {
        let mut text = String::new();
        // A pid has at most 7 digits (PID_MAX_LIMIT); never trust a file's length.
        if (&*file).take(16).read_to_string(&mut text).is_ok()
            && let Some(pid) = text.strip_suffix('\n')
            && pid.parse::<u32>().is_ok()
        {
            return pid.to_owned();
        }
        if file.rewind().is_err() {
            break;
        }
        thread::sleep(PID_RETRY);
    }
    "unknown".to_owned()
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vhid(value: u8) -> Vhid {
        Vhid::new(value).unwrap()
    }

    #[test]
    fn second_owner_is_refused_and_told_the_first_ones_pid() {
        let directory = tempfile::tempdir().unwrap();
        let held = acquire_vhid_in(directory.path(), (4, 10), "eth0", vhid(7)).unwrap();
        let refused = acquire_vhid_in(directory.path(), (4, 10), "eth0", vhid(7)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "vhid 7 on eth0 is already served by pid {}",
                std::process::id()
            )
        );
        drop(held);
        acquire_vhid_in(directory.path(), (4, 10), "eth0", vhid(7)).unwrap();
    }

    #[test]
    fn other_namespace_interface_or_vhid_is_another_lock() {
        let directory = tempfile::tempdir().unwrap();
        let _held = acquire_vhid_in(directory.path(), (4, 10), "eth0", vhid(7)).unwrap();
        for (namespace, interface, id) in [
            ((4, 11), "eth0", 7),
            ((4, 10), "eth1", 7),
            ((4, 10), "eth0", 8),
        ] {
            acquire_vhid_in(directory.path(), namespace, interface, vhid(id)).unwrap();
        }
    }

    #[test]
    fn released_lock_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        drop(acquire_vhid_in(directory.path(), (4, 10), "eth0", vhid(7)).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftover_of_a_crash_is_taken_over_with_our_pid() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock:4:10:eth0:7");
        fs::write(&path, "1234567\n").unwrap();
        let _held = acquire_vhid_in(directory.path(), (4, 10), "eth0", vhid(7)).unwrap();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            format!("{}\n", std::process::id())
        );
    }

    #[test]
    fn directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let refused = acquire_vhid_in(&open, (4, 10), "eth0", vhid(7)).unwrap_err();
        assert!(matches!(refused, Error::Untrusted { .. }), "{refused}");
        let refused =
            acquire_vhid_in(&directory.path().join("a/b"), (4, 10), "eth0", vhid(7)).unwrap_err();
        assert!(
            refused.to_string().starts_with("failed to create "),
            "{refused}"
        );
    }
}
