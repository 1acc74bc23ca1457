//! carpd, ucarp and keepalived on a host.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::dump::Dump;
use crate::lab::Host;
use crate::process::Daemon;
use crate::wait::eventually;

/// The password of a test's daemons, unless the test is about passwords.
pub const PASSWORD: &str = "secret";

/// Starts carpd.
///
/// The binary is `$CARPD_BIN`, or `carpd` in the running test's profile directory. The datapath is
/// `$CARP_TEST_DATAPATH`, or `xdp-native`, so that no test of the XDP program passes on a silent fallback.
#[derive(Clone, Debug)]
pub struct Carpd {
    binary: PathBuf,
    arguments: Vec<String>,
    datapath: Option<String>,
}

impl Carpd {
    /// With arguments split at blanks, in addition to `-i eth0`, `-f none` and the datapath.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn new(arguments: &str) -> Result<Self> {
        let mut carpd = Self::bare()?.args("-i eth0 -f none");
        carpd.datapath = Some(datapath());
        Ok(carpd.args(arguments))
    }

    /// With vhid 7, the lab's password and the address; then `arguments` split at blanks.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn for_address(address: Ipv4Addr, arguments: &str) -> Result<Self> {
        Ok(Self::new(&format!("-v 7 -p {PASSWORD} -a {address}"))?.args(arguments))
    }

    /// Without any arguments.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn bare() -> Result<Self> {
        Ok(Self {
            binary: binary()?,
            arguments: Vec::new(),
            datapath: None,
        })
    }

    /// More arguments, split at blanks.
    #[must_use]
    pub fn args(mut self, arguments: &str) -> Self {
        self.arguments
            .extend(arguments.split_whitespace().map(str::to_owned));
        self
    }

    /// One more argument, as it is.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Another datapath than the test run's.
    #[must_use]
    pub fn datapath(mut self, datapath: &str) -> Self {
        self.datapath = Some(datapath.to_owned());
        self
    }

    /// The command, to run it in another way.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        if let Some(datapath) = &self.datapath {
            command.args(["--datapath", datapath]);
        }
        command.args(&self.arguments);
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started. Ending at once is not an error here.
    pub fn spawn(&self, host: &Host) -> Result<Daemon> {
        Daemon::spawn(host, "carpd", &mut self.command())
    }

    /// Starts it and waits until it listens.
    ///
    /// Its log line comes before it listens, because a log shows the cause before the effects. It listens once it
    /// waits for events.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub fn start(&self, host: &Host) -> Result<Daemon> {
        let daemon = self.spawn(host)?;
        daemon.wait_for("Switching to state: BACKUP", Duration::from_secs(10))?;
        let waits_in = format!("/proc/{}/wchan", daemon.pid());
        let mut function = String::new();
        let outcome = eventually("carpd waits for events", Duration::from_secs(10), || {
            // `ep_poll`, or what it is inlined into (`do_epoll_wait`).
            function = fs::read_to_string(&waits_in)?;
            Ok((function.contains("ep_poll") || function.contains("epoll_wait")).then_some(()))
        });
        outcome.with_context(|| {
            let seen = match function.as_str() {
                "" | "0" => format!(
                    "{waits_in} shows nothing: either carpd never waits, or this kernel hides where a process waits \
                     (it shows it to who may trace the process, and has CONFIG_KALLSYMS)"
                ),
                other => format!("{waits_in} shows {other}"),
            };
            format!("{seen}\n{}", daemon.transcript())
        })?;
        Ok(daemon)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it does not end within 10 s.
    pub fn run(&self, host: &Host) -> Result<Ended> {
        let mut daemon = self.spawn(host)?;
        let status = daemon.exit_code(Duration::from_secs(10))?;
        let lines = daemon.lines();
        let text = |stream| {
            let lines = lines.iter().filter(|line| line.stream == stream);
            lines
                .map(|line| format!("{}\n", line.text))
                .collect::<String>()
        };
        Ok(Ended {
            status,
            stdout: text(crate::process::Stream::Stdout),
            stderr: text(crate::process::Stream::Stderr),
        })
    }
}

/// The result of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The datapath of this test run.
#[must_use]
pub fn datapath() -> String {
    std::env::var("CARP_TEST_DATAPATH").unwrap_or_else(|_| "xdp-native".to_owned())
}

/// The carpd under test.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CARPD_BIN") {
        return Ok(path.into());
    }
    // For target/debug/deps/e2e-0123 or target/debug/xtask, the binary is in one of the parent directories.
    let executable = std::env::current_exe()?;
    let beside = executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("carpd"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no carpd beside {}: build it (`cargo xtask build`) or name it in CARPD_BIN",
            executable.display()
        )
    })
}

/// Methods that only carpd supports.
impl Daemon {
    /// Requests a report with SIGUSR1 and reads it.
    ///
    /// # Errors
    /// When no complete report comes within 5 s.
    pub fn dump(&self) -> Result<Dump> {
        let mark = self.mark();
        self.signal(Signal::SIGUSR1)?;
        // The report's last line.
        self.wait_for_after(mark, " datapath: ", Duration::from_secs(5))?;
        let lines = self.lines();
        Dump::parse(lines[mark..].iter().map(|line| line.text.as_str()))
            .with_context(|| self.transcript())
    }
}

/// Starts ucarp.
#[derive(Clone, Debug)]
pub struct Ucarp {
    arguments: Vec<String>,
}

impl Ucarp {
    /// With vhid 7, the lab's password, the address and the host's own address; then `arguments` split at blanks.
    #[must_use]
    pub fn new(host: &Host, address: Ipv4Addr, arguments: &str) -> Self {
        let source = host.address();
        let common =
            format!("-i eth0 -f none -v 7 -p {PASSWORD} -s {source} -a {address} {arguments}");
        Self {
            arguments: common.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// With exactly these arguments.
    #[must_use]
    pub fn with_arguments(arguments: Vec<String>) -> Self {
        Self { arguments }
    }

    /// The command, to run it in another way.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("ucarp");
        command.args(&self.arguments);
        command
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed or does not come up within 10 s.
    pub fn start(&self, host: &Host) -> Result<Daemon> {
        let daemon = Daemon::spawn(host, "ucarp", &mut self.command())
            .context("is the package ucarp installed?")?;
        daemon.wait_for("Switching to state: BACKUP", Duration::from_secs(10))?;
        Ok(daemon)
    }
}

/// Starts keepalived with one VRRP instance.
#[derive(Clone, Debug)]
pub struct Keepalived {
    directory: PathBuf,
}

impl Keepalived {
    /// A VRRPv2 instance on `eth0` with this VRID and address; its files go to `directory`, which must exist.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn new(directory: &Path, vrid: u8, address: Ipv4Addr) -> Result<Self> {
        let configuration = format!(
            "vrrp_instance lab {{\n  state BACKUP\n  interface eth0\n  virtual_router_id {vrid}\n  priority 100\n  \
             advert_int 1\n  virtual_ipaddress {{\n    {address}/32\n  }}\n}}\n"
        );
        Self::with_configuration(directory, &configuration)
    }

    /// With this configuration; its files go to `directory`, which must exist.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn with_configuration(directory: &Path, configuration: &str) -> Result<Self> {
        fs::write(directory.join("keepalived.conf"), configuration)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// The command, to run it in another way.
    #[must_use]
    pub fn command(&self, host: &Host) -> Command {
        let file = |name: &str| self.directory.join(format!("{}-{name}", host.name()));
        let mut command = Command::new("keepalived");
        command
            .args([
                "--dont-fork",
                "--log-console",
                "--log-detail",
                "--vrrp",
                "--no-syslog",
            ])
            .arg("--use-file")
            .arg(self.directory.join("keepalived.conf"))
            .arg("--pid")
            .arg(file("keepalived.pid"))
            .arg("--vrrp_pid")
            .arg(file("vrrp.pid"))
            // The directory of its statistics (keepalived.stats), which it writes on SIGUSR2.
            .env("TMPDIR", &self.directory);
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(&self, host: &Host) -> Result<Daemon> {
        let daemon = Daemon::spawn(host, "keepalived", &mut self.command(host))
            .context("is the package keepalived installed?")?;
        if daemon
            .wait_for("BACKUP STATE", Duration::from_secs(10))
            .is_err()
        {
            bail!("keepalived did not come up\n{}", daemon.transcript());
        }
        Ok(daemon)
    }
}

/// The statistics that keepalived writes on SIGUSR2 about its only instance: names and numbers in order, without sections.
///
/// `directory` holds its files.
///
/// # Errors
/// When it does not write them within 5 s.
pub fn keepalived_statistics(daemon: &Daemon, directory: &Path) -> Result<Vec<(String, u64)>> {
    let file = directory.join("keepalived.stats");
    if fs::exists(&file)? {
        fs::remove_file(&file)?;
    }
    daemon.signal(Signal::SIGUSR2)?;
    eventually("keepalived's statistics", Duration::from_secs(5), || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let numbers = text.lines().filter_map(|line| {
            let (name, number) = line.trim().split_once(": ")?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        let numbers: Vec<_> = numbers.collect();
        // With fewer, the file is still being written.
        Ok((numbers.len() == STATISTICS).then_some(numbers))
    })
}

/// Numbers in the statistics of one instance.
const STATISTICS: usize = 14;
