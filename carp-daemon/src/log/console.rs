//! Writes to standard output and standard error, or to the journal behind them.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use chrono::Local;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::background::Destination;
use super::line::{self, Line, Severity};

/// The two standard streams.
#[derive(Debug)]
pub struct Console {
    output: Stream,
    error: Stream,
}

#[derive(Debug, Default)]
struct Stream {
    /// The stream leads to the journal.
    journal: bool,
    /// The number of lines that did not fit since the last one that did.
    lost: u64,
}

impl Console {
    /// Determines where the streams lead.
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

    /// Returns whether every line goes to the journal.
    pub fn is_journal(&self) -> bool {
        self.output.journal && self.error.journal
    }
}

impl Destination for Console {
    fn write(&mut self, line: &Line, patience: PollTimeout) {
        if line.severity <= Severity::Warning {
            self.error.write(io::stderr().as_fd(), line, patience);
        } else {
            self.output.write(io::stdout().as_fd(), line, patience);
        }
    }

    fn settle(&mut self) -> bool {
        // Both streams must be tried, whatever the first one returns.
        let owes = [
            self.output.settle(io::stdout().as_fd()),
            self.error.settle(io::stderr().as_fd()),
        ];
        owes.contains(&true)
    }
}

impl Stream {
    /// Writes one line. Drops it if there is no room within `patience`, or if the stream is gone.
    fn write(&mut self, fd: BorrowedFd<'_>, line: &Line, patience: PollTimeout) {
        // Once a line was lost, the next ones are not waited for, because that would only lose more.
        let patience = match self.lost {
            0 => patience,
            _ => PollTimeout::ZERO,
        };
        if self.settle(fd) || try_write(fd, &self.shape(line), patience) == Written::NoRoom {
            self.lost += 1;
        }
    }

    /// Writes how many lines were lost, if any. Returns whether that must be tried again.
    fn settle(&mut self, fd: BorrowedFd<'_>) -> bool {
        if self.lost > 0 {
            let about = self.shape(&Line::about_losses(self.lost));
            match try_write(fd, &about, PollTimeout::ZERO) {
                Written::Yes | Written::Gone => self.lost = 0,
                Written::NoRoom => return true,
            }
        }
        false
    }

    fn shape(&self, line: &Line) -> String {
        let mut shaped = String::with_capacity(line.text.len() + 48);
        // Writing to a String cannot fail.
        let _ = if self.journal {
            write!(shaped, "<{}>", line.severity as u8)
        } else {
            let at = line.at.with_timezone(&Local);
            write!(
                shaped,
                "{}: [{}] ",
                at.format("%Y-%m-%dT%H:%M:%S%.6f%:z"),
                line::severity_name(line.severity)
            )
        };
        shaped.push_str(&line.text);
        line::cut(&mut shaped, line::MAX_LINE - 1);
        shaped.push('\n');
        shaped
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    /// The reader is too slow, or the file or its file system is full.
    NoRoom,
    /// The stream is closed (EPIPE, EIO), so losses need not be counted.
    Gone,
}

/// Writes with one `write(2)` that rarely blocks.
///
/// O_NONBLOCK would change the descriptor for every process that shares it, including the shell, so this polls for
/// room first. A pipe that polls writable takes [`line::MAX_LINE`] bytes, unless another process that shares it
/// writes in between. A terminal may take fewer.
fn try_write(fd: BorrowedFd<'_>, line: &str, patience: PollTimeout) -> Written {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut fds, patience) {
        Ok(0) => return Written::NoRoom,
        Ok(_) => {}
        Err(_) => return Written::Gone,
    }
    match nix::unistd::write(fd, line.as_bytes()) {
        Ok(_) => Written::Yes,
        Err(Errno::EAGAIN | Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => Written::NoRoom,
        Err(_) => Written::Gone,
    }
}

/// Returns whether the stream is the one in systemd's `JOURNAL_STREAM`: `DEVICE:INODE` (systemd.exec(5)). The
/// comparison is necessary, because a child that redirected its output inherits the variable too.
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

    use chrono::{TimeZone as _, Utc};

    use super::*;

    fn line(severity: Severity, text: &str) -> Line {
        Line {
            severity,
            at: Utc.with_ymd_and_hms(2026, 1, 2, 12, 3, 4).unwrap(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn lines_have_ucarps_shape_with_a_time_that_is_the_same_everywhere() {
        let stream = Stream::default();
        for (severity, name) in [
            (Severity::Error, "ERROR"),
            (Severity::Warning, "WARNING"),
            (Severity::Notice, "NOTICE"),
            (Severity::Info, "INFO"),
            (Severity::Debug, "DEBUG"),
        ] {
            let shaped = stream.shape(&line(severity, "text"));
            let (at, rest) = shaped.split_once(": ").unwrap();
            assert_eq!(rest, format!("[{name}] text\n"));
            assert_eq!(at.len(), "2026-01-02T12:03:04.000000+00:00".len());
            let at = chrono::DateTime::parse_from_rfc3339(at).unwrap();
            assert_eq!(at, line(severity, "").at);
        }
    }

    #[test]
    fn journal_lines_carry_the_severity_once_and_no_time() {
        let stream = Stream {
            journal: true,
            lost: 0,
        };
        for (severity, expected) in [
            (Severity::Warning, "<4>text\n"),
            (Severity::Notice, "<5>text\n"),
            (Severity::Info, "<6>text\n"),
        ] {
            assert_eq!(stream.shape(&line(severity, "text")), expected);
        }
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
        let long = line(Severity::Info, &"x".repeat(1000));
        while stream.lost < 3 {
            stream.write(writer.as_fd(), &long, PollTimeout::ZERO);
        }
        assert!(stream.settle(writer.as_fd()), "there is no room yet");
        let mut drained = vec![0; 64 * 1024];
        assert!(reader.read(&mut drained).unwrap() > 0);
        assert!(!stream.settle(writer.as_fd()));
        stream.write(
            writer.as_fd(),
            &line(Severity::Info, "last"),
            PollTimeout::ZERO,
        );
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
    fn a_full_file_system_loses_lines_and_counts_them() {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut stream = Stream::default();
        for lost in 1..=3 {
            let text = line(Severity::Info, "text");
            stream.write(full.as_fd(), &text, PollTimeout::ZERO);
            assert_eq!(stream.lost, lost);
        }
        assert!(stream.settle(full.as_fd()));
    }

    #[test]
    fn closed_pipe_is_ignored() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut stream = Stream::default();
        let text = line(Severity::Info, "nobody reads this");
        stream.write(writer.as_fd(), &text, PollTimeout::ZERO);
        assert_eq!(stream.lost, 0);
    }
}
