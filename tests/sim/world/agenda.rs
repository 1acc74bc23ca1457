//! What is going to happen, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use carp_common::time::Instant;

/// Events with their times. Those of the same time happen in the order in which they were entered.
#[derive(Debug)]
pub struct Agenda<T> {
    /// Time, number and slot of each event. A run moves them often, so the events themselves stay in their slots.
    order: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    entered: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            order: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            entered: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// Enters an event.
    pub fn enter(&mut self, at: Instant, event: T) {
        self.entered += 1;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(event);
        self.order.push(Reverse((at, self.entered, slot)));
    }

    /// Takes out the next event, with its time.
    pub fn take_next(&mut self) -> Option<(Instant, T)> {
        let Reverse((at, _, slot)) = self.order.pop()?;
        self.free.push(slot);
        Some((at, self.slots[slot].take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_their_entry() {
        let at = Instant::from_nanos;
        let mut agenda = Agenda::default();
        for (time, event) in [(3, "c"), (1, "a"), (3, "d")] {
            agenda.enter(at(time), event);
        }
        assert_eq!(agenda.take_next(), Some((at(1), "a")));
        agenda.enter(at(3), "e");
        agenda.enter(at(2), "b");
        let rest: Vec<_> = std::iter::from_fn(|| agenda.take_next()).collect();
        let (times, events): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
        assert_eq!(events, ["b", "c", "d", "e"]);
        assert_eq!(times, [2, 3, 3, 3].map(at));
        assert_eq!(agenda.slots.len(), 4, "a slot is used again");
    }
}
