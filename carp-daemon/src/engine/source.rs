//! The address that advertisements come from: the interface's first, or the one that `--srcip` names.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tracing::{info, warn};

use super::Engine;
use crate::config::ADDRESS_PROTOCOL;

impl Engine {
    /// The address that `--srcip` names, unless it was on this host and is no longer.
    ///
    /// One that never was here counts: with ucarp it may be any.
    pub(super) fn fixed_source(&mut self, vhost: usize, fixed: Ipv4Addr) -> Option<Ipv4Addr> {
        let address = IpAddr::from(fixed);
        let virtual_one = self.interfaces[self.vhosts[vhost].interface].is_virtual(address);
        let mut all = self.addresses.values().flatten();
        let here = all.any(|known| known.address == address && known.protocol != ADDRESS_PROTOCOL);
        let served = &mut self.vhosts[vhost];
        let was_here = served.source_was_here;
        served.source_was_here |= here;
        if virtual_one || here || !was_here {
            if std::mem::take(&mut served.said_source_gone) {
                info!("{}: {fixed}, given with --srcip, is back", served.label);
            }
            return Some(fixed);
        }
        if !std::mem::replace(&mut served.said_source_gone, true) {
            warn!(
                "{}: {fixed}, given with --srcip, is no longer on this host: in INIT until it is back",
                served.label
            );
        }
        None
    }

    /// Whether a virtual host of an interface sends from one of these by `--srcip`.
    pub(super) fn sends_from_any(&self, interface: usize, addresses: &BTreeSet<IpAddr>) -> bool {
        let sends_from_one = |vhost: &usize| {
            let source = self.vhosts[*vhost].config.source;
            source.is_some_and(|source| addresses.contains(&source.into()))
        };
        !addresses.is_empty() && self.interfaces[interface].vhosts.iter().any(sends_from_one)
    }

    /// Says once, until it changes, that nothing can be sent for lack of an address.
    pub(super) fn complain_about_source(&mut self, interface: usize, has_source: bool) {
        let needs_one = self.interfaces[interface]
            .vhosts
            .iter()
            .any(|vhost| self.vhosts[*vhost].config.source.is_none());
        let missing = needs_one && !has_source;
        let wanted = &mut self.interfaces[interface];
        if missing && !wanted.said_sourceless {
            warn!(
                "{} has no IPv4 address to send from (virtual ones do not count): in INIT until it has one; or give \
                 --srcip",
                wanted.current_name
            );
        }
        wanted.said_sourceless = missing;
    }
}
