//! The knowledge of the kernel program about a virtual host: that its advertisements are wanted, how long it counts as
//! alive, and
//! how long this host answers for its addresses.
//!
//! The core decides these times, again with each advertisement. The kernel program learns them in one write. So if the
//! process dies, hangs or gets no processor, this host falls silent before another one can have taken over.
//!
//! A host that is no longer MASTER stays silent as long as an address that carpd or a script added is still there or may
//! come: while an up or a down script runs, if the down script fails, if the kernel refuses to remove the address, and after
//! a run that died. The entry is removed when netlink reports that the address is gone, and returns with the address.

use std::net::IpAddr;

use carp_common::abi::layout::VhostKey;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::proto::{Standing, VirtualHost};
use carp_common::units::State;

use super::super::context::Site;
use super::super::effects::{Effects, KernelProgram, Refused};
use super::super::pace::REPORT_INTERVAL;
use super::identity::Identity;
use crate::api::event::interface::Datapath;
use crate::config::Ownership;
use crate::io::datapath::{AddressOwner, Endpoints, Entry, Fenced};

/// The entry of one virtual host.
#[derive(Debug)]
pub struct Tenure {
    /// The key of its entry in the datapath, while there is one.
    key: Option<VhostKey>,
    /// The key of an entry that the datapath refused to remove. Nothing is received through it.
    lingering: Option<VhostKey>,
    /// The standing that the core last gave the datapath.
    standing: Standing,
    /// Whether the datapath may know it as the owner of its addresses.
    fenced: bool,
    /// The datapath refused what it was last told about these, at least for one of them. It is told again.
    unsettled: bool,
    /// The datapath refused something, and carpd has logged that.
    refused: bool,
    /// Limits these log lines if the datapath refuses now and then.
    limit: RateLimit,
    /// The datapath refused its entry. It would receive nothing, so it is in INIT until there is one.
    deaf: bool,
}

impl Default for Tenure {
    fn default() -> Self {
        Self {
            key: None,
            lingering: None,
            standing: Standing::INIT,
            fenced: false,
            unsettled: false,
            refused: false,
            limit: RateLimit::default(),
            deaf: false,
        }
    }
}

impl Tenure {
    /// Returns the key by which the datapath knows the virtual host.
    pub const fn key(&self) -> Option<VhostKey> {
        self.key
    }

    /// Returns whether it would receive nothing.
    pub const fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Returns whether the datapath may know it as the owner of its addresses.
    pub const fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Returns whether the datapath refused the latest change for its addresses.
    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Returns whether the datapath refused to remove its entry.
    pub const fn lingers(&self) -> bool {
        self.lingering.is_some()
    }

    /// Notes that an earlier run has fenced its addresses.
    pub fn inherit(&mut self) {
        self.fenced = true;
    }

    /// Notes that the interface is gone, and with it the entry in the datapath. A new interface begins without refusals.
    pub fn forget(&mut self) {
        self.lingering = None;
        self.fenced = false;
        self.unsettled = false;
        self.deaf = false;
    }

    /// Returns the key that a virtual host should have while its interface exists.
    pub fn key_wanted<E>(who: &Identity, site: &Site<'_, E>) -> Option<VhostKey> {
        let ifindex = site.interface.ifindex?;
        Some(VhostKey::new(ifindex, 0, who.config.election.vhid))
    }

    /// Begins to receive its advertisements. Returns whether that worked.
    pub fn program<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        key: VhostKey,
        endpoints: &[Endpoints],
        site: &mut Site<'_, E>,
    ) -> bool {
        let entry = Entry {
            endpoints,
            digests: machine.digests(),
            standing: self.standing,
        };
        let told = site.cx.effects.configure(key, &entry);
        self.deaf = told.is_err();
        self.key = (!self.deaf).then_some(key);
        if self.deaf {
            site.cx.retry_soon();
        } else {
            self.lingering.take_if(|left| *left == key);
            self.refused = false;
        }
        self.check(who, told, site);
        !self.deaf
    }

    /// Stops receiving its advertisements. If the datapath refuses to remove the entry, carpd tries that again.
    pub fn withdraw<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        if let Some(key) = self.key.take().or(self.lingering) {
            let removed = site.cx.effects.withdraw(key);
            self.lingering = removed.is_err().then_some(key);
            if self.lingers() {
                site.cx.retry_soon();
            }
            self.check(who, removed, site);
        }
    }

    /// Notes the new state. A new MASTER becomes the owner of its addresses. The kernel learns with its entry for how long. If
    /// the datapath refuses that, it is told again with each standing, because without a fence this host would go on answering
    /// if carpd hung.
    ///
    /// Returns the state before.
    pub fn follow<E: Effects>(
        &mut self,
        who: &Identity,
        standing: Standing,
        site: &mut Site<'_, E>,
    ) -> Standing {
        let is_owner = self.fenced && !self.unsettled && self.standing.state == State::Master;
        if standing.state == State::Master && !is_owner {
            self.fenced = true;
            self.tell(who, site, KernelProgram::own);
        }
        std::mem::replace(&mut self.standing, standing)
    }

    /// Tells the kernel program the present state, in one write however many addresses there are. Returns whether the kernel
    /// program knows it now, if there is an entry. Otherwise it still has the state before.
    pub fn renew<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) -> bool {
        let Some(key) = self.key else {
            return true;
        };
        let told = site.cx.effects.renew(key, self.standing);
        let knows = told.is_ok();
        if knows {
            self.refused = false;
        }
        self.check(who, told, site);
        knows
    }

    /// Tells the datapath another source address of one family.
    pub fn tell_endpoints<E: Effects>(
        &mut self,
        who: &Identity,
        endpoints: Endpoints,
        site: &mut Site<'_, E>,
    ) {
        if let Some(key) = self.key {
            let told = site.cx.effects.set_endpoints(key, endpoints);
            self.check(who, told, site);
        }
    }

    /// Closes the fence until the election decides whose the addresses are.
    pub fn silence<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        self.fenced = true;
        self.tell(who, site, KernelProgram::silence);
        self.settle_soon(site);
    }

    /// Settles the fence of a host that is not MASTER: it stays closed as long as an address that carpd or a script added is
    /// there, or may come (`is_awaited`).
    pub fn settle<E: Effects>(&mut self, who: &Identity, is_awaited: bool, site: &mut Site<'_, E>) {
        let namespace = &site.cx.namespace;
        let is_there = match who.config.ownership {
            // The kernel may have refused to remove an address, or may have had no time.
            Ownership::Native => !who.leftovers(site.interface.ifindex, namespace).is_empty(),
            Ownership::Scripts => {
                let mut addresses = who.config.addresses.iter();
                addresses.any(|wanted| namespace.has(wanted.address))
            }
        };
        // While the tables are out of date, an address that a script has added may be missing in them.
        let is_unknown = namespace.is_stale();
        if !self.fenced {
            // Only an address with our protocol number closes it again. Nothing distinguishes an address that a script added
            // from one that an administrator added.
            let is_ours = is_there && who.config.ownership == Ownership::Native;
            if !is_ours || site.interface.ifindex.is_none() {
                return;
            }
        }
        if is_awaited || is_there || is_unknown {
            self.silence(who, site);
        } else {
            self.unfence(who, site);
        }
    }

    /// Lifts the fence.
    pub fn unfence<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        if std::mem::take(&mut self.fenced) {
            self.tell(who, site, |datapath, address, owner| {
                let owner = Some(owner);
                datapath.disown(Fenced { address, owner })
            });
            // No other code would lift the rest of the fence.
            self.fenced = self.unsettled;
            self.settle_soon(site);
        }
    }

    /// Plans another attempt after the datapath refused.
    fn settle_soon<E: Effects>(&self, site: &mut Site<'_, E>) {
        if self.unsettled {
            site.cx.retry_soon();
        }
    }

    /// Tells the datapath something about each address, while the interface exists.
    fn tell<E: Effects>(
        &mut self,
        who: &Identity,
        site: &mut Site<'_, E>,
        mut tell: impl FnMut(&mut E, IpAddr, AddressOwner) -> Result<(), Refused>,
    ) {
        let Some(ifindex) = site.interface.ifindex else {
            return;
        };
        let owner = AddressOwner {
            ifindex,
            vhid: who.config.election.vhid,
        };
        let mut outcome = Ok(());
        for wanted in &who.config.addresses {
            outcome = outcome.and(tell(&mut site.cx.effects, wanted.address, owner));
        }
        self.unsettled = outcome.is_err();
        self.check(who, outcome, site);
    }

    /// Logs that the datapath refuses, once until it accepts an entry again. Otherwise each advertisement would cause a line,
    /// because each renews the entry.
    fn check<E: Effects>(
        &mut self,
        who: &Identity,
        outcome: Result<(), Refused>,
        site: &mut Site<'_, E>,
    ) {
        if let Err(error) = outcome
            && !self.refused
            && let Some(suppressed) = self.limit.admit(site.cx.now, REPORT_INTERVAL)
        {
            self.refused = true;
            let rung = site.interface.ifindex;
            let rung = rung.and_then(|ifindex| site.cx.effects.rung(ifindex));
            let refused = Datapath::Refused {
                rung: rung.map(|rung| rung.to_string()),
                error: error.to_string(),
            };
            site.cx.tell_after(suppressed, &who.place, refused);
        }
    }
}
