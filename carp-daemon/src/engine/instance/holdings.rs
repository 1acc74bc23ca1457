//! The virtual addresses in native mode. netlink adds and removes them; they carry our protocol number, and the kernel keeps
//! them for the time of a lease only.
//!
//! Each is added as a host address (/32), whatever its configured prefix is. The kernel makes the first address of a subnet
//! its primary and deletes the others with it. With a shorter prefix, removing our addresses could remove others, and the
//! reverse. `place` describes what the prefix is used for.

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

/// The relation of carpd to one virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    None,
    /// The kernel was told to add it, but had no time yet, so it may be there soon. The order is repeated. If the address is
    /// no longer wanted, it is removed like one of ours.
    Ordered,
    /// The kernel's answer to the order to add it was lost (ENOBUFS), so it may be there. As above, except that this counts as
    /// a failure.
    Unanswered,
    /// carpd added it, or took it over from an earlier run, so carpd renews and removes it.
    Ours,
    /// Another program added it. It serves as well, and carpd never touches it. carpd has logged that.
    Theirs,
}

impl Holding {
    /// Returns whether carpd is the reason why it is there or may be there soon.
    const fn is_by_us(self) -> bool {
        self.may_come() || matches!(self, Self::Ours)
    }

    /// Returns whether an order to add it may have been carried out, or may still be.
    pub const fn may_come(self) -> bool {
        matches!(self, Self::Ordered | Self::Unanswered)
    }

    /// Returns whether an address that is there may be ours although it does not show that. A kernel without protocol numbers
    /// does not tell whose it is.
    const fn may_be_ours_untold(self, namespace: &Namespace) -> bool {
        self.may_come() && !namespace.tells_numbers()
    }

    /// Returns whether the address is there and belongs to another program, according to complete tables.
    fn is_anothers(self, address: &Address, namespace: &Namespace) -> bool {
        let is_numbered = |known: &Address| known.protocol == ADDRESS_PROTOCOL;
        !namespace.is_stale()
            && !self.may_be_ours_untold(namespace)
            && namespace.known(address).is_some_and(|it| !is_numbered(it))
    }
}

/// The virtual addresses of one virtual host, as far as carpd adds them.
#[derive(Debug)]
pub struct Holdings {
    /// The state of each address.
    holdings: Vec<Holding>,
    /// The lease of the addresses.
    pub term: Term,
    /// The routes that come with them.
    pub routes: Routes,
}

impl Holdings {
    /// Returns the state before any of so many addresses is held.
    pub fn new(addresses: usize) -> Self {
        Self {
            holdings: vec![Holding::None; addresses],
            term: Term::default(),
            routes: Routes::new(addresses),
        }
    }

    /// Returns the relation of carpd to one address.
    pub fn holding(&self, index: usize) -> Holding {
        self.holdings[index]
    }

    /// Adds the virtual addresses. Returns whether all of them are there now.
    pub fn take<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) -> bool {
        let mut complete = true;
        for (index, address) in who.native_addresses(site.interface).into_iter().enumerate() {
            complete &= self.hold(who, index, &address, site);
        }
        complete
    }

    /// Makes sure that one address is there. Returns whether it is.
    pub fn hold<E: Effects>(
        &mut self,
        who: &Identity,
        index: usize,
        address: &Address,
        site: &mut Site<'_, E>,
    ) -> bool {
        // The kernel would refuse an order to add it. If that answer were lost, the address could be taken for ours.
        if self.is_anothers(index, address, site) {
            self.hand_over(who, index, address, site);
            return true;
        }
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
                let namespace = &site.cx.namespace;
                let is_late = holding.may_be_ours_untold(namespace);
                let known = namespace.known(address);
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
                if is_unanswered(&error) {
                    *holding = Holding::Unanswered;
                }
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

    /// Returns whether one address is there and belongs to another program by now.
    fn is_anothers<E: Effects>(
        &self,
        index: usize,
        address: &Address,
        site: &mut Site<'_, E>,
    ) -> bool {
        let holding = self.holdings[index];
        holding.is_anothers(address, &site.cx.namespace) && {
            site.cx.listen();
            holding.is_anothers(address, &site.cx.namespace)
        }
    }

    /// Notes that one address belongs to another program, and logs that once.
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

    /// Notes that another program had added an address before the election began, and logs that once.
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

    /// Notes that one address is gone.
    pub fn lose(&mut self, index: usize) {
        self.holdings[index] = Holding::None;
    }

    /// Notes why an address was not added again after an order to delete it.
    pub fn miss(&mut self, index: usize, error: &io::Error) {
        let kind = error.kind();
        if kind == io::ErrorKind::AlreadyExists {
            // It was not deleted, or another program has just added it, which netlink reports.
            return;
        }
        self.holdings[index] = if kind == io::ErrorKind::TimedOut {
            Holding::Ordered
        } else if is_unanswered(error) {
            Holding::Unanswered
        } else {
            Holding::None
        };
    }

    /// Notes that the interface is gone, and every address with it.
    pub fn lose_all(&mut self) {
        self.holdings.fill(Holding::None);
    }

    /// Removes those virtual addresses that carpd added. Addresses with its protocol number are always among them,
    /// unless they are to be kept for now because an earlier run left them (`keeps_leftovers`).
    pub fn release<E: Effects>(
        &mut self,
        who: &Identity,
        keeps_leftovers: bool,
        removals: &mut Removals,
        site: &mut Site<'_, E>,
    ) {
        // An address that belongs to another program by now stays.
        site.cx.catch_up();
        let mut left = match keeps_leftovers {
            true => Vec::new(),
            false => who.leftovers(site.interface.ifindex, &site.cx.namespace),
        };
        left.retain(|known| !removals.include(known));
        for (index, address) in who.native_addresses(site.interface).into_iter().enumerate() {
            let is_left = left.iter().any(|known| known.is_same(&address))
                || self.may_return(index, &address, &site.cx.namespace);
            let ours = is_left || self.is_ours(index, &address, &site.cx.namespace);
            if self.holdings[index] == Holding::Theirs {
                // It may have been ours before, and then its route still is.
                self.routes.remove(who, index, site);
            }
            if !is_left && !self.holdings[index].is_by_us() {
                continue;
            }
            self.holdings[index] = Holding::None;
            if ours {
                self.routes.remove(who, index, site);
                removals.remove(who, &address, site);
            }
        }
    }

    /// Returns whether an address that was removed may be there soon, because its renewal is under way and would add it. The
    /// kernel carries out an order to delete it after the renewal.
    fn may_return(&self, index: usize, address: &Address, namespace: &Namespace) -> bool {
        self.holdings[index] == Holding::None
            && self.term.is_being_renewed()
            && namespace.known(address).is_none()
    }

    /// Returns whether an address is there because of carpd, as far as netlink has reported.
    pub fn is_ours(&self, index: usize, address: &Address, namespace: &Namespace) -> bool {
        self.holdings[index].is_by_us()
            && namespace
                .known(address)
                .is_none_or(|known| !namespace.is_theirs(known))
    }

    /// Adds or removes the route to the subnet of an address, and warns if it does not fit the host's own addresses.
    pub fn place<E: Effects>(&mut self, who: &Identity, index: usize, site: &mut Site<'_, E>) {
        let is_held = self.holdings[index] == Holding::Ours;
        self.routes.place(who, index, is_held, site);
    }

    /// Returns whether the leases ran out because they were not renewed.
    pub fn has_run_out(&self, now: Instant) -> bool {
        self.term.has_run_out(now)
    }
}

/// Returns whether an order may have been carried out although it failed.
fn is_unanswered(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}
