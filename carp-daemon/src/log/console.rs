//! Standard output and standard error, or the journal behind them.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use chrono::{DateTime, Local};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use tracing::Level;

use super::line;

/// The two streams.
#[derive(Debug)]
pub struct Console {
    output: Stream,
    error: Stream,
}

#[derive(Debug, Default)]
struct Stream {
    /// The journal reads it.
    journal: bool,
    /// Lines that did not fit since the last one that did.
    lost: u64,
}

impl Console {
    /// Looks where the streams lead.
    pub fn new() -> Self {
        let journal = std::env::var("JOURNAL_STREAM").ok();
        let stream = |fd: BorrowedFd<'_>| Stream {
            journal: leads_to(fd, journal.as_deref()),
            lost: 0,
        };
        Self {
            output: stream(io::stdout().as_fd()),
            error: stream(io::stderr().as_fd()),
        }
    }

    /// Whether every line ends up in the journal.
    pub fn is_journal(&self) -> bool {
        self.output.journal && self.error.journal
    }

    /// Writes one line, or drops it when the stream would block or is gone.
    pub fn write(&mut self, level: Level, now: &DateTime<Local>, text: &str) {
        if level <= Level::WARN {
            self.error.write(io::stderr().as_fd(), level, now, text);
        } else {
            self.output.write(io::stdout().as_fd(), level, now, text);
        }
    }
}

impl Stream {
    fn write(&mut self, fd: BorrowedFd<'_>, level: Level, now: &DateTime<Local>, text: &str) {
        if self.lost > 0 {
            let report = format!(
                "{} log lines were lost here: the reader was too slow",
                self.lost
            );
            if try_write(fd, &self.line(Level::WARN, now, &report)) == Written::Yes {
                self.lost = 0;
            }
        }
        if try_write(fd, &self.line(level, now, text)) == Written::WouldBlock {
            self.lost += 1;
        }
    }

    fn line(&self, level: Level, now: &DateTime<Local>, text: &str) -> String {
        let mut line = String::with_capacity(text.len() + 48);
        // Writing to a String cannot fail.
        let _ = if self.journal {
            write!(line, "<{}>", line::severity(level))
        } else {
            write!(line, "{}: ", now.format("%Y-%m-%dT%H:%M:%S%.6f"))
        };
        let _ = write!(line, "[{}] {text}", line::level_name(level));
        line::cut(&mut line, line::MAX_LINE - 1);
        line.push('\n');
        line
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    WouldBlock,
    /// Nobody will ever read it (EPIPE, EIO): not worth counting.
    Gone,
}

/// One `write(2)` that does not block.
///
/// O_NONBLOCK would change the descriptor for everybody who shares it, the shell included, so the room is asked for
/// first: a pipe that polls writable takes [`line::MAX_LINE`] bytes.
fn try_write(fd: BorrowedFd<'_>, line: &str) -> Written {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) => return Written::WouldBlock,
        Ok(_) => {}
        Err(_) => return Written::Gone,
    }
    match nix::unistd::write(fd, line.as_bytes()) {
        Ok(_) => Written::Yes,
        Err(nix::errno::Errno::EAGAIN) => Written::WouldBlock,
        Err(_) => Written::Gone,
    }
}

/// `journal_stream` is systemd's `JOURNAL_STREAM`: `DEVICE:INODE` of the stream it opened (systemd.exec(5)). A child
/// that redirected its output inherits the variable all the same, hence the comparison.
fn leads_to(fd: BorrowedFd<'_>, journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|value| value.split_once(':')) else {
        return false;
    };
    fstat(fd)
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use chrono::TimeZone;

    use super::*;

    fn noon() -> DateTime<Local> {
        Local.with_ymd_and_hms(2026, 1, 2, 12, 3, 4).unwrap()
    }

    #[test]
    fn lines_have_ucarps_shape() {
        let stream = Stream::default();
        for (level, name) in [
            (Level::ERROR, "ERROR"),
            (Level::WARN, "WARNING"),
            (Level::INFO, "INFO"),
            (Level::DEBUG, "DEBUG"),
        ] {
            assert_eq!(
                stream.line(level, &noon(), "text"),
                format!("2026-01-02T12:03:04.000000: [{name}] text\n")
            );
        }
    }

    #[test]
    fn journal_lines_carry_the_severity_instead_of_the_time() {
        let stream = Stream {
            journal: true,
            lost: 0,
        };
        assert_eq!(
            stream.line(Level::WARN, &noon(), "text"),
            "<4>[WARNING] text\n"
        );
        assert_eq!(
            stream.line(Level::INFO, &noon(), "text"),
            "<6>[INFO] text\n"
        );
    }

    #[test]
    fn stream_is_the_journal_only_when_device_and_inode_match() {
        let (reader, _writer) = io::pipe().unwrap();
        let metadata = std::fs::metadata(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let (device, inode) = (metadata.dev(), metadata.ino());
        assert!(leads_to(reader.as_fd(), Some(&format!("{device}:{inode}"))));
        for other in [
            Some(format!("{device}:{}", inode + 1)),
            Some("8:".into()),
            Some("x".into()),
            None,
        ] {
            assert!(!leads_to(reader.as_fd(), other.as_deref()), "{other:?}");
        }
    }

    #[test]
    fn full_pipe_loses_lines_counts_them_and_says_so_when_there_is_room_again() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut stream = Stream::default();
        let long = "x".repeat(1000);
        while stream.lost < 3 {
            stream.write(writer.as_fd(), Level::INFO, &noon(), &long);
        }
        let mut drained = vec![0; 64 * 1024];
        assert!(reader.read(&mut drained).unwrap() > 0);
        stream.write(writer.as_fd(), Level::INFO, &noon(), "last");
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(
            rest.contains("[WARNING] 3 log lines were lost here"),
            "{rest}"
        );
        assert!(rest.ends_with("[INFO] last\n"), "{rest}");
    }

    #[test]
    fn closed_pipe_is_ignored() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut stream = Stream::default();
        stream.write(writer.as_fd(), Level::INFO, &noon(), "nobody reads this");
        assert_eq!(stream.lost, 0);
    }
}
