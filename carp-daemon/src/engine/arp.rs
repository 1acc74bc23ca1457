//! Another host that has our virtual address, as ARP shows it.
//!
//! Only a MASTER watches, and only after a moment in which the host that was MASTER before may still answer. What a
//! host answers to others does not reach us, so we ask for our own address now and then, in a way that changes nobody's
//! tables (a probe, RFC 5227). A claim is answered by an announcement, so that clients come back to us.
//!
//! While advertisements of another MASTER are heard, its claims are the election's business and only counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;
use carp_common::wire::arp::Arp;
use tracing::{debug, warn};

use super::Engine;

/// For the MASTER before us to stop answering.
const GRACE: Duration = Duration::from_millis(500);
/// Time between two questions for our own address.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two log lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

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
                Ok(claims) if claims.packets.is_empty() => {}
                Ok(claims) => self.judge_claims(interface, &claims.packets, claims.lost, now),
                Err(error) => debug!(
                    "{}: failed to receive ARP: {error}",
                    self.interfaces[interface].name
                ),
            }
        }
    }

    fn judge_claims(&mut self, interface: usize, packets: &[Arp], lost: u64, now: Instant) {
        // The last claim of each virtual host, and how many there were.
        let mut claims: BTreeMap<usize, (Arp, u64)> = BTreeMap::new();
        for packet in packets {
            let ours = |mac| self.links.values().any(|link| link.mac == mac);
            if ours(packet.sender_mac.0) {
                continue;
            }
            for &vhost in &self.interfaces[interface].vhosts {
                let watches = matches!(self.vhosts[vhost].watch, Watch::On { .. });
                if watches && self.inet_addresses(vhost).any(|it| it == packet.sender_ip) {
                    let (last, count) = claims.entry(vhost).or_insert((*packet, 0));
                    *last = *packet;
                    *count += 1;
                }
            }
        }
        // What found no room passed the same filter: more of the same.
        if let Some((_, count)) = claims.values_mut().next() {
            *count += lost;
        }
        for (vhost, (claim, count)) in claims {
            self.answer_claim(vhost, &claim, count, now);
        }
    }

    fn answer_claim(&mut self, vhost: usize, claim: &Arp, count: u64, now: Instant) {
        let served = &mut self.vhosts[vhost];
        served.conflicts.count += count;
        let disputed = served
            .machine
            .last_heard()
            .is_some_and(|last| last.arrival + served.machine.master_down_time() > now);
        if disputed {
            return;
        }
        let address = claim.sender_ip;
        if let Some(suppressed) = served.conflicts.limit.admit(now, REPORT_INTERVAL) {
            warn!(
                suppressed,
                "{}: {address} is also at {}: another host answers ARP for it",
                served.label,
                claim.sender_mac
            );
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
