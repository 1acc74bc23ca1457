//! A booted systemd on a host of the lab, for tests of what only a real service manager does with a unit.
//!
//! The machine's own root file system is the lower layer of an overlay whose upper layer is in memory, so nothing has to be
//! installed and nothing remains. systemd is process 1 of its own namespaces (processes, mounts, names, IPC, cgroups)
//! and has the host's network. It starts only the units that a test writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::daemons::binary;
use crate::lab::Host;
use crate::process::Daemon;
use crate::wait::eventually;

/// The script that process 1 runs before it becomes systemd. `$1` is the carpd under test.
const INIT: &str = include_str!("machine/init.sh");

/// The path of carpd on the machine.
pub const CARPD: &str = "/usr/sbin/carpd";

/// The prefix of the names of all test cgroups; the creator's pid follows.
const PREFIX: &str = "carp-machine-";

/// The longest time that booting, or a command, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A booted systemd. Everything in it ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    daemon: Daemon,
    cgroup: PathBuf,
}

impl Machine {
    /// Boots.
    ///
    /// # Errors
    /// When there is no systemd, no cgroup2, or it does not come up.
    pub fn boot(host: &Host) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = cgroup_root()?;
        remove_orphans(&root);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "mkdir \"$1\" && echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"",
                "sh",
            ])
            .arg(&cgroup)
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--uts", "--ipc", "--cgroup", "sh", "-c", INIT, "sh"])
            .arg(binary()?);
        let machine = Self {
            daemon: Daemon::spawn(host, "systemd", &mut command)?,
            cgroup,
        };
        eventually("systemd is up", PATIENCE, || {
            let active = machine.run(&["systemctl", "is-active", "lab.target"]);
            Ok(active
                .is_ok_and(|active| active.trim() == "active")
                .then_some(()))
        })
        .with_context(|| machine.daemon.transcript())?;
        Ok(machine)
    }

    /// Runs a program in the machine and returns its standard output.
    ///
    /// # Errors
    /// When it does not exit 0; the message contains its output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "{words:?}: {}: {}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// Writes a unit, reloads systemd, and starts the unit.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, unit: &str, text: &str) -> Result<()> {
        let write = format!("printf '%s' \"$1\" > /etc/systemd/system/{unit}");
        self.run(&["sh", "-c", &write, "sh", text])?;
        self.run(&["systemctl", "daemon-reload"])?;
        self.run(&["systemctl", "start", unit]).map(drop)
    }

    /// The content of a file; empty when there is none.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn read(&self, path: &str) -> Result<String> {
        self.run(&["sh", "-c", "cat \"$1\" 2>/dev/null || true", "sh", path])
    }

    fn output(&self, words: &[&str]) -> Result<Output> {
        let outer = self.daemon.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        let first = children
            .split_whitespace()
            .next()
            .context("no process 1 yet")?;
        Ok(Command::new("nsenter")
            .args(["--target", first, "--all", "env", "-i"])
            .arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
            .args(words)
            .output()?)
    }
}

impl Drop for Machine {
    #[expect(
        clippy::print_stderr,
        reason = "the test harness shows it where a test fails"
    )]
    fn drop(&mut self) {
        // This ends process 1, and with it all other processes.
        let _ = self.daemon.signal(Signal::SIGKILL);
        let removed = eventually("its cgroup is empty", PATIENCE, || {
            Ok(remove_cgroup(&self.cgroup).then_some(()))
        });
        if let Err(error) = removed {
            eprintln!("{}: {error:#}", self.cgroup.display());
        }
    }
}

/// The mount point of the unified hierarchy.
fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    mount.context("no cgroup2 is mounted")
}

/// Removes a cgroup and those below it, and returns whether they are gone, which requires that no process is left in them.
fn remove_cgroup(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// Removes what a killed test run left.
fn remove_orphans(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_string_lossy();
        let maker = maker
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_cgroup(&entry.path());
        }
    }
}
