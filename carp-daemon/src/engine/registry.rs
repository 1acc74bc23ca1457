//! Who is served: ids that stay the same for as long as a virtual host is, and are never given twice.

use std::collections::{BTreeMap, HashMap};

use carp_common::abi::layout::VhostKey;

/// One virtual host of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u32);

/// One interface that virtual hosts live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u32);

/// Where a virtual host lives, and what the datapath knows it by.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: SegmentId,
    key: Option<VhostKey>,
}

/// Where each virtual host is, and who an advertisement is for.
#[derive(Debug, Default)]
pub struct Registry {
    instances: u32,
    segments: u32,
    places: BTreeMap<InstanceId, Place>,
    keys: HashMap<VhostKey, InstanceId>,
}

impl Registry {
    /// An id for another interface.
    pub fn segment(&mut self) -> SegmentId {
        self.segments += 1;
        SegmentId(self.segments)
    }

    /// An id for another virtual host.
    pub fn instance(&mut self) -> InstanceId {
        self.instances += 1;
        InstanceId(self.instances)
    }

    /// A virtual host lives there from now on.
    pub fn enter(&mut self, id: InstanceId, segment: SegmentId) {
        self.places.insert(id, Place { segment, key: None });
    }

    /// Forgets a virtual host.
    pub fn leave(&mut self, id: InstanceId) {
        self.rekey(id, None);
        self.places.remove(&id);
    }

    /// Where a virtual host lives.
    #[must_use]
    pub fn place(&self, id: InstanceId) -> Option<SegmentId> {
        self.places.get(&id).map(|place| place.segment)
    }

    /// Every virtual host, in the order in which they came, with its place.
    pub fn all(&self) -> impl ExactSizeIterator<Item = (InstanceId, SegmentId)> + '_ {
        self.places.iter().map(|(id, place)| (*id, place.segment))
    }

    /// The virtual host that is served after `id`, or the first one.
    #[must_use]
    pub fn next(&self, id: Option<InstanceId>) -> Option<InstanceId> {
        let after = id.and_then(|id| self.places.range(InstanceId(id.0 + 1)..).next());
        after
            .or_else(|| self.places.first_key_value())
            .map(|(id, _)| *id)
    }

    /// Who an advertisement is for.
    #[must_use]
    pub fn owner(&self, key: &VhostKey) -> Option<InstanceId> {
        self.keys.get(key).copied()
    }

    /// The datapath knows a virtual host by this key from now on.
    pub fn rekey(&mut self, id: InstanceId, key: Option<VhostKey>) {
        let Some(place) = self.places.get_mut(&id) else {
            return;
        };
        if place.key == key {
            return;
        }
        if let Some(old) = std::mem::replace(&mut place.key, key) {
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
