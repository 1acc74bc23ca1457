//! Received advertisements on their way to the engine, a bounded number at a time.

use carp_common::abi::event::AdvertisementEvent;

/// Whether a drain left something behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Nothing is left.
    Empty,
    /// Everything that is left arrived after the drain began.
    Later,
    /// The batch is full. Handle it and drain again.
    Full,
}

/// Received advertisements. The default has no memory yet.
#[derive(Debug, Default)]
pub struct Batch(Vec<AdvertisementEvent>);

impl Batch {
    const CAPACITY: usize = 256;

    /// Returns an empty batch with its memory.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(Self::CAPACITY))
    }

    /// Adds an advertisement.
    pub fn push(&mut self, event: AdvertisementEvent) {
        self.0.push(event);
    }

    /// Returns whether the batch must be emptied before more is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= Self::CAPACITY
    }

    /// Takes the advertisements out, in order of arrival on their interface.
    pub fn take(&mut self) -> impl Iterator<Item = AdvertisementEvent> + '_ {
        self.0.drain(..)
    }
}
