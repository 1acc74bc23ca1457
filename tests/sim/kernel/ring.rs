//! Advertisements that wait for the process, with the time at which the kernel received them.

use std::collections::VecDeque;

use carp_common::abi::event::AdvertisementEvent;
use carp_common::time::Instant;

/// The ring between the kernel and a process.
#[derive(Debug)]
pub struct Ring {
    waiting: VecDeque<AdvertisementEvent>,
    size: usize,
    /// The number of advertisements that found no room since the process last asked.
    lost: u64,
}

impl Ring {
    /// Creates a ring with room for this many.
    #[must_use]
    pub const fn new(size: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            size,
            lost: 0,
        }
    }

    /// Delivers an advertisement to the kernel. Returns whether there was room for it.
    pub fn push(&mut self, event: AdvertisementEvent) -> bool {
        let has_room = self.waiting.len() < self.size;
        if has_room {
            self.waiting.push_back(event);
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// Takes the oldest advertisement, if it arrived by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<AdvertisementEvent> {
        let arrived = |event: &&AdvertisementEvent| event.arrival_ns <= now.as_nanos();
        self.waiting.front().filter(arrived)?;
        self.waiting.pop_front()
    }

    /// Whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns how many found no room since the process last asked.
    #[must_use]
    pub const fn losses(&self) -> u64 {
        self.lost
    }

    /// Returns how many were lost since this was last asked.
    pub fn take_losses(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Empties the ring at the end of the process; another process has a ring of its own.
    pub fn close(&mut self) {
        *self = Self::new(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_room_are_counted_until_the_count_is_read() {
        let mut ring = Ring::new(2);
        let pushed = [1, 2, 3].map(|at| ring.push(AdvertisementEvent::empty(at)));
        assert_eq!(pushed, [true, true, false]);
        assert_eq!(ring.pop(Instant::ZERO), None, "not yet");
        let popped = ring.pop(Instant::from_nanos(5)).map(|it| it.arrival_ns);
        assert_eq!(popped, Some(1));
        assert_eq!((ring.take_losses(), ring.take_losses()), (1, 0));
        ring.close();
        assert!(ring.is_empty());
    }
}
