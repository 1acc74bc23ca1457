//! The ids of virtual hosts and interfaces. An id stays the same while its owner is served, and is never used again.

use std::collections::{BTreeMap, HashMap};

use carp_common::abi::layout::VhostKey;

/// One virtual host of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u32);

/// One interface that virtual hosts live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u32);

/// The interface of a virtual host, and its key in the datapath.
#[derive(Clone, Copy, Debug)]
struct Record {
    segment: SegmentId,
    key: Option<VhostKey>,
}

/// Finds the interface of each virtual host, and the virtual host that an advertisement is for.
#[derive(Debug, Default)]
pub struct Registry {
    instances: u32,
    segments: u32,
    records: BTreeMap<InstanceId, Record>,
    keys: HashMap<VhostKey, InstanceId>,
}

impl Registry {
    /// Returns an id for another interface.
    pub fn segment(&mut self) -> SegmentId {
        self.segments += 1;
        SegmentId(self.segments)
    }

    /// Returns an id for another virtual host.
    pub fn instance(&mut self) -> InstanceId {
        self.instances += 1;
        InstanceId(self.instances)
    }

    /// Registers a virtual host on an interface.
    pub fn enter(&mut self, id: InstanceId, segment: SegmentId) {
        self.records.insert(id, Record { segment, key: None });
    }

    /// Forgets a virtual host.
    pub fn leave(&mut self, id: InstanceId) {
        self.rekey(id, None);
        self.records.remove(&id);
    }

    /// Returns the interface of a virtual host.
    #[must_use]
    pub fn place(&self, id: InstanceId) -> Option<SegmentId> {
        self.records.get(&id).map(|record| record.segment)
    }

    /// Returns every virtual host with its interface, in the order in which they were added.
    pub fn all(&self) -> impl ExactSizeIterator<Item = (InstanceId, SegmentId)> + '_ {
        self.records
            .iter()
            .map(|(id, record)| (*id, record.segment))
    }

    /// Returns the virtual host after `id`, or the first one.
    #[must_use]
    pub fn next(&self, id: Option<InstanceId>) -> Option<InstanceId> {
        let after = id.and_then(|id| self.records.range(InstanceId(id.0 + 1)..).next());
        after
            .or_else(|| self.records.first_key_value())
            .map(|(id, _)| *id)
    }

    /// Returns the virtual host that an advertisement is for.
    #[must_use]
    pub fn owner(&self, key: &VhostKey) -> Option<InstanceId> {
        self.keys.get(key).copied()
    }

    /// Notes the key by which the datapath knows a virtual host from now on.
    pub fn rekey(&mut self, id: InstanceId, key: Option<VhostKey>) {
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        if record.key == key {
            return;
        }
        if let Some(old) = std::mem::replace(&mut record.key, key) {
            self.keys.remove(&old);
        }
        if let Some(new) = key {
            self.keys.insert(new, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_not_given_again_and_the_next_one_goes_round() {
        let mut registry = Registry::default();
        let place = registry.segment();
        let [first, second, third] = [(); 3].map(|()| registry.instance());
        for id in [first, second, third] {
            registry.enter(id, place);
        }
        assert_eq!(registry.next(None), Some(first));
        assert_eq!(registry.next(Some(first)), Some(second));
        registry.leave(second);
        assert_eq!(registry.next(Some(first)), Some(third));
        assert_eq!(registry.next(Some(third)), Some(first));
        assert_eq!(registry.place(second), None);
        assert!(registry.instance() > third);
    }
}
