//! The virtual addresses in native mode: added and removed by netlink, tagged with our protocol number, and lent to us by
//! the kernel for a while only.
//!
//! Each is added as a host address (/32), whatever prefix it was given. The kernel makes the first address of a subnet its
//! primary and deletes the others with it, so a longer stretch would put other addresses at our mercy, and ours at theirs.
//! `place` has what the prefix is for.

use std::io;

use carp_common::time::Instant;

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::namespace::Namespace;
use super::identity::Identity;
use super::lease::{self, Term};
use super::place::Routes;
use super::removals::Removals;
use crate::api::event::address::Assignment;
use crate::config::ADDRESS_PROTOCOL;
use crate::io::netlink::{Address, Order};

/// What we have to do with one virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    None,
    /// We told the kernel to add it, but it had no time yet: it may be there soon. It is asked again; where it is not to be
    /// there any more, it is removed like one of ours.
    Ordered,
    /// We added it, or took it over from an earlier run: ours to renew and to remove.
    Ours,
    /// It was there, added by someone else: it serves as well, and is never touched. That was said.
    Theirs,
}

impl Holding {
    /// Whether it is there, or may be there soon, because of us.
    const fn is_by_us(self) -> bool {
        matches!(self, Self::Ours | Self::Ordered)
    }
}

/// The virtual addresses of one virtual host, as far as carpd adds them.
#[derive(Debug)]
pub struct Holdings {
    /// For each of them.
    holdings: Vec<Holding>,
    /// How long they last.
    pub term: Term,
    /// The routes that come with them.
    pub routes: Routes,
}

impl Holdings {
    /// None of so many addresses is held.
    pub fn new(addresses: usize) -> Self {
        Self {
            holdings: vec![Holding::None; addresses],
            term: Term::default(),
            routes: Routes::new(addresses),
        }
    }

    /// What we have to do with one address.
    pub fn holding(&self, index: usize) -> Holding {
        self.holdings[index]
    }

    /// Adds the virtual addresses. Whether all of them are there now.
    pub fn take<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) -> bool {
        let mut complete = true;
        for (index, address) in who.native_addresses(site.interface).into_iter().enumerate() {
            complete &= self.hold(who, index, &address, site);
        }
        complete
    }

    /// Sees to it that one address is there. Whether it is.
    pub fn hold<E: Effects>(
        &mut self,
        who: &Identity,
        index: usize,
        address: &Address,
        site: &mut Site<'_, E>,
    ) -> bool {
        let cidr = address.cidr();
        let lease = lease::of(site.cx.lease, &who.config);
        let added = site.cx.give(Order::Add(*address, lease));
        let exists = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        if added.as_ref().is_err_and(exists) {
            // An order of ours may have been carried out late.
            site.cx.listen();
        }
        let place = &who.place;
        let holding = &mut self.holdings[index];
        match added {
            Ok(()) => {
                site.cx.tell(place, Assignment::Added { address: cidr });
                *holding = Holding::Ours;
            }
            Err(error) if exists(&error) => {
                let known = site.cx.namespace.known(address);
                // A kernel without numbers does not say whose it is.
                let is_late = *holding == Holding::Ordered && !site.cx.namespace.tells_numbers();
                if !is_late && known.is_none_or(|known| known.protocol != ADDRESS_PROTOCOL) {
                    self.hand_over(who, index, address, site);
                    return true;
                }
                if !holding.is_by_us() {
                    let taken = Assignment::TakenOver { address: cidr };
                    site.cx.tell(place, taken);
                }
                *holding = Holding::Ours;
                // It may have been there before the host's own addresses.
                site.interface.unplaced = true;
                if let Err(error) = site.cx.give(Order::Renew(*address, lease)) {
                    let error = error.to_string();
                    let failed = Assignment::RenewalFailed {
                        address: cidr,
                        error,
                    };
                    site.cx.tell(place, failed);
                    return false;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let before = std::mem::replace(holding, Holding::Ordered);
                if before != Holding::Ordered {
                    site.cx.tell(place, Assignment::AddSlow { address: cidr });
                }
                return false;
            }
            Err(error) => {
                let error = error.to_string();
                let failed = Assignment::AddFailed {
                    address: cidr,
                    error,
                };
                site.cx.tell(place, failed);
                return false;
            }
        }
        self.routes.doubt(index);
        self.place(who, index, site);
        true
    }

    /// One address is somebody else's; says so once.
    pub fn hand_over<E: Effects>(
        &mut self,
        who: &Identity,
        index: usize,
        address: &Address,
        site: &mut Site<'_, E>,
    ) {
        let before = std::mem::replace(&mut self.holdings[index], Holding::Theirs);
        if before != Holding::Theirs {
            let address = address.cidr();
            site.cx.tell(&who.place, Assignment::Foreign { address });
        }
    }

    /// An address of somebody else was there before we claimed any; says so once.
    pub fn find_theirs<E: Effects>(
        &mut self,
        who: &Identity,
        index: usize,
        known: &Address,
        site: &mut Site<'_, E>,
    ) {
        let before = std::mem::replace(&mut self.holdings[index], Holding::Theirs);
        if before != Holding::Theirs {
            let address = known.cidr();
            let theirs = Assignment::ForeignAsBackup { address };
            site.cx.tell(&who.place, theirs);
        }
    }

    /// One address is not there any more.
    pub fn lose(&mut self, index: usize) {
        self.holdings[index] = Holding::None;
    }

    /// One address is to be there soon: the kernel had no time yet.
    pub fn await_order(&mut self, index: usize) {
        self.holdings[index] = Holding::Ordered;
    }

    /// The interface is gone, and every address with it.
    pub fn lose_all(&mut self) {
        self.holdings.fill(Holding::None);
    }

    /// Removes those virtual addresses that we added.
    pub fn release<E: Effects>(
        &mut self,
        who: &Identity,
        removals: &mut Removals,
        site: &mut Site<'_, E>,
    ) {
        // What is somebody else's by now stays.
        site.cx.catch_up();
        for (index, address) in who.native_addresses(site.interface).into_iter().enumerate() {
            let ours = self.is_ours(index, &address, &site.cx.namespace);
            if self.holdings[index] == Holding::Theirs {
                // It may have been ours before, and its route is still.
                self.routes.remove(who, index, site);
            }
            if !self.holdings[index].is_by_us() {
                continue;
            }
            self.holdings[index] = Holding::None;
            if ours {
                self.routes.remove(who, index, site);
                removals.remove(who, &address, site);
            }
        }
    }

    /// Whether an address is there because of us, as far as netlink told.
    pub fn is_ours(&self, index: usize, address: &Address, namespace: &Namespace) -> bool {
        self.holdings[index].is_by_us()
            && namespace
                .known(address)
                .is_none_or(|known| !namespace.is_theirs(known))
    }

    /// Sees to the route to the subnet of an address, and warns where it does not fit the host's own ones.
    pub fn place<E: Effects>(&mut self, who: &Identity, index: usize, site: &mut Site<'_, E>) {
        let is_held = self.holdings[index] == Holding::Ours;
        self.routes.place(who, index, is_held, site);
    }

    /// Whether the leases ran out because nobody renewed them.
    pub fn has_run_out(&self, now: Instant) -> bool {
        self.term.has_run_out(now)
    }
}
