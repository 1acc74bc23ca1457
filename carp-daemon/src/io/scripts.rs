//! Up and down scripts: ordered, bounded, never in the election's way.
//!
//! A script is run as `SCRIPT INTERFACE ADDRESS [XPARAM]`, without a shell, with our whole environment and what
//! [`VARIABLES`] names, standard output and error (as ucarp does), standard input from `/dev/null`, in a process group of
//! its own. It runs with all of our privileges, so anyone who can write the script is root; [`check`] warns of that.
//!
//! At most one script of a virtual host runs at a time. While it does, only the latest wish waits behind it, and none
//! at all when that wish is what the running script already does: after a storm of changes the last script to run is
//! the one of the last state.

pub mod check;
mod spawn;

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carp_common::units::{State, Vhid};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::config::{Scripts, VirtualAddress};
use crate::log::NOTICE;

/// How long a script may take to heed TERM before KILL follows.
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// Time between two attempts to start a script for which there were no descriptors, processes or memory.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What scripts find in their environment: the interface as it is called now, the vhid, the state after the change (`MASTER`,
/// `BACKUP` or `INIT`), and the address with its prefix length, apart.
pub const VARIABLES: [&str; 5] = [
    "CARPD_INTERFACE",
    "CARPD_VHID",
    "CARPD_STATE",
    "CARPD_ADDRESS",
    "CARPD_PREFIX",
];

/// Which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// On becoming MASTER.
    Up,
    /// On becoming BACKUP.
    Down,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Which script.
    pub which: Which,
    /// The state that asks for it.
    pub state: State,
    /// The interface's name now: it may have been renamed.
    pub interface: String,
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No such script is configured; nothing ran.
    Absent,
    /// Exit status 0.
    Succeeded,
    /// Another exit status, or a signal that was not ours.
    Failed,
    /// It could not be started.
    NotStarted,
    /// It ran, or did not even start, longer than its timeout and was ended.
    TimedOut,
}

/// A script has ended, one way or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which one.
    pub which: Which,
    /// How.
    pub outcome: Outcome,
}

/// Where the completions of all runners go, each with what its virtual host is called by whoever receives them. Unbounded
/// but small: one element per script that ended.
pub type Completions<T> = mpsc::UnboundedSender<(T, Completion)>;

/// Runs the scripts of one virtual host.
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
}

/// What the owner and the worker both touch; never locked across an await.
#[derive(Debug, Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wishes {
    running: Option<Which>,
    waiting: Option<Wish>,
    /// No further wish will come: the worker ends when it has nothing left to do.
    closed: bool,
}

impl Wishes {
    /// The latest wish wins; one that the running script fulfils cancels what waits.
    fn add(&mut self, wish: Wish) {
        self.waiting = (self.running != Some(wish.which)).then_some(wish);
    }

    /// Whether the running script, had it not started yet, need not start any more.
    fn is_superseded(&self) -> bool {
        self.waiting.is_some() || self.closed
    }

    /// Marks the waiting wish as running.
    fn start(&mut self) -> Option<Wish> {
        let wish = self.waiting.take();
        self.running = wish.as_ref().map(|wish| wish.which);
        wish
    }
}

impl Shared {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        // No code that can panic runs under the lock, so the value is whole even when poisoned.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    /// Starts the worker, which does nothing until the first [`request`](Self::request).
    ///
    /// `label` names the virtual host in logs (`eth0 vhid 7`), `vhost` in `completions`. Panics outside a tokio runtime.
    #[must_use]
    pub fn new<T: Copy + Send + Sync + 'static>(
        label: String,
        scripts: Scripts,
        vhid: Vhid,
        address: VirtualAddress,
        vhost: T,
        completions: Completions<T>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let job = Job {
            label,
            scripts,
            vhid,
            address,
            vhost,
            completions,
            starter: spawn::Starter::default(),
        };
        let worker = tokio::spawn(work(job, Arc::clone(&shared)));
        Self { shared, worker }
    }

    /// Asks for a script to run. Returns at once.
    ///
    /// Every request is followed by a completion of the same [`Which`], its own or a shared one, unless an opposite
    /// request overtakes it.
    pub fn request(&self, wish: Wish) {
        self.shared.wishes().add(wish);
        self.shared.changed.notify_one();
    }

    /// Waits until everything requested has ended.
    ///
    /// At most one running and one waiting script, each ended after its timeout and [`KILL_GRACE`], so this is bounded.
    pub async fn finish(self) {
        self.shared.wishes().closed = true;
        self.shared.changed.notify_one();
        if let Err(error) = self.worker.await {
            error!("script worker ended: {error}");
        }
    }
}

/// What stays the same from one script to the next.
struct Job<T> {
    label: String,
    scripts: Scripts,
    vhid: Vhid,
    address: VirtualAddress,
    vhost: T,
    completions: Completions<T>,
    starter: spawn::Starter,
}

async fn work<T: Copy + Send + Sync + 'static>(job: Job<T>, shared: Arc<Shared>) {
    loop {
        let next = shared.wishes().start();
        if let Some(wish) = next {
            let which = wish.which;
            let outcome = job.run(&wish, &shared).await;
            // The receiver is gone while the last scripts are waited for at exit.
            let _ = job
                .completions
                .send((job.vhost, Completion { which, outcome }));
        } else if shared.wishes().closed {
            return;
        } else {
            shared.changed.notified().await;
        }
    }
}

impl<T> Job<T> {
    async fn run(&self, wish: &Wish, shared: &Shared) -> Outcome {
        let script = match wish.which {
            Which::Up => &self.scripts.up,
            Which::Down => &self.scripts.down,
        };
        let Some(script) = script else {
            return Outcome::Absent;
        };
        let mut arguments: Vec<OsString> = vec![
            wish.interface.clone().into(),
            self.address.address.to_string().into(),
        ];
        arguments.extend(self.scripts.xparam.clone());
        let line = std::iter::once(script.as_os_str())
            .chain(arguments.iter().map(OsString::as_os_str))
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        info!(target: NOTICE, "Spawning [{line}]");
        let mut complained = false;
        loop {
            let mut command = Command::new(script);
            command
                .args(&arguments)
                .envs(self.environment(wish))
                .stdin(Stdio::null())
                .process_group(0);
            match self.starter.start(command, self.scripts.timeout).await {
                Ok(child) => return self.supervise(child, &line).await,
                // It may pass, and while it lasts the addresses may be at the wrong host.
                Err(cause) if is_shortage(&cause) && !shared.wishes().is_superseded() => {
                    if !std::mem::replace(&mut complained, true) {
                        error!("Unable to exec {line}, trying again: {cause}");
                    }
                    // A new wish, or the end, may make this one void.
                    let _ = timeout(RETRY_INTERVAL, shared.changed.notified()).await;
                }
                Err(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                    error!(
                        "Unable to exec {line} within {:?}: the file system of the script or of its interpreter does not answer",
                        self.scripts.timeout
                    );
                    return Outcome::TimedOut;
                }
                Err(cause) => {
                    error!("Unable to exec {line}: {cause}");
                    return Outcome::NotStarted;
                }
            }
        }
    }

    fn environment(&self, wish: &Wish) -> [(&'static str, String); VARIABLES.len()] {
        let [interface, vhid, state, address, prefix] = VARIABLES;
        [
            (interface, wish.interface.clone()),
            (vhid, self.vhid.to_string()),
            (state, wish.state.to_string()),
            (address, self.address.address.to_string()),
            (prefix, self.address.prefix.to_string()),
        ]
    }

    async fn supervise(&self, mut child: Child, line: &str) -> Outcome {
        let Some(group) = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw)
        else {
            unreachable!("a child that was not waited for has a process id");
        };
        let limit = self.scripts.timeout;
        match timeout(limit, child.wait()).await {
            Ok(ended) => self.judge(ended, line),
            Err(_elapsed) => {
                error!(
                    "script on {} still runs after {limit:?}, ending it: [{line}]",
                    self.label
                );
                signal_group(group, Signal::SIGTERM);
                let heeded = timeout(KILL_GRACE, child.wait()).await.is_ok();
                // Whatever it started and left in its group goes too, even when the script itself heeded TERM. The
                // number cannot mean another group yet: the kernel hands process ids out in a cycle.
                signal_group(group, Signal::SIGKILL);
                if !heeded && let Err(cause) = child.wait().await {
                    error!("failed to wait for [{line}]: {cause}");
                }
                Outcome::TimedOut
            }
        }
    }

    fn judge(&self, ended: io::Result<ExitStatus>, line: &str) -> Outcome {
        match ended {
            Ok(status) if status.success() => {
                debug!("script on {} succeeded: [{line}]", self.label);
                Outcome::Succeeded
            }
            Ok(status) => {
                warn!("script on {} failed with {status}: [{line}]", self.label);
                Outcome::Failed
            }
            Err(cause) => {
                error!("failed to wait for [{line}]: {cause}");
                Outcome::Failed
            }
        }
    }
}

/// What keeps a script from starting now, and is not the script's fault.
fn is_shortage(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM)
    )
}

fn signal_group(group: Pid, signal: Signal) {
    // ESRCH: every member has ended already.
    if let Err(errno) = killpg(group, signal)
        && errno != nix::errno::Errno::ESRCH
    {
        warn!("failed to send {signal} to process group {group}: {errno}");
    }
}

#[cfg(test)]
mod tests;
