//! The privileges of the process: all of them until it is ready, and then only those that serving requires.
//!
//! | Kept | Needed for |
//! |---|---|
//! | CAP_NET_ADMIN | adding addresses and routes, attaching to interfaces, buffer sizes beyond the limit |
//! | CAP_NET_RAW | packet sockets, which are opened whenever an interface appears |
//! | CAP_BPF | every `bpf(2)` on maps and links where unprivileged use is off; not with the datapath `socket` |
//! | CAP_IPC_LOCK | locked memory (`--realtime`): a later allocation beyond RLIMIT_MEMLOCK would end the process |
//! | CAP_DAC_OVERRIDE | scripts: `execve(2)` of a script that belongs to another user, or is in another user's directory |
//! | CAP_KILL | scripts: ending processes that a script runs as another user |
//!
//! Without scripts nothing is ever executed, so all other privileges are given up for good: with `no_new_privs`, an
//! empty bounding set, and a filter that refuses the system calls in `syscalls`. Scripts are promised root, as in
//! ucarp. For them the bounding set stays, and `execve(2)` gives them all of it back.
//!
//! [`hide_memory`] prevents core dumps and `ptrace(2)` by other processes.

mod lacking;
pub mod realtime;
mod syscalls;

use std::sync::atomic::{AtomicUsize, Ordering};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tracing::{debug, warn};

use crate::config::{Config, Datapath, Ownership};
use crate::sys;

pub use lacking::MissingCapabilities;

/// The reason why privileges could not be given up. carpd must not continue with them.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// Other threads run. Privileges belong to threads, and a thread can only change its own.
    #[error("failed to give up privileges: {0} threads run already, the others would keep theirs")]
    Threads(usize),
    /// `/proc` is missing.
    #[error("failed to count the threads in /proc/self/task")]
    Proc(#[source] std::io::Error),
    /// A capability set could not be read or changed.
    #[error("failed to {action}")]
    Capabilities {
        /// The action that failed.
        action: &'static str,
        /// The system's error.
        source: CapsError,
    },
    /// `PR_SET_NO_NEW_PRIVS` failed.
    #[error("failed to set no_new_privs")]
    NoNewPrivileges(#[source] Errno),
}

/// The privileges that serving a configuration requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    bpf: bool,
    locked_memory: bool,
    scripts: bool,
}

impl Needs {
    /// Returns the needs of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            bpf: config.datapath != Datapath::Socket,
            locked_memory: config.realtime,
            scripts: config
                .vhosts
                .iter()
                .any(|vhost| vhost.ownership == Ownership::Scripts || vhost.scripts.down.is_some()),
        }
    }

    fn capabilities(self) -> CapsHashSet {
        let mut kept = CapsHashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW]);
        if self.bpf {
            kept.insert(Capability::CAP_BPF);
        }
        if self.locked_memory {
            kept.insert(Capability::CAP_IPC_LOCK);
        }
        if self.scripts {
            kept.extend([Capability::CAP_DAC_OVERRIDE, Capability::CAP_KILL]);
        }
        kept
    }

    /// Gives up all other privileges for good. Call it when the start is complete and this is the only thread, apart
    /// from threads without privileges ([`give_up_everything`]). Later threads inherit from this one.
    ///
    /// # Errors
    ///
    /// Returns what failed. It is no error if the process lacks one of the capabilities to keep, or the kernel does
    /// not know it (CAP_BPF came with Linux 5.8, as did the ring buffer): the operation that requires it reports
    /// that.
    pub fn give_up_the_rest(self) -> Result<(), PrivilegesError> {
        let powerless = POWERLESS_THREADS.load(Ordering::Acquire);
        match sys::thread_count().map_err(PrivilegesError::Proc)? {
            threads if threads == powerless + 1 => {}
            threads => return Err(PrivilegesError::Threads(threads)),
        }
        if !self.scripts {
            close_the_way_back()?;
            // Some containers and kernels have no seccomp. The other restrictions hold without it.
            if let Err(cause) = syscalls::refuse_what_is_never_needed() {
                warn!(
                    "seccomp filter not applied, system calls that carpd never needs stay permitted: {cause}"
                );
            }
        }
        let held = caps::read(None, CapSet::Permitted).map_err(failed_to("read capabilities"))?;
        let kept: CapsHashSet = self.capabilities().intersection(&held).copied().collect();
        // The effective set must stay within the permitted one at every step.
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &kept).map_err(failed_to("drop capabilities"))?;
        }
        debug!("kept of the privileges: {self:?}");
        Ok(())
    }
}

/// Ensures that no program executed by this thread has more privileges than the thread.
fn close_the_way_back() -> Result<(), PrivilegesError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegesError::NoNewPrivileges)?;
    caps::clear(None, CapSet::Ambient).map_err(failed_to("clear the ambient capabilities"))?;
    caps::clear(None, CapSet::Inheritable)
        .map_err(failed_to("clear the inheritable capabilities"))?;
    let may_unbind = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .map_err(failed_to("read capabilities"))?;
    if may_unbind {
        caps::clear(None, CapSet::Bounding).map_err(failed_to("clear the bounding set"))?;
    }
    Ok(())
}

/// The number of threads that have no privileges and cannot regain any.
static POWERLESS_THREADS: AtomicUsize = AtomicUsize::new(0);

/// A token that counts a thread without privileges. It is dropped when the thread ends.
#[derive(Debug)]
pub struct Powerless(());

impl Drop for Powerless {
    fn drop(&mut self) {
        POWERLESS_THREADS.fetch_sub(1, Ordering::Release);
    }
}

/// Gives up every privilege of the calling thread only, for good.
///
/// # Errors
///
/// Returns what failed.
pub fn give_up_everything() -> Result<Powerless, PrivilegesError> {
    close_the_way_back()?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(failed_to("drop capabilities"))?;
    }
    POWERLESS_THREADS.fetch_add(1, Ordering::Release);
    Ok(Powerless(()))
}

fn failed_to(action: &'static str) -> impl FnOnce(CapsError) -> PrivilegesError {
    move |source| PrivilegesError::Capabilities { action, source }
}

/// Keeps the process's memory, which contains the password, out of core dumps and from other processes.
///
/// `PR_SET_DUMPABLE` is used rather than RLIMIT_CORE, because it also covers a `core_pattern` that is a program, and
/// scripts do not inherit it.
///
/// # Errors
///
/// Returns any error of `prctl(2)`.
pub fn hide_memory() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// Raises the limit of open descriptors to `count`, as far as the hard limit allows.
///
/// The limit is only raised, never set without need: scripts inherit it, and some programs loop over all descriptors
/// that the limit permits.
///
/// # Errors
///
/// Returns any error of `setrlimit(2)`.
pub fn allow_descriptors(count: usize) -> Result<(), Errno> {
    let wanted = rlim_t::try_from(count).unwrap_or(rlim_t::MAX);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if wanted <= soft {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING_SPECIAL: Needs = Needs {
        bpf: false,
        locked_memory: false,
        scripts: false,
    };

    #[test]
    fn each_need_keeps_its_capabilities() {
        let network = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
        let table = [
            (NOTHING_SPECIAL, vec![]),
            (
                Needs {
                    bpf: true,
                    ..NOTHING_SPECIAL
                },
                vec![Capability::CAP_BPF],
            ),
            (
                Needs {
                    locked_memory: true,
                    ..NOTHING_SPECIAL
                },
                vec![Capability::CAP_IPC_LOCK],
            ),
            (
                Needs {
                    scripts: true,
                    ..NOTHING_SPECIAL
                },
                vec![Capability::CAP_DAC_OVERRIDE, Capability::CAP_KILL],
            ),
        ];
        for (needs, more) in table {
            let expected: CapsHashSet = network.into_iter().chain(more).collect();
            assert_eq!(needs.capabilities(), expected, "{needs:?}");
        }
    }

    #[test]
    fn descriptors_are_allowed_up_to_the_hard_limit_and_never_fewer_than_before() {
        let limits = || getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let (soft, hard) = limits();
        allow_descriptors(1).unwrap();
        assert_eq!(limits(), (soft, hard));
        allow_descriptors(usize::MAX).unwrap();
        assert_eq!(limits(), (hard, hard));
    }

    #[test]
    fn privileges_are_not_given_up_by_one_thread_of_several() {
        // The test harness runs this test in a thread of its own.
        let refused = NOTHING_SPECIAL.give_up_the_rest().unwrap_err();
        assert!(
            matches!(refused, PrivilegesError::Threads(2..)),
            "{refused}"
        );
    }
}
