//! The kinds of evidence, and the times by which a host measures its peers.

use crate::time::{Duration, Instant};

/// The value of an authentic advertisement as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The source lives: a counter that was never heard.
    New,
    /// The source lives: the constant counter of an OpenBSD.
    Constant,
    /// A host lived when this counter was first heard, with another priority or source. One of the two was altered.
    OtherVersion {
        /// The time at which it was first heard.
        since: Instant,
        /// Both came from the same source. Otherwise a peer may have come to the same counter.
        same_source: bool,
    },
    /// Nothing: the same advertisement came again, which a network can cause too.
    Duplicate,
    /// Nothing: the counter was heard before.
    Heard,
    /// Nothing yet: a new counter, unrelated to those of a source that counts.
    Unrelated,
}

impl Evidence {
    /// Returns whether it proves that the source lives and sent these fields.
    #[must_use]
    pub const fn is_proof(self) -> bool {
        matches!(self, Self::New | Self::Constant)
    }

    /// Returns whether the counter was never heard before.
    #[must_use]
    pub const fn is_new(self) -> bool {
        matches!(self, Self::New | Self::Unrelated)
    }
}

/// A host's own times and settings, by which it measures its peers.
#[derive(Clone, Copy, Debug)]
pub struct Yardstick {
    /// Its own interval.
    pub interval: Duration,
    /// The silence after which it takes over.
    pub master_down: Duration,
    /// No peer is an OpenBSD, so a repeated counter is never proof.
    pub no_openbsd: bool,
}

impl Yardstick {
    /// Returns how long a peer that shows this interval may be silent. No digest covers the interval. An altered copy can show
    /// a shorter one, so that the peer seems to be gone, or a longer one, so that its successor is not believed for minutes.
    pub(super) fn believes(self, shown: Duration) -> Duration {
        shown.min(self.master_down).max(self.interval)
    }
}
