//! What the engine tells the datapath about a virtual host and its addresses.

use std::net::IpAddr;

use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::{Counts, NO_COUNTS, VhostKey, VhostValue};
use carp_common::digest::PreparedDigest;
use carp_common::proto::Standing;
use zeroize::Zeroizing;

use super::slots::add;
use super::tables::{Fenced, Owner, Tables};
use super::{Datapath, error};
use crate::config::Fence;

/// A virtual host, whole.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// One for each family that it is heard in.
    pub endpoints: &'a [Endpoints],
    /// Every accepted form of its digest, likeliest first: in the kernel nothing else is delivered.
    pub digests: &'a [PreparedDigest],
    /// What it is, and for how long: what changes with every advertisement.
    pub standing: Standing,
}

/// Between whom the advertisements of a virtual host go, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Where they are sent to.
    pub group: IpAddr,
    /// Where ours come from, unless that proves nothing, because peers may send from it as well.
    pub own: Option<IpAddr>,
}

fn write(standing: Standing, value: &mut VhostValue) {
    value.set_state(standing.state);
    value.alive_until_ns = standing.alive_until.as_nanos();
    value.owns_until_ns = standing.owns_until.as_nanos();
}

impl Datapath {
    /// Has the advertisements for a virtual host delivered.
    ///
    /// # Errors
    /// What the kernel refuses, E2BIG when its map is full; then there is no such virtual host.
    pub fn configure(&mut self, key: VhostKey, entry: &Entry<'_>) -> Result<(), error::Error> {
        let mut value = VhostValue {
            instance: self.instance,
            ..VhostValue::NONE
        };
        for endpoints in entry.endpoints {
            value = value.hearing(endpoints.group, endpoints.own);
        }
        write(entry.standing, &mut value);
        let configured = self.publish(key, value, entry.digests);
        if configured.is_err() {
            // What is half there must not be found by `renew`. That it cannot be undone either is no news.
            let _ = self.remove(key);
        }
        configured
    }

    /// The keys are there before the entry is.
    fn publish(
        &mut self,
        key: VhostKey,
        mut value: VhostValue,
        digests: &[PreparedDigest],
    ) -> Result<(), error::Error> {
        // The sockets go when we go, and need no keys.
        if let Some(kernel) = &mut self.kernel {
            let keys = Zeroizing::new(KernelKeys::new(digests));
            kernel.slots().furnish(key, &mut value, &keys)?;
        }
        self.vhosts.insert(key, value);
        self.write(key)
    }

    /// Says how long a virtual host is what it is: one write, however many addresses it has. Does nothing when `key` is not
    /// configured.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), error::Error> {
        if let Some(value) = self.vhosts.get_mut(&key) {
            write(standing, value);
        }
        self.write(key)
    }

    /// Sets the address that our advertisements for `key` come from, in the family of its group; packets from it are dropped.
    /// What was heard stays remembered. Does nothing when `key` is not configured.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_endpoints(
        &mut self,
        key: VhostKey,
        endpoints: Endpoints,
    ) -> Result<(), error::Error> {
        if let Some(value) = self.vhosts.get_mut(&key) {
            *value = value.hearing(endpoints.group, endpoints.own);
        }
        self.write(key)
    }

    fn write(&mut self, key: VhostKey) -> Result<(), error::Error> {
        match (&mut self.tables, self.vhosts.get(&key)) {
            (Some(tables), Some(value)) => tables.write(key, value),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Stops the delivery of advertisements for `key`. This host is silent about the addresses that it still owns.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn remove(&mut self, key: VhostKey) -> Result<(), error::Error> {
        self.vhosts.remove(&key);
        let removed = match &mut self.tables {
            Some(tables) => tables.remove(key),
            None => Ok(()),
        };
        // Whether or not that worked: without keys nothing is authentic.
        let Some(kernel) = &mut self.kernel else {
            return removed;
        };
        let released = kernel.slots().release(key);
        if let Ok(counts) = &released {
            let retired = self.retired.entry(key).or_insert(NO_COUNTS);
            add(retired, counts);
        }
        removed.and(released.map(drop))
    }

    /// Whether nobody has removed or changed what was configured for `key`.
    #[must_use]
    pub fn is_intact(&self, key: VhostKey) -> bool {
        match (&self.kernel, &self.tables, self.vhosts.get(&key)) {
            (Some(_), Some(tables), Some(written)) => tables.has(key, written),
            _ => true,
        }
    }

    /// What became of the advertisements for a virtual host since the start, on whatever rung.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counts_of(&mut self, key: VhostKey) -> Result<Counts, error::Error> {
        let mut sum = self.retired.get(&key).copied().unwrap_or(NO_COUNTS);
        if let Some(kernel) = &mut self.kernel {
            add(&mut sum, &kernel.slots().counts(key)?);
        }
        if let Some(receiver) = self.receivers.get(&key.ifindex) {
            add(&mut sum, &receiver.counts_of(key));
        }
        Ok(sum)
    }

    /// What became of frames on an interface that were no virtual host's of ours, likewise.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, error::Error> {
        let mut sum = match &self.kernel {
            Some(kernel) => kernel.counts_of_others(ifindex)?,
            None => NO_COUNTS,
        };
        if let Some(receiver) = self.receivers.get(&ifindex) {
            add(&mut sum, &receiver.counts_of_others());
        }
        Ok(sum)
    }

    /// The tables, where there is a fence.
    fn fence(&mut self) -> Option<(&mut Tables, bool)> {
        match self.fence {
            Fence::Off => None,
            Fence::Arp => Some((self.tables.as_mut()?, false)),
            Fence::All => Some((self.tables.as_mut()?, true)),
        }
    }

    /// From now on this host answers for the address, and speaks in its name, only while its owner is MASTER.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn own(&mut self, address: IpAddr, owner: Owner) -> Result<(), error::Error> {
        let owner = Some(owner);
        match self.fence() {
            Some((tables, every_packet)) => tables.own(Fenced { address, owner }, every_packet),
            None => Ok(()),
        }
    }

    /// The same, for an owner that is not MASTER, unless another virtual host is MASTER with the address. What an earlier run
    /// of the owner may still answer for ends.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn silence(&mut self, address: IpAddr, owner: Owner) -> Result<(), error::Error> {
        let is_configured = self.vhosts.contains_key(&owner.key());
        let Some((tables, every_packet)) = self.fence() else {
            return Ok(());
        };
        let ended = match is_configured {
            true => Ok(()),
            false => tables.remove(owner.key()),
        };
        let owner = Some(owner);
        ended.and(tables.inherit(Fenced { address, owner }, every_packet))
    }

    /// This host answers for the address if it has it.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn disown(&mut self, fenced: Fenced) -> Result<(), error::Error> {
        match &mut self.tables {
            Some(tables) => tables.disown(fenced),
            None => Ok(()),
        }
    }

    /// Every address of the network namespace that has an owner, whoever gave it one.
    #[must_use]
    pub fn all_fenced(&self) -> Vec<Fenced> {
        let mut all = self.tables.as_ref().map_or_else(Vec::new, Tables::all);
        all.extend(self.fenced_by_others());
        all
    }

    /// The addresses of the virtual hosts of an interface, whoever serves them.
    #[must_use]
    pub fn fenced(&self, ifindex: u32) -> Vec<Fenced> {
        self.tables
            .as_ref()
            .map_or_else(Vec::new, |tables| tables.on(ifindex))
    }
}
