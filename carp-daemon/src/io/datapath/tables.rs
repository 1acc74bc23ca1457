//! The two tables that every carpd of a network namespace shares: its virtual hosts, and the addresses that the host answers
//! for only while their owner is MASTER.
//!
//! They are pinned next to the programs, and every program reads them. The entries of a dead daemon therefore apply as long as
//! any program is attached, whichever carpd attached it. An address names its owner, whose deadline applies, and its entry is
//! removed when the address is removed from the host.

use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use carp_common::abi::layout::{
    ADDRESSES_MAP, AddressKey, AddressValue, EVERY_PACKET, VHOSTS_MAP, VhostKey, VhostValue,
};
use carp_common::units::Vhid;

use super::error::{KernelError, errno, map_error};
use super::object::take;
use super::pin::tell_unusable;
use super::pins::Pins;
use super::shared::SHARED;
use crate::io::clock;

/// The two shared tables.
pub struct Tables {
    vhosts: HashMap<MapData, VhostKey, VhostValue>,
    addresses: HashMap<MapData, AddressKey, AddressValue>,
}

/// An address and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The address.
    pub address: IpAddr,
    /// The virtual host that it belongs to. `None` if that is not known; nobody answers for the address then.
    pub owner: Option<AddressOwner>,
}

/// The identity of a virtual host in the shared tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressOwner {
    /// The index of its interface.
    pub ifindex: u32,
    /// Its vhid.
    pub vhid: Vhid,
}

impl AddressOwner {
    fn of(key: &VhostKey) -> Option<Self> {
        Some(Self {
            ifindex: key.ifindex,
            vhid: Vhid::new(key.vhid)?,
        })
    }

    /// Returns its key on the untagged link.
    #[must_use]
    pub const fn key(&self) -> VhostKey {
        VhostKey::new(self.ifindex, 0, self.vhid)
    }
}

impl Fenced {
    fn key(&self) -> AddressKey {
        AddressKey::new(self.address, self.owner.map_or(0, |owner| owner.ifindex))
    }

    fn owner_key(&self) -> VhostKey {
        self.owner.map_or(VhostKey::NONE, |owner| owner.key())
    }
}

impl Tables {
    /// Takes the tables of the loaded object.
    ///
    /// # Errors
    /// Returns an error if they were taken before.
    pub fn take(object: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            vhosts: take(object, VHOSTS_MAP)?,
            addresses: take(object, ADDRESSES_MAP)?,
        })
    }

    /// Opens the pinned tables, for a process that loads no program.
    #[must_use]
    pub fn pinned(pins: &Pins) -> Option<Self> {
        let [vhosts, addresses] = SHARED.map(|table| {
            let path = pins.table(table.name)?;
            if !table.is_at(&path) {
                return None;
            }
            MapData::from_pin(&path)
                .map_err(|error| tell_unusable(&pins.outbox, &path, &error))
                .ok()
        });
        Some(Self {
            vhosts: HashMap::try_from(Map::HashMap(vhosts?)).ok()?,
            addresses: HashMap::try_from(Map::HashMap(addresses?)).ok()?,
        })
    }

    /// Writes the whole entry of a virtual host at once.
    ///
    /// # Errors
    /// Returns any refusal of the kernel, E2BIG if there is no room.
    pub fn write(&mut self, key: VhostKey, value: &VhostValue) -> Result<(), KernelError> {
        self.vhosts
            .insert(key, value, 0)
            .map_err(map_error("write", VHOSTS_MAP))
    }

    /// Removes the entry of a virtual host, if there is one. This host is then silent about every address that names it as its
    /// owner.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn remove(&mut self, key: VhostKey) -> Result<(), KernelError> {
        absent_or(self.vhosts.remove(&key)).map_err(map_error("write", VHOSTS_MAP))
    }

    /// Returns whether the kernel has the entry as it was written. Returns `true` if the kernel returns an error.
    #[must_use]
    pub fn has(&self, key: VhostKey, written: &VhostValue) -> bool {
        match self.vhosts.get(&key, 0) {
            Ok(there) => there == *written,
            Err(MapError::KeyNotFound) => false,
            Err(_) => true,
        }
    }

    /// Returns whether a virtual host is MASTER by its deadline.
    fn is_master(&self, key: &VhostKey) -> bool {
        let entry = self.vhosts.get(key, 0);
        entry.is_ok_and(|value| value.owns_until_ns > clock::now().as_nanos())
    }

    /// Fences an address: this host answers for it only while its owner is MASTER. With `every_packet` the fence covers more
    /// than ARP and neighbour discovery.
    ///
    /// # Errors
    /// Returns any refusal of the kernel, E2BIG if there is no room.
    pub fn own(&mut self, fenced: Fenced, every_packet: bool) -> Result<(), KernelError> {
        let value = AddressValue {
            owner: fenced.owner_key(),
            flags: if every_packet { EVERY_PACKET } else { 0 },
        };
        self.addresses
            .insert(fenced.key(), value, 0)
            .map_err(map_error("write", ADDRESSES_MAP))
    }

    /// Fences an address unless another virtual host is MASTER with it.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn inherit(&mut self, fenced: Fenced, every_packet: bool) -> Result<(), KernelError> {
        let known = self.addresses.get(&fenced.key(), 0).ok();
        let is_anothers = known
            .is_some_and(|value| value.owner != fenced.owner_key() && self.is_master(&value.owner));
        if is_anothers {
            return Ok(());
        }
        self.own(fenced, every_packet)
    }

    /// Lifts the fence around an address, unless it belongs to another virtual host. Does nothing if there is no fence.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn disown(&mut self, fenced: Fenced) -> Result<(), KernelError> {
        let key = fenced.key();
        match self.addresses.get(&key, 0) {
            Ok(value)
                if value.owner != VhostKey::NONE
                    && AddressOwner::of(&value.owner) != fenced.owner =>
            {
                Ok(())
            }
            Ok(_) | Err(_) => {
                absent_or(self.addresses.remove(&key)).map_err(map_error("write", ADDRESSES_MAP))
            }
        }
    }

    /// Returns every fenced address of the network namespace.
    #[must_use]
    pub fn all(&self) -> Vec<Fenced> {
        let entries = self.addresses.iter().filter_map(Result::ok);
        entries
            .map(|(key, value)| Fenced {
                address: key.address(),
                owner: AddressOwner::of(&value.owner),
            })
            .collect()
    }

    /// Returns the addresses of the virtual hosts on an interface, whichever carpd serves them.
    #[must_use]
    pub fn on(&self, ifindex: u32) -> Vec<Fenced> {
        let mut all = self.all();
        all.retain(|fenced| fenced.owner.is_some_and(|owner| owner.ifindex == ifindex));
        all
    }

    /// Removes the entries of an interface that is gone. Its index will not be used again.
    pub fn forget(&mut self, ifindex: u32) {
        for fenced in self.on(ifindex) {
            let _ = self.disown(fenced);
        }
        self.remove_entries(|key, _| key.ifindex == ifindex);
    }

    /// Removes the entries of virtual hosts that are not MASTER any more and that no living carpd serves.
    pub fn remove_dead(&mut self, serves: impl Fn(u32, Vhid) -> bool) {
        let now = clock::now().as_nanos();
        self.remove_entries(|key, value| {
            let owner = AddressOwner::of(key);
            value.owns_until_ns < now
                && owner.is_none_or(|owner| !serves(owner.ifindex, owner.vhid))
        });
    }

    fn remove_entries(&mut self, is_of_no_use: impl Fn(&VhostKey, &VhostValue) -> bool) {
        let entries = self.vhosts.iter().filter_map(Result::ok);
        let unused: Vec<VhostKey> = entries
            .filter(|(key, value)| is_of_no_use(key, value))
            .map(|(key, _)| key)
            .collect();
        for key in unused {
            let _ = self.remove(key);
        }
    }
}

/// Ignores the error that there was nothing to remove.
fn absent_or(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(source) if errno(&source) == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}
