//! Addresses of other programs that an order of carpd changed or deleted, and that it has to give back.
//!
//! That happens if another program puts its address in the place of one of ours just before the kernel carries out an order
//! about ours. The kernel may also refuse to give it back. Until it is given back, the tables show it as it was, so that
//! nothing treats it as one of ours, or as one that is missing.

use std::collections::BTreeMap;

use super::effects::Links;
use crate::config::ADDRESS_PROTOCOL;
use crate::io::netlink::Address;

/// The addresses that are to be given back, each as it was.
#[derive(Debug, Default)]
pub struct Debts {
    owed: Vec<Debt>,
}

#[derive(Debug)]
struct Debt {
    address: Address,
    is_due: bool,
    was_refused: bool,
}

impl Debts {
    /// Returns whether nothing is to be given back.
    pub const fn are_paid(&self) -> bool {
        self.owed.is_empty()
    }

    /// Notes that an order of ours took an address.
    pub fn incur(&mut self, address: Address) {
        self.settle(&address);
        self.owed.push(Debt {
            address,
            is_due: true,
            was_refused: false,
        });
    }

    /// Returns whether an address is to be given back.
    pub fn include(&self, address: &Address) -> bool {
        self.owed.iter().any(|debt| debt.address.is_same(address))
    }

    /// Notes that an address is given back, or that its owner no longer wants it.
    pub fn settle(&mut self, address: &Address) {
        self.owed.retain(|debt| !debt.address.is_same(address));
    }

    /// Notes that an interface is gone, and every address with it.
    pub fn forget(&mut self, ifindex: u32) {
        self.owed.retain(|debt| debt.address.ifindex != ifindex);
    }

    /// Returns an address that is to be given back now, until [`Self::retry`] only once.
    pub fn take_due(&mut self) -> Option<Address> {
        let debt = self.owed.iter_mut().find(|debt| debt.is_due)?;
        debt.is_due = false;
        Some(debt.address)
    }

    /// Notes that the kernel refused to take an address back. Returns whether it is still to be given back and was never
    /// refused before.
    pub fn refuse(&mut self, address: &Address) -> bool {
        let mut owed = self.owed.iter_mut();
        let debt = owed.find(|debt| debt.address.is_same(address));
        debt.is_some_and(|debt| !std::mem::replace(&mut debt.was_refused, true))
    }

    /// Makes all of them due again.
    pub fn retry(&mut self) {
        for debt in &mut self.owed {
            debt.is_due = true;
        }
    }

    /// Corrects a new list of all addresses. What its owner has added again is no longer owed. What is not there may have ended
    /// with the lease that our order gave it.
    pub fn correct(&mut self, links: &Links, listed: &mut BTreeMap<u32, Vec<Address>>) {
        self.owed
            .retain(|debt| links.contains_key(&debt.address.ifindex));
        self.owed.retain(|debt| {
            let here = listed.entry(debt.address.ifindex).or_default();
            match here.iter_mut().find(|it| it.is_same(&debt.address)) {
                Some(known) if known.protocol != ADDRESS_PROTOCOL => return false,
                Some(known) => *known = debt.address,
                None => here.push(debt.address),
            }
            true
        });
    }
}
