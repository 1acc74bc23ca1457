//! Starts a process without waiting for it on the engine's thread.
//!
//! The caller of `posix_spawn(3)` is held up until the child has executed its program, so until the kernel has read the
//! script and its interpreter: a network file system can stand still for minutes.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Of the thread that waits for the child to execute. Unit: bytes.
const STACK: usize = 128 * 1024;

/// Attempts of one virtual host that may stand still at one time: each holds a thread and a process, and a script that
/// fails is tried again as long as its host is MASTER.
const STANDING_MAX: usize = 4;

/// Starts the scripts of one virtual host.
#[derive(Debug, Default)]
pub struct Starter {
    /// Each thread has one more reference.
    standing: Arc<()>,
}

impl Starter {
    /// Starts `command` in a thread of its own; a child that comes to life after `limit` is killed.
    ///
    /// A thread for each rather than tokio's pool, which panics when there is none to be had.
    ///
    /// # Errors
    /// What `posix_spawn(3)` answers, or why there is no thread; `TimedOut` after `limit`, and at once while too many
    /// earlier attempts still stand.
    pub async fn start(&self, mut command: Command, limit: Duration) -> io::Result<Child> {
        if Arc::strong_count(&self.standing) > STANDING_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let standing = Arc::clone(&self.standing);
        let runtime = Handle::current();
        let (started, child) = oneshot::channel();
        thread::Builder::new()
            .name("carpd-script".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let _context = runtime.enter();
                if let Err(Ok(late)) = started.send(command.spawn()) {
                    end(&late);
                }
                drop(standing);
            })?;
        match timeout(limit, child).await {
            Ok(Ok(started)) => started,
            Ok(Err(_gone)) => Err(io::Error::other("the thread that starts it has ended")),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Nobody waits for it any more.
fn end(late: &Child) {
    if let Some(group) = late.id().and_then(|id| i32::try_from(id).ok()) {
        // ESRCH: it has ended already.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::super::tests::script;
    use super::*;

    /// The kernel holds `execve` up until whoever has a lease on the script gives it back.
    #[tokio::test]
    async fn attempts_that_stand_still_are_few_and_one_works_once_they_have_ended() {
        const PATIENCE: Duration = Duration::from_millis(50);
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "script", "true");
        // F_SETSIG keeps the breach of the lease from ending perl.
        let lease = "open(F, '<', $ARGV[0]) or die; fcntl(F, 10, 17) or die; fcntl(F, 1024, 1) or die; \
                     $| = 1; print 'held'; sleep 60";
        let mut holder = std::process::Command::new("perl")
            .args(["-e", lease])
            .arg(&script)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut held = [0; 4];
        let mut output = holder.stdout.take().unwrap();
        output.read_exact(&mut held).unwrap();
        let starter = Starter::default();
        let standing = || Arc::strong_count(&starter.standing) - 1;
        for attempt in 0..2 * STANDING_MAX {
            let started = starter.start(Command::new(&script), PATIENCE).await;
            assert_eq!(started.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(standing(), STANDING_MAX.min(attempt + 1));
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
        while standing() > 0 {
            tokio::time::sleep(PATIENCE).await;
        }
        let started = starter.start(Command::new(&script), Duration::from_secs(20));
        assert!(started.await.unwrap().wait().await.unwrap().success());
    }
}
