//! Starts a process without waiting for it on the engine's thread.
//!
//! The caller of `posix_spawn(3)` is held up until the child has executed its program, so until the kernel has read the
//! script and its interpreter: a network file system can stand still for minutes.

use std::io;
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

/// Starts `command` in a thread of its own; a child that comes to life after `limit` is killed.
///
/// A thread for each rather than tokio's pool, which panics when there is none to be had.
///
/// # Errors
/// What `posix_spawn(3)` answers, or why there is no thread; `TimedOut` after `limit`.
pub async fn start(mut command: Command, limit: Duration) -> io::Result<Child> {
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
        })?;
    match timeout(limit, child).await {
        Ok(Ok(started)) => started,
        Ok(Err(_gone)) => Err(io::Error::other("the thread that starts it has ended")),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Nobody waits for it any more.
fn end(late: &Child) {
    if let Some(group) = late.id().and_then(|id| i32::try_from(id).ok()) {
        // ESRCH: it has ended already.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}
