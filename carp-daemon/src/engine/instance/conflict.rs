//! Detects by ARP and neighbour discovery another host that has a virtual address.
//!
//! The core decides which claims count and how often they are answered (`proto/conflict.rs`). This room sends probes and
//! announcements, and reports conflicts.

use std::net::IpAddr;

use carp_common::abi::counters::Counter;
use carp_common::proto::VirtualHost;
use carp_common::proto::conflict::{Claim, Claimant, Conflicts, Question, Response};
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::pace::REPORT_INTERVAL;
use super::identity::Identity;
use crate::api::event::election::{Conflict as Event, Transmit, Unheard};
use crate::io::neighbour_watch::NeighbourClaim;

/// Claims of other hosts to the addresses of one virtual host.
#[derive(Debug, Default)]
pub struct Conflict {
    conflicts: Conflicts,
    /// The number of packets that claimed one.
    count: u64,
    /// One limit for each kind of claimant, so that the lines about one kind do not hide the other.
    carp_masters: RateLimit,
    others: RateLimit,
}

impl Conflict {
    /// Begins to watch, because this host is MASTER of the addresses now.
    pub fn begin(&mut self, who: &Identity, now: Instant) {
        if who.addresses().next().is_some() {
            self.conflicts.begin(now);
        }
    }

    /// Ends the watch, because this host is no longer MASTER. Returns whether neighbours were watched.
    pub fn end(&mut self) -> bool {
        self.conflicts.end()
    }

    /// Returns whether neighbours are watched.
    pub const fn is_watching(&self) -> bool {
        self.conflicts.is_watching()
    }

    /// Returns how many packets claimed one of the addresses.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns when something is due.
    pub const fn deadline(&self) -> Option<Instant> {
        self.conflicts.deadline()
    }

    /// Begins to watch, or probes for our own addresses, if it is time.
    pub fn timeout<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        match self.conflicts.timeout(site.cx.now) {
            None => return,
            Some(Question::First) => site.interface.watched_changed = true,
            Some(Question::Next) => {}
        }
        let Some(ifindex) = site.interface.ifindex else {
            return;
        };
        for address in who.addresses() {
            if let Err(error) = site.cx.effects.probe(ifindex, address) {
                let failed = Event::ProbeFailed {
                    address,
                    error: error.to_string(),
                };
                site.cx.tell(&who.place, failed);
            }
        }
    }

    /// Takes the claims that other hosts made since the last look on the interface of this virtual host.
    pub fn hear<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        claims: &[NeighbourClaim],
        site: &mut Site<'_, E>,
    ) -> bool {
        if !self.is_watching() {
            return false;
        }
        // The last claim, if possible of a host that is no CARP MASTER.
        let mut last: Option<(&NeighbourClaim, Claimant)> = None;
        let mut count = 0;
        for claim in claims {
            let NeighbourClaim {
                address,
                station,
                is_marked,
            } = *claim;
            if who.addresses().all(|it| it != address) {
                continue;
            }
            let vhid = who.config.election.vhid;
            let shown = Claim { station, is_marked };
            let claimant = self.conflicts.claimant(shown, vhid, site.cx.now);
            let counts = |before| before == Claimant::CarpMaster || claimant == Claimant::Other;
            if last.is_none_or(|(_, before)| counts(before)) {
                last = Some((claim, claimant));
            }
            count += 1;
        }
        let Some((claim, claimant)) = last else {
            return false;
        };
        self.count += count;
        let hears_a_master = machine.hears_a_master(site.cx.now);
        let response = self
            .conflicts
            .respond(claimant, hears_a_master, site.cx.now);
        match response {
            Response::Leave => {}
            Response::Tell => self.report(who, machine, claim, claimant, site),
            Response::Answer => {
                self.report(who, machine, claim, claimant, site);
                announce(who, claim.address, site);
            }
        }
        true
    }

    /// Counts claims that did not fit. They passed the same filter.
    pub fn count_lost(&mut self, lost: u64) {
        self.count += lost;
    }

    fn report<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        claim: &NeighbourClaim,
        claimant: Claimant,
        site: &mut Site<'_, E>,
    ) {
        let limit = match claimant {
            Claimant::CarpMaster => &mut self.carp_masters,
            Claimant::Other => &mut self.others,
        };
        if let Some(suppressed) = limit.admit(site.cx.now, REPORT_INTERVAL) {
            // Advertisements that are not valid, or come by unicast, have warnings of their own.
            let counters = machine.counters();
            let heard = counters.received_inet_packets + counters.received_inet6_packets;
            let by_unicast = site.cx.effects.count(Counter::PassedUnicast);
            let unheard = match who.config.own_mac {
                _ if heard > 0 || by_unicast.is_ok_and(|heard| heard > 0) => None,
                false => Some(Unheard::PortSecurity),
                true => Some(Unheard::PeerWithoutOwnMac),
            };
            let claimed = Event::Claimed {
                address: claim.address,
                station: claim.station,
                claimant,
                unheard,
            };
            site.cx.tell_after(suppressed, &who.place, claimed);
        }
    }
}

fn announce<E: Effects>(who: &Identity, address: IpAddr, site: &mut Site<'_, E>) {
    if let Some(ifindex) = site.interface.ifindex
        && let Err(error) = site.cx.effects.announce(ifindex, address)
    {
        let error = error.to_string();
        let failed = Transmit::AnnouncementFailed { address, error };
        site.cx.tell(&who.place, failed);
    }
}
