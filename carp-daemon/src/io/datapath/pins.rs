//! Where programs stay attached beyond our own end: links pinned in a bpffs of our own.
//!
//! A pinned link outlives its process, and with it the fence around what a dead MASTER left behind. Each link has a
//! place (an interface of a network namespace, and a hook there), and each place a lock: who holds it serves there;
//! what is pinned at a place whose lock is free is a leftover. The next start takes over what it can use and removes
//! the rest; an orderly stop, and `carpd --detach`, leave nothing. Beside the links lies the table of fenced addresses.
//!
//! A mount belongs to a mount namespace, and goes with it: a process that was given one of its own (`ip netns exec`, a
//! service with private mounts) finds nothing of what an earlier one pinned, unless the bpffs was mounted before.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{debug, info, warn};

use crate::lock::{self, Lock};
use crate::sys;

/// Our bpffs, beside the locks.
const DIRECTORY: &str = "/run/carpd/bpf";

/// The pin of the table of fenced addresses; the number is that of its layout, for versions that come to differ.
const FENCE_TABLE: &str = "fence-1";

/// How old a table without a program must be before another network namespace's is removed: its owner may be about to
/// attach one.
const TABLE_GRACE: Duration = Duration::from_secs(60);

/// The pins of this network namespace.
#[derive(Debug)]
pub struct Pins {
    /// Identity of the namespace: device and inode.
    namespace: (u64, u64),
    /// Not there: nothing is pinned, and what runs goes with us.
    mounted: bool,
}

impl Pins {
    /// Mounts the bpffs unless it is there, and removes what belongs to interfaces that are gone.
    ///
    /// Mounting takes CAP_SYS_ADMIN. Without it nothing is pinned; that is said once, here.
    ///
    /// # Errors
    /// When the locks' directory cannot be used.
    pub fn open() -> Result<Self, lock::Error> {
        let namespace = lock::namespace()?;
        let mounted = match mount_bpffs() {
            Ok(()) => true,
            Err(error) => {
                warn!(
                    "no bpffs at {DIRECTORY} ({error}): should carpd be killed, its kernel program goes with it, and \
                     nothing keeps this host from answering for addresses that it left behind"
                );
                false
            }
        };
        let pins = Self { namespace, mounted };
        pins.remove_dead();
        Ok(pins)
    }

    /// Those that are there, for somebody who pins nothing.
    ///
    /// # Errors
    /// When the network namespace cannot be told.
    pub fn existing() -> Result<Self, lock::Error> {
        Ok(Self {
            namespace: lock::namespace()?,
            mounted: is_bpffs(),
        })
    }

    /// Makes us the only one at a place.
    ///
    /// `hook` is the part of the interface; `interface` its name, for the error.
    ///
    /// # Errors
    /// Busy, with the owner's pid, when another carpd is there.
    pub fn claim(&self, ifindex: u32, interface: &str, hook: &str) -> Result<Place, lock::Error> {
        Ok(Place {
            directory: self.mounted.then(|| self.directory(ifindex)),
            _lock: lock::acquire_hook(ifindex, interface, hook)?,
        })
    }

    /// Removes everything on an interface that has no living owner. Answers what that was, and who is in the way of
    /// the rest.
    #[must_use]
    pub fn remove_unowned(&self, ifindex: u32, interface: &str) -> Removal {
        let mut removal = Removal::default();
        if !self.mounted {
            return removal;
        }
        let directory = self.directory(ifindex);
        for name in names(&directory) {
            match self.claim(ifindex, interface, hook_of(&name)) {
                Ok(place) => {
                    place.remove(&name);
                    removal.removed.push(name);
                }
                Err(error) => removal.refused.push(error),
            }
        }
        // Only succeeds when it is empty.
        let _ = fs::remove_dir(directory);
        removal
    }

    /// Removes the pins of interfaces that are gone, in every network namespace.
    pub fn remove_dead(&self) {
        if self.mounted {
            let names = names(Path::new(DIRECTORY));
            for name in &names {
                match name.strip_suffix(FENCE_TABLE) {
                    None => remove_dead_in(&Path::new(DIRECTORY).join(name)),
                    // Whatever has a program has a directory.
                    Some(namespace)
                        if names
                            .iter()
                            .any(|other| other != name && other.starts_with(namespace)) => {}
                    Some(_) => remove_old(&Path::new(DIRECTORY).join(name)),
                }
            }
        }
    }

    /// Removes the pins of an interface that is gone; their links are dead.
    pub fn forget(&self, ifindex: u32) {
        if self.mounted {
            remove_dead_in(&self.directory(ifindex));
        }
    }

    /// Where the table of fenced addresses is pinned, which every carpd of this network namespace shares; `None` when
    /// nothing is pinned.
    #[must_use]
    pub fn fence_table(&self) -> Option<PathBuf> {
        let (device, inode) = self.namespace;
        let name = format!("{device}:{inode}:{FENCE_TABLE}");
        self.mounted.then(|| Path::new(DIRECTORY).join(name))
    }

    fn directory(&self, ifindex: u32) -> PathBuf {
        let (device, inode) = self.namespace;
        Path::new(DIRECTORY).join(format!("{device}:{inode}:{ifindex}"))
    }
}

/// What became of the pins of an interface.
#[derive(Debug, Default)]
pub struct Removal {
    /// Removed: their names, which begin with the rung's.
    pub removed: Vec<String>,
    /// Left alone.
    pub refused: Vec<lock::Error>,
}

/// A place that is ours as long as this lives.
#[derive(Debug)]
pub struct Place {
    /// `None`: nothing is pinned.
    directory: Option<PathBuf>,
    _lock: Lock,
}

impl Place {
    /// What an earlier run left here under a name, still attached.
    #[must_use]
    pub fn leftover(&self, name: &str) -> Option<FdLink> {
        let path = self.directory.as_ref()?.join(name);
        if !fs::exists(&path).unwrap_or(false) {
            return None;
        }
        match PinnedLink::from_pin(&path) {
            Ok(link) => Some(link.into()),
            Err(error) => {
                debug!("{}: {error}", path.display());
                None
            }
        }
    }

    /// Pins a link under a name. `None` when that failed, which is said: the link is gone then.
    #[must_use]
    pub fn pin(&self, link: FdLink, name: &str) -> Option<FdLink> {
        let Some(directory) = &self.directory else {
            return Some(link);
        };
        let path = directory.join(name);
        let created = match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome,
        };
        if let Err(error) = created {
            warn!(
                "failed to create {}, going on unpinned: {error}",
                directory.display()
            );
            return Some(link);
        }
        match link.pin(&path) {
            Ok(link) => Some(link.into()),
            Err(error) => {
                warn!("failed to pin {}: {error}", path.display());
                None
            }
        }
    }

    /// Detaches what is pinned here under a name, at once, and removes the pin.
    pub fn remove(&self, name: &str) {
        if let Some(directory) = &self.directory {
            remove(&directory.join(name));
        }
    }
}

/// The hook that a pin's name is about: both modes of XDP are one.
fn hook_of(name: &str) -> &str {
    if name.starts_with("xdp") { "xdp" } else { name }
}

/// Detaches first: a pin's link goes only some time after the pin.
fn remove(path: &Path) {
    let detached = sys::open_bpf_object(path).and_then(|link| sys::detach_bpf_link(link.as_fd()));
    match detached {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => debug!("{}: {error}", path.display()),
    }
    if let Err(error) = fs::remove_file(path) {
        debug!("{}: {error}", path.display());
    }
}

fn remove_old(table: &Path) {
    let made = fs::metadata(table).and_then(|metadata| metadata.modified());
    if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > TABLE_GRACE)) {
        let _ = fs::remove_file(table);
    }
}

fn remove_dead_in(directory: &Path) {
    for name in names(directory) {
        let path = directory.join(&name);
        if sys::open_bpf_object(&path).is_ok_and(|link| is_dead(&link)) {
            remove(&path);
            info!("removed {}: its interface is gone", path.display());
        }
    }
    // Only succeeds when it is empty.
    let _ = fs::remove_dir(directory);
}

/// Whether a link's interface is gone: the kernel tells by its index, which is then 0.
fn is_dead(link: &OwnedFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()));
    info.is_ok_and(|info| info.lines().any(|line| line == "ifindex:\t0"))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn is_bpffs() -> bool {
    statfs(DIRECTORY).is_ok_and(|file_system| file_system.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs() -> io::Result<()> {
    // Locked, or of two that start together the second would mount over what the first has pinned.
    let parent = fs::File::open(lock::directory().map_err(io::Error::other)?)?;
    let _lock = Flock::lock(parent, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if is_bpffs() {
        return Ok(());
    }
    match fs::create_dir(DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("carpd"),
        DIRECTORY,
        Some(OsStr::new("bpf")),
        flags,
        Some("mode=0700"),
    )?;
    // Unreadable in some containers, where there is nothing outside to compare with either.
    let namespace_of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt"));
    if let (Ok(ours), Ok(first)) = (namespace_of("self"), namespace_of("1"))
        && ours != first
    {
        warn!(
            "{DIRECTORY} is mounted in a mount namespace of this process alone (ip netns exec, private mounts of a \
             service): should carpd be killed, its kernel program goes with it; mount a bpffs there beforehand"
        );
    }
    Ok(())
}
