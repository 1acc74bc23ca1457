//! The file system of pinned programs, mounted where it outlives the daemon.
//!
//! A mount ends with its mount namespace. A service with private mounts, `ip netns exec`, `unshare -m` and containers each
//! have a namespace that ends with its last process. Programs that are pinned in a bpffs of such a namespace end when the
//! daemon is killed, although they are needed at that moment. The bpffs therefore belongs in the namespace of process 1. The
//! daemon mounts it there if it is permitted to, and reaches it from its own namespace through a descriptor.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::api::event::kernel::Pin;
use crate::api::status::Survival;
use crate::api::{Outbox, Place};
use crate::lock;
use crate::sys;

/// The directory where it is mounted.
pub const DIRECTORY: &str = "/run/carpd/bpf";

/// The mount namespace of the first process of the pid namespace. It outlives all others.
const FIRST_MOUNTS: &str = "/proc/1/ns/mnt";

/// The machine's own pid namespace (`PROC_PID_INIT_INO`, linux/proc_ns.h); every other one is a container's.
const MACHINES_PROCESSES: &str = "pid:[4026531836]";

/// The time for which a thread that has ended may still be listed, and the pause between two checks.
const LISTED: u32 = 200;
const LISTED_RETRY: Duration = Duration::from_millis(1);

/// The bpffs of carpd's pins.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    survival: Survival,
    /// The descriptor that `path` leads through, if the mount is in another namespace.
    _descriptor: Option<OwnedFd>,
}

impl Bpffs {
    /// Returns the bpffs that exists, or mounts one: in the mount namespace of process 1 if possible, otherwise in this one.
    ///
    /// # Errors
    /// Returns an error if mounting is not permitted. It takes CAP_SYS_ADMIN.
    pub fn open(outbox: &Outbox) -> io::Result<Self> {
        match Self::existing() {
            Some(found) if found.survival != Survival::No => return Ok(found),
            // A bpffs that outlives this process is better.
            _ => {}
        }
        match in_first_namespace(make) {
            Ok(Some(descriptor)) => return Ok(Self::through(descriptor)),
            Ok(None) => {}
            Err(error) => {
                let error = error.to_string();
                outbox.tell(Place::Process, Pin::NoneInFirstNamespace { error });
            }
        }
        make()?;
        Ok(Self::here())
    }

    /// Returns the bpffs that exists in this mount namespace or in that of process 1, preferring one that outlives this
    /// process.
    #[must_use]
    pub fn existing() -> Option<Self> {
        let here = is_bpffs().then(Self::here);
        if here.as_ref().is_some_and(|it| it.survival != Survival::No) {
            return here;
        }
        let find = || match is_bpffs() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        };
        match in_first_namespace(find) {
            Ok(Some(descriptor)) => Some(Self::through(descriptor)),
            Ok(None) | Err(_) => here,
        }
    }

    /// Returns the path by which this process reaches the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether pinned programs outlive this process.
    #[must_use]
    pub const fn survival(&self) -> Survival {
        self.survival
    }

    fn here() -> Self {
        Self {
            path: DIRECTORY.into(),
            survival: Facts::gather().survival(),
            _descriptor: None,
        }
    }

    fn through(descriptor: OwnedFd) -> Self {
        Self {
            path: format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into(),
            survival: match is_container() {
                true => Survival::WithContainer,
                false => Survival::Yes,
            },
            _descriptor: Some(descriptor),
        }
    }
}

/// The facts that determine how long the mount in this namespace lasts.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// This process has a pid namespace other than the machine's.
    is_container: bool,
    /// This process is the first of its pid namespace, and its end is the end of all others.
    is_first: bool,
    /// Process 1 has the same file system mounted. `None` if that cannot be read.
    first_has_it: Option<bool>,
    /// The mount was made in another namespace and brought here by a bind mount or by propagation.
    is_brought: bool,
}

impl Facts {
    fn gather() -> Self {
        let device = fs::metadata(DIRECTORY).map(|metadata| metadata.dev());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = mount_source().unwrap_or_default();
        let first = fs::read_to_string("/proc/1/mountinfo").ok();
        Self {
            is_container: is_container(),
            is_first: std::process::id() == 1,
            first_has_it: first
                .zip(device.ok())
                .map(|(mounts, device)| holds(&mounts, device)),
            is_brought: is_brought(&mounts, &ours),
        }
    }

    const fn survival(self) -> Survival {
        match self {
            Self {
                is_container: false,
                first_has_it: Some(true),
                ..
            } => Survival::Yes,
            Self {
                is_container: false,
                first_has_it: Some(false),
                ..
            } => Survival::No,
            Self {
                is_brought: true, ..
            } => Survival::Yes,
            Self {
                is_container: true,
                is_first: false,
                first_has_it: Some(true),
                ..
            } => Survival::WithContainer,
            _ => Survival::No,
        }
    }
}

/// Returns whether a `mountinfo` lists a file system with this device number.
fn holds(mountinfo: &str, device: u64) -> bool {
    let device = format!(
        "{}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    mountinfo
        .lines()
        .any(|line| line.split(' ').nth(2) == Some(&device))
}

/// Returns whether the uppermost mount at [`DIRECTORY`] came from another namespace: it is a slave of a mount there, or
/// its source is not `ours`, which a carpd of this namespace uses.
fn is_brought(mountinfo: &str, ours: &str) -> bool {
    let at_directory = |line: &&str| line.split(' ').nth(4) == Some(DIRECTORY);
    mountinfo
        .lines()
        .rfind(at_directory)
        .and_then(|line| line.split_once(" - "))
        .is_some_and(|(mount, file_system)| {
            mount.contains(" master:") || file_system.split(' ').nth(1) != Some(ours)
        })
}

fn is_container() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link != OsStr::new(MACHINES_PROCESSES))
}

/// Returns the source of carpd's mounts, which names the mount namespace where the mount was made.
fn mount_source() -> io::Result<String> {
    let namespace = fs::metadata("/proc/thread-self/ns/mnt")?;
    Ok(format!("carpd:{}", namespace.ino()))
}

/// Runs `step` in the mount namespace of process 1 and opens the directory there. Returns `None` if this process is in
/// that namespace itself.
fn in_first_namespace(
    step: impl Fn() -> io::Result<()> + Send + 'static,
) -> io::Result<Option<OwnedFd>> {
    if fs::read_link(FIRST_MOUNTS)? == fs::read_link("/proc/self/ns/mnt")? {
        return Ok(None);
    }
    let first = fs::File::open(FIRST_MOUNTS)?;
    let threads = sys::thread_count()?;
    // A thread enters the namespace, because it cannot return. Only one that shares no current directory may enter.
    let visitor = thread::Builder::new().spawn(move || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_FS)?;
        setns(first, CloneFlags::CLONE_NEWNS)?;
        step()?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(open(DIRECTORY, flags, Mode::empty())?)
    })?;
    let opened = visitor
        .join()
        .map_err(|_| io::Error::other("the thread panicked"))?;
    // The thread stays listed for a moment, and only a process with one thread gives up capabilities.
    for _ in 0..LISTED {
        if sys::thread_count()? <= threads {
            break;
        }
        thread::sleep(LISTED_RETRY);
    }
    opened.map(Some)
}

fn is_bpffs() -> bool {
    statfs(DIRECTORY).is_ok_and(|file_system| file_system.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a bpffs in the calling thread's mount namespace, unless there is one.
fn make() -> io::Result<()> {
    // Without the lock, the second of two daemons that start together would mount over the pins of the first.
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
        Some(mount_source()?.as_str()),
        DIRECTORY,
        Some(OsStr::new("bpf")),
        flags,
        Some("mode=0700"),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n";

    #[test]
    fn a_mount_is_brought_unless_a_carpd_of_this_namespace_made_it() {
        let mounted = |line: &str| format!("{ROOT}{line}\n");
        for (line, expected) in [
            ("90 22 0:50 / /run/carpd/bpf rw - bpf carpd:7 rw", false),
            (
                "90 22 0:50 / /run/carpd/bpf rw shared:9 - bpf carpd:7 rw",
                false,
            ),
            (
                "90 22 0:50 / /run/carpd/bpf rw master:9 - bpf carpd:7 rw",
                true,
            ),
            ("90 22 0:50 / /run/carpd/bpf rw - bpf carpd:8 rw", true),
            ("90 22 0:50 /x /run/carpd/bpf rw - bpf bpf rw", true),
            ("90 22 0:50 / /run/carpd/bpf2 rw - bpf bpf rw", false),
        ] {
            assert_eq!(is_brought(&mounted(line), "carpd:7"), expected, "{line}");
        }
        let covered = mounted("90 22 0:50 / /run/carpd/bpf rw - bpf bpf rw")
            + "91 90 0:51 / /run/carpd/bpf rw - bpf carpd:7 rw\n";
        assert!(!is_brought(&covered, "carpd:7"), "the uppermost counts");
    }

    #[test]
    fn a_file_system_is_known_by_its_device() {
        assert!(holds(ROOT, nix::sys::stat::makedev(254, 0)));
        assert!(!holds(ROOT, nix::sys::stat::makedev(0, 254)));
    }

    #[test]
    fn pins_survive_where_somebody_else_holds_their_file_system() {
        let facts = |is_container, is_first, first_has_it, is_brought| Facts {
            is_container,
            is_first,
            first_has_it,
            is_brought,
        };
        for (facts, expected) in [
            // Outside of containers process 1 decides, if its mounts can be read.
            (facts(false, false, Some(true), false), Survival::Yes),
            (facts(false, false, Some(false), true), Survival::No),
            (facts(false, false, None, true), Survival::Yes),
            (facts(false, false, None, false), Survival::No),
            // In a container, process 1 is the container's first process.
            (
                facts(true, false, Some(true), false),
                Survival::WithContainer,
            ),
            (facts(true, false, Some(false), false), Survival::No),
            (facts(true, true, Some(true), false), Survival::No),
            (facts(true, true, Some(true), true), Survival::Yes),
        ] {
            assert_eq!(facts.survival(), expected, "{facts:?}");
        }
    }
}
