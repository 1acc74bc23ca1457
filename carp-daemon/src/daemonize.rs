//! Puts the daemon into the background, and reports whether the start succeeded.
//!
//! ucarp's parent exits 0 before the daemon has looked at its interface. Our parent waits on a pipe for the result of
//! the start. It prints a failure on its own standard error, and exits with the status that the daemon ends with.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::sys::{self, Fork};

/// Size of the longest message that is passed on. Longer ones are cut. Unit: bytes.
const MAX_MESSAGE: u64 = 4096;

/// One of the two processes that continue.
#[derive(Debug)]
pub enum Process {
    /// The process that the operator started. It must print the report and exit.
    Parent(Report),
    /// The daemon. It must start up and then use the value.
    Daemon(Readiness),
}

/// The result of the start, as the parent receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The exit status.
    pub status: u8,
    /// The reason why there is no daemon. Empty if there is one.
    pub message: String,
}

/// The daemon's duty to report to the parent. If it is dropped or lost in a crash, the parent reports a failure with
/// status 2.
#[derive(Debug)]
pub struct Readiness {
    pipe: PipeWriter,
}

/// Splits off a daemon. It gets a session of its own and `/` as its directory. It keeps the operator's standard
/// streams until it is ready, and none of the other descriptors that the operator's shell or program left open.
///
/// The parent returns when the daemon is ready, has failed, or is gone. No thread and no runtime may run in this
/// process, because they do not survive, and every descriptor above 2 is closed.
///
/// # Errors
///
/// Returns an error if the system has no pipe or process left, or if the session cannot be started.
pub fn daemonize() -> io::Result<Process> {
    close_inherited()?;
    let (reader, writer) = io::pipe()?;
    match sys::fork()? {
        Fork::Parent => {
            drop(writer);
            Ok(Process::Parent(await_report(reader)))
        }
        Fork::Child => {
            drop(reader);
            nix::unistd::setsid()?;
            std::env::set_current_dir("/")?;
            Ok(Process::Daemon(Readiness { pipe: writer }))
        }
    }
}

impl Readiness {
    /// Reports success: the parent exits 0. The standard streams become `/dev/null`.
    ///
    /// # Errors
    ///
    /// Returns an error if `/dev/null` cannot be used. The parent has received success all the same.
    pub fn ready(self) -> io::Result<()> {
        self.tell(0, "");
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
        Ok(())
    }

    /// Reports that there is no daemon, because the start failed or another carpd already serves. The parent prints
    /// the message and exits with the status.
    pub fn ended(self, status: u8, message: &str) {
        self.tell(status, message);
    }

    fn tell(mut self, status: u8, message: &str) {
        let mut bytes = vec![status];
        bytes.extend_from_slice(message.as_bytes());
        // A parent that was interrupted does not read the report.
        let _ = self.pipe.write_all(&bytes);
    }
}

/// Closes every descriptor above 2. `close_range(2)` only exists since Linux 5.9, so this reads the list of
/// descriptors.
fn close_inherited() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        inherited.extend(number.filter(|&descriptor: &RawFd| descriptor > 2));
    }
    for descriptor in inherited {
        match nix::unistd::close(descriptor) {
            // The list's own descriptor is closed already.
            Ok(()) | Err(Errno::EBADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn await_report(reader: PipeReader) -> Report {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_MESSAGE + 1).read_to_end(&mut bytes);
    match (read, bytes.split_first()) {
        (Ok(_), Some((&status, message))) => Report {
            status,
            message: String::from_utf8_lossy(message).into_owned(),
        },
        _ => Report {
            status: 2,
            message: "the daemon ended before it was ready".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report_of(end: impl FnOnce(Readiness)) -> Report {
        let (reader, pipe) = io::pipe().unwrap();
        end(Readiness { pipe });
        await_report(reader)
    }

    #[test]
    fn parent_learns_how_the_start_went() {
        let failed = report_of(|readiness| readiness.ended(2, "no such interface: eth7"));
        assert_eq!(
            failed,
            Report {
                status: 2,
                message: "no such interface: eth7".into()
            }
        );
        let ready = report_of(|readiness| readiness.tell(0, ""));
        assert_eq!(
            ready,
            Report {
                status: 0,
                message: String::new()
            }
        );
    }

    #[test]
    fn daemon_that_vanishes_is_a_failure() {
        let report = report_of(drop);
        assert_eq!(report.status, 2);
        assert!(report.message.contains("before it was ready"));
    }

    #[test]
    fn interrupted_parent_does_not_stop_the_daemon() {
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        Readiness { pipe }.ended(2, "nobody reads this");
    }
}
