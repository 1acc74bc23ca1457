//! What became of the frames of a packet socket, in total and for each virtual host.

use std::collections::BTreeMap;

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{Counts, NO_COUNTS, VhostKey};

/// The counters of one interface without a kernel program.
#[derive(Clone, Debug)]
pub struct Tally {
    all: Counts,
    /// The part of `all` that was for a virtual host.
    of: BTreeMap<VhostKey, Counts>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            all: NO_COUNTS,
            of: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts a frame, for a virtual host or for none.
    pub fn count(&mut self, counter: Counter, vhost: Option<VhostKey>) {
        self.add(counter, 1);
        if let Some(key) = vhost {
            let counts = self.of.entry(key).or_insert(NO_COUNTS);
            add(counts, counter, 1);
        }
    }

    /// Counts so many frames for no virtual host.
    pub fn add(&mut self, counter: Counter, amount: u64) {
        add(&mut self.all, counter, amount);
    }

    /// Returns every counter.
    pub const fn all(&self) -> Counts {
        self.all
    }

    /// Returns one counter.
    pub fn one(&self, counter: Counter) -> u64 {
        let index = usize::try_from(counter.index()).ok();
        let count = index.and_then(|index| self.all.get(index).copied());
        count.unwrap_or_default()
    }

    /// Returns every counter of the frames that were for a virtual host.
    pub fn of(&self, key: VhostKey) -> Counts {
        self.of.get(&key).copied().unwrap_or(NO_COUNTS)
    }

    /// Returns every counter of the frames that were for no virtual host.
    pub fn others(&self) -> Counts {
        let mut others = self.all;
        for counts in self.of.values() {
            for (sum, count) in others.iter_mut().zip(counts) {
                *sum = sum.wrapping_sub(*count);
            }
        }
        others
    }
}

fn add(counts: &mut Counts, counter: Counter, amount: u64) {
    if let Some(slot) = usize::try_from(counter.index())
        .ok()
        .and_then(|index| counts.get_mut(index))
    {
        *slot = slot.wrapping_add(amount);
    }
}

#[cfg(test)]
mod tests {
    use carp_common::units::Vhid;

    use super::*;

    #[test]
    fn a_frame_counts_in_total_and_for_its_virtual_host_or_for_none() {
        let [one, other] = [1, 2].map(|vhid| VhostKey::new(2, 0, Vhid::new(vhid).unwrap()));
        let mut tally = Tally::default();
        tally.count(Counter::Delivered, Some(one));
        tally.count(Counter::Delivered, None);
        tally.add(Counter::Delivered, 5);
        let index = usize::try_from(Counter::Delivered.index()).unwrap();
        let counts = [tally.of(one), tally.of(other), tally.others(), tally.all()];
        assert_eq!(counts.map(|counts| counts[index]), [1, 0, 6, 7]);
        assert_eq!(tally.one(Counter::Delivered), 7);
    }
}
