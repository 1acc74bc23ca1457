//! What a managed switch can do to a port, and pulling its cable.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Host;

/// The port at the other end of the cable of `eth0`.
impl Host {
    /// Keeps it apart from other isolated ports (private VLAN): two isolated hosts do not hear each other, and all
    /// others hear both.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_isolated(&self, on: bool) -> Result<()> {
        self.set_port("isolated", on)
    }

    /// Sends frames back out of the port by which they came (hairpin), so that the host hears its own broadcast and
    /// multicast.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_hairpin(&self, on: bool) -> Result<()> {
        self.set_port("hairpin", on)
    }

    /// Prepares [`Host::unplug`], so that it happens without delay.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn ready_to_unplug(&self) -> Result<Unplugging> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped());
        let ip = self.switch().enter(|| command.spawn())??;
        let line = format!("link set {} down\n", self.port("eth0"));
        Ok(Unplugging { ip, line })
    }

    fn set_port(&self, option: &str, on: bool) -> Result<()> {
        let (port, value) = (self.port("eth0"), if on { "on" } else { "off" });
        self.switch().ip(&format!(
            "link set {port} type bridge_slave {option} {value}"
        ))?;
        Ok(())
    }
}

/// A cable about to be pulled: `ip` runs and waits for its line.
#[derive(Debug)]
pub struct Unplugging {
    ip: Child,
    line: String,
}

impl Unplugging {
    /// Pulls it, and returns when.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unplug(mut self) -> Result<Instant> {
        let mut stdin = self.ip.stdin.take().context("stdin is piped")?;
        let at = Instant::now();
        stdin.write_all(self.line.as_bytes())?;
        drop(stdin);
        ensure!(self.ip.wait()?.success(), "failed to {}", self.line.trim());
        Ok(at)
    }
}

impl Drop for Unplugging {
    fn drop(&mut self) {
        // It ends when its input ends; if it has ended already, there is nothing to wait for.
        drop(self.ip.stdin.take());
        let _ = self.ip.wait();
    }
}
