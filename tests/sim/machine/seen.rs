//! The view of the checks of a virtual host, from outside.

use std::net::IpAddr;

use super::super::kernel::scripts::Scripts;
use super::super::watch::Watch;

/// The view of the checks of one virtual host of the process.
#[derive(Debug)]
pub struct Seen {
    /// The watch over what it must and must not do.
    pub watch: Watch,
    /// Its addresses, with the prefix lengths that a script gives them.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its scripts, where they own the addresses.
    pub scripts: Option<Scripts>,
    /// Whether its addresses were changed since a script last ended.
    pub is_meddled_with: bool,
}

impl Seen {
    /// Whether an address is one of its own.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == ip)
    }
}
