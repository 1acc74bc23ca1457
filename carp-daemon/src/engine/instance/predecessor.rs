//! What an earlier run of carpd that died left behind on the addresses of a virtual host.
//!
//! It stays where it is until the election is settled: the next MASTER of this host takes it over without a gap, and once
//! another MASTER is heard it is removed. Until then the kernel keeps this host from claiming it, where there is a fence.

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

/// What is left of an earlier run.
#[derive(Debug, Default)]
pub struct Predecessor {
    /// Its addresses are still there, until the election is settled.
    has_leftovers: bool,
}

impl Predecessor {
    /// Whether an earlier run's addresses are still there.
    pub const fn has_leftovers(&self) -> bool {
        self.has_leftovers
    }

    /// Looks at the virtual addresses that are there before we claim any: an earlier run's are remembered and fenced,
    /// somebody else's are said.
    ///
    /// # Errors
    /// The kernel program that is to fence them cannot be loaded.
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

    /// What is fenced already, by an earlier run, stays so until the election says otherwise; and so does what scripts
    /// left where the down script, which runs first of all, is to remove it.
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

    /// Removes what an earlier run left once the election says that the addresses are not ours.
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

    /// Removes what an earlier run left, except what a MASTER holds.
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
