//! What a managed switch can do to a port.

use anyhow::Result;

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

    /// Sends back out of it what comes in by it (hairpin): the host hears its own broadcast and multicast.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_hairpin(&self, on: bool) -> Result<()> {
        self.set_port("hairpin", on)
    }

    fn set_port(&self, option: &str, on: bool) -> Result<()> {
        let (port, value) = (self.port("eth0"), if on { "on" } else { "off" });
        self.switch().ip(&format!(
            "link set {port} type bridge_slave {option} {value}"
        ))?;
        Ok(())
    }
}
