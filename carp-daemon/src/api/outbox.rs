//! The way of an event to the log, for code that does not run in a turn of the engine.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use super::event::{Event, Place, What};

/// Takes events from every part of `io`, also from its threads and tasks, when they happen. Clones lead to the same place.
#[derive(Clone)]
pub struct Outbox(Arc<dyn Fn(Event) + Send + Sync>);

impl Outbox {
    /// Creates an outbox that passes every event on. `take` must not block, because the event loop calls it too.
    #[must_use]
    pub fn new(take: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Creates an outbox for a caller that shows no events.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(drop)
    }

    /// Sends an event whose rate is not limited.
    pub fn tell(&self, place: Place, what: impl Into<What>) {
        self.send(Event::new(place, what));
    }

    /// Sends an event.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }
}

impl Debug for Outbox {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
