//! A program running on a host.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Host;
use crate::wait::eventually;

/// The stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of output.
#[derive(Clone, Debug)]
pub struct Line {
    /// The time at which it was read, which may be later than it was written.
    pub at: Instant,
    /// Its stream.
    pub stream: Stream,
    /// Without its newline; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// A program running on a host, its output collected. Killed when dropped.
///
/// On drop it prints its transcript through `eprintln!`, which the test harness shows for failed tests only.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<Output>,
    started: Instant,
    quiet: bool,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct OutputState {
    lines: Vec<Line>,
    /// Whether a process can still write.
    is_open: bool,
}

impl Daemon {
    /// Starts `command` on `host`. `name` is for messages.
    ///
    /// # Errors
    /// When the program cannot be started; the message names it.
    pub fn spawn(host: &Host, name: &str, command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = host
            .spawn(command)
            .with_context(|| format!("failed to start {:?}", command.get_program()))?;
        let output = Arc::new(Output::default());
        output.lock().is_open = true;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let sources = vec![
            Source::new(Stream::Stdout, stdout)?,
            Source::new(Stream::Stderr, stderr)?,
        ];
        let collected = Arc::clone(&output);
        thread::spawn(move || collect(&collected, sources));
        Ok(Self {
            name: format!("{name}@{}", host.name()),
            child,
            status: None,
            output,
            started: Instant::now(),
            quiet: false,
        })
    }

    /// Prints no transcript on drop, for programs that are not tests.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.status.is_some() {
            bail!("{} has ended, it takes no {signal}", self.name);
        }
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("failed to send {signal} to {}", self.name))
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// When the process has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.status = Some(self.child.wait()?);
        Ok(())
    }

    /// SIGTERM, and the exit status.
    ///
    /// # Errors
    /// When it does not end within `within`.
    pub fn terminate(&mut self, within: Duration) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        self.exit_code(within)
    }

    /// Waits for the end and returns the exit status. All output has been collected by then.
    ///
    /// # Errors
    /// When it does not end within `within`, or by a signal.
    pub fn exit_code(&mut self, within: Duration) -> Result<i32> {
        let name = self.name.clone();
        let status = match self.status {
            Some(status) => status,
            None => eventually(&format!("{name} ends"), within, || {
                Ok(self.child.try_wait()?)
            })
            .with_context(|| self.transcript())?,
        };
        self.status = Some(status);
        // A child that keeps the pipe open (a daemonized process, a script) must not block us.
        let deadline = Instant::now() + Duration::from_secs(1);
        self.output
            .wait_until(deadline, |state| (!state.is_open).then_some(()));
        match (status.code(), status.signal()) {
            (Some(code), _) => Ok(code),
            (None, signal) => bail!(
                "{name} was ended by signal {signal:?}\n{}",
                self.transcript()
            ),
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status.is_none())
    }

    /// The number of lines so far, as a position in the output.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.output.lock().lines.len()
    }

    /// Waits for a line that contains `pattern`, from the start of the output.
    ///
    /// # Errors
    /// When it does not come within `within`, or the output ends before.
    pub fn wait_for(&self, pattern: &str, within: Duration) -> Result<Line> {
        self.wait_for_after(0, pattern, within)
    }

    /// Waits for a line that contains `pattern`, from `mark` on.
    ///
    /// # Errors
    /// As [`Daemon::wait_for`].
    pub fn wait_for_after(&self, mark: usize, pattern: &str, within: Duration) -> Result<Line> {
        let found = self.output.wait_until(Instant::now() + within, |state| {
            let line = state
                .lines
                .iter()
                .skip(mark)
                .find(|line| line.text.contains(pattern));
            match line {
                Some(line) => Some(Some(line.clone())),
                None => (!state.is_open).then_some(None),
            }
        });
        match found {
            Some(Some(line)) => Ok(line),
            Some(None) => bail!(
                "{} ended without saying {pattern:?}\n{}",
                self.name,
                self.transcript()
            ),
            None => bail!(
                "{} did not say {pattern:?} within {within:?}\n{}",
                self.name,
                self.transcript()
            ),
        }
    }

    /// Waits for a line that contains `pattern`, and returns it if it is the only one so far.
    ///
    /// Use this for lines that must appear: [`Daemon::lines_with`] may be too early for a line even if its effect is
    /// already visible elsewhere.
    ///
    /// # Errors
    /// When none comes within 15 s, the output ends before, or there are several.
    pub fn says_once(&self, pattern: &str) -> Result<Line> {
        let line = self.wait_for(pattern, Duration::from_secs(15))?;
        let lines = self.lines_with(pattern).len();
        ensure!(
            lines == 1,
            "{} said {pattern:?} {lines} times\n{}",
            self.name,
            self.transcript()
        );
        Ok(line)
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.output.lock().lines.clone()
    }

    /// All lines so far that contain `pattern`; to require one, use [`Daemon::says_once`].
    #[must_use]
    pub fn lines_with(&self, pattern: &str) -> Vec<Line> {
        let mut lines = self.lines();
        lines.retain(|line| line.text.contains(pattern));
        lines
    }

    /// State changes from `mark` on, as a carpd or a ucarp logs them.
    #[must_use]
    pub fn transitions_since(&self, mark: usize) -> usize {
        let lines = self.lines();
        let new = lines.iter().skip(mark);
        new.filter(|line| line.text.contains("Switching to state"))
            .count()
    }

    /// All output so far as text.
    #[must_use]
    pub fn transcript(&self) -> String {
        let mut text = format!("--- {} (pid {}) said:\n", self.name, self.pid());
        for line in self.lines() {
            let stream = match line.stream {
                Stream::Stdout => ' ',
                Stream::Stderr => '!',
            };
            let after = line.at.saturating_duration_since(self.started).as_millis();
            text += &format!("{after:>7} ms {stream} {}\n", line.text);
        }
        text
    }
}

impl Drop for Daemon {
    #[expect(
        clippy::print_stderr,
        reason = "the test harness shows it where a test fails"
    )]
    fn drop(&mut self) {
        if self.status.is_none() {
            // This fails only if the process has ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if !self.quiet {
            eprintln!("{}", self.transcript());
        }
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until<T>(
        &self,
        deadline: Instant,
        mut condition: impl FnMut(&OutputState) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = condition(&state) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One of the two streams, with the incomplete last line.
struct Source {
    stream: Stream,
    pipe: File,
    line: Vec<u8>,
}

impl Source {
    fn new(stream: Stream, pipe: impl Into<OwnedFd>) -> Result<Self> {
        let pipe = pipe.into();
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            stream,
            pipe: pipe.into(),
            line: Vec::new(),
        })
    }

    /// Reads what is available, and returns its length; `None` at the end.
    fn read(&mut self, lines: &mut Vec<Line>) -> Option<usize> {
        let mut bytes = [0; 4096];
        let length = match self.pipe.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.read(lines),
            Err(_) => 0,
        };
        for &byte in &bytes[..length] {
            if byte == b'\n' {
                lines.push(self.take_line());
            } else {
                self.line.push(byte);
            }
        }
        if length == 0 && !self.line.is_empty() {
            lines.push(self.take_line());
        }
        (length > 0).then_some(length)
    }

    fn take_line(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.line);
        Line {
            at: Instant::now(),
            stream: self.stream,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

/// The number of passes over both streams after which lines are shown even if a process writes without a pause.
const PASSES_MAX: usize = 100;

/// Collects both streams until both have ended.
///
/// It shows lines when neither stream has more, so that everything written before a shown line is shown as
/// well, on both streams, and a test that waited for one may look for the other.
fn collect(output: &Output, mut sources: Vec<Source>) {
    while !sources.is_empty() {
        let mut wanted: Vec<_> = sources
            .iter()
            .map(|source| PollFd::new(source.pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        // At worst this is interrupted, and then there is nothing to read.
        let _ = poll(&mut wanted, PollTimeout::NONE);
        let mut lines = Vec::new();
        for _ in 0..PASSES_MAX {
            let mut more = 0;
            sources.retain_mut(|source| match source.read(&mut lines) {
                Some(length) => {
                    more += length;
                    true
                }
                None => false,
            });
            if more == 0 {
                break;
            }
        }
        let mut state = output.lock();
        state.lines.append(&mut lines);
        state.is_open = !sources.is_empty();
        drop(state);
        output.changed.notify_all();
    }
}

/// Sends a signal to all of them. It ignores one that has ended meanwhile, for example because another ended.
///
/// # Errors
/// When the system refuses.
pub fn signal_each<'a>(pids: impl IntoIterator<Item = &'a u32>, signal: Signal) -> Result<()> {
    for pid in pids {
        match kill(Pid::from_raw(i32::try_from(*pid)?), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("failed to send {signal} to {pid}"));
            }
        }
    }
    Ok(())
}
