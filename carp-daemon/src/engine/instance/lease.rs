//! How long the addresses of native mode outlive us.
//!
//! The lease makes a dead daemon's addresses vanish by themselves. A MASTER renews it after half of it, once its turn has
//! heard everything that arrived: one that was late, and lost the election meanwhile, renews nothing.

use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{AdvSkew, Priority};

use crate::config::VhostConfig;

/// The kernel counts ticks and may end an address so much before its time.
const EARLY: Duration = Duration::from_millis(100);
/// The kernel counts whole seconds: with less there would be no time for a second attempt.
const SHORTEST: Duration = Duration::from_secs(2);

/// The lease of one virtual host's addresses.
#[derive(Debug, Default)]
pub struct Term {
    /// When the addresses vanish unless renewed.
    until: Option<Instant>,
    renew_at: Option<Instant>,
}

impl Term {
    /// The addresses were given this lease at `now`; `complete`: all of them.
    pub fn begin(&mut self, lease: Option<Duration>, complete: bool, now: Instant) {
        let Some(lease) = lease else {
            return;
        };
        if complete {
            self.until = Some(now + lease.saturating_sub(EARLY));
        }
        // Failing, there is time for a few more attempts.
        self.renew_at = Some(now + if complete { lease / 2 } else { lease / 8 });
    }

    /// No longer MASTER.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether there is a lease.
    pub const fn runs(&self) -> bool {
        self.until.is_some()
    }

    /// Whether it ended because nobody renewed it.
    pub fn has_run_out(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// When to renew it.
    pub const fn renew_at(&self) -> Option<Instant> {
        self.renew_at
    }

    /// A renewal has begun; its outcome says when the next one is due.
    pub fn renewing(&mut self) {
        self.renew_at = None;
    }
}

/// A second more than an equal peer with advskew 0 waits before it takes over: a MASTER that is late for less keeps its
/// addresses, and those of a dead one go a moment after the takeover.
pub fn shortest(config: &VhostConfig) -> Duration {
    let fastest_peer = Priority {
        advbase: config.election.advbase,
        advskew: AdvSkew(0),
    };
    let takeover = fastest_peer.master_down_time(config.election.deadratio);
    let seconds = takeover.as_secs() + u64::from(takeover.subsec_nanos() > 0) + 1;
    Duration::from_secs(seconds).max(SHORTEST)
}
