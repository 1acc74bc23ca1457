//! The entries of virtual hosts and their addresses, which the engine gives the datapath.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::{Counts, NO_COUNTS, VhostKey, VhostValue};
use carp_common::digest::PreparedDigest;
use carp_common::proto::Standing;
use zeroize::Zeroizing;

use super::error::KernelError;
use super::slots::{Slots, add};
use super::tables::{AddressOwner, Fenced, Tables};
use crate::config::Fence;

/// Everything that the datapath must know about a virtual host.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// One for each family that it is heard in.
    pub endpoints: &'a [Endpoints],
    /// Every accepted form of its digest, the likeliest first. The kernel program delivers nothing else.
    pub digests: &'a [PreparedDigest],
    /// Its state and its deadlines, which change with every advertisement.
    pub standing: Standing,
}

/// The source and destination of a virtual host's advertisements in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The destination.
    pub group: IpAddr,
    /// The source of ours. `None` if peers may send from it as well, because then it proves nothing.
    pub own: Option<IpAddr>,
}

/// The entries of the virtual hosts that this process serves, and their addresses in the shared tables.
pub struct Entries {
    /// The number that marks our entries. Our programs deliver advertisements for these only.
    instance: u64,
    fence: Fence,
    /// The tables of our programs, or those that others pinned. `None` if there are none yet.
    pub tables: Option<Tables>,
    /// `None` before the kernel program is loaded.
    slots: Option<Slots>,
    /// The entries. The sockets look them up here; the kernel program has its own copy.
    vhosts: HashMap<VhostKey, VhostValue>,
    /// The counts of the kernel program for virtual hosts until they were last removed.
    retired: BTreeMap<VhostKey, Counts>,
}

impl Entries {
    /// Returns no entries yet. `tables` are those that others pinned.
    #[must_use]
    pub fn new(instance: u64, fence: Fence, tables: Option<Tables>) -> Self {
        Self {
            instance,
            fence,
            tables,
            slots: None,
            vhosts: HashMap::new(),
            retired: BTreeMap::new(),
        }
    }

    /// Uses the maps of the kernel program from now on.
    pub fn use_maps(&mut self, tables: Tables, slots: Slots) {
        self.tables = Some(tables);
        self.slots = Some(slots);
    }

    /// Adds a virtual host, whose advertisements are delivered from now on.
    ///
    /// # Errors
    /// Returns any refusal of the kernel, E2BIG if its map is full. There is no such virtual host then.
    pub fn configure(&mut self, key: VhostKey, entry: &Entry<'_>) -> Result<(), KernelError> {
        let mut value = VhostValue {
            instance: self.instance,
            ..VhostValue::NONE
        };
        for endpoints in entry.endpoints {
            value = value.hearing(endpoints.group, endpoints.own);
        }
        set_standing(&mut value, entry.standing);
        let configured = self.publish(key, value, entry.digests);
        if configured.is_err() {
            // `renew` must not find an incomplete entry. A second refusal would tell nothing new.
            let _ = self.remove(key);
        }
        configured
    }

    /// Writes the keys before the entry, because the entry names them.
    fn publish(
        &mut self,
        key: VhostKey,
        mut value: VhostValue,
        digests: &[PreparedDigest],
    ) -> Result<(), KernelError> {
        // Sockets deliver everything that is well formed, and need no keys.
        if let Some(slots) = &mut self.slots {
            let keys = Zeroizing::new(KernelKeys::new(digests));
            slots.furnish(key, &mut value, &keys)?;
        }
        self.vhosts.insert(key, value);
        self.write(key)
    }

    /// Writes the state and the deadlines of a virtual host, in one write however many addresses it has. Does nothing if
    /// `key` is not configured.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), KernelError> {
        if let Some(value) = self.vhosts.get_mut(&key) {
            set_standing(value, standing);
        }
        self.write(key)
    }

    /// Changes the endpoints of `key` in one family. Packets from our own address are dropped. The memory of what was heard
    /// stays. Does nothing if `key` is not configured.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn set_endpoints(
        &mut self,
        key: VhostKey,
        endpoints: Endpoints,
    ) -> Result<(), KernelError> {
        if let Some(value) = self.vhosts.get_mut(&key) {
            *value = value.hearing(endpoints.group, endpoints.own);
        }
        self.write(key)
    }

    fn write(&mut self, key: VhostKey) -> Result<(), KernelError> {
        match (&mut self.tables, self.vhosts.get(&key)) {
            (Some(tables), Some(value)) => tables.write(key, value),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Removes a virtual host, whose advertisements are no longer delivered. This host stays silent about the addresses that
    /// it still owns.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn remove(&mut self, key: VhostKey) -> Result<(), KernelError> {
        self.vhosts.remove(&key);
        let removed = match &mut self.tables {
            Some(tables) => tables.remove(key),
            None => Ok(()),
        };
        let Some(slots) = &mut self.slots else {
            return removed;
        };
        // The keys go even if the entry could not be removed, because nothing is authentic without them.
        let released = slots.release(key);
        if let Ok(counts) = &released {
            let retired = self.retired.entry(key).or_insert(NO_COUNTS);
            add(retired, counts);
        }
        removed.and(released.map(drop))
    }

    /// Removes every virtual host.
    pub fn remove_all(&mut self) {
        let ours: Vec<VhostKey> = self.vhosts.keys().copied().collect();
        for key in ours {
            // An entry that cannot be removed is handled like any that a dead carpd left.
            let _ = self.remove(key);
        }
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        if let Some(tables) = &mut self.tables {
            tables.forget(ifindex);
        }
        if let Some(slots) = &mut self.slots {
            // If this fails, the slot of the ledger stays taken.
            let _ = slots.forget(ifindex);
        }
        self.retired.retain(|key, _| key.ifindex != ifindex);
    }

    /// Returns whether the kernel has the entry of `key` as it was written.
    #[must_use]
    pub fn is_intact(&self, key: VhostKey) -> bool {
        match (&self.slots, &self.tables, self.vhosts.get(&key)) {
            (Some(_), Some(tables), Some(written)) => tables.has(key, written),
            _ => true,
        }
    }

    /// Returns the entries, for the sockets.
    #[must_use]
    pub const fn vhosts(&self) -> &HashMap<VhostKey, VhostValue> {
        &self.vhosts
    }

    /// Returns what the kernel program counted for a virtual host since the start.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts_of(&mut self, key: VhostKey) -> Result<Counts, KernelError> {
        let mut sum = self.retired.get(&key).copied().unwrap_or(NO_COUNTS);
        if let Some(slots) = &mut self.slots {
            add(&mut sum, &slots.counts(key)?);
        }
        Ok(sum)
    }

    /// Begins to count the frames on an interface that are for no virtual host, if they are not counted yet.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn count_on(&mut self, ifindex: u32) -> Result<(), KernelError> {
        match &mut self.slots {
            Some(slots) => slots.count_on(ifindex),
            None => Ok(()),
        }
    }

    /// Returns what the kernel program counted on an interface for no virtual host.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, KernelError> {
        match &mut self.slots {
            Some(slots) => slots.counts_on(ifindex),
            None => Ok(NO_COUNTS),
        }
    }

    /// Returns the tables if there is a fence, and whether it covers every packet.
    fn fence(&mut self) -> Option<(&mut Tables, bool)> {
        match self.fence {
            Fence::Off => None,
            Fence::Arp => Some((self.tables.as_mut()?, false)),
            Fence::All => Some((self.tables.as_mut()?, true)),
        }
    }

    /// Fences an address: this host answers for it, and sends in its name, only while its owner is MASTER.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn own(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), KernelError> {
        let owner = Some(owner);
        match self.fence() {
            Some((tables, every_packet)) => tables.own(Fenced { address, owner }, every_packet),
            None => Ok(()),
        }
    }

    /// Fences an address for an owner that is not MASTER, unless another virtual host is MASTER with the address. The
    /// deadlines of an earlier run of the owner end.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn silence(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), KernelError> {
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

    /// Lifts the fence around an address. This host answers for it if it has it.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn disown(&mut self, fenced: Fenced) -> Result<(), KernelError> {
        match &mut self.tables {
            Some(tables) => tables.disown(fenced),
            None => Ok(()),
        }
    }
}

fn set_standing(value: &mut VhostValue, standing: Standing) {
    value.set_state(standing.state);
    value.alive_until_ns = standing.alive_until.as_nanos();
    value.owns_until_ns = standing.owns_until.as_nanos();
}
