//! Starts a process without making the engine's thread wait.
//!
//! `posix_spawn(3)` returns only once the child has executed its program, and so once the kernel has read the script
//! and its interpreter. On a network file system that can take minutes.

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

use crate::sys;

/// Stack of the thread that waits for the child to execute its program. Unit: bytes.
const STACK: usize = 128 * 1024;

/// Attempts of one virtual host that may be stuck at the same time. Each occupies a thread and a process, and a
/// script that fails is tried again as long as its host is MASTER.
const STANDING_MAX: usize = 4;

/// Starts the scripts of one virtual host.
#[derive(Debug, Default)]
pub struct Starter {
    /// Every thread holds one more reference.
    standing: Arc<()>,
}

impl Starter {
    /// Starts `command` in a thread of its own. A child that only starts after `limit` is killed.
    ///
    /// tokio's thread pool is not used, because it panics when no thread can be started.
    ///
    /// # Errors
    /// Returns any error of `posix_spawn(3)` or of starting the thread. Returns `TimedOut` after `limit`, and at once
    /// while too many earlier attempts are still stuck.
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
                // The script inherits the scheduling of this thread, and must not take the processor from carpd.
                let spawned = sys::schedule_ordinarily()
                    .map_err(io::Error::from)
                    .and_then(|()| command.spawn());
                if let Err(Ok(late)) = started.send(spawned) {
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

/// Kills a child that started too late to be waited for.
fn end(late: &Child) {
    if let Some(group) = late.id().and_then(|id| i32::try_from(id).ok()) {
        // ESRCH means that it has ended already.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::super::tests::script;
    use super::*;

    /// The kernel delays `execve` until the process with a lease on the script gives it back.
    #[tokio::test]
    async fn attempts_that_stand_still_are_few_and_one_works_once_they_have_ended() {
        const PATIENCE: Duration = Duration::from_millis(50);
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "script", "true");
        // F_SETSIG keeps perl from being ended when the lease is broken.
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
