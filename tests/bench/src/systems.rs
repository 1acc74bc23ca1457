//! The compared daemons, started in the same way.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use carp_tests::daemons::PASSWORD;
use carp_tests::{Captured, Carpd, Daemon, Host, Keepalived, Ucarp, daemons};

use crate::report::Side;

/// The virtual address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// The vhid or VRID.
pub const VHID: u8 = 7;

/// One step of advskew.
const SKEW_STEP: Duration = Duration::from_nanos(3_906_250);

/// One of the daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum System {
    /// ucarp.
    Ucarp,
    /// keepalived, VRRPv2 with a password.
    Keepalived2,
    /// keepalived, VRRPv3.
    Keepalived3,
    /// carpd on a datapath.
    Carpd(String),
}

/// The role of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The better host.
    Master,
    /// The worse host; with carpd's fastest timers an equal one, which gives the shortest outage.
    Backup,
    /// The worse host in any case.
    Lesser,
}

/// The timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One advertisement per second; a CARP BACKUP has advskew 100.
    Default,
    /// The fastest timers that the daemon supports without flapping.
    Fastest,
}

impl System {
    /// Returns every peer, and carpd on every datapath of this build.
    ///
    /// # Errors
    /// Returns an error if there is no carpd.
    pub fn all() -> Result<Vec<Self>> {
        let mut all = vec![Self::Ucarp, Self::Keepalived2, Self::Keepalived3];
        all.extend(datapaths()?.into_iter().map(Self::Carpd));
        Ok(all)
    }

    /// Returns the name for rows.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Ucarp => "ucarp".to_owned(),
            Self::Keepalived2 => "keepalived, VRRPv2".to_owned(),
            Self::Keepalived3 => "keepalived, VRRPv3".to_owned(),
            Self::Carpd(datapath) => format!("carpd, {datapath}"),
        }
    }

    /// Returns the side to which it belongs.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Carpd(_) => Side::Ours,
            Self::Ucarp | Self::Keepalived2 | Self::Keepalived3 => Side::Peer,
        }
    }

    /// Starts it and waits until it listens. Its files are created in `directory`.
    ///
    /// # Errors
    /// Returns an error if it does not start.
    pub fn start(&self, host: &Host, directory: &Path, role: Role, pace: Pace) -> Result<Daemon> {
        self.prepare(host, directory, role, pace, false)?
            .start(host)
    }

    /// Prepares everything short of starting it. `realtime`: with the scheduling that the daemon offers for busy
    /// machines.
    ///
    /// # Errors
    /// Returns an error if its files cannot be written, or there is no carpd.
    pub fn prepare(
        &self,
        host: &Host,
        directory: &Path,
        role: Role,
        pace: Pace,
        realtime: bool,
    ) -> Result<Launch> {
        let own = directory.join(host.name());
        fs::create_dir_all(&own)?;
        let launch = match self {
            Self::Ucarp => ucarp(host, &own, role, pace)?,
            Self::Keepalived2 | Self::Keepalived3 => self.keepalived(&own, role, pace, realtime)?,
            Self::Carpd(datapath) => carpd(datapath, role, pace, realtime)?,
        };
        launch.record(host, &own);
        Ok(launch)
    }

    /// Returns the options that determine the timers, for the record.
    #[must_use]
    pub fn settings(&self, pace: Pace) -> &'static str {
        match (self, pace) {
            (Self::Ucarp | Self::Carpd(_), Pace::Default) => "-k 0 / -k 100",
            (Self::Ucarp, Pace::Fastest) => "-b 1 -r 1, -k 0 / -k 1",
            (Self::Carpd(_), Pace::Fastest) => "-b 0 -k 1 / -k 1",
            (Self::Keepalived2 | Self::Keepalived3, Pace::Default) => {
                "advert_int 1, priority 150 / 100"
            }
            (Self::Keepalived2, Pace::Fastest) => "advert_int 1, priority 254 / 253",
            (Self::Keepalived3, Pace::Fastest) => "advert_int 0.01, priority 254 / 253",
        }
    }

    /// Returns the time between two advertisements of the MASTER, the longer one of the two hosts.
    #[must_use]
    pub fn interval(&self, pace: Pace) -> Duration {
        match (self, pace) {
            (Self::Carpd(_), Pace::Fastest) => SKEW_STEP,
            (Self::Keepalived3, Pace::Fastest) => Duration::from_millis(10),
            (Self::Ucarp, Pace::Fastest) => Duration::from_secs(1) + SKEW_STEP,
            (Self::Ucarp | Self::Carpd(_), Pace::Default) => {
                Duration::from_secs(1) + 100 * SKEW_STEP
            }
            (Self::Keepalived2, _) | (Self::Keepalived3, Pace::Default) => Duration::from_secs(1),
        }
    }

    /// Returns the longest silence of a dead MASTER that the protocol allows before its BACKUP advertises.
    #[must_use]
    pub fn bound(&self, pace: Pace) -> Duration {
        let second = Duration::from_secs(1);
        match (self, pace) {
            (Self::Ucarp | Self::Carpd(_), Pace::Default) => 3 * second + 100 * SKEW_STEP,
            (Self::Ucarp, Pace::Fastest) => second + SKEW_STEP,
            (Self::Carpd(_), Pace::Fastest) => 3 * SKEW_STEP,
            // Three intervals, and a skew of (256 - priority)/256 of a second, or in version 3 of an interval.
            (Self::Keepalived2 | Self::Keepalived3, Pace::Default) => {
                3 * second + second * 156 / 256
            }
            (Self::Keepalived2, Pace::Fastest) => 3 * second + second * 3 / 256,
            (Self::Keepalived3, Pace::Fastest) => (3 * second + second * 3 / 256) / 100,
        }
    }

    /// Whether this is an advertisement of `host` in this system's protocol, and not its last one.
    #[must_use]
    pub fn advertises(&self, captured: &Captured, host: &str) -> bool {
        match self {
            Self::Ucarp | Self::Carpd(_) => captured
                .carp_from(host)
                .is_some_and(|carp| !carp.is_bow_out()),
            Self::Keepalived2 | Self::Keepalived3 => captured
                .vrrp_from(host)
                .is_some_and(|vrrp| vrrp.priority != 0),
        }
    }

    /// Returns how often it has become MASTER since line `mark` of its output.
    #[must_use]
    pub fn takeovers(&self, daemon: &Daemon, mark: usize) -> usize {
        let text = match self {
            Self::Ucarp | Self::Carpd(_) => "Switching to state: MASTER",
            Self::Keepalived2 | Self::Keepalived3 => "Entering MASTER STATE",
        };
        let lines = daemon.lines();
        let new = lines.iter().skip(mark);
        new.filter(|line| line.text.contains(text)).count()
    }

    fn keepalived(
        &self,
        directory: &Path,
        role: Role,
        pace: Pace,
        realtime: bool,
    ) -> Result<Launch> {
        let priority = match (role, pace) {
            (Role::Master, Pace::Default) => 150,
            (Role::Backup | Role::Lesser, Pace::Default) => 100,
            // Priority 255 belongs to the owner, which does not listen.
            (Role::Master, Pace::Fastest) => 254,
            (Role::Backup | Role::Lesser, Pace::Fastest) => 253,
        };
        let (version, authentication) = match self {
            Self::Keepalived2 => (
                2,
                format!(
                    "  authentication {{\n    auth_type PASS\n    auth_pass {PASSWORD}\n  }}\n"
                ),
            ),
            Self::Ucarp | Self::Keepalived3 | Self::Carpd(_) => (3, String::new()),
        };
        let interval = match (self, pace) {
            (Self::Keepalived3, Pace::Fastest) => "0.01",
            _ => "1",
        };
        let global = if realtime {
            "global_defs {\n  vrrp_rt_priority 50\n}\n"
        } else {
            ""
        };
        let configuration = format!(
            "{global}vrrp_instance bench {{\n  state BACKUP\n  version {version}\n  interface eth0\n  \
             virtual_router_id {VHID}\n  priority {priority}\n  advert_int {interval}\n{authentication}  \
             virtual_ipaddress {{\n    {ADDRESS}/32\n  }}\n}}\n"
        );
        Launch::keepalived(directory, &configuration)
    }
}

/// A daemon with everything but its process.
#[derive(Clone, Debug)]
pub enum Launch {
    /// carpd.
    Carpd(Carpd),
    /// ucarp, with its scripts.
    Ucarp(Ucarp),
    /// keepalived, with its configuration file.
    Keepalived(Keepalived, String),
}

/// What was started in this process, for the record: the owner, and the command line or configuration.
static STARTED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Returns what was started since the last call.
#[must_use]
pub fn started() -> Vec<(String, String)> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *started).into_iter().collect()
}

impl Launch {
    /// keepalived with this configuration; its files are created in `directory`, which must exist.
    ///
    /// # Errors
    /// Returns an error if the configuration cannot be written.
    pub fn keepalived(directory: &Path, configuration: &str) -> Result<Self> {
        let keepalived = Keepalived::with_configuration(directory, configuration)?;
        Ok(Self::Keepalived(keepalived, configuration.to_owned()))
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// Returns an error if it does not start.
    pub fn start(&self, host: &Host) -> Result<Daemon> {
        let daemon = match self {
            Self::Carpd(carpd) => carpd.start(host).context("carpd did not come up")?,
            Self::Ucarp(ucarp) => ucarp.start(host)?,
            Self::Keepalived(keepalived, _) => keepalived.start(host)?,
        };
        Ok(daemon.quiet())
    }

    /// Starts it. Does not wait until ucarp listens, because there may be hundreds of them.
    ///
    /// # Errors
    /// Returns an error if it does not start.
    pub fn spawn(&self, host: &Host) -> Result<Daemon> {
        match self {
            Self::Ucarp(ucarp) => Ok(Daemon::spawn(host, "ucarp", &mut ucarp.command())?.quiet()),
            Self::Carpd(_) | Self::Keepalived(..) => self.start(host),
        }
    }

    /// Records how it is started, for the documentation. Its files are in `directory`.
    pub fn record(&self, host: &Host, directory: &Path) {
        match self {
            Self::Carpd(carpd) => record("carpd", &carpd.command(), directory),
            Self::Ucarp(ucarp) => record("ucarp", &ucarp.command(), directory),
            Self::Keepalived(keepalived, configuration) => {
                record("keepalived", &keepalived.command(host), directory);
                let words: Vec<&str> = configuration.split_whitespace().collect();
                let text = words.join(" ");
                // The first instance stands for all.
                let text = match text.match_indices("vrrp_instance").nth(1) {
                    Some((second, _)) => format!("{}…", &text[..second]),
                    None => text,
                };
                keep("keepalived.conf", text);
            }
        }
    }
}

/// Records a command for the documentation. Its files are in `directory`.
pub fn record(name: &str, command: &Command, directory: &Path) {
    let text = line(command).replace(&directory.display().to_string(), "DIR");
    keep(name, text);
}

fn keep(name: &str, text: String) {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    started.insert((name.to_owned(), text));
}

/// Returns a command as a user would type it, with the program's name instead of its path.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let words = program.into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Returns carpd's datapath where only one is measured: `$CARP_TEST_DATAPATH`, or what `auto` uses on a veth since
/// Linux 6.6.
#[must_use]
pub fn datapath() -> String {
    std::env::var("CARP_TEST_DATAPATH").unwrap_or_else(|_| "tcx".to_owned())
}

/// Returns every datapath that this carpd offers, except `auto`.
fn datapaths() -> Result<Vec<String>> {
    let help = Command::new(daemons::binary()?).arg("--help").output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let all = ["tcx", "xdp-native", "xdp-generic", "socket"];
    let offered = all.into_iter().filter(|name| help.contains(name));
    Ok(offered.map(str::to_owned).collect())
}

/// ucarp needs scripts for the address.
fn ucarp(host: &Host, directory: &Path, role: Role, pace: Pace) -> Result<Launch> {
    let script = |name: &str, verb: &str| -> Result<String> {
        let path = directory.join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\nexec ip address {verb} \"$2/32\" dev \"$1\" 2>/dev/null\n"),
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path.display().to_string())
    };
    let (up, down) = (script("up", "add")?, script("down", "del")?);
    let settings = match (role, pace) {
        (Role::Master, Pace::Default) => "-k 0",
        (Role::Backup | Role::Lesser, Pace::Default) => "-k 100",
        (Role::Master, Pace::Fastest) => "-b 1 -r 1 -k 0",
        (Role::Backup | Role::Lesser, Pace::Fastest) => "-b 1 -r 1 -k 1",
    };
    // -P: the better one takes over, as VRRP does and as carpd is configured below.
    let preempt = if role == Role::Master { "-P" } else { "" };
    Ok(Launch::Ucarp(Ucarp::new(
        host,
        ADDRESS,
        &format!("{settings} {preempt} -z -u {up} -d {down}"),
    )))
}

fn carpd(datapath: &str, role: Role, pace: Pace, realtime: bool) -> Result<Launch> {
    let settings = match (role, pace) {
        (Role::Master, Pace::Default) => "-k 0 -P",
        (Role::Backup | Role::Lesser, Pace::Default) => "-k 100",
        (Role::Master, Pace::Fastest) => "-b 0 -k 1 -P",
        (Role::Backup, Pace::Fastest) => "-b 0 -k 1",
        (Role::Lesser, Pace::Fastest) => "-b 0 -k 2",
    };
    let realtime = if realtime { "--realtime" } else { "" };
    let carpd = Carpd::for_address(ADDRESS, settings)?.args(realtime);
    Ok(Launch::Carpd(carpd.datapath(datapath)))
}
