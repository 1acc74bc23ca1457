//! An attacker on the link without the password. It hears everything, forgets nothing, sends at any time, and forges
//! every field that the digest does not cover.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::Family;

use super::packet::{LENGTH, Packet, fix_checksum, read};
use super::rng::Rng;
use super::scenario::plan::{Disguise, Plan, Ploy, Shown};
use super::scenario::{START, Scenario, Theme};

/// The attacker's knowledge.
#[derive(Debug)]
pub struct Attacker {
    /// Every distinct advertisement since the run began, in order.
    heard: Vec<Record>,
    known: BTreeSet<(IpAddr, Vec<u8>)>,
    /// The time for which the attacker waits before it uses a recording. With strict counters: until every host has heard it
    /// from its sender, because nothing in an advertisement tells which copy was first.
    patience: Duration,
    hosts: Vec<[IpAddr; 2]>,
    addresses: Vec<IpAddr>,
    /// When each host last sent something.
    spoke: Vec<Option<Instant>>,
    plans: Vec<(Plan, Progress)>,
    /// Start of the current [`FIRSTS_IN`], and the number of copies in it.
    firsts: (Instant, u32),
}

/// How often the attacker may be first within [`FIRSTS_IN`]: a thousand times a second. An OpenBSD answers each
/// altered copy with advertisements of its own, and two of them with more than were altered, so their number would
/// otherwise be unbounded.
const FIRSTS_MAX: u32 = 100;
const FIRSTS_IN: Duration = Duration::from_millis(100);
/// An advertisement within this time after that of another host counts as an answer.
const ANSWERED_WITHIN: Duration = Duration::from_millis(100);

/// A recorded advertisement.
#[derive(Clone, Debug)]
struct Record {
    at: Instant,
    from: usize,
    packet: Packet,
}

impl Record {
    fn counter(&self) -> u64 {
        read(&self.packet.payload).map_or(0, |ad| ad.counter)
    }
}

/// The progress of a plan.
#[derive(Debug, Default)]
struct Progress {
    strokes: usize,
    chosen: Option<usize>,
    counter: Option<u64>,
}

/// A packet that arrives before a genuine advertisement.
#[derive(Debug)]
pub struct Ahead {
    /// The packet.
    pub packet: Packet,
    /// The hosts that it reaches, as a bit mask.
    pub targets: u64,
    /// How much earlier it arrives, if the genuine one is under way that long.
    pub by: Duration,
}

impl Attacker {
    /// Creates an attacker who knows the addresses of the link.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let patience = if scenario.theme == Theme::Strict {
            2 * scenario.step()
        } else {
            Duration::ZERO
        };
        let virtuals = scenario.group.inet.iter().copied().map(IpAddr::from);
        let virtuals6 = scenario.group.inet6.iter().copied().map(IpAddr::from);
        let hosts: Vec<_> = scenario.members.iter().map(|m| m.sources).collect();
        let own = hosts.iter().copied().flatten();
        let plans = scenario.plans.iter().cloned();
        Self {
            heard: Vec::new(),
            known: BTreeSet::new(),
            patience,
            addresses: own.chain(virtuals).chain(virtuals6).collect(),
            spoke: vec![None; hosts.len()],
            hosts,
            plans: plans.map(|plan| (plan, Progress::default())).collect(),
            firsts: (START, 0),
        }
    }

    /// Keeps a copy of a packet that a host sent.
    pub fn overhears(&mut self, now: Instant, from: usize, packet: &Packet) {
        self.spoke[from] = Some(now);
        if self.known.insert((packet.source, packet.payload.clone())) {
            self.heard.push(Record {
                at: now,
                from,
                packet: packet.clone(),
            });
        }
    }

    /// Returns the packets that the attacker sends right after a host sent this packet, to arrive before it.
    pub fn overtakes(&mut self, now: Instant, from: usize, packet: &Packet) -> Option<Ahead> {
        let mut spoke = self.spoke.iter().enumerate();
        let is_answer =
            spoke.any(|(host, at)| host != from && at.is_some_and(|at| now < at + ANSWERED_WITHIN));
        let mut current = self.plans.iter().map(|(plan, _)| plan);
        let ahead = current.find_map(|plan| {
            let Ploy::Overtake(by) = plan.ploy else {
                return None;
            };
            let spared = is_answer && plan.spares_answers;
            (plan.from <= now && now < plan.until && !spared).then(|| Ahead {
                packet: self.disguised(plan, packet.clone()),
                targets: plan.targets,
                by,
            })
        })?;
        if now >= self.firsts.0 + FIRSTS_IN {
            self.firsts = (now, 0);
        }
        self.firsts.1 += 1;
        (self.firsts.1 <= FIRSTS_MAX).then_some(ahead)
    }

    /// Returns the next packet of a plan, with a bit mask of the hosts that it reaches; `None` if there is none, or
    /// none any more.
    pub fn carries_on(&mut self, now: Instant, number: usize) -> Option<(Packet, u64)> {
        let usable = self.usable(now);
        let (plan, progress) = &mut self.plans[number];
        let chosen = choose(plan, progress, &self.heard[..usable])?;
        let packet = self.heard[chosen].packet.clone();
        let plan = &self.plans[number].0;
        Some((self.disguised(plan, packet), plan.targets))
    }

    /// Returns how many of its recordings the attacker may use.
    fn usable(&self, now: Instant) -> usize {
        self.heard
            .partition_point(|record| record.at + self.patience < now)
    }

    fn disguised(&self, plan: &Plan, mut packet: Packet) -> Packet {
        let bytes = &mut packet.payload;
        if bytes.len() >= LENGTH {
            match plan.shown {
                Shown::AsHeard => {}
                Shown::Priority(advbase, advskew) => (bytes[5], bytes[2]) = (advbase, advskew),
                Shown::Byte4(byte) => bytes[4] = byte,
            }
            fix_checksum(&mut bytes[..LENGTH]);
        }
        let family = packet.family;
        match (plan.disguise, family) {
            (Disguise::Sender, _) => {}
            (Disguise::Host(host), Family::Inet) => packet.source = self.hosts[host][0],
            (Disguise::Host(host), Family::Inet6) => packet.source = self.hosts[host][1],
            // ucarp must accept it as well: the last octets of hosts are 1 to 250.
            (Disguise::TieWinner, Family::Inet) => {
                packet.source = Ipv4Addr::new(10, 9, 0, 0).into();
            }
            (Disguise::TieWinner, Family::Inet6) => {
                packet.source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into();
            }
        }
        if plan.other_mac {
            packet.ethernet_source[4] ^= 1;
        }
        packet
    }

    /// Returns one packet at random, with a bit mask of the hosts that it reaches; `None` before the attacker has
    /// heard anything usable.
    #[must_use]
    pub fn strikes(&self, now: Instant, number: u64) -> Option<(Packet, u64)> {
        let mut rng = Rng::new(number);
        let usable = self.usable(now);
        if usable == 0 {
            return None;
        }
        let mut packet = self.heard[rng.index(usable)].packet.clone();
        let bytes = &mut packet.payload;
        match rng.between(0, 8) {
            0 => {}
            1 => (bytes[5], bytes[2]) = (0, 0),
            2 => (bytes[5], bytes[2]) = (255, 255),
            3 => bytes[4] = rng.byte(0, 255),
            4 => (bytes[5], bytes[2]) = (rng.byte(0, 255), rng.byte(0, 255)),
            5 => {
                // A digest for another counter, or an invalid one.
                let place = rng.index(LENGTH - 8) + 8;
                bytes[place] ^= 1 << rng.index(8);
            }
            6 => bytes.truncate(rng.index(LENGTH)),
            7 => bytes.extend((0..rng.index(64)).map(|_| 0x5a)),
            _ => {
                let length = rng.index(80);
                *bytes = (0..length).map(|_| rng.byte(0, 255)).collect();
            }
        }
        if bytes.len() == LENGTH && rng.chance(950) {
            fix_checksum(bytes);
        }
        if rng.chance(300) {
            let same_family = |address: &&IpAddr| address.is_ipv4() == packet.source.is_ipv4();
            let addresses: Vec<_> = self.addresses.iter().filter(same_family).collect();
            packet.source = *addresses[rng.index(addresses.len())];
        }
        if rng.chance(100) {
            packet.ethernet_source[4] ^= 1;
        }
        let everyone = (1 << self.hosts.len()) - 1;
        let targets = if rng.chance(500) {
            everyone
        } else {
            rng.next_u64() & everyone
        };
        Some((packet, targets))
    }
}

/// Returns the index of the recording that comes next.
fn choose(plan: &Plan, progress: &mut Progress, heard: &[Record]) -> Option<usize> {
    let stroke = progress.strokes;
    progress.strokes += 1;
    let of = |host: usize| (0..heard.len()).filter(move |number| heard[*number].from == host);
    match plan.ploy {
        Ploy::Overtake(_) => None,
        Ploy::Repeat { same: true, .. } if progress.chosen.is_some() => progress.chosen,
        Ploy::Repeat { of: whose, age, .. } => {
            let candidates: Vec<_> = match whose {
                Some(host) => of(host).collect(),
                None => (0..heard.len()).collect(),
            };
            let last = candidates.len().checked_sub(1)?;
            progress.chosen = Some(candidates[last.saturating_sub(age)]);
            progress.chosen
        }
        Ploy::Rising { of: host, tail } => {
            let mut run: Vec<_> = of(host).collect();
            run.sort_by_key(|number| heard[*number].counter());
            let next = match progress.counter {
                None => run.get(run.len().saturating_sub(tail)),
                Some(last) => run.iter().find(|number| heard[**number].counter() > last),
            };
            let next = *next?;
            progress.counter = Some(heard[next].counter());
            Some(next)
        }
        Ploy::Past { of: host } => {
            let past: Vec<_> = of(host).filter(|n| heard[*n].at < plan.from).collect();
            let turn = stroke.checked_rem(past.len())?;
            Some(past[turn])
        }
    }
}
