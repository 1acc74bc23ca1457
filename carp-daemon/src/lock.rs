//! Locks that admit one process per (network namespace, interface, vhid), per virtual address, and per hook of a
//! kernel program.
//!
//! Two elections for one vhid on one interface would fight over one identity, and two virtual hosts over one address.
//! A lock is a name in the abstract namespace of UNIX sockets. That namespace belongs to the network namespace, so a
//! lock also excludes a container that uses the host's network. The kernel frees the name when its owner ends in
//! whatever way, so no cleanup is needed, and it tells the owner's pid to every process that connects. The descriptor
//! is close-on-exec, so scripts do not keep it. It survives `fork`, so locks must be taken after daemonizing.
//!
//! Names contain the interface's index, because the index stays when the interface is renamed.

mod served;

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use carp_common::units::Vhid;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, getsockopt, listen, socket,
    sockopt::PeerCredentials,
};

pub use served::{Locks, Wanted};

/// The directory for carpd's files. It is created with mode 0700.
pub const DIRECTORY: &str = "/run/carpd";

/// Connections that may wait for an answer at one lock. Any local user can make us hold the memory for them.
const BACKLOG: i32 = 16;

/// The time for which a start waits for an owner that is stopping.
const PATIENCE: Duration = Duration::from_secs(2);

/// The file that lists the sockets of this network namespace. Names of abstract sockets begin with `@`.
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// The prefix of the names of the locks of hooks.
const HOOKS: &str = "carpd/hook/";

/// The reason why this process does not hold the lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{what} is already served by {owner}")]
    Busy {
        /// The virtual host, address or hook, with its interface.
        what: String,
        /// The other process.
        owner: LockHolder,
    },
    /// A carpd holds it that was started with other options.
    #[error("{what} is already served by {owner}, with other options: stop that one first")]
    Other {
        /// The virtual host or address.
        what: String,
        /// That carpd.
        owner: LockHolder,
    },
    /// Another process holds or held it, and does not answer.
    #[error(
        "{what} is already served by {owner}, which did not answer within {} s: it is starting or stopping, or hangs",
        PATIENCE.as_secs()
    )]
    Silent {
        /// The virtual host or address.
        what: String,
        /// That process.
        owner: LockHolder,
    },
    /// A carpd holds it that was started with the same options as this one.
    #[error("{what}: served by {owner} already, with these options: left as it is")]
    Same {
        /// The virtual host.
        what: String,
        /// That carpd.
        owner: LockHolder,
    },
    /// A socket could not be used.
    #[error("failed to {action} the UNIX socket @{name}")]
    Socket {
        /// The action that failed.
        action: &'static str,
        /// The name of the socket.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file or directory could not be used.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another user could write to the directory and mislead us.
    #[error("{} must be a directory that only its owner (uid {uid}) can write", .path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Our effective user id.
        uid: u32,
    },
}

/// The process that holds a lock, according to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process id in our pid namespace, or 0 if it is in another one, and its user id. `None` if it does not
    /// listen.
    credentials: Option<(i32, u32)>,
}

impl LockHolder {
    const UNKNOWN: Self = Self { credentials: None };

    /// Returns whether its answers can be believed. Any local user can bind a free name.
    fn is_trusted(self) -> bool {
        self.credentials
            .is_some_and(|(_, uid)| uid == 0 || uid == nix::unistd::geteuid().as_raw())
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.credentials {
            None => f.write_str("a process that does not say which"),
            Some((0, _)) => f.write_str("a process of another pid namespace, as in a container"),
            Some((pid, _)) if self.is_trusted() => write!(f, "pid {pid}"),
            Some((pid, uid)) => write!(
                f,
                "pid {pid} of uid {uid}, neither root nor the user of this carpd: see what it is"
            ),
        }
    }
}

/// A lock, held as long as this value exists.
#[derive(Debug)]
pub struct Lock {
    _listener: UnixListener,
}

/// Makes this process the only one with a kernel program at this hook of the interface, in the calling thread's
/// network namespace.
///
/// `interface` is the interface's name, for the error.
///
/// # Errors
///
/// Returns [`LockError::Busy`] if another process (or this one) holds the lock, and otherwise the error of the system.
pub fn acquire_hook(ifindex: u32, interface: &str, hook: &str) -> Result<Lock, LockError> {
    let name = format!("{HOOKS}{ifindex}/{hook}");
    match bind(&name)? {
        Some(listener) => Ok(Lock {
            _listener: listener,
        }),
        None => Err(LockError::Busy {
            what: format!("datapath {hook} on {interface}"),
            owner: owner(&name).1,
        }),
    }
}

/// The locks of this network namespace that any process holds at the moment. Reading them takes none.
#[derive(Debug)]
pub struct Held(HashSet<String>);

impl Held {
    /// Reads which locks are held.
    ///
    /// # Errors
    ///
    /// Returns an error if `/proc` is missing.
    pub fn look() -> Result<Self, LockError> {
        fs::read_to_string(SOCKETS)
            .map(|sockets| Self::among(&sockets))
            .map_err(|source| file_error("read", Path::new(SOCKETS), source))
    }

    /// Returns whether a carpd serves this virtual host.
    #[must_use]
    pub fn serves(&self, ifindex: u32, vhid: Vhid) -> bool {
        self.has(&vhid_name(ifindex, vhid))
    }

    /// Whether a carpd has this address.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.has(&address_name(address))
    }

    /// At how many hooks a carpd has a program, this one included.
    #[must_use]
    pub fn hooks(&self) -> usize {
        let hooks = self.0.iter().filter(|name| name.starts_with(HOOKS));
        hooks.count()
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn among(sockets: &str) -> Self {
        let names = sockets.lines().filter_map(|line| line.rsplit_once(" @"));
        Self(names.map(|(_, name)| name.to_owned()).collect())
    }
}

fn vhid_name(ifindex: u32, vhid: Vhid) -> String {
    format!("carpd/vhid/{ifindex}/{vhid}")
}

fn address_name(address: IpAddr) -> String {
    format!("carpd/address/{address}")
}

/// Binds a name. Returns `None` if another socket has it.
fn bind(name: &str) -> Result<Option<UnixListener>, LockError> {
    let failed = |action| {
        move |source| LockError::Socket {
            action,
            name: name.to_owned(),
            source,
        }
    };
    let bound =
        SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(None),
        Err(error) => return Err(failed("bind")(error)),
    };
    listener.set_nonblocking(true).map_err(failed("set up"))?;
    Backlog::new(BACKLOG)
        .and_then(|backlog| listen(&listener, backlog))
        .map_err(|errno| failed("listen on")(errno.into()))?;
    Ok(Some(listener))
}

/// Returns the owner of a name, with a connection to it unless too many connections wait already.
fn owner(name: &str) -> (Option<OwnedFd>, LockHolder) {
    let connected = || -> nix::Result<(OwnedFd, LockHolder)> {
        // Connecting must not wait for a place in the queue.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(
            socket.as_raw_fd(),
            &UnixAddr::new_abstract(name.as_bytes())?,
        )?;
        let peer = getsockopt(&socket, PeerCredentials)?;
        let credentials = Some((peer.pid(), peer.uid()));
        Ok((socket, LockHolder { credentials }))
    };
    connected().map_or((None, LockHolder::UNKNOWN), |(socket, owner)| {
        (Some(socket), owner)
    })
}

/// Returns [`DIRECTORY`]. Creates it if it is missing. It must belong to our user, or may belong to another user if
/// we are root.
///
/// # Errors
///
/// Returns an error if it cannot be created, or if others can write to it.
pub fn directory() -> Result<&'static Path, LockError> {
    let directory = Path::new(DIRECTORY);
    prepare(directory)?;
    Ok(directory)
}

fn prepare(directory: &Path) -> Result<(), LockError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(file_error("create", directory, source)),
    }
    let metadata = fs::symlink_metadata(directory)
        .map_err(|source| file_error("inspect", directory, source))?;
    let uid = nix::unistd::geteuid().as_raw();
    let is_owned = metadata.uid() == uid || uid == 0;
    if !metadata.is_dir() || !is_owned || metadata.mode() & 0o022 != 0 {
        return Err(LockError::Untrusted {
            path: directory.to_owned(),
            uid,
        });
    }
    Ok(())
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> LockError {
    LockError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No interface has this index, so no carpd of this machine interferes.
    const NO_INTERFACE: u32 = u32::MAX;

    #[test]
    fn a_place_has_one_owner_until_it_is_released() {
        let held = acquire_hook(NO_INTERFACE, "eth0", "xdp").unwrap();
        let refused = acquire_hook(NO_INTERFACE, "eth0", "xdp").unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "datapath xdp on eth0 is already served by pid {}",
                std::process::id()
            )
        );
        acquire_hook(NO_INTERFACE, "eth0", "tcx-0").unwrap();
        acquire_hook(NO_INTERFACE - 1, "eth0", "xdp").unwrap();
        drop(held);
        acquire_hook(NO_INTERFACE, "eth0", "xdp").unwrap();
    }

    #[test]
    fn an_owner_with_a_full_queue_is_still_one() {
        let _held = acquire_hook(NO_INTERFACE - 2, "eth0", "xdp").unwrap();
        let mut last = String::new();
        for _ in 0..2 * BACKLOG {
            let refused = acquire_hook(NO_INTERFACE - 2, "eth0", "xdp").unwrap_err();
            last = refused.to_string();
        }
        assert!(
            last.ends_with("a process that does not say which"),
            "{last}"
        );
    }

    #[test]
    fn a_strangers_process_is_named_with_its_user_and_not_believed() {
        let owner = |pid, uid| LockHolder {
            credentials: Some((pid, uid)),
        };
        let us = nix::unistd::geteuid().as_raw();
        let stranger = owner(4711, us + 1);
        assert!(!stranger.is_trusted() && !LockHolder::UNKNOWN.is_trusted());
        assert!(
            stranger
                .to_string()
                .starts_with(&format!("pid 4711 of uid {}", us + 1))
        );
        assert!(owner(4711, 0).is_trusted() && owner(4711, us).is_trusted());
        assert_eq!(owner(4711, us).to_string(), "pid 4711");
        assert!(owner(0, 0).to_string().contains("container"));
    }

    #[test]
    fn whole_names_are_looked_for() {
        let held = Held::among(
            "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 17 @carpd/vhid/3/17\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 18 /run/@carpd/vhid/3/1\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 19\n",
        );
        let serves = |vhid| held.serves(3, Vhid::new(vhid).unwrap());
        assert!(serves(17) && !serves(1) && !serves(7));
    }

    #[test]
    fn directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let refused = prepare(&open).unwrap_err();
        assert!(matches!(refused, LockError::Untrusted { .. }), "{refused}");
        let refused = prepare(&directory.path().join("a/b")).unwrap_err();
        assert!(
            refused.to_string().starts_with("failed to create "),
            "{refused}"
        );
    }
}
