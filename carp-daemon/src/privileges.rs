//! What the process may do: everything until it is ready, then only what serving takes.
//!
//! | Kept | For |
//! |---|---|
//! | CAP_NET_ADMIN | addresses and routes by netlink, attaching to interfaces, buffer sizes beyond the limit |
//! | CAP_NET_RAW | packet sockets: one opens whenever an interface appears |
//! | CAP_BPF | every `bpf(2)` on maps and links where unprivileged use is off; not with the datapath `socket` |
//! | CAP_IPC_LOCK | with locked memory (`--realtime`): the kernel counts later allocations against RLIMIT_MEMLOCK, and a failed one ends the process |
//! | CAP_DAC_OVERRIDE | with scripts: `execve(2)` of one that, or whose directory, is another user's |
//! | CAP_KILL | with scripts: ending what a script runs as another user |
//!
//! Without scripts nothing is ever executed, so the rest is out of reach for good: `no_new_privs`, an empty bounding
//! set, and the system calls in `syscalls` refused. Scripts are promised root, as with ucarp: the bounding set stays,
//! and `execve(2)` gives them all of it back.
//!
//! Core dumps and `ptrace(2)` by others end with [`hide_memory`].

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

pub use lacking::Lacking;

/// Why privileges could not be given up; going on with them is not an option.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Privileges belong to threads, and we only reach our own.
    #[error("failed to give up privileges: {0} threads run already, the others would keep theirs")]
    Threads(usize),
    /// `/proc` is not there.
    #[error("failed to count the threads in /proc/self/task")]
    Proc(#[source] std::io::Error),
    /// A capability set.
    #[error("failed to {action}")]
    Capabilities {
        /// What was attempted.
        action: &'static str,
        /// The refusal.
        source: CapsError,
    },
    /// `PR_SET_NO_NEW_PRIVS`.
    #[error("failed to set no_new_privs")]
    NoNewPrivileges(#[source] Errno),
}

/// What serving a configuration takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    bpf: bool,
    locked_memory: bool,
    scripts: bool,
}

impl Needs {
    /// Of this configuration.
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

    /// Gives up everything else, for good. To be called when the start is complete, and while there is one thread besides those
    /// that have nothing left ([`give_up_everything`]); later ones inherit from it.
    ///
    /// # Errors
    ///
    /// What was not possible. Capabilities that the process does not have, or the kernel does not know (CAP_BPF came
    /// with Linux 5.8, as did the ring buffer), are no error here: whatever needs them says so.
    pub fn give_up_the_rest(self) -> Result<(), Error> {
        let powerless = POWERLESS_THREADS.load(Ordering::Acquire);
        match sys::thread_count().map_err(Error::Proc)? {
            threads if threads == powerless + 1 => {}
            threads => return Err(Error::Threads(threads)),
        }
        if !self.scripts {
            close_the_way_back()?;
            // The other locks hold without this one, which some containers and kernels do not have.
            if let Err(cause) = syscalls::refuse_what_is_never_needed() {
                warn!("system calls that are never needed stay possible: {cause}");
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

/// Nothing that this thread executes from here on has more than it has.
fn close_the_way_back() -> Result<(), Error> {
    nix::sys::prctl::set_no_new_privs().map_err(Error::NoNewPrivileges)?;
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

/// How many threads have no privileges and get none back.
static POWERLESS_THREADS: AtomicUsize = AtomicUsize::new(0);

/// A thread without privileges, until it ends.
#[derive(Debug)]
pub struct Powerless(());

impl Drop for Powerless {
    fn drop(&mut self) {
        POWERLESS_THREADS.fetch_sub(1, Ordering::Release);
    }
}

/// Gives up every privilege of the calling thread alone, for good.
///
/// # Errors
///
/// What was not possible.
pub fn give_up_everything() -> Result<Powerless, Error> {
    close_the_way_back()?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(failed_to("drop capabilities"))?;
    }
    POWERLESS_THREADS.fetch_add(1, Ordering::Release);
    Ok(Powerless(()))
}

fn failed_to(action: &'static str) -> impl FnOnce(CapsError) -> Error {
    move |source| Error::Capabilities { action, source }
}

/// Keeps the process's memory, and with it the password, out of core dumps and of other processes' reach.
///
/// `PR_SET_DUMPABLE` rather than RLIMIT_CORE: it also holds for a `core_pattern` that is a program, and scripts do not
/// inherit it.
///
/// # Errors
///
/// What `prctl(2)` answers.
pub fn hide_memory() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// Lets the process open so many descriptors, as far as its hard limit allows.
///
/// Only when the limit is lower than that: scripts inherit it, and some programs do something for each descriptor that
/// there could be.
///
/// # Errors
///
/// What `setrlimit(2)` answers.
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
        // The test harness runs this on a thread of its own.
        let refused = NOTHING_SPECIAL.give_up_the_rest().unwrap_err();
        assert!(matches!(refused, Error::Threads(2..)), "{refused}");
    }
}
