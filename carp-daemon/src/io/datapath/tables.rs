//! The two tables that every carpd of a network namespace shares: its virtual hosts, and the addresses that the host must not
//! answer for unless their owner is MASTER.
//!
//! They are pinned beside the programs, and every program looks into them. So what a dead daemon left there holds for as long
//! as any program is attached, whoever attached it and whatever was started since. An address names its owner, which tells
//! whose it is, and goes when it is removed from the host; the deadline is the owner's.

use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use carp_common::abi::layout::{
    ADDRESSES_MAP, AddressKey, AddressValue, EVERY_PACKET, VHOSTS_MAP, VhostKey, VhostValue,
};
use carp_common::units::Vhid;
use tracing::debug;

use super::error::{KernelError, errno, map_error};
use super::object::take;
use super::pins::Pins;
use super::shared::SHARED;
use crate::io::clock;

/// The tables.
pub struct Tables {
    vhosts: HashMap<MapData, VhostKey, VhostValue>,
    addresses: HashMap<MapData, AddressKey, AddressValue>,
}

/// An address, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The address.
    pub address: IpAddr,
    /// The virtual host that it belongs to; `None` where that is not known, and so nobody's.
    pub owner: Option<Owner>,
}

/// A virtual host, as others know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The interface that it is served on.
    pub ifindex: u32,
    /// Its vhid.
    pub vhid: Vhid,
}

impl Owner {
    fn of(key: &VhostKey) -> Option<Self> {
        Some(Self {
            ifindex: key.ifindex,
            vhid: Vhid::new(key.vhid)?,
        })
    }

    /// Its key, on the untagged link.
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
    /// Those of loaded programs.
    ///
    /// # Errors
    /// When they were taken before.
    pub fn take(object: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            vhosts: take(object, VHOSTS_MAP)?,
            addresses: take(object, ADDRESSES_MAP)?,
        })
    }

    /// Opens the pinned ones, for a process that loads no program.
    #[must_use]
    pub fn pinned(pins: &Pins) -> Option<Self> {
        let [vhosts, addresses] = SHARED.map(|table| {
            let path = pins.table(table.name)?;
            if !table.is_at(&path) {
                return None;
            }
            MapData::from_pin(&path)
                .map_err(|error| debug!("{}: {error}", path.display()))
                .ok()
        });
        Some(Self {
            vhosts: HashMap::try_from(Map::HashMap(vhosts?)).ok()?,
            addresses: HashMap::try_from(Map::HashMap(addresses?)).ok()?,
        })
    }

    /// Writes the entry of a virtual host, all of it at once.
    ///
    /// # Errors
    /// What the kernel refuses, E2BIG when there is no room.
    pub fn write(&mut self, key: VhostKey, value: &VhostValue) -> Result<(), KernelError> {
        self.vhosts
            .insert(key, value, 0)
            .map_err(map_error("write", VHOSTS_MAP))
    }

    /// Removes the entry of a virtual host; one that is not there is fine. From then on this host is silent about every
    /// address that names it as its owner.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn remove(&mut self, key: VhostKey) -> Result<(), KernelError> {
        absent_or(self.vhosts.remove(&key)).map_err(map_error("write", VHOSTS_MAP))
    }

    /// Whether the kernel has the entry as it was written; also when it cannot be asked.
    #[must_use]
    pub fn has(&self, key: VhostKey, written: &VhostValue) -> bool {
        match self.vhosts.get(&key, 0) {
            Ok(there) => there == *written,
            Err(MapError::KeyNotFound) => false,
            Err(_) => true,
        }
    }

    /// Whether a virtual host is MASTER, as far as this host may still believe it.
    fn is_master(&self, key: &VhostKey) -> bool {
        let entry = self.vhosts.get(key, 0);
        entry.is_ok_and(|value| value.owns_until_ns > clock::now().as_nanos())
    }

    /// From now on the address is answered for only while its owner is MASTER; with `every_packet` that is about more than
    /// ARP and neighbour discovery.
    ///
    /// # Errors
    /// What the kernel refuses, E2BIG when there is no room.
    pub fn own(&mut self, fenced: Fenced, every_packet: bool) -> Result<(), KernelError> {
        let value = AddressValue {
            owner: fenced.owner_key(),
            flags: if every_packet { EVERY_PACKET } else { 0 },
        };
        self.addresses
            .insert(fenced.key(), value, 0)
            .map_err(map_error("write", ADDRESSES_MAP))
    }

    /// The same, unless another virtual host is MASTER with the address.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn inherit(&mut self, fenced: Fenced, every_packet: bool) -> Result<(), KernelError> {
        let known = self.addresses.get(&fenced.key(), 0).ok();
        let is_anothers = known
            .is_some_and(|value| value.owner != fenced.owner_key() && self.is_master(&value.owner));
        if is_anothers {
            return Ok(());
        }
        self.own(fenced, every_packet)
    }

    /// This host answers for the address if it has it, unless it is another virtual host's; a no-op where it is nobody's.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn disown(&mut self, fenced: Fenced) -> Result<(), KernelError> {
        let key = fenced.key();
        match self.addresses.get(&key, 0) {
            Ok(value)
                if value.owner != VhostKey::NONE && Owner::of(&value.owner) != fenced.owner =>
            {
                Ok(())
            }
            Ok(_) | Err(_) => {
                absent_or(self.addresses.remove(&key)).map_err(map_error("write", ADDRESSES_MAP))
            }
        }
    }

    /// Every address that has an owner in the network namespace.
    #[must_use]
    pub fn all(&self) -> Vec<Fenced> {
        let entries = self.addresses.iter().filter_map(Result::ok);
        entries
            .map(|(key, value)| Fenced {
                address: key.address(),
                owner: Owner::of(&value.owner),
            })
            .collect()
    }

    /// Those that belong to virtual hosts on an interface, whoever serves them.
    #[must_use]
    pub fn on(&self, ifindex: u32) -> Vec<Fenced> {
        let mut all = self.all();
        all.retain(|fenced| fenced.owner.is_some_and(|owner| owner.ifindex == ifindex));
        all
    }

    /// Removes what belongs to an interface that is gone: its index will not be used again.
    pub fn forget(&mut self, ifindex: u32) {
        for fenced in self.on(ifindex) {
            let _ = self.disown(fenced);
        }
        self.remove_entries(|key, _| key.ifindex == ifindex);
    }

    /// Removes the entries of virtual hosts that are MASTER no more and that nobody `serves`.
    pub fn remove_dead(&mut self, serves: impl Fn(u32, Vhid) -> bool) {
        let now = clock::now().as_nanos();
        self.remove_entries(|key, value| {
            let owner = Owner::of(key);
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

/// Removing what is not there is no failure.
fn absent_or(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(source) if errno(&source) == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}
