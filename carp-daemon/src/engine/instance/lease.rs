//! The leases of the addresses in native mode.
//!
//! The lease makes a dead daemon's addresses vanish by themselves. A MASTER renews it after half of it, in a turn that has
//! heard everything that arrived. So a process that was late, and lost the election meanwhile, renews nothing.

use std::time::Duration;

use carp_common::proto::tenure;
use carp_common::time::Instant;

use crate::config::{Lease, VhostConfig};

/// The time by which the kernel may end an address early, because it counts ticks.
const EARLY: Duration = Duration::from_millis(100);

/// The lease of one virtual host's addresses.
#[derive(Debug, Default)]
pub struct Term {
    /// The time at which the addresses vanish unless renewed.
    until: Option<Instant>,
    renew_at: Option<Instant>,
}

impl Term {
    /// Notes that the addresses were given this lease at `now`. `complete` means all of them.
    pub fn begin(&mut self, lease: Option<Duration>, complete: bool, now: Instant) {
        let Some(lease) = lease else {
            return;
        };
        if complete {
            self.until = Some(now + lease.saturating_sub(EARLY));
        }
        // If a renewal fails, there is time for a few more attempts.
        self.renew_at = Some(now + if complete { lease / 2 } else { lease / 8 });
    }

    /// Ends the lease, because this host is no longer MASTER.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Returns whether there is a lease.
    pub const fn runs(&self) -> bool {
        self.until.is_some()
    }

    /// Returns whether it ended because it was not renewed.
    pub fn has_run_out(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Returns whether it is being renewed.
    pub const fn is_being_renewed(&self) -> bool {
        self.runs() && self.renew_at.is_none()
    }

    /// Returns when to renew it.
    pub const fn renew_at(&self) -> Option<Instant> {
        self.renew_at
    }

    /// Notes that a renewal has begun. Its outcome decides when the next one is due.
    pub fn renewing(&mut self) {
        self.renew_at = None;
    }
}

/// Returns the lifetime of the addresses of a virtual host. `None` means that they stay for good.
pub fn of(option: Lease, config: &VhostConfig) -> Option<Duration> {
    match option {
        Lease::Auto => {
            let settings = &config.election;
            Some(tenure::lease(settings.advbase, settings.deadratio))
        }
        Lease::Fixed(lease) => Some(lease),
        Lease::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    const LEASE: Option<Duration> = Some(Duration::from_secs(4));

    #[test]
    fn a_lease_runs_out_a_moment_before_the_kernel_may_end_it_unless_it_is_renewed() {
        let mut term = Term::default();
        assert!(!term.runs() && !term.has_run_out(at(100_000)));
        term.begin(LEASE, true, at(0));
        assert_eq!(term.renew_at(), Some(at(2_000)));
        assert!(!term.has_run_out(at(3_899)) && term.has_run_out(at(3_900)));
        term.renewing();
        assert_eq!(term.renew_at(), None);
        term.begin(LEASE, true, at(2_000));
        assert!(!term.has_run_out(at(5_899)) && term.has_run_out(at(5_900)));
        // A failed renewal prolongs nothing, and is repeated soon.
        term.begin(LEASE, false, at(4_000));
        assert_eq!(term.renew_at(), Some(at(4_500)));
        assert!(term.has_run_out(at(5_900)));
    }

    #[test]
    fn a_lease_that_has_ended_is_not_renewed_and_does_not_run_out() {
        let mut term = Term::default();
        term.begin(LEASE, true, at(0));
        term.end();
        assert_eq!(term.renew_at(), None);
        assert!(!term.runs() && !term.has_run_out(at(100_000)));
        term.begin(None, true, at(0));
        assert!(
            !term.runs() && term.renew_at().is_none(),
            "it stays for good"
        );
    }
}
