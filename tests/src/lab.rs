//! Hosts, a switch and the cables between them.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::capture::Capture;
use crate::packet::Mac;
use crate::process::signal_each;
use crate::residue::Network;
use crate::wait::eventually;

/// The directory in which iproute2 keeps named network namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// The prefix of the names of all namespaces of the lab, which nothing else uses.
const PREFIX: &str = "carp-lab-";

/// Opens a [`Lab`], or ends the calling test with a visible note when there is no root.
///
/// The test must return a `Result`.
#[macro_export]
macro_rules! lab {
    () => {
        if $crate::Lab::require_root() {
            $crate::Lab::new()?
        } else {
            return Ok(());
        }
    };
}

/// One switch and the hosts on it. Dropping the value removes everything, even in a panic.
///
/// Names contain the creating process's pid and start time and a running number, so two labs never collide. The first
/// lab of a later process removes what a killed run left behind ([`remove_orphans`]).
#[derive(Debug)]
pub struct Lab {
    name: String,
    switch: Namespace,
    hosts: Cell<u8>,
    namespaces: RefCell<Vec<String>>,
}

/// A network namespace, its `eth0` plugged into the lab's switch.
///
/// Valid for as long as its [`Lab`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    switch: Namespace,
    mac: Mac,
    address: Option<Ipv4Addr>,
}

/// A named network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Lab {
    /// A lab with a switch and no hosts.
    ///
    /// # Errors
    /// When namespaces or bridges cannot be made here.
    pub fn new() -> Result<Self> {
        static ORPHANS: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ORPHANS.call_once(|| {
            if let Err(error) = remove_orphans() {
                note(&format!(
                    "could not remove what an earlier run left: {error:#}"
                ));
            }
        });

        let pid = std::process::id();
        let started = start_time(pid).context("failed to read our own start time")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{pid}-{started}-{number}");
        let switch = Namespace {
            name: format!("{name}-switch"),
        };
        // The value exists before the first namespace, so that dropping it cleans up after a partial failure too.
        let lab = Self {
            name,
            switch: switch.clone(),
            hosts: Cell::new(0),
            namespaces: RefCell::new(Vec::new()),
        };
        lab.create(&switch)?;
        // Without an IGMP querier a snooping bridge would stop flooding groups other than 224.0.0.x.
        // A switch does not inspect packets; with netfilter on the bridge, malformed ones would not pass.
        switch.sysctl("bridge/bridge-nf-call-iptables", "0")?;
        switch.ip_batch("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;
        Ok(lab)
    }

    /// Whether this process is root. If it is not, prints that the test is skipped, or panics where a skip would hide
    /// a broken run (`CI=true`, `CARP_REQUIRE_ROOT=1`).
    ///
    /// # Panics
    /// See above.
    #[must_use]
    pub fn require_root() -> bool {
        if geteuid().is_root() {
            return true;
        }
        let variable = |name| std::env::var(name).unwrap_or_default();
        let required = variable("CI") == "true" || variable("CARP_REQUIRE_ROOT") == "1";
        assert!(
            !required,
            "this test needs root (network namespaces) and a skip is not allowed here"
        );
        let thread = thread::current();
        note(&format!(
            "skipped, needs root: {}",
            thread.name().unwrap_or("?")
        ));
        false
    }

    /// A new host whose `eth0` is up, has the address (`10.9.0.1/16`; none when `None`) and is plugged in.
    ///
    /// `name`: at most 10 characters, unique in the lab. The MAC is 02:00:00:00:00:01 for the first host, and so on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn host<'a>(&self, name: &str, address: impl Into<Option<&'a str>>) -> Result<Host> {
        let address = address.into();
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let host = Host {
            name: name.to_owned(),
            namespace: Namespace {
                name: format!("{}-{name}", self.name),
            },
            switch: self.switch.clone(),
            mac: Mac([2, 0, 0, 0, 0, number]),
            address: address.map(parse_address).transpose()?,
        };
        self.create(&host.namespace)?;
        // Router solicitations and duplicate address detection would only be noise in captures.
        for scope in ["all", "default"] {
            let name = format!("ipv6/conf/{scope}/disable_ipv6");
            host.namespace.sysctl(&name, "1")?;
        }
        let mut setup = "link set lo up\n".to_owned();
        host.plug("eth0", host.mac)?;
        if let Some(address) = address {
            setup += &format!("address add {address} dev eth0\n");
        }
        setup += "link set eth0 up\n";
        host.namespace.ip_batch(&setup)?;
        host.wait_until_connected()?;
        Ok(host)
    }

    /// Starts listening on every port of the switch.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn capture(&self) -> Result<Capture> {
        Capture::open(&self.switch)
    }

    /// `ip ARGUMENTS` in the namespace of the switch, split at blanks.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn switch_ip(&self, arguments: &str) -> Result<String> {
        self.switch.ip(arguments)
    }

    /// The namespaces made so far, for cleaning up after a lab that cannot be dropped (in a signal
    /// handler): hand them to [`cleanup`].
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.namespaces.borrow().clone()
    }

    fn create(&self, namespace: &Namespace) -> Result<()> {
        self.namespaces.borrow_mut().push(namespace.name.clone());
        run(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.names()) {
            note(&format!("lab {} is not gone: {error:#}", self.name));
        }
    }
}

/// Ends every process in these namespaces (daemonized ones and scripts too) and removes the namespaces, with what a
/// killed carpd left of its own. Those that do not exist are skipped.
///
/// # Errors
/// The first failure, after trying all.
pub fn cleanup(names: &[String]) -> Result<()> {
    let mut outcome = Ok(());
    for name in names {
        ensure!(
            name.starts_with(PREFIX),
            "{name} is not a namespace of a lab"
        );
        if !fs::exists(format!("{NETNS_DIR}/{name}")).unwrap_or(true) {
            continue;
        }
        outcome = outcome.and(remove_namespace(name));
    }
    outcome
}

/// Removes the labs of processes that no longer exist.
///
/// # Errors
/// When a namespace of such a lab cannot be removed.
pub fn remove_orphans() -> Result<()> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Ok(());
    };
    let mut orphans = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let mut parts = owner.splitn(3, '-');
        let pid = parts.next().and_then(|pid| pid.parse().ok());
        let started = parts.next().and_then(|started| started.parse().ok());
        let (Some(pid), Some(started)) = (pid, started) else {
            continue;
        };
        if start_time(pid).ok() != Some::<u64>(started) {
            orphans.push(name);
        }
    }
    cleanup(&orphans)
}

fn remove_namespace(name: &str) -> Result<()> {
    let network = Network::named(name)?;
    eventually(
        &format!("{name} has no process"),
        Duration::from_secs(10),
        || {
            let pids = pids_in(name)?;
            signal_each(&pids, Signal::SIGKILL)?;
            Ok(pids.is_empty().then_some(()))
        },
    )?;
    network.remove_residue()?;
    run(Command::new("ip").args(["netns", "delete", name]))?;
    Ok(())
}

/// Ids of all processes in a namespace, without zombies.
fn pids_in(name: &str) -> Result<Vec<u32>> {
    let pids = run(Command::new("ip").args(["netns", "pids", name]))?;
    Ok(pids
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect())
}

impl Host {
    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The MAC of `eth0`.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The address `eth0` was given.
    ///
    /// # Panics
    /// When it was given none.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address.expect("the host was made with an address")
    }

    /// Runs `action` in a thread in this host's network namespace. Its sockets stay in that namespace, and processes
    /// started there run on the host.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.namespace.enter(action)
    }

    /// Starts `command` on this host, without a wrapper: its pid is the child's.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.enter(|| command.spawn())?
    }

    /// Runs a program on this host to its end and returns its standard output.
    ///
    /// # Errors
    /// When it does not exit 0; the message contains its standard error.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<String> {
        self.namespace.run(Command::new(program).args(arguments))
    }

    /// `ip ARGUMENTS` on this host, split at blanks.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Adds another interface with the given name and MAC, plugged into the switch; up.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add_link(&self, interface: &str, mac: Mac) -> Result<()> {
        self.plug(interface, mac)?;
        self.namespace
            .ip_batch(&format!("link set {interface} up\n"))
    }

    /// A cable of its own, past the switch, to another host: both ends have the same name, and these addresses
    /// (`10.1.0.1/16`); up.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wire(&self, peer: &Self, interface: &str, ours: &str, theirs: &str) -> Result<()> {
        self.namespace.ip_batch(&format!(
            "link add {interface} type veth peer name {interface} netns {}\n\
             address add {ours} dev {interface}\n\
             link set {interface} up\n",
            peer.namespace.name
        ))?;
        peer.namespace.ip_batch(&format!(
            "address add {theirs} dev {interface}\nlink set {interface} up\n"
        ))?;
        eventually("the cable is connected", Duration::from_secs(10), || {
            let state = self.namespace.ip(&format!("-o link show {interface}"))?;
            Ok(state.contains("state UP").then_some(()))
        })
    }

    /// The switch port at the other end of `interface`'s cable.
    #[must_use]
    pub fn port(&self, interface: &str) -> String {
        port_name(&self.name, interface)
    }

    /// Pulls `eth0`'s cable: its port on the switch goes down, the host loses its carrier.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unplug(&self) -> Result<()> {
        self.switch
            .ip_batch(&format!("link set {} down\n", self.port("eth0")))
    }

    /// Plugs `eth0`'s cable in again and waits for the carrier.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plug_in(&self) -> Result<()> {
        self.switch
            .ip_batch(&format!("link set {} up\n", self.port("eth0")))?;
        self.wait_until_connected()
    }

    /// Takes `eth0`'s port out of the switch: no frame passes, but the host keeps its carrier.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn isolate(&self) -> Result<()> {
        self.switch
            .ip_batch(&format!("link set {} nomaster\n", self.port("eth0")))
    }

    /// Undoes [`Host::isolate`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn rejoin(&self) -> Result<()> {
        self.switch
            .ip_batch(&format!("link set {} master br0\n", self.port("eth0")))?;
        self.wait_until_connected()
    }

    /// Ids of all processes on this host, daemonized ones too.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pids(&self) -> Result<Vec<u32>> {
        pids_in(&self.namespace.name)
    }

    /// Whether an interface of the host holds `address`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn has_address(&self, address: Ipv4Addr) -> Result<bool> {
        Ok(self.address_line(address)?.is_some())
    }

    /// The output of `ip address` for `address` (prefix, protocol, lifetime); `None` if the host does not hold it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn address_line(&self, address: Ipv4Addr) -> Result<Option<String>> {
        let all = self.ip("-o -4 address show")?;
        let wanted = format!(" inet {address}/");
        Ok(all
            .lines()
            .find(|line| line.contains(&wanted))
            .map(str::to_owned))
    }

    /// Waits until the host holds `address`, or no longer does.
    ///
    /// # Errors
    /// When it takes longer than `within`.
    pub fn wait_for_address(&self, address: Ipv4Addr, held: bool, within: Duration) -> Result<()> {
        let verb = if held { "holds" } else { "no longer holds" };
        eventually(&format!("{} {verb} {address}", self.name), within, || {
            Ok((self.has_address(address)? == held).then_some(()))
        })
    }

    /// The namespace in which the switch ports are.
    pub(crate) fn switch(&self) -> &Namespace {
        &self.switch
    }

    fn plug(&self, interface: &str, mac: Mac) -> Result<()> {
        let port = self.port(interface);
        ensure!(port.len() <= 15, "interface name {port} is too long");
        self.switch.ip_batch(&format!(
            "link add {port} type veth peer name {interface} address {mac} netns {}\n\
             link set {port} master br0\n\
             link set {port} up\n",
            self.namespace.name
        ))
    }

    /// The kernel reports carrier with up to a second's delay; frames sent before are lost.
    fn wait_until_connected(&self) -> Result<()> {
        let port = self.port("eth0");
        eventually("the cable is connected", Duration::from_secs(10), || {
            let ours = self.namespace.ip("-o link show eth0")?;
            let theirs = self.switch.ip(&format!("-o -d link show {port}"))?;
            Ok((ours.contains("state UP") && theirs.contains("state forwarding")).then_some(()))
        })
    }
}

fn port_name(host: &str, interface: &str) -> String {
    if interface == "eth0" {
        format!("to-{host}")
    } else {
        format!("to-{host}-{interface}")
    }
}

impl Namespace {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    pub(crate) fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                self.join()?;
                Ok(action())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into this namespace permanently.
    pub(crate) fn join(&self) -> io::Result<()> {
        let namespace = File::open(PathBuf::from(NETNS_DIR).join(&self.name))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    pub(crate) fn ip(&self, arguments: &str) -> Result<String> {
        self.run(Command::new("ip").args(arguments.split_whitespace()))
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        self.enter(|| run(command))?
    }

    /// Several `ip` commands, one a line, in one process.
    fn ip_batch(&self, commands: &str) -> Result<()> {
        self.enter(|| -> Result<()> {
            let mut child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("failed to start ip (package iproute2)")?;
            child
                .stdin
                .take()
                .context("stdin is piped")?
                .write_all(commands.as_bytes())?;
            let output = child.wait_with_output()?;
            ensure!(
                output.status.success(),
                "failed in {}:\n{commands}{}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })?
    }

    /// Sets a variable under `/proc/sys/net`, if this kernel has it.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.enter(|| match fs::write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to write {value} to {path}"))
            }
            _ => Ok(()),
        })?
    }
}

/// Writes past the test harness's capture, because a skip or a measured number must be visible in a passing run too.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to start {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot; together with the pid it identifies a process uniquely.
fn start_time(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses and may hold blanks.
    let (_, rest) = stat.rsplit_once(')').context("malformed stat")?;
    let field = rest.split_whitespace().nth(19).context("short stat")?;
    Ok(field.parse()?)
}

fn parse_address(text: &str) -> Result<Ipv4Addr> {
    let (address, _) = text
        .split_once('/')
        .with_context(|| format!("{text} has no prefix length"))?;
    Ok(address.parse()?)
}
