//! Another host that has our virtual address, as ARP shows it.
//!
//! Only a MASTER watches, and only after a moment in which the host that was MASTER before may still answer. What a
//! host answers to others does not reach us, so we ask for our own address now and then, in a way that changes nobody's
//! tables (a probe, RFC 5227). A claim is answered by an announcement, so that clients come back to us: once in a while
//! where the other host is a CARP MASTER as well, which answers ours in turn, and every second where it is not.
//!
//! While advertisements of another MASTER are heard, its claims are the election's business and only counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;
use carp_common::units::Vhid;
use carp_common::wire::ether::MacAddress;
use tracing::{debug, warn};

use super::Engine;
use crate::io::arp_watch::Claim;

/// For the MASTER before us to stop answering.
const GRACE: Duration = Duration::from_millis(500);
/// Time between two questions for our own address.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two answers to another CARP MASTER (`DEFEND_INTERVAL`, RFC 5227, 2.4): two that answer each other would
/// never stop. Any other host is answered each time, which is once a second.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// How long a station counts as a CARP MASTER after it showed that it is one. It does so with each of its answers.
const CARP_MEMORY: Duration = Duration::from_secs(60);
/// Least time between two log lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// What may be the matter where somebody has our address and no advertisement was ever heard.
const UNHEARD: &str = ", and no advertisement was ever heard here: if it runs CARP, a port on the way lets only the \
     network card's own MAC address pass, as VMware, Proxmox, Hyper-V and OpenStack do: give every host --own-mac, or allow \
     forged MAC addresses on its port";
const UNHEARD_WITH_OWN_MAC: &str = ", and no advertisement was ever heard here: if it runs CARP, give it --own-mac too, \
     and see whether the port or a firewall drops IP protocol 112";

/// What a virtual host wants to know from ARP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
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
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::From(at) | Self::On { next_probe: at } => Some(at),
        }
    }
}

/// Claims of others to the addresses of one virtual host.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// How many packets.
    pub count: u64,
    limit: RateLimit,
    /// The last claimant that showed that it is a CARP MASTER, and when.
    carp_master: Option<(MacAddress, Instant)>,
    /// When we last answered one.
    defended_at: Option<Instant>,
}

impl Conflicts {
    /// Whether the claimant is a CARP MASTER for this vhid: its announcement says so, its MAC address does (FreeBSD,
    /// OpenBSD), or it showed it lately.
    fn is_of_carp_master(&mut self, claim: &Claim, vhid: Vhid, now: Instant) -> bool {
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

impl Engine {
    pub(super) fn begin_watch(&mut self, vhost: usize, now: Instant) {
        if self.inet_addresses(vhost).next().is_some() {
            self.vhosts[vhost].watch = Watch::From(now + GRACE);
        }
    }

    pub(super) fn end_watch(&mut self, vhost: usize) {
        if let Watch::On { .. } = std::mem::take(&mut self.vhosts[vhost].watch) {
            self.interfaces[self.vhosts[vhost].interface].watched_changed = true;
        }
    }

    pub(super) fn watch_timeout(&mut self, vhost: usize, now: Instant) {
        let watch = self.vhosts[vhost].watch;
        if watch.deadline().is_none_or(|at| at > now) {
            return;
        }
        let next_probe = now + PROBE_INTERVAL;
        self.vhosts[vhost].watch = Watch::On { next_probe };
        if let Watch::From(_) = watch {
            self.interfaces[self.vhosts[vhost].interface].watched_changed = true;
        }
        let served = &self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return;
        };
        for address in self.inet_addresses(vhost) {
            if let Err(error) = port.probe(address) {
                debug!("{}: failed to ask for {address}: {error}", served.label);
            }
        }
    }

    /// When ARP that waits is to be looked at.
    pub(super) fn next_arp(&self) -> Option<Instant> {
        let watches = self.interfaces.iter().filter_map(|it| it.watch.as_ref());
        watches
            .filter_map(crate::io::arp_watch::ArpWatch::paused_until)
            .min()
    }

    /// Takes in what others said since the last look.
    pub(super) fn hear_arp(&mut self, now: Instant) {
        for interface in 0..self.interfaces.len() {
            let Some(watch) = &mut self.interfaces[interface].watch else {
                continue;
            };
            match watch.take(now) {
                Ok(seen) if seen.claims.is_empty() => {}
                Ok(seen) => self.judge_claims(interface, &seen.claims, seen.lost, now),
                Err(error) => debug!(
                    "{}: failed to receive ARP: {error}",
                    self.interfaces[interface].name
                ),
            }
        }
    }

    fn judge_claims(&mut self, interface: usize, seen: &[Claim], lost: u64, now: Instant) {
        // For each virtual host the last claim, if possible of somebody who is no CARP MASTER, and how many there were.
        let mut claims: BTreeMap<usize, ((Claim, bool), u64)> = BTreeMap::new();
        for claim in seen {
            let ours = |mac| self.links.values().any(|link| link.mac == mac);
            if ours(claim.arp.sender_mac.0) {
                continue;
            }
            for vhost in self.interfaces[interface].vhosts.clone() {
                let watches = matches!(self.vhosts[vhost].watch, Watch::On { .. });
                let sender = claim.arp.sender_ip;
                if !watches || self.inet_addresses(vhost).all(|it| it != sender) {
                    continue;
                }
                let served = &mut self.vhosts[vhost];
                let vhid = served.config.election.vhid;
                let is_carp = served.conflicts.is_of_carp_master(claim, vhid, now);
                let (last, count) = claims.entry(vhost).or_insert(((*claim, is_carp), 0));
                if last.1 || !is_carp {
                    *last = (*claim, is_carp);
                }
                *count += 1;
            }
        }
        // What found no room passed the same filter: more of the same.
        if let Some((_, count)) = claims.values_mut().next() {
            *count += lost;
        }
        for (vhost, ((claim, is_carp), count)) in claims {
            self.answer_claim(vhost, &claim, is_carp, count, now);
        }
    }

    fn answer_claim(
        &mut self,
        vhost: usize,
        claim: &Claim,
        is_carp_master: bool,
        count: u64,
        now: Instant,
    ) {
        let served = &mut self.vhosts[vhost];
        served.conflicts.count += count;
        let disputed = served
            .machine
            .last_heard()
            .is_some_and(|last| last.arrival + served.machine.master_down_time() > now);
        if disputed {
            return;
        }
        let address = claim.arp.sender_ip;
        if let Some(suppressed) = served.conflicts.limit.admit(now, REPORT_INTERVAL) {
            let who = match is_carp_master {
                true => "another CARP MASTER",
                false => "another host",
            };
            // Those that are not valid, or come by unicast, have warnings of their own.
            let heard = served.machine.counters().received_inet_packets;
            let by_unicast = self.datapath.count(Counter::PassedUnicast);
            let why = match served.config.own_mac {
                _ if heard > 0 || by_unicast.is_ok_and(|heard| heard > 0) => "",
                false => UNHEARD,
                true => UNHEARD_WITH_OWN_MAC,
            };
            warn!(
                suppressed,
                "{}: {address} is also at {}: {who} answers ARP for it{why}",
                served.label,
                claim.arp.sender_mac
            );
        }
        if !served.conflicts.is_to_be_answered(is_carp_master, now) {
            return;
        }
        if let Some(port) = &self.interfaces[served.interface].port
            && let Err(error) = port.announce(IpAddr::V4(address))
        {
            debug!("{}: failed to announce {address}: {error}", served.label);
        }
    }

    /// Lets the frames that concern the watching virtual hosts wake us, and no others.
    pub(super) fn choose_frames(&mut self) {
        for interface in 0..self.interfaces.len() {
            if std::mem::take(&mut self.interfaces[interface].watched_changed) {
                self.choose_frames_of(interface);
            }
        }
    }

    fn choose_frames_of(&self, interface: usize) {
        let watching = |vhost: &&usize| matches!(self.vhosts[**vhost].watch, Watch::On { .. });
        let addresses: Vec<Ipv4Addr> = self.interfaces[interface]
            .vhosts
            .iter()
            .filter(watching)
            .flat_map(|vhost| self.inet_addresses(*vhost))
            .collect();
        let name = &self.interfaces[interface].name;
        let Some(watch) = &self.interfaces[interface].watch else {
            return;
        };
        if let Err(error) = watch.choose(&addresses) {
            warn!("{name}: failed to watch ARP: {error}");
        }
    }

    fn inet_addresses(&self, vhost: usize) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let addresses = self.vhosts[vhost].config.addresses.iter();
        addresses.filter_map(|virtual_one| match virtual_one.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use carp_common::wire::arp::{Arp, Operation};

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn claim(sender_mac: MacAddress, is_marked: bool) -> Claim {
        Claim {
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
        let mut conflicts = Conflicts::default();
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
        let mut conflicts = Conflicts::default();
        let mut answered = |is_carp| {
            (0..30)
                .filter(|second| conflicts.is_to_be_answered(is_carp, at(*second)))
                .count()
        };
        assert_eq!((answered(true), answered(false)), (3, 30));
    }
}
