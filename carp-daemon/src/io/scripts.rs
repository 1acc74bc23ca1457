//! Runs up and down scripts: in order, for a bounded time, and never in the way of the election.
//!
//! A script is run as `SCRIPT INTERFACE ADDRESS [XPARAM]`, without a shell and in a process group of its own. It
//! inherits our environment, to which the variables of [`VARIABLES`] are added, and as in ucarp our standard output
//! and error; its standard input is `/dev/null`. It runs with all of our privileges, so anyone who can write to the
//! script is root. [`check`] warns of that.
//!
//! At most one script of a virtual host runs at a time. Meanwhile only the latest request waits, and it is dropped if
//! the running script already does the same. After a storm of changes, the last script to run is therefore the one of
//! the last state.

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

use crate::api::event::process::Run;
use crate::api::{Outbox, Place};
use crate::config::{Scripts, VirtualAddress};

/// The time that a script may take to end after TERM before it gets KILL.
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// Time between two attempts to start a script while descriptors, processes or memory are short.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The environment variables for scripts: the current name of the interface, the vhid, the state after the change
/// (`MASTER`, `BACKUP` or `INIT`), the address, and its prefix length.
pub const VARIABLES: [&str; 5] = [
    "CARPD_INTERFACE",
    "CARPD_VHID",
    "CARPD_STATE",
    "CARPD_ADDRESS",
    "CARPD_PREFIX",
];

/// One of the two scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The script for becoming MASTER.
    Up,
    /// The script for becoming BACKUP.
    Down,
}

/// A request to run a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The script to run.
    pub which: Which,
    /// The state after the change.
    pub state: State,
    /// The current name of the interface, which may have been renamed.
    pub interface: String,
}

/// The fate of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Admission {
    /// The script will run, so a completion follows. It does not if the running script does the same, or if there is none.
    pub accepted: bool,
    /// The request that waited is dropped, so no completion follows for that one.
    pub overtakes: bool,
}

/// The outcome of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No such script is configured, so nothing ran.
    Absent,
    /// The exit status was 0.
    Succeeded,
    /// The exit status was not 0, or a signal that carpd did not send ended the script.
    Failed,
    /// The script could not be started.
    NotStarted,
    /// The script ran longer than its timeout and was ended, or could not be started within that time.
    TimedOut,
}

/// A script has ended, in whatever way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The script.
    pub which: Which,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The channel for the completions of all runners. Each carries the receiver's name for the virtual host. It is
/// unbounded but small: it gets one element for each script that ended.
pub type Completions<T> = mpsc::UnboundedSender<(T, Completion)>;

/// Runs the scripts of one virtual host.
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
    teller: Teller,
}

/// Tells what becomes of the scripts of one virtual host.
#[derive(Clone, Debug)]
struct Teller {
    place: Place,
    outbox: Outbox,
}

impl Teller {
    fn tell(&self, run: Run) {
        self.outbox.tell(self.place.clone(), run);
    }
}

/// The state that the owner and the worker share. It is never locked across an await.
#[derive(Debug, Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wishes {
    running: Option<Which>,
    waiting: Option<Wish>,
    /// No more requests will come. The worker ends when it has nothing left to do.
    closed: bool,
}

impl Wishes {
    /// Adds a request. It replaces the waiting one, and is dropped itself if the running script does the same.
    fn add(&mut self, wish: Wish) -> Admission {
        let overtakes = self.waiting.is_some();
        let accepted = self.running != Some(wish.which);
        self.waiting = accepted.then_some(wish);
        Admission {
            accepted,
            overtakes,
        }
    }

    /// Returns whether a script that could not be started yet need not be started any more.
    fn is_superseded(&self) -> bool {
        self.waiting.is_some() || self.closed
    }

    /// Marks the waiting request as running.
    fn start(&mut self) -> Option<Wish> {
        let wish = self.waiting.take();
        self.running = wish.as_ref().map(|wish| wish.which);
        wish
    }
}

impl Shared {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        // No code that can panic runs under the lock, so the value is consistent even if the lock is poisoned.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    /// Starts the worker, which does nothing until the first [`request`](Self::request).
    ///
    /// `place` is the virtual host for the events in `outbox`, and `vhost` names it in `completions`. Panics outside a
    /// tokio runtime.
    #[must_use]
    pub fn new<T: Copy + Send + Sync + 'static>(
        place: Place,
        scripts: Scripts,
        vhid: Vhid,
        address: VirtualAddress,
        vhost: T,
        completions: Completions<T>,
        outbox: Outbox,
    ) -> Self {
        let teller = Teller { place, outbox };
        let shared = Arc::new(Shared::default());
        let job = Job {
            teller: teller.clone(),
            scripts,
            vhid,
            address,
            vhost,
            completions,
            starter: spawn::Starter::default(),
        };
        let worker = tokio::spawn(work(job, Arc::clone(&shared)));
        Self {
            shared,
            worker,
            teller,
        }
    }

    /// Requests that a script run. Returns at once.
    ///
    /// Every accepted request is followed by a completion of the same [`Which`], in the order of the requests, unless a
    /// later request overtakes it.
    pub fn request(&self, wish: Wish) -> Admission {
        let admission = self.shared.wishes().add(wish);
        self.shared.changed.notify_one();
        admission
    }

    /// Returns whether a script runs or waits to run. When the completion of the last one is received, none does.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let wishes = self.shared.wishes();
        wishes.running.is_some() || wishes.waiting.is_some()
    }

    /// Waits until every requested script has ended.
    ///
    /// The wait is bounded: there are at most one running and one waiting script, and each is ended after its timeout
    /// and [`KILL_GRACE`].
    pub async fn finish(self) {
        self.shared.wishes().closed = true;
        self.shared.changed.notify_one();
        if let Err(error) = self.worker.await {
            let error = error.to_string();
            self.teller.tell(Run::WorkerEnded { error });
        }
    }
}

/// Everything that stays the same from one script to the next.
struct Job<T> {
    teller: Teller,
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
            // At exit the receiver may be gone while the last scripts still run.
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
        self.teller.tell(Run::Spawning { line: line.clone() });
        let mut complained = false;
        loop {
            let mut command = Command::new(script);
            command
                .args(&arguments)
                .envs(self.environment(wish))
                .stdin(Stdio::null())
                .process_group(0);
            match self.starter.start(command, self.scripts.timeout).await {
                Ok(child) => return self.supervise(child, line).await,
                // The shortage may pass, and until the script has run the addresses may be at the wrong host.
                Err(cause) if is_shortage(&cause) && !shared.wishes().is_superseded() => {
                    if !std::mem::replace(&mut complained, true) {
                        let (line, error) = (line.clone(), cause.to_string());
                        self.teller.tell(Run::Postponed { line, error });
                    }
                    // A new request, or the end of carpd, may make this one unnecessary.
                    let _ = timeout(RETRY_INTERVAL, shared.changed.notified()).await;
                }
                Err(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                    let limit = self.scripts.timeout;
                    self.teller.tell(Run::NotStartedInTime { line, limit });
                    return Outcome::TimedOut;
                }
                Err(cause) => {
                    let error = cause.to_string();
                    self.teller.tell(Run::NotStarted { line, error });
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

    async fn supervise(&self, mut child: Child, line: String) -> Outcome {
        let Some(group) = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw)
        else {
            unreachable!("a child that was not waited for has a process id");
        };
        let limit = self.scripts.timeout;
        match timeout(limit, child.wait()).await {
            Ok(ended) => self.tell_exit(ended, line),
            Err(_elapsed) => {
                self.teller.tell(Run::Overdue {
                    line: line.clone(),
                    limit,
                });
                self.signal_group(group, Signal::SIGTERM);
                let heeded = timeout(KILL_GRACE, child.wait()).await.is_ok();
                // Processes that the script started in its group are ended too, even if the script itself ended after
                // TERM. The process group id cannot belong to another group yet, because the kernel assigns process
                // ids in a cycle.
                self.signal_group(group, Signal::SIGKILL);
                if !heeded && let Err(cause) = child.wait().await {
                    let error = cause.to_string();
                    self.teller.tell(Run::Unknown { line, error });
                }
                Outcome::TimedOut
            }
        }
    }

    fn tell_exit(&self, ended: io::Result<ExitStatus>, line: String) -> Outcome {
        let (run, outcome) = match ended {
            Ok(status) if status.success() => (Run::Succeeded { line }, Outcome::Succeeded),
            Ok(status) => (Run::Failed { line, status }, Outcome::Failed),
            Err(cause) => {
                let error = cause.to_string();
                (Run::Unknown { line, error }, Outcome::Failed)
            }
        };
        self.teller.tell(run);
        outcome
    }

    fn signal_group(&self, group: Pid, signal: Signal) {
        // ESRCH means that every member has ended already.
        if let Err(errno) = killpg(group, signal)
            && errno != nix::errno::Errno::ESRCH
        {
            self.teller.tell(Run::NotSignalled {
                signal: signal.as_str(),
                group: group.as_raw(),
                error: errno.to_string(),
            });
        }
    }
}

/// Returns whether a script cannot start because resources are short, which is not the script's fault.
fn is_shortage(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM)
    )
}

#[cfg(test)]
mod tests;
