//! Up and down scripts: ordered, bounded, never in the election's way.
//!
//! A script is run as `SCRIPT INTERFACE ADDRESS [XPARAM]`, without a shell, with our whole environment, standard
//! output and error (as ucarp does), standard input from `/dev/null`, in a process group of its own. It runs with
//! all of our privileges, so who can write the script is root.
//!
//! At most one script of a virtual host runs at a time. While it does, only the latest wish waits behind it, and none
//! at all when that wish is what the running script already does: after a storm of changes the last script to run is
//! the one of the last state.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::config::Scripts;

/// How long a script may take to heed TERM before KILL follows.
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// Time between two attempts to start a script for which there were no descriptors, processes or memory.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// On becoming MASTER.
    Up,
    /// On becoming BACKUP.
    Down,
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
    /// It ran longer than its timeout and was ended.
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

/// Where the completions of all runners go, each with the virtual host's index. Unbounded but small: one element per
/// script that ended.
pub type Completions = mpsc::UnboundedSender<(usize, Completion)>;

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
    waiting: Option<Which>,
    /// No further wish will come: the worker ends when it has nothing left to do.
    closed: bool,
}

impl Wishes {
    /// The latest wish wins; one that the running script fulfils cancels what waits.
    fn add(&mut self, which: Which) {
        self.waiting = (self.running != Some(which)).then_some(which);
    }

    /// Whether the running script, had it not started yet, need not start any more.
    fn is_superseded(&self) -> bool {
        self.waiting.is_some() || self.closed
    }

    /// Marks the waiting wish as running.
    fn start(&mut self) -> Option<Which> {
        self.running = self.waiting.take();
        self.running
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
    /// `label` names the virtual host in logs (`eth0 vhid 7`), `vhost` in `completions`; `interface` and `address_text`
    /// are the scripts' first two arguments. Panics outside a tokio runtime.
    #[must_use]
    pub fn new(
        label: String,
        scripts: Scripts,
        interface: String,
        address_text: String,
        vhost: usize,
        completions: Completions,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let job = Job {
            label,
            scripts,
            interface,
            address_text,
            vhost,
            completions,
        };
        let worker = tokio::spawn(work(job, Arc::clone(&shared)));
        Self { shared, worker }
    }

    /// Asks for a script to run. Returns at once.
    ///
    /// Every request is followed by a completion of the same [`Which`], its own or a shared one, unless an opposite
    /// request overtakes it.
    pub fn request(&self, which: Which) {
        self.shared.wishes().add(which);
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
struct Job {
    label: String,
    scripts: Scripts,
    interface: String,
    address_text: String,
    vhost: usize,
    completions: Completions,
}

async fn work(job: Job, shared: Arc<Shared>) {
    loop {
        let next = shared.wishes().start();
        if let Some(which) = next {
            let outcome = job.run(which, &shared).await;
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

impl Job {
    async fn run(&self, which: Which, shared: &Shared) -> Outcome {
        let script = match which {
            Which::Up => &self.scripts.up,
            Which::Down => &self.scripts.down,
        };
        let Some(script) = script else {
            return Outcome::Absent;
        };
        let mut arguments: Vec<OsString> = vec![
            self.interface.clone().into(),
            self.address_text.clone().into(),
        ];
        arguments.extend(self.scripts.xparam.clone());
        let line = std::iter::once(script.as_os_str())
            .chain(arguments.iter().map(OsString::as_os_str))
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        warn!("Spawning [{line}]");
        let mut command = Command::new(script);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0);
        let mut complained = false;
        loop {
            match command.spawn() {
                Ok(child) => return self.supervise(child, &line).await,
                // It may pass, and while it lasts the addresses may be at the wrong host.
                Err(cause) if is_shortage(&cause) && !shared.wishes().is_superseded() => {
                    if !std::mem::replace(&mut complained, true) {
                        error!("Unable to exec {line}, trying again: {cause}");
                    }
                    // A new wish, or the end, may make this one void.
                    let _ = timeout(RETRY_INTERVAL, shared.changed.notified()).await;
                }
                Err(cause) => {
                    error!("Unable to exec {line}: {cause}");
                    return Outcome::NotStarted;
                }
            }
        }
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
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use super::*;

    /// Far beyond anything a test needs: reaching it is a failure.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// Timeout of a script that hangs on purpose; long enough for a shell to start on a busy machine.
    const HANG: Duration = Duration::from_secs(3);

    /// Written by another process: were the file open for writing here, a script that another test thread starts at
    /// this moment would inherit the descriptor, and running ours would fail with ETXTBSY.
    fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
        let path = directory.join(name);
        let mut install = std::process::Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = install.stdin.take().unwrap();
        write!(stdin, "#!/bin/sh\ncd '{}'\n{body}\n", directory.display()).unwrap();
        drop(stdin);
        assert!(install.wait().unwrap().success());
        path
    }

    #[test]
    fn a_wish_that_could_not_start_is_void_once_another_waits_or_the_end_comes() {
        let mut wishes = Wishes::default();
        wishes.add(Which::Up);
        wishes.start();
        wishes.add(Which::Up);
        assert!(!wishes.is_superseded());
        wishes.add(Which::Down);
        assert!(wishes.is_superseded());
        wishes.add(Which::Up);
        assert!(!wishes.is_superseded());
        wishes.closed = true;
        assert!(wishes.is_superseded());
    }

    #[test]
    fn a_shortage_passes_and_a_missing_script_stays_missing() {
        let passes = |errno| is_shortage(&io::Error::from_raw_os_error(errno));
        assert!(passes(libc::EMFILE) && passes(libc::EAGAIN));
        assert!(!passes(libc::ENOENT) && !passes(libc::EACCES));
    }

    /// Those of one runner.
    type Ended = mpsc::UnboundedReceiver<(usize, Completion)>;

    fn runner(up: Option<PathBuf>, down: Option<PathBuf>, timeout: Duration) -> (Runner, Ended) {
        let scripts = Scripts {
            up,
            down,
            xparam: Some("x y".into()),
            timeout,
        };
        let (completions, ended) = mpsc::unbounded_channel();
        let runner = Runner::new(
            "eth0 vhid 7".into(),
            scripts,
            "eth0".into(),
            "10.0.0.1/24".into(),
            5,
            completions,
        );
        (runner, ended)
    }

    async fn completion(ended: &mut Ended) -> Completion {
        let (vhost, completion) = timeout(DEADLINE, ended.recv())
            .await
            .expect("a script must end")
            .expect("the runner lives");
        assert_eq!(vhost, 5);
        completion
    }

    async fn appears(path: &Path) {
        let start = Instant::now();
        while !path.exists() {
            assert!(start.elapsed() < DEADLINE, "{} must appear", path.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn arguments_arrive_as_given_and_environment_is_inherited() {
        let directory = tempfile::tempdir().unwrap();
        let up = script(
            directory.path(),
            "up",
            r#"printf '%s\n' "$#" "$@" "${PATH:+path}" > out; cat >> out"#,
        );
        let (runner, mut ended) = runner(Some(up), None, DEADLINE);
        runner.request(Which::Up);
        assert_eq!(
            completion(&mut ended).await,
            Completion {
                which: Which::Up,
                outcome: Outcome::Succeeded
            }
        );
        let out = fs::read_to_string(directory.path().join("out")).unwrap();
        assert_eq!(out, "3\neth0\n10.0.0.1/24\nx y\npath\n");
    }

    #[tokio::test]
    async fn only_the_latest_wish_waits_and_runs_after_the_running_script() {
        let directory = tempfile::tempdir().unwrap();
        let body = "echo $0 begins >> out; touch started; while [ ! -e go ]; do sleep 0.01; done; echo ends >> out";
        let up = script(directory.path(), "up", body);
        let down = script(directory.path(), "down", "echo down >> out");
        let (runner, mut ended) = runner(Some(up.clone()), Some(down), DEADLINE);
        runner.request(Which::Up);
        appears_while_running(&mut ended, &directory.path().join("started")).await;
        for which in [Which::Down, Which::Up, Which::Down, Which::Down] {
            runner.request(which);
        }
        fs::write(directory.path().join("go"), "").unwrap();
        assert_eq!(completion(&mut ended).await.which, Which::Up);
        assert_eq!(completion(&mut ended).await.which, Which::Down);
        runner.finish().await;
        let out = fs::read_to_string(directory.path().join("out")).unwrap();
        assert_eq!(out, format!("{} begins\nends\ndown\n", up.display()));
    }

    #[tokio::test]
    async fn opposite_pair_behind_a_running_script_collapses() {
        let directory = tempfile::tempdir().unwrap();
        let up = script(
            directory.path(),
            "up",
            "touch started; while [ ! -e go ]; do sleep 0.01; done; echo up >> out",
        );
        let down = script(directory.path(), "down", "echo down >> out");
        let (runner, mut ended) = runner(Some(up), Some(down), DEADLINE);
        runner.request(Which::Up);
        appears_while_running(&mut ended, &directory.path().join("started")).await;
        runner.request(Which::Down);
        runner.request(Which::Up);
        fs::write(directory.path().join("go"), "").unwrap();
        assert_eq!(completion(&mut ended).await.which, Which::Up);
        runner.finish().await;
        assert_eq!(
            fs::read_to_string(directory.path().join("out")).unwrap(),
            "up\n"
        );
    }

    async fn appears_while_running(ended: &mut Ended, path: &Path) {
        tokio::select! {
            () = appears(path) => {}
            early = ended.recv() => panic!("ended too early: {early:?}"),
        }
    }

    #[tokio::test]
    async fn hanging_script_is_ended_with_everything_it_started() {
        let directory = tempfile::tempdir().unwrap();
        // Both ignore TERM; both hold the FIFO open, whose reader sees its end only when both are gone.
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let body =
            "trap '' TERM; exec 9> fifo; (while :; do sleep 1; done) & while :; do sleep 1; done";
        let up = script(directory.path(), "up", body);
        let down = script(directory.path(), "down", "touch after");
        let reader = std::thread::spawn(move || fs::read(fifo));
        let (runner, mut ended) = runner(Some(up), Some(down), HANG);
        runner.request(Which::Up);
        assert_eq!(
            completion(&mut ended).await,
            Completion {
                which: Which::Up,
                outcome: Outcome::TimedOut
            }
        );
        let start = Instant::now();
        while !reader.is_finished() {
            assert!(start.elapsed() < DEADLINE, "the grandchild must be gone");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        runner.request(Which::Down);
        runner.finish().await;
        assert!(
            directory.path().join("after").exists(),
            "the next script must run"
        );
    }

    #[tokio::test]
    async fn script_that_heeds_term_is_not_killed() {
        let directory = tempfile::tempdir().unwrap();
        let body = "trap 'touch cleaned; exit 0' TERM; touch started; while :; do sleep 0.01; done";
        let up = script(directory.path(), "up", body);
        let (runner, mut ended) = runner(Some(up), None, HANG);
        runner.request(Which::Up);
        assert_eq!(completion(&mut ended).await.outcome, Outcome::TimedOut);
        assert!(
            directory.path().join("started").exists(),
            "the shell must have set its trap within the timeout"
        );
        assert!(directory.path().join("cleaned").exists());
    }

    #[tokio::test]
    async fn missing_and_failing_and_absent_scripts_do_not_stop_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let failing = script(directory.path(), "down", "exit 3");
        let (runner, mut ended) = runner(
            Some(directory.path().join("missing")),
            Some(failing.clone()),
            DEADLINE,
        );
        runner.request(Which::Up);
        assert_eq!(
            completion(&mut ended).await,
            Completion {
                which: Which::Up,
                outcome: Outcome::NotStarted
            }
        );
        runner.request(Which::Down);
        assert_eq!(
            completion(&mut ended).await,
            Completion {
                which: Which::Down,
                outcome: Outcome::Failed
            }
        );
        let (runner, mut ended) = super::tests::runner(None, Some(failing), DEADLINE);
        runner.request(Which::Up);
        assert_eq!(
            completion(&mut ended).await,
            Completion {
                which: Which::Up,
                outcome: Outcome::Absent
            }
        );
    }
}
