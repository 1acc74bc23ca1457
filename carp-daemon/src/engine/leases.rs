//! How long the addresses of native mode outlive us.
//!
//! The lease makes a dead daemon's addresses vanish by themselves. A MASTER renews it after half of it, once its turn has
//! heard everything that arrived: one that was late, and lost the election meanwhile, renews nothing. A thread gives the
//! orders, because the kernel may have others to serve first, and advertisements must not wait.

use std::io;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{AdvSkew, Priority};
use tracing::error;

use super::addresses::Holding;
use super::{AT_ONCE, Engine};
use crate::config::{Lease, VhostConfig};
use crate::io::netlink::{Address, Order};

/// Leases are renewed so much earlier than they need to be when others are due: one bunch instead of many.
const AHEAD: Duration = Duration::from_millis(200);
/// The kernel counts ticks and may end an address so much before its time.
const EARLY: Duration = Duration::from_millis(100);
/// The kernel counts whole seconds: with less there would be no time for a second attempt.
const SHORTEST: Duration = Duration::from_secs(2);

/// A renewal under way.
pub struct Renewing {
    /// Whose addresses, how many orders each, and whether these are all.
    vhosts: Vec<(usize, usize, bool)>,
    begun: Instant,
    /// What became of the orders.
    pub outcomes: Option<Vec<io::Result<()>>>,
}

impl Engine {
    /// Lifetime of the addresses of a virtual host; `None` is for good.
    pub(super) fn lease(&self, vhost: usize) -> Option<Duration> {
        self.lease_of(&self.vhosts[vhost].config)
    }

    pub(super) fn lease_of(&self, config: &VhostConfig) -> Option<Duration> {
        match self.lease {
            Lease::Auto => Some(shortest(config)),
            Lease::Fixed(lease) => Some(lease),
            Lease::Off => None,
        }
    }

    /// The addresses of a virtual host were given their lease at `now`; `complete`: all of them.
    pub(super) fn note_lease(&mut self, vhost: usize, complete: bool, now: Instant) {
        let Some(lease) = self.lease(vhost) else {
            return;
        };
        if complete {
            self.vhosts[vhost].leased_until = Some(now + lease.saturating_sub(EARLY));
        }
        // Failing, there is time for a few more attempts.
        let next = if complete { lease / 2 } else { lease / 8 };
        self.renewals.set(vhost, Some(now + next));
    }

    /// No longer MASTER.
    pub(super) fn end_lease(&mut self, vhost: usize) {
        self.vhosts[vhost].leased_until = None;
        self.renewals.set(vhost, None);
    }

    /// When to renew next, unless that is under way.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        let idle = self.renewing.is_none();
        idle.then(|| self.renewals.earliest()).flatten()
    }

    /// Begins to renew what is due, in one bunch, and what is due soon along with it.
    pub(super) fn renew_leases(&mut self, now: Instant) {
        self.end_renewal();
        if self.next_renewal().is_none_or(|due| due > now) {
            return;
        }
        // What is somebody else's by now must not become ours.
        self.listen();
        let mut orders = Vec::with_capacity(AT_ONCE);
        let mut vhosts = Vec::with_capacity(AT_ONCE);
        while orders.len() < AT_ONCE
            && let Some((vhost, _)) = self.renewals.pop_due(now + AHEAD)
        {
            let lease = self.lease(vhost);
            let before = orders.len();
            let mut complete = true;
            for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
                if !self.is_ours(vhost, index, &address) {
                    continue;
                }
                // A renewal would add one that is gone; whether and when that is to be is for the guard to say.
                match self.known(&address) {
                    Some(_) => orders.push(Order::Renew(address, lease)),
                    None => complete = false,
                }
            }
            vhosts.push((vhost, orders.len() - before, complete));
        }
        self.renewing = Some(Renewing {
            vhosts,
            begun: now,
            outcomes: None,
        });
        self.netlink.give_later(orders);
    }

    /// Notes what became of the latest renewal, once that is known.
    fn end_renewal(&mut self) {
        let ended = self.renewing.take_if(|it| it.outcomes.is_some());
        let Some(Renewing {
            vhosts,
            begun,
            outcomes: Some(outcomes),
        }) = ended
        else {
            return;
        };
        self.look_back();
        let mut outcomes = outcomes.into_iter();
        let mut complaint = None;
        for (vhost, count, mut complete) in vhosts {
            for _ in 0..count {
                let outcome = outcomes
                    .next()
                    .unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()));
                if let Err(error) = outcome {
                    complete = false;
                    complaint.get_or_insert((vhost, error));
                }
            }
            // Otherwise it is no longer MASTER.
            if self.vhosts[vhost].leased_until.is_some() {
                self.note_lease(vhost, complete, begun);
            }
        }
        if let Some((vhost, error)) = complaint {
            let label = &self.vhosts[vhost].label;
            error!("{label}: failed to renew the lease of its address: {error}");
        }
    }

    /// Whether an address is there because of us, as far as netlink told.
    pub(super) fn is_ours(&self, vhost: usize, index: usize, address: &Address) -> bool {
        matches!(
            self.vhosts[vhost].holdings[index],
            Holding::Ours | Holding::Ordered
        ) && self
            .known(address)
            .is_none_or(|known| !self.is_theirs(known))
    }
}

/// A second more than an equal peer with advskew 0 waits before it takes over: a MASTER that is late for less keeps its
/// addresses, and those of a dead one go a moment after the takeover.
fn shortest(config: &VhostConfig) -> Duration {
    let fastest_peer = Priority {
        advbase: config.election.advbase,
        advskew: AdvSkew(0),
    };
    let takeover = fastest_peer.master_down_time(config.election.deadratio);
    let seconds = takeover.as_secs() + u64::from(takeover.subsec_nanos() > 0) + 1;
    Duration::from_secs(seconds).max(SHORTEST)
}
