//! The daemons that are compared, alike to start.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use carp_tests::daemons::PASSWORD;
use carp_tests::{Captured, Carpd, Daemon, Host, Keepalived, Ucarp, daemons};

use crate::report::Side;

/// The virtual address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// The vhid or VRID.
pub const VHID: u8 = 7;

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

/// What a host is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The better one.
    Master,
    /// The worse one; with the fastest timers of carpd an equal one, which is what gives the shortest outage.
    Backup,
    /// The worse one in any case.
    Lesser,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// An advertisement a second; a CARP BACKUP has advskew 100.
    Default,
    /// The fastest that the daemon allows without flapping.
    Fastest,
}

impl System {
    /// Every peer, and carpd on every datapath of this build.
    ///
    /// # Errors
    /// When there is no carpd.
    pub fn all() -> Result<Vec<Self>> {
        let mut all = vec![Self::Ucarp, Self::Keepalived2, Self::Keepalived3];
        all.extend(datapaths()?.into_iter().map(Self::Carpd));
        Ok(all)
    }

    /// For rows.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Ucarp => "ucarp".to_owned(),
            Self::Keepalived2 => "keepalived, VRRPv2".to_owned(),
            Self::Keepalived3 => "keepalived, VRRPv3".to_owned(),
            Self::Carpd(datapath) => format!("carpd, {datapath}"),
        }
    }

    /// Ours or a peer's.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Carpd(_) => Side::Ours,
            Self::Ucarp | Self::Keepalived2 | Self::Keepalived3 => Side::Peer,
        }
    }

    /// Starts it and waits until it listens. Its files go to `directory`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self, host: &Host, directory: &Path, role: Role, pace: Pace) -> Result<Daemon> {
        self.start_with(host, directory, role, pace, "")
    }

    /// The same with more options, which only carpd takes.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_with(
        &self,
        host: &Host,
        directory: &Path,
        role: Role,
        pace: Pace,
        more: &str,
    ) -> Result<Daemon> {
        let daemon = match self {
            Self::Ucarp => ucarp(host, directory, role, pace)?,
            Self::Keepalived2 | Self::Keepalived3 => {
                self.keepalived(host, directory, role, pace)?
            }
            Self::Carpd(datapath) => carpd(host, datapath, role, pace, more)?,
        };
        Ok(daemon.quiet())
    }

    /// The options that make the pace, for the record.
    #[must_use]
    pub fn settings(&self, pace: Pace) -> &'static str {
        match (self, pace) {
            (Self::Ucarp | Self::Carpd(_), Pace::Default) => "-k 0 / -k 100",
            (Self::Ucarp, Pace::Fastest) => "-b 1 -r 1, -k 0 / -k 10",
            (Self::Carpd(_), Pace::Fastest) => "-b 0 -k 1 / -k 1",
            (Self::Keepalived2 | Self::Keepalived3, Pace::Default) => "advert_int 1",
            (Self::Keepalived2, Pace::Fastest) => "advert_int 1",
            (Self::Keepalived3, Pace::Fastest) => "advert_int 0.01",
        }
    }

    /// Longest silence of a dead MASTER that the protocol allows before its BACKUP speaks.
    #[must_use]
    pub fn bound(&self, pace: Pace) -> Duration {
        const SKEW_STEP: Duration = Duration::from_nanos(3_906_250);
        let second = Duration::from_secs(1);
        match (self, pace) {
            (Self::Ucarp | Self::Carpd(_), Pace::Default) => 3 * second + 100 * SKEW_STEP,
            (Self::Ucarp, Pace::Fastest) => second + 10 * SKEW_STEP,
            (Self::Carpd(_), Pace::Fastest) => 3 * SKEW_STEP,
            // Three intervals, and a skew of (256 - 100)/256 of a second, in version 3 of an interval.
            (Self::Keepalived2, _) | (Self::Keepalived3, Pace::Default) => {
                3 * second + second * 156 / 256
            }
            (Self::Keepalived3, Pace::Fastest) => (3 * second + second * 156 / 256) / 100,
        }
    }

    /// Whether this is an advertisement of `host`, not its last one, in this system's protocol.
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

    /// How often it has become MASTER since line `mark` of its output.
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

    fn keepalived(&self, host: &Host, directory: &Path, role: Role, pace: Pace) -> Result<Daemon> {
        let priority = match role {
            Role::Master => 150,
            Role::Backup | Role::Lesser => 100,
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
        let configuration = format!(
            "vrrp_instance bench {{\n  state BACKUP\n  version {version}\n  interface eth0\n  \
             virtual_router_id {VHID}\n  priority {priority}\n  advert_int {interval}\n{authentication}  \
             virtual_ipaddress {{\n    {ADDRESS}/32\n  }}\n}}\n"
        );
        let own = directory.join(host.name());
        fs::create_dir_all(&own)?;
        Keepalived::with_configuration(&own, &configuration)?.start(host)
    }
}

/// Every datapath that this carpd offers, but `auto`.
fn datapaths() -> Result<Vec<String>> {
    let help = Command::new(daemons::binary()?).arg("--help").output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let all = ["tcx", "xdp-native", "xdp-generic", "socket"];
    let offered = all.into_iter().filter(|name| help.contains(name));
    Ok(offered.map(str::to_owned).collect())
}

/// ucarp needs scripts for the address.
fn ucarp(host: &Host, directory: &Path, role: Role, pace: Pace) -> Result<Daemon> {
    let script = |name: &str, verb: &str| -> Result<String> {
        let path = directory.join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\nexec ip address {verb} \"$2/32\" dev \"$1\" 2>/dev/null\n"),
        )?;
        Command::new("chmod").arg("755").arg(&path).status()?;
        Ok(path.display().to_string())
    };
    let (up, down) = (script("up", "add")?, script("down", "del")?);
    let settings = match (role, pace) {
        (Role::Master, Pace::Default) => "-k 0",
        (Role::Backup | Role::Lesser, Pace::Default) => "-k 100",
        (Role::Master, Pace::Fastest) => "-b 1 -r 1 -k 0",
        (Role::Backup | Role::Lesser, Pace::Fastest) => "-b 1 -r 1 -k 10",
    };
    // -P: the better one takes over, as VRRP does and as carpd is asked to below.
    let preempt = if role == Role::Master { "-P" } else { "" };
    Ucarp::new(
        host,
        ADDRESS,
        &format!("{settings} {preempt} -z -u {up} -d {down}"),
    )
    .start(host)
}

fn carpd(host: &Host, datapath: &str, role: Role, pace: Pace, more: &str) -> Result<Daemon> {
    let settings = match (role, pace) {
        (Role::Master, Pace::Default) => "-k 0 -P",
        (Role::Backup | Role::Lesser, Pace::Default) => "-k 100",
        (Role::Master, Pace::Fastest) => "-b 0 -k 1 -P",
        (Role::Backup, Pace::Fastest) => "-b 0 -k 1",
        (Role::Lesser, Pace::Fastest) => "-b 0 -k 2",
    };
    Carpd::for_address(ADDRESS, settings)?
        .args(more)
        .datapath(datapath)
        .start(host)
        .context("carpd did not come up")
}
