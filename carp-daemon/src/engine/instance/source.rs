//! The address that `--srcip` names, where it is given.

use std::net::{IpAddr, Ipv4Addr};

use tracing::{info, warn};

use super::super::interface::Interface;
use super::super::namespace::Namespace;
use super::Identity;
use crate::config::ADDRESS_PROTOCOL;

/// Whether the fixed source of a virtual host is on this host.
#[derive(Debug, Default)]
pub struct FixedSource {
    /// It was seen here.
    was_here: bool,
    /// Already warned that it is gone.
    said_gone: bool,
}

impl FixedSource {
    /// Whether it was here and is gone.
    pub const fn is_gone(&self) -> bool {
        self.said_gone
    }

    /// The address, unless it was on this host and is no longer.
    ///
    /// One that never was here counts: with ucarp it may be any.
    pub fn look(
        &mut self,
        who: &Identity,
        fixed: Ipv4Addr,
        interface: &Interface,
        namespace: &Namespace,
    ) -> Option<Ipv4Addr> {
        let address = IpAddr::from(fixed);
        let here = namespace
            .everywhere()
            .any(|known| known.address == address && known.protocol != ADDRESS_PROTOCOL);
        let was_here = self.was_here;
        self.was_here |= here;
        if interface.is_virtual(address) || here || !was_here {
            if std::mem::take(&mut self.said_gone) {
                info!("{}: {fixed}, given with --srcip, is back", who.label);
            }
            return Some(fixed);
        }
        if !std::mem::replace(&mut self.said_gone, true) {
            warn!(
                "{}: {fixed}, given with --srcip, is no longer on this host: in INIT until it is back",
                who.label
            );
        }
        None
    }
}
