//! Sends to syslog as `syslog(3)` does (RFC 3164 datagrams to `/dev/log`), but never blocks. The C library's function
//! blocks while the log daemon is stopped.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, io};

use chrono::Local;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::background::Destination;
use super::line::{self, Line};

/// A syslog facility. Range: 0..=23, LOG_KERN to LOG_LOCAL7, not shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

/// The facilities by name as in `syslog.conf(5)`, with `security` for `auth` as in ucarp.
const FACILITIES: [(&str, u8); 21] = [
    ("auth", 4),
    ("authpriv", 10),
    ("cron", 9),
    ("daemon", 3),
    ("ftp", 11),
    ("kern", 0),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
    ("lpr", 6),
    ("mail", 2),
    ("news", 7),
    ("security", 4),
    ("syslog", 5),
    ("user", 1),
    ("uucp", 8),
];

impl Facility {
    /// The default: system daemons.
    pub const DAEMON: Self = Self(3);
}

/// The name is not that of a facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFacility;

impl fmt::Display for UnknownFacility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown facility, expected none")?;
        FACILITIES
            .iter()
            .try_for_each(|(name, _)| write!(f, ", {name}"))
    }
}

impl std::error::Error for UnknownFacility {}

impl FromStr for Facility {
    type Err = UnknownFacility;

    /// Accepts upper and lower case.
    fn from_str(text: &str) -> Result<Self, UnknownFacility> {
        FACILITIES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|&(_, number)| Self(number))
            .ok_or(UnknownFacility)
    }
}

/// The socket of the log daemon.
const PATH: &str = "/dev/log";

/// A connection to the log daemon. It is renewed when the log daemon restarts.
#[derive(Debug)]
pub struct Syslog {
    facility: Facility,
    pid: u32,
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The number of lines for which there was no room since the last one that was sent.
    lost: u64,
}

impl Syslog {
    /// Creates the destination. It connects with the first line.
    pub fn new(facility: Facility) -> Self {
        Self {
            facility,
            pid: std::process::id(),
            path: PATH.into(),
            socket: None,
            lost: 0,
        }
    }

    fn shape(&self, line: &Line) -> String {
        let priority = self.facility.0 * 8 + line.severity as u8;
        let at = line.at.with_timezone(&Local);
        let mut datagram = format!(
            "<{priority}>{} carpd[{}]: {}",
            at.format("%b %e %H:%M:%S"),
            self.pid,
            line.text
        );
        line::cut(&mut datagram, line::MAX_LINE);
        datagram
    }

    /// Sends a line, and returns whether there was no room for it. Without a log daemon the line is dropped.
    fn is_refused(&mut self, line: &Line, patience: PollTimeout) -> bool {
        let datagram = self.shape(line);
        let sent = self.send(&datagram, patience);
        let Err(error) = sent else { return false };
        if error.kind() == io::ErrorKind::WouldBlock {
            return true;
        }
        // The log daemon was restarted. Its old socket refuses the line, and the new one has the same path.
        self.socket = None;
        let _ = self.send(&datagram, PollTimeout::ZERO);
        false
    }

    fn send(&mut self, datagram: &str, patience: PollTimeout) -> io::Result<usize> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        let socket = self.socket.insert(socket);
        // An error is ignored: the attempt to send reports a lack of room, and a socket that is gone.
        let _ = poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)],
            patience,
        );
        socket.send(datagram.as_bytes())
    }
}

impl Destination for Syslog {
    fn write(&mut self, line: &Line, patience: PollTimeout) {
        let patience = match self.lost {
            0 => patience,
            _ => PollTimeout::ZERO,
        };
        if self.settle() || self.is_refused(line, patience) {
            self.lost += 1;
        }
    }

    fn settle(&mut self) -> bool {
        if self.lost > 0 {
            if self.is_refused(&Line::about_losses(self.lost), PollTimeout::ZERO) {
                return true;
            }
            self.lost = 0;
        }
        false
    }
}

/// Checks whether a log daemon listens.
///
/// # Errors
/// Returns the reason why none does.
pub fn look() -> io::Result<()> {
    connect(Path::new(PATH)).map(drop)
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::super::line::Severity;
    use super::*;

    fn early(severity: Severity, text: &str) -> Line {
        let at = Local.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap();
        Line {
            severity,
            at: at.to_utc(),
            text: text.to_owned(),
        }
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 8192];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn datagram_is_what_syslog_sends_and_survives_a_restart_of_the_log_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut syslog = Syslog::new("local3".parse().unwrap());
        syslog.path.clone_from(&path);
        let mut write = |severity, text| {
            syslog.write(&early(severity, text), PollTimeout::ZERO);
        };
        write(Severity::Info, "nobody listens yet");
        for (severity, priority) in [
            (Severity::Warning, "<156>"),
            (Severity::Notice, "<157>"),
            (Severity::Debug, "<159>"),
        ] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            daemon
                .set_read_timeout(Some(std::time::Duration::from_secs(10)))
                .unwrap();
            write(severity, "text");
            assert_eq!(
                receive(&daemon),
                format!(
                    "{priority}Jan  2 03:04:05 carpd[{}]: text",
                    std::process::id()
                )
            );
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn stopped_log_daemon_does_not_stop_us_and_hears_later_how_much_it_missed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_nonblocking(true).unwrap();
        let mut syslog = Syslog::new(Facility::DAEMON);
        syslog.path = path;
        // This is more than net.unix.max_dgram_qlen (10 by default, 512 under systemd) and any send buffer can hold.
        let long = early(Severity::Info, &"x".repeat(4000));
        for _ in 0..10_000 {
            syslog.write(&long, PollTimeout::ZERO);
        }
        let lost = syslog.lost;
        assert!(lost > 0 && syslog.settle());
        let mut buffer = [0; 8192];
        while daemon.recv(&mut buffer).is_ok() {}
        assert!(!syslog.settle());
        let expected = format!("{lost} log lines were lost here");
        assert!(receive(&daemon).contains(&expected));
    }

    #[test]
    fn facilities_are_known_by_name_and_an_unknown_one_lists_them() {
        assert_eq!("daemon".parse(), Ok(Facility::DAEMON));
        assert_eq!("LOCAL7".parse(), Ok(Facility(23)));
        assert_eq!("security".parse::<Facility>(), "auth".parse());
        let refused = "local8".parse::<Facility>().unwrap_err().to_string();
        for name in ["none", "daemon", "local7", "uucp"] {
            assert!(refused.contains(name), "{refused}");
        }
    }
}
