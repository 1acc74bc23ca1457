//! The source address that `--srcip` names.

use std::net::{IpAddr, Ipv4Addr};

use super::super::context::Site;
use super::super::effects::Effects;
use super::identity::Identity;
use crate::api::event::interface::Source;
use crate::config::ADDRESS_PROTOCOL;

/// Whether the fixed source of a virtual host is on this host.
#[derive(Debug, Default)]
pub struct FixedSource {
    /// Whether it has been on this host.
    was_here: bool,
    /// Whether carpd has warned that it is gone.
    said_gone: bool,
}

impl FixedSource {
    /// Returns whether it was here and is gone.
    pub const fn is_gone(&self) -> bool {
        self.said_gone
    }

    /// Returns the address, unless it was on this host and is gone.
    ///
    /// An address that never was here counts, because with ucarp it may be any.
    pub fn look<E: Effects>(
        &mut self,
        who: &Identity,
        source: Ipv4Addr,
        site: &mut Site<'_, E>,
    ) -> Option<Ipv4Addr> {
        let address = IpAddr::from(source);
        let namespace = &site.cx.namespace;
        let here = namespace
            .everywhere()
            .any(|known| known.address == address && known.protocol != ADDRESS_PROTOCOL);
        let was_here = self.was_here;
        self.was_here |= here;
        if site.interface.is_virtual(address) || here || !was_here {
            if std::mem::take(&mut self.said_gone) {
                site.cx.tell(&who.place, Source::FixedBack { source });
            }
            return Some(source);
        }
        if !std::mem::replace(&mut self.said_gone, true) {
            site.cx.tell(&who.place, Source::FixedGone { source });
        }
        None
    }
}
