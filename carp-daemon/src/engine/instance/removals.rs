//! Addresses that must be removed, and that the kernel refused to remove.
//!
//! The fence keeps this host silent about such an address, but the address stays until its lease ends, or for good without a
//! lease. So carpd tries again every second to remove it, until it is gone, belongs to another program, or is kept because
//! this host is MASTER again.

use std::io;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::pace::REPORT_INTERVAL;
use super::super::pace::RETRY_INTERVAL;
use super::identity::Identity;
use crate::api::event::address::Assignment;
use crate::io::netlink::Address;

/// The addresses of one virtual host that are still to be removed.
#[derive(Debug, Default)]
pub struct Removals {
    pending: Vec<Address>,
    retry_at: Option<Instant>,
    /// Limits the log lines about refusals.
    limit: RateLimit,
}

impl Removals {
    /// Returns whether an address is still to be removed.
    pub const fn are_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns whether one address is among them.
    pub fn include(&self, address: &Address) -> bool {
        self.pending.iter().any(|it| it.is_same(address))
    }

    /// Returns the addresses that are still to be removed.
    pub fn pending(&self) -> &[Address] {
        &self.pending
    }

    /// Returns when to try again.
    pub const fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Notes that the interface is gone, and every address with it.
    pub fn forget(&mut self) {
        self.pending.clear();
        self.retry_at = None;
    }

    /// Goes on with the removals of the virtual host whose place this one takes.
    pub fn inherit(&mut self, removals: Self) {
        let is_new = |it: &Address| !self.pending.iter().any(|known| known.is_same(it));
        let new: Vec<Address> = removals.pending.into_iter().filter(is_new).collect();
        self.pending.extend(new);
        self.retry_at = self.retry_at.into_iter().chain(removals.retry_at).min();
    }

    /// Removes an address, now or later.
    pub fn remove<E: Effects>(
        &mut self,
        who: &Identity,
        address: &Address,
        site: &mut Site<'_, E>,
    ) {
        let Err(error) = site.cx.delete(&who.place, address) else {
            self.pending.retain(|it| !it.is_same(address));
            return;
        };
        let is_new = !self.include(address);
        if is_new {
            self.pending.push(*address);
        }
        let now = site.cx.now;
        self.retry_at = Some(now + RETRY_INTERVAL);
        let address = address.cidr();
        if error.kind() == io::ErrorKind::TimedOut {
            if is_new {
                site.cx.tell(&who.place, Assignment::RemoveSlow { address });
            }
        } else if let Some(suppressed) = self.limit.admit(now, REPORT_INTERVAL) {
            let failed = Assignment::RemoveFailed {
                address,
                error: error.to_string(),
                retry: RETRY_INTERVAL,
            };
            site.cx.tell_after(suppressed, &who.place, failed);
        }
    }

    /// Forgets the addresses that are gone.
    pub fn follow<E: Effects>(&mut self, site: &Site<'_, E>) {
        // Before the kernel has carried out all orders, one of them may still bring an address.
        if site.cx.effects.is_overdue() {
            return;
        }
        let namespace = &site.cx.namespace;
        self.pending.retain(|it| namespace.known(it).is_some());
        if self.pending.is_empty() {
            self.retry_at = None;
        }
    }

    /// Tries again if it is time. Returns whether it did.
    pub fn timeout<E: Effects>(
        &mut self,
        who: &Identity,
        is_master: bool,
        site: &mut Site<'_, E>,
    ) -> bool {
        let now = site.cx.now;
        let is_due = self.retry_at.take_if(|at| *at <= now).is_some();
        if is_due {
            self.retry(who, is_master, site);
        }
        is_due
    }

    /// Tries again. Addresses that belong to other programs by now stay, and a MASTER keeps its own.
    pub fn retry<E: Effects>(&mut self, who: &Identity, is_master: bool, site: &mut Site<'_, E>) {
        if self.pending.is_empty() {
            return;
        }
        if site.cx.effects.is_overdue() {
            // Another order would only wait behind those that the kernel has not carried out yet.
            self.retry_at = Some(site.cx.now + RETRY_INTERVAL);
            return;
        }
        site.cx.catch_up();
        let kept = match is_master {
            true => who.native_addresses(site.interface),
            false => Vec::new(),
        };
        let namespace = &site.cx.namespace;
        self.pending.retain(|address| {
            let is_theirs = |known| namespace.is_theirs(known);
            let is_there = namespace.known(address).is_some_and(|it| !is_theirs(it));
            is_there && !kept.iter().any(|it| it.is_same(address))
        });
        for address in self.pending.clone() {
            self.remove(who, &address, site);
        }
    }
}
