//! The maps that the programs of this process do not share: the digests that each virtual host accepts, what it heard, and
//! the counters of virtual hosts and interfaces.
//!
//! Both are in arrays of fixed sizes, because elements of arrays are written in place. Values that a hash map replaces or
//! removes stay in the kernel's memory, and digests are secrets. Arrays of arrays hold the arrays, so that there can be a new
//! array at any time for a virtual host that finds no free slot.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{
    Array, ArrayOfMaps, HashMap, InnerMap, MapData, MapError, PerCpuArray, PerCpuValues,
};
use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::{
    CROWDED_MAP, Counts, INTERFACES_MAP, InterfaceValue, KEYS_MAP, KEYS_PER_CHUNK, LEDGERS_MAP,
    LEDGERS_PER_CHUNK, Ledger, NO_COUNTS, VhostKey, VhostValue,
};
use carp_common::units::Family;

use super::error::{KernelError, map_error};
use super::object::take;

/// The slots of every virtual host and every interface.
pub struct Slots {
    keys: Chunks<Array<MapData, KernelKeys>>,
    ledgers: Chunks<PerCpuArray<MapData, Ledger>>,
    processors: usize,
    taken: BTreeMap<VhostKey, Taken>,
    /// The maps in which the programs find the ledgers of interfaces.
    places: Array<MapData, InterfaceValue>,
    crowded: HashMap<MapData, u32, u32>,
    /// The ledgers of interfaces.
    interfaces: BTreeMap<u32, u32>,
}

/// The slots of one virtual host.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    keys: Option<u32>,
    /// For IPv4 and IPv6.
    ledgers: [Option<u32>; 2],
}

impl Slots {
    /// Takes the maps from the object. Every slot is free.
    ///
    /// # Errors
    /// Returns an error if a map is missing.
    pub fn take(object: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            keys: Chunks::new(KEYS_MAP, take(object, KEYS_MAP)?, KEYS_PER_CHUNK),
            ledgers: Chunks::new(LEDGERS_MAP, take(object, LEDGERS_MAP)?, LEDGERS_PER_CHUNK),
            processors: aya::util::nr_cpus()
                .map_err(|(_, source)| KernelError::Processors(source))?,
            taken: BTreeMap::new(),
            places: take(object, INTERFACES_MAP)?,
            crowded: take(object, CROWDED_MAP)?,
            interfaces: BTreeMap::new(),
        })
    }

    /// Gives a virtual host its slots, writes its keys, and names the slots in its entry. The memory of what it heard stays.
    ///
    /// # Errors
    /// Returns any refusal of the kernel. The slots must still be released then.
    pub fn furnish(
        &mut self,
        key: VhostKey,
        value: &mut VhostValue,
        keys: &KernelKeys,
    ) -> Result<(), KernelError> {
        let taken = self.taken.entry(key).or_default();
        let slot = match taken.keys {
            Some(slot) => slot,
            None => {
                let slot = self.keys.take(|| Array::create(KEYS_PER_CHUNK, 0))?;
                *taken.keys.insert(slot)
            }
        };
        let (chunk, place) = self.keys.at(slot)?;
        chunk
            .set(place, keys, 0)
            .map_err(map_error("write", KEYS_MAP))?;
        value.keys = slot;
        let families = [Family::Inet, Family::Inet6];
        for (ledger, family) in taken.ledgers.iter_mut().zip(families) {
            if ledger.is_some() || !value.hears(family) {
                continue;
            }
            let slot = self
                .ledgers
                .take(|| PerCpuArray::create(LEDGERS_PER_CHUNK, 0))?;
            *ledger = Some(slot);
            empty(&mut self.ledgers, slot, self.processors)?;
        }
        [value.ledger, value.ledger6] = taken.ledgers.map(Option::unwrap_or_default);
        Ok(())
    }

    /// Releases a virtual host's slots and wipes its keys. Returns what was counted for it.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn release(&mut self, key: VhostKey) -> Result<Counts, KernelError> {
        let counts = self.counts(key);
        let Some(taken) = self.taken.remove(&key) else {
            return counts;
        };
        self.ledgers.free.extend(taken.ledgers.iter().flatten());
        if let Some(slot) = taken.keys {
            let (chunk, place) = self.keys.at(slot)?;
            chunk
                .set(place, KernelKeys::NONE, 0)
                .map_err(map_error("wipe", KEYS_MAP))?;
            self.keys.free.push(slot);
        }
        counts
    }

    /// Returns what became of the advertisements for a virtual host, in both families and on every processor.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts(&mut self, key: VhostKey) -> Result<Counts, KernelError> {
        let taken = self.taken.get(&key).copied().unwrap_or_default();
        self.sum(taken.ledgers)
    }

    /// Begins to count the frames on an interface that are for no virtual host, if they are not counted yet.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn count_on(&mut self, ifindex: u32) -> Result<(), KernelError> {
        if self.interfaces.contains_key(&ifindex) {
            return Ok(());
        }
        let ledger = self
            .ledgers
            .take(|| PerCpuArray::create(LEDGERS_PER_CHUNK, 0))?;
        let named = self.name(ifindex, ledger);
        match named {
            Ok(()) => drop(self.interfaces.insert(ifindex, ledger)),
            Err(_) => self.ledgers.free.push(ledger),
        }
        named
    }

    /// Names the ledger of an interface to the programs.
    fn name(&mut self, ifindex: u32, ledger: u32) -> Result<(), KernelError> {
        empty(&mut self.ledgers, ledger, self.processors)?;
        let slot = InterfaceValue::slot(ifindex);
        if self.there(slot)? == InterfaceValue::default() {
            return self
                .places
                .set(slot, InterfaceValue { ifindex, ledger }, 0)
                .map_err(map_error("write", INTERFACES_MAP));
        }
        self.crowded
            .insert(ifindex, ledger, 0)
            .map_err(map_error("write", CROWDED_MAP))
    }

    /// Forgets the counters of an interface that is gone.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn forget(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let Some(ledger) = self.interfaces.remove(&ifindex) else {
            return Ok(());
        };
        let slot = InterfaceValue::slot(ifindex);
        if self.there(slot)?.ifindex == ifindex {
            self.places
                .set(slot, InterfaceValue::default(), 0)
                .map_err(map_error("write", INTERFACES_MAP))?;
        } else {
            self.crowded
                .remove(&ifindex)
                .map_err(map_error("write", CROWDED_MAP))?;
        }
        self.ledgers.free.push(ledger);
        Ok(())
    }

    /// Returns what became of the frames on an interface that were for no virtual host.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts_on(&mut self, ifindex: u32) -> Result<Counts, KernelError> {
        let ledger = self.interfaces.get(&ifindex).copied();
        self.sum([ledger])
    }

    /// Returns the interface that has a place.
    fn there(&self, place: u32) -> Result<InterfaceValue, KernelError> {
        self.places
            .get(&place, 0)
            .map_err(map_error("read", INTERFACES_MAP))
    }

    /// Returns the sum of some ledgers' counters.
    fn sum(
        &mut self,
        ledgers: impl IntoIterator<Item = Option<u32>>,
    ) -> Result<Counts, KernelError> {
        let mut sum = NO_COUNTS;
        for slot in ledgers.into_iter().flatten() {
            let (chunk, place) = self.ledgers.at(slot)?;
            let ledgers = chunk
                .get(&place, 0)
                .map_err(map_error("read", LEDGERS_MAP))?;
            for ledger in ledgers.iter() {
                add(&mut sum, &ledger.counts);
            }
        }
        Ok(sum)
    }
}

/// Writes zeros into a ledger.
fn empty(
    ledgers: &mut Chunks<PerCpuArray<MapData, Ledger>>,
    slot: u32,
    processors: usize,
) -> Result<(), KernelError> {
    let zeros =
        PerCpuValues::try_from(vec![Ledger::EMPTY; processors]).map_err(KernelError::Processors)?;
    let (chunk, place) = ledgers.at(slot)?;
    chunk
        .set(place, zeros, 0)
        .map_err(map_error("write", LEDGERS_MAP))
}

/// Adds each of the counters.
pub fn add(sum: &mut Counts, more: &Counts) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.wrapping_add(*more);
    }
}

/// Arrays of one kind in an array of arrays. Slot 0 is never used, because 0 means no slot.
struct Chunks<M> {
    name: &'static str,
    outer: ArrayOfMaps<MapData, M>,
    chunks: Vec<M>,
    slots_per_chunk: u32,
    free: Vec<u32>,
}

impl<M: InnerMap> Chunks<M> {
    const fn new(name: &'static str, outer: ArrayOfMaps<MapData, M>, slots_per_chunk: u32) -> Self {
        Self {
            name,
            outer,
            chunks: Vec::new(),
            slots_per_chunk,
            free: Vec::new(),
        }
    }

    /// Returns a free slot, in a new array if there is none.
    fn take(&mut self, make: impl FnOnce() -> Result<M, MapError>) -> Result<u32, KernelError> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let number = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        if number >= self.outer.len() {
            return Err(KernelError::Full(self.name));
        }
        let chunk = make().map_err(map_error("enlarge", self.name))?;
        self.outer
            .set(number, &chunk, 0)
            .map_err(map_error("enlarge", self.name))?;
        self.chunks.push(chunk);
        let first = number * self.slots_per_chunk;
        let slots = first.max(1)..first + self.slots_per_chunk;
        self.free.extend(slots.rev());
        self.free.pop().ok_or(KernelError::Full(self.name))
    }

    /// Returns the array of a slot, and its index there.
    fn at(&mut self, slot: u32) -> Result<(&mut M, u32), KernelError> {
        let chunk = usize::try_from(slot / self.slots_per_chunk).unwrap_or(usize::MAX);
        let chunk = self
            .chunks
            .get_mut(chunk)
            .ok_or(KernelError::Full(self.name))?;
        Ok((chunk, slot % self.slots_per_chunk))
    }
}
