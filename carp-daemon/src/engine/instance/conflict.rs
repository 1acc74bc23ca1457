//! Another host that has our virtual address, as ARP shows it.
//!
//! Only a MASTER watches, and only after a moment in which the host that was MASTER before may still answer. What a
//! host answers to others does not reach us, so we ask for our own address now and then, in a way that changes nobody's
//! tables (a probe, RFC 5227). A claim is answered by an announcement, so that clients come back to us: once in a while
//! where the other host is a CARP MASTER as well, which answers ours in turn, and every second where it is not.
//!
//! While advertisements of another MASTER are heard, its claims are the election's business and only counted.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::proto::VirtualHost;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;
use carp_common::units::Vhid;
use carp_common::wire::ether::MacAddress;

use super::super::context::{REPORT_INTERVAL, Site};
use super::super::effects::Effects;
use super::Identity;
use crate::api::event::election::{Claimant, Conflict as Event, Transmit, Unheard};
use crate::io::arp_watch::ArpClaim;

/// For the MASTER before us to stop answering.
const GRACE: Duration = Duration::from_millis(500);
/// Time between two questions for our own address.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two answers to another CARP MASTER (`DEFEND_INTERVAL`, RFC 5227, 2.4): two that answer each other would
/// never stop. Any other host is answered each time, which is once a second.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// How long a station counts as a CARP MASTER after it showed that it is one. It does so with each of its answers.
const CARP_MEMORY: Duration = Duration::from_secs(60);
/// What a virtual host wants to know from ARP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Watch {
    /// Nothing: not MASTER.
    #[default]
    Off,
    /// Nothing yet.
    From(Instant),
    /// Who else has its addresses.
    On {
        /// When to ask for them.
        next_probe: Instant,
    },
}

impl Watch {
    /// When something is due.
    const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::From(at) | Self::On { next_probe: at } => Some(at),
        }
    }
}

/// Claims of others to the addresses of one virtual host.
#[derive(Debug, Default)]
pub struct Conflict {
    watch: Watch,
    /// How many packets.
    count: u64,
    limit: RateLimit,
    /// The last claimant that showed that it is a CARP MASTER, and when.
    carp_master: Option<(MacAddress, Instant)>,
    /// When we last answered one.
    defended_at: Option<Instant>,
}

impl Conflict {
    /// Whether the claimant is a CARP MASTER for this vhid: its announcement says so, its MAC address does (FreeBSD,
    /// OpenBSD), or it showed it lately.
    fn is_of_carp_master(&mut self, claim: &ArpClaim, vhid: Vhid, now: Instant) -> bool {
        let sender = claim.arp.sender_mac;
        let [a, b, c, d, kind, id] = sender.0;
        let is_virtual = [a, b, c, d] == [0, 0, 0x5e, 0] && kind <= 1 && id == vhid.get();
        if claim.is_marked || is_virtual {
            self.carp_master = Some((sender, now));
        }
        self.carp_master
            .is_some_and(|(mac, at)| mac == sender && now < at + CARP_MEMORY)
    }

    /// Whether a claim is to be answered now.
    fn is_to_be_answered(&mut self, is_carp_master: bool, now: Instant) -> bool {
        let rests = self
            .defended_at
            .is_some_and(|at| now < at + DEFEND_INTERVAL);
        if !is_carp_master {
            return true;
        }
        if !rests {
            self.defended_at = Some(now);
        }
        !rests
    }
}

impl Conflict {
    /// Now MASTER of these addresses.
    pub fn begin(&mut self, who: &Identity, now: Instant) {
        if who.inet_addresses().next().is_some() {
            self.watch = Watch::From(now + GRACE);
        }
    }

    /// No longer MASTER. Returns whether ARP was watched.
    pub fn end(&mut self) -> bool {
        matches!(std::mem::take(&mut self.watch), Watch::On { .. })
    }

    /// Whether ARP is watched.
    pub const fn is_watching(&self) -> bool {
        matches!(self.watch, Watch::On { .. })
    }

    /// How many packets claimed one of the addresses.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// When something is due.
    pub const fn deadline(&self) -> Option<Instant> {
        self.watch.deadline()
    }

    /// Begins to watch, or asks for our own addresses, when it is time.
    pub fn timeout<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        let now = site.cx.now;
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let next_probe = now + PROBE_INTERVAL;
        let before = std::mem::replace(&mut self.watch, Watch::On { next_probe });
        if let Watch::From(_) = before {
            site.interface.watched_changed = true;
        }
        let Some(ifindex) = site.interface.ifindex else {
            return;
        };
        for address in who.inet_addresses() {
            if let Err(error) = site.cx.effects.probe(ifindex, address) {
                let failed = Event::ProbeFailed {
                    address: IpAddr::V4(address),
                    error: error.to_string(),
                };
                site.cx.tell(&who.place, failed);
            }
        }
    }

    /// Takes in the claims that others made since the last look, on the interface of this virtual host.
    pub fn hear<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        claims: &[ArpClaim],
        site: &mut Site<'_, E>,
    ) -> bool {
        if !self.is_watching() {
            return false;
        }
        // The last claim, if possible of somebody who is no CARP MASTER.
        let mut last: Option<(&ArpClaim, bool)> = None;
        let mut count = 0;
        for claim in claims {
            let sender = claim.arp.sender_ip;
            if who.inet_addresses().all(|it| it != sender) {
                continue;
            }
            let is_carp = self.is_of_carp_master(claim, who.config.election.vhid, site.cx.now);
            if last.is_none_or(|(_, is_carp_before)| is_carp_before || !is_carp) {
                last = Some((claim, is_carp));
            }
            count += 1;
        }
        let Some((claim, is_carp)) = last else {
            return false;
        };
        self.count += count;
        self.answer(who, machine, claim, is_carp, site);
        true
    }

    /// What found no room passed the same filter: more of the same.
    pub fn count_lost(&mut self, lost: u64) {
        self.count += lost;
    }

    fn answer<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        claim: &ArpClaim,
        is_carp_master: bool,
        site: &mut Site<'_, E>,
    ) {
        let now = site.cx.now;
        let disputed = machine
            .last_heard()
            .is_some_and(|last| last.arrival + machine.master_down_time() > now);
        if disputed {
            return;
        }
        let address = IpAddr::V4(claim.arp.sender_ip);
        if let Some(suppressed) = self.limit.admit(now, REPORT_INTERVAL) {
            let claimant = match is_carp_master {
                true => Claimant::CarpMaster,
                false => Claimant::Other,
            };
            // Those that are not valid, or come by unicast, have warnings of their own.
            let heard = machine.counters().received_inet_packets;
            let by_unicast = site.cx.effects.count(Counter::PassedUnicast);
            let unheard = match who.config.own_mac {
                _ if heard > 0 || by_unicast.is_ok_and(|heard| heard > 0) => None,
                false => Some(Unheard::PortSecurity),
                true => Some(Unheard::PeerWithoutOwnMac),
            };
            let claimed = Event::Claimed {
                address,
                station: claim.arp.sender_mac,
                claimant,
                unheard,
            };
            site.cx.tell_after(suppressed, &who.place, claimed);
        }
        if !self.is_to_be_answered(is_carp_master, now) {
            return;
        }
        if let Some(ifindex) = site.interface.ifindex
            && let Err(error) = site.cx.effects.announce(ifindex, address)
        {
            let error = error.to_string();
            let failed = Transmit::AnnouncementFailed { address, error };
            site.cx.tell(&who.place, failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use carp_common::wire::arp::{Arp, Operation};

    use std::net::Ipv4Addr;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn claim(sender_mac: MacAddress, is_marked: bool) -> ArpClaim {
        ArpClaim {
            arp: Arp {
                operation: Operation::Request,
                sender_mac,
                sender_ip: Ipv4Addr::new(10, 0, 0, 100),
                target_mac: MacAddress([0; 6]),
                target_ip: Ipv4Addr::new(10, 0, 0, 100),
            },
            is_marked,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_carp_master_shows_by_its_mark_or_its_address_and_is_remembered() {
        let vhid = Vhid::new(7).unwrap();
        let mut conflicts = Conflict::default();
        let mut is_one = |mac, marked, seconds| {
            conflicts.is_of_carp_master(&claim(mac, marked), vhid, at(seconds))
        };
        assert!(!is_one(MAC, false, 1));
        assert!(is_one(MAC, true, 2));
        assert!(is_one(MAC, false, 61) && !is_one(MAC, false, 62));
        for (kind, id, expected) in [(0, 7, true), (1, 7, true), (1, 8, false), (2, 7, false)] {
            let mac = MacAddress([0, 0, 0x5e, 0, kind, id]);
            assert_eq!(is_one(mac, false, 100), expected, "{mac}");
        }
    }

    #[test]
    fn a_carp_master_is_answered_once_in_ten_seconds_and_others_each_time() {
        let mut conflicts = Conflict::default();
        let mut answered = |is_carp| {
            (0..30)
                .filter(|second| conflicts.is_to_be_answered(is_carp, at(*second)))
                .count()
        };
        assert_eq!((answered(true), answered(false)), (3, 30));
    }
}
