//! Syslog, as `syslog(3)` sends it (RFC 3164 datagrams to `/dev/log`), but without waiting: the C library's function
//! blocks while the log daemon is stopped, and with it the election.

use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, Local};
use tracing::Level;

use super::line;

/// A syslog facility. Range: 0..=23, LOG_KERN to LOG_LOCAL7 without their shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

/// Names as in `syslog.conf(5)`, with `security` for `auth` as ucarp has it.
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
    /// System daemons: the default.
    pub const DAEMON: Self = Self(3);
}

/// The name is none of the facilities.
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

    /// Upper or lower case.
    fn from_str(text: &str) -> Result<Self, UnknownFacility> {
        FACILITIES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|&(_, number)| Self(number))
            .ok_or(UnknownFacility)
    }
}

/// A connection that is renewed when the log daemon restarts.
#[derive(Debug)]
pub struct Syslog {
    facility: Facility,
    pid: u32,
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    /// Connects with the first line.
    pub fn new(facility: Facility) -> Self {
        Self {
            facility,
            pid: std::process::id(),
            path: "/dev/log".into(),
            socket: None,
        }
    }

    /// Sends one line; drops it when nobody listens or the queue is full.
    pub fn write(&mut self, level: Level, now: &DateTime<Local>, text: &str) {
        let priority = self.facility.0 * 8 + line::severity(level);
        let mut datagram = format!(
            "<{priority}>{} carpd[{}]: [{}] {text}",
            now.format("%b %e %H:%M:%S"),
            self.pid,
            line::level_name(level)
        );
        line::cut(&mut datagram, line::MAX_LINE);
        if self
            .send(&datagram)
            .is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
        {
            // The log daemon was restarted: its old socket refuses, the new one is at the same path.
            self.socket = None;
            let _ = self.send(&datagram);
        }
    }

    fn send(&mut self, datagram: &str) -> std::io::Result<usize> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(&self.path)?;
                socket
            }
        };
        self.socket.insert(socket).send(datagram.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn early() -> DateTime<Local> {
        Local.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap()
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
        syslog.write(Level::INFO, &early(), "nobody listens yet");
        for level in [
            (Level::WARN, "<156>", "WARNING"),
            (Level::DEBUG, "<159>", "DEBUG"),
        ] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            daemon
                .set_read_timeout(Some(std::time::Duration::from_secs(10)))
                .unwrap();
            syslog.write(level.0, &early(), "text");
            assert_eq!(
                receive(&daemon),
                format!(
                    "{}Jan  2 03:04:05 carpd[{}]: [{}] text",
                    level.1,
                    std::process::id(),
                    level.2
                )
            );
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn stopped_log_daemon_does_not_stop_us() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let _never_read = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(Facility::DAEMON);
        syslog.path = path;
        // More than net.unix.max_dgram_qlen (10 by default, 512 under systemd) and any send buffer can take.
        for _ in 0..10_000 {
            syslog.write(Level::INFO, &early(), &"x".repeat(4000));
        }
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
