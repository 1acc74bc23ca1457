//! What the kernel program looks up about a virtual host: its entry, keys and history.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use carp_common::abi::admission::History;
use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::widen;
use carp_common::abi::layout::{HISTORY_MAP, KEYS_MAP, VHOSTS_MAP, VhostKey, VhostValue};
use carp_common::time::Instant;

use super::error::{Error, errno, map_error};
use super::kernel::take;

/// Between whom the advertisements of a virtual host go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Where they are sent to.
    pub group: IpAddr,
    /// Where ours come from, unless that proves nothing, because peers may send from it as well.
    pub own: Option<IpAddr>,
}

impl Endpoints {
    /// The entry of the virtual host whose keys have this slot.
    pub(super) fn value(self, slot: u32) -> VhostValue {
        VhostValue {
            own_source: own_source(self.own),
            ..VhostValue::new(octets(self.group), slot)
        }
    }
}

/// [`VhostValue::own_source`].
pub(super) fn own_source(own: Option<IpAddr>) -> [u8; 16] {
    own.map_or([0; 16], octets)
}

/// As the kernel program compares them.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => widen(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The kernel's tables of virtual hosts.
///
/// Each entry has a slot in the arrays. Its keys are there before the entry is, and zeros after it is gone.
pub struct Guard {
    vhosts: HashMap<MapData, VhostKey, VhostValue>,
    keys: Array<MapData, KernelKeys>,
    history: PerCpuArray<MapData, History>,
    processors: usize,
    entries: BTreeMap<VhostKey, VhostValue>,
    free: Vec<u32>,
}

impl Guard {
    /// Takes the maps, of which every entry is free.
    ///
    /// # Errors
    /// A map that is not there.
    pub fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let keys: Array<MapData, KernelKeys> = take(object, KEYS_MAP)?;
        Ok(Self {
            free: (0..keys.len()).rev().collect(),
            vhosts: take(object, VHOSTS_MAP)?,
            keys,
            history: take(object, HISTORY_MAP)?,
            processors: aya::util::nr_cpus().map_err(|(_, source)| Error::Processors(source))?,
            entries: BTreeMap::new(),
        })
    }

    /// From now on what `keys` accept for `key`, between `endpoints`, is delivered.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn configure(
        &mut self,
        key: VhostKey,
        endpoints: Endpoints,
        keys: &KernelKeys,
        alive_until: Instant,
    ) -> Result<(), Error> {
        let slot = match self.entries.get(&key) {
            Some(value) => value.slot,
            None => self.free.pop().ok_or(Error::Full(VHOSTS_MAP))?,
        };
        let value = VhostValue {
            alive_until_ns: alive_until.as_nanos(),
            ..endpoints.value(slot)
        };
        self.entries.insert(key, value);
        let published = self.publish(key, value, keys);
        if published.is_err() {
            // What is half there must not be found by `keep_alive`. That it cannot be undone either is no news.
            let _ = self.remove(key);
        }
        published
    }

    /// The keys are there before the entry is.
    fn publish(
        &mut self,
        key: VhostKey,
        value: VhostValue,
        keys: &KernelKeys,
    ) -> Result<(), Error> {
        let slot = value.slot;
        let empty = PerCpuValues::try_from(vec![History::EMPTY; self.processors])
            .map_err(Error::Processors)?;
        self.history
            .set(slot, empty, 0)
            .map_err(map_error("write", HISTORY_MAP))?;
        self.keys
            .set(slot, keys, 0)
            .map_err(map_error("write", KEYS_MAP))?;
        self.write(key, value)
    }

    /// The daemon lives at least until then, as far as `key` is concerned; nothing when that is not there.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn keep_alive(&mut self, key: VhostKey, until: Instant) -> Result<(), Error> {
        let Some(value) = self.entries.get_mut(&key) else {
            return Ok(());
        };
        value.alive_until_ns = until.as_nanos();
        let value = *value;
        self.write(key, value)
    }

    /// Sets the address that we send from, and touches nothing else of `key`; nothing when that is not there.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_own_source(&mut self, key: VhostKey, own: Option<IpAddr>) -> Result<(), Error> {
        let Some(value) = self.entries.get_mut(&key) else {
            return Ok(());
        };
        value.own_source = own_source(own);
        let value = *value;
        self.write(key, value)
    }

    /// Whether the kernel has the entry as it was written; also when it cannot be asked.
    #[must_use]
    pub fn is_intact(&self, key: VhostKey) -> bool {
        match (self.entries.get(&key), self.vhosts.get(&key, 0)) {
            (Some(written), Ok(there)) => *written == there,
            (Some(_), Err(MapError::KeyNotFound)) => false,
            (Some(_), Err(_)) | (None, _) => true,
        }
    }

    fn write(&mut self, key: VhostKey, value: VhostValue) -> Result<(), Error> {
        self.vhosts
            .insert(key, value, 0)
            .map_err(map_error("write", VHOSTS_MAP))
    }

    /// Removes the entry and wipes its keys; one that is not there is fine.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove(&mut self, key: VhostKey) -> Result<(), Error> {
        let Some(VhostValue { slot, .. }) = self.entries.remove(&key) else {
            return Ok(());
        };
        let removed = absent_or(self.vhosts.remove(&key)).map_err(map_error("write", VHOSTS_MAP));
        // Whether or not that worked: without keys nothing is authentic.
        let wiped = self.keys.set(slot, KernelKeys::NONE, 0);
        self.free.push(slot);
        removed.and(wiped.map_err(map_error("wipe", KEYS_MAP)))
    }
}

/// Removing what is not there is no failure.
pub(super) fn absent_or(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(source) if errno(&source) == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}
