//! Addresses of a virtual host that an earlier run of carpd left when it died.
//!
//! They stay until the election is decided. If this host becomes MASTER, it takes them over without a gap. When it hears
//! another MASTER, it removes them. Until then, the fence keeps this host from answering for them, if there is one.

use carp_common::proto::VirtualHost;

use super::super::context::Site;
use super::super::effects::Effects;
use super::holdings::Holdings;
use super::identity::Identity;
use super::removals::Removals;
use super::tenure::Tenure;
use crate::api::event::address::Predecessor as Event;
use crate::config::{ADDRESS_PROTOCOL, Ownership};
use crate::io::datapath;
use crate::io::netlink::Address;

/// Whether something of an earlier run is left.
#[derive(Debug, Default)]
pub struct Predecessor {
    /// Whether its addresses are still there, until the election is decided.
    has_leftovers: bool,
}

impl Predecessor {
    /// Returns whether addresses of an earlier run are still there.
    pub const fn has_leftovers(&self) -> bool {
        self.has_leftovers
    }

    /// Looks at the virtual addresses that exist before carpd claims any. Those of an earlier run are remembered and fenced;
    /// those of other programs are logged.
    ///
    /// # Errors
    /// Returns an error if the kernel program that must fence them cannot be loaded.
    pub fn look<E: Effects>(
        &mut self,
        who: &Identity,
        holdings: &mut Holdings,
        tenure: &mut Tenure,
        site: &mut Site<'_, E>,
    ) -> Result<(), datapath::DatapathError> {
        if who.config.ownership == Ownership::Native {
            self.look_for_addresses(who, holdings, tenure, site)?;
        }
        self.inherit_fence(who, tenure, site)
    }

    fn look_for_addresses<E: Effects>(
        &mut self,
        who: &Identity,
        holdings: &mut Holdings,
        tenure: &mut Tenure,
        site: &mut Site<'_, E>,
    ) -> Result<(), datapath::DatapathError> {
        let leftovers = who.leftovers(site.interface.ifindex, &site.cx.namespace);
        for address in leftovers.iter().map(Address::cidr) {
            site.cx.tell(&who.place, Event::LeftoverKept { address });
        }
        self.has_leftovers = !leftovers.is_empty();
        for (index, address) in who.native_addresses(site.interface).iter().enumerate() {
            if let Some(known) = site.cx.namespace.known(address).copied()
                && known.protocol != ADDRESS_PROTOCOL
            {
                holdings.find_theirs(who, index, &known, site);
            }
        }
        if self.has_leftovers {
            site.cx.effects.prepare_programs()?;
            tenure.silence(who, site);
        }
        Ok(())
    }

    /// Keeps the fence of an earlier run closed until the election decides. The same holds for addresses that scripts left,
    /// if the down script, which runs first of all, will remove them.
    fn inherit_fence<E: Effects>(
        &mut self,
        who: &Identity,
        tenure: &mut Tenure,
        site: &mut Site<'_, E>,
    ) -> Result<(), datapath::DatapathError> {
        let fenced = site.cx.effects.fenced();
        let config = &who.config;
        let mut addresses = config.addresses.iter().map(|wanted| wanted.address);
        let was_fenced = |address| {
            fenced.iter().any(|known| {
                let owner = known.owner.map(|owner| owner.ifindex);
                known.address == address && (owner.is_none() || owner == site.interface.ifindex)
            })
        };
        let will_be_removed = config.ownership == Ownership::Scripts
            && config.scripts.down.is_some()
            && !config.neutral;
        if addresses.clone().any(was_fenced) {
            tenure.inherit();
        } else if will_be_removed && addresses.any(|address| site.cx.namespace.has(address)) {
            site.cx.effects.prepare_programs()?;
            tenure.silence(who, site);
        }
        Ok(())
    }

    /// Removes the addresses of an earlier run once the election has decided that they are not ours.
    pub fn settle<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        removals: &mut Removals,
        site: &mut Site<'_, E>,
    ) {
        if self.has_leftovers && machine.has_lost(site.cx.now) {
            self.remove(who, false, removals, site);
        }
    }

    /// Removes the addresses of an earlier run, except those that a MASTER holds.
    pub fn remove<E: Effects>(
        &mut self,
        who: &Identity,
        master: bool,
        removals: &mut Removals,
        site: &mut Site<'_, E>,
    ) {
        if !std::mem::take(&mut self.has_leftovers) {
            return;
        }
        site.cx.catch_up();
        let held = if master {
            who.native_addresses(site.interface)
        } else {
            Vec::new()
        };
        for address in who.leftovers(site.interface.ifindex, &site.cx.namespace) {
            if !held.iter().any(|held| held.is_same(&address)) {
                let removed = Event::LeftoverRemoved {
                    address: address.cidr(),
                };
                site.cx.tell(&who.place, removed);
                removals.remove(who, &address, site);
            }
        }
    }
}
