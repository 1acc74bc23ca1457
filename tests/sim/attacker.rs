//! Someone on the link who owns no password: he hears everything, sends what he likes, and forges every field that the
//! digest does not cover.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;

use super::packet::{LENGTH, Packet, fix_checksum};
use super::rng::Rng;
use super::scenario::{Scenario, Theme};

/// How many advertisements he remembers.
const MEMORY: usize = 64;

/// What he knows.
#[derive(Debug)]
pub struct Attacker {
    heard: Vec<(Instant, Packet)>,
    /// How long he waits before he uses what he heard. With strict counters: until everyone heard it from its sender,
    /// since nothing in an advertisement tells who was first.
    patience: Duration,
    hosts: usize,
    addresses: Vec<IpAddr>,
}

impl Attacker {
    /// One who knows the addresses of the link.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let patience = if scenario.theme == Theme::Strict {
            2 * scenario.step()
        } else {
            Duration::ZERO
        };
        let virtuals = scenario.group.inet.iter().copied().map(IpAddr::from);
        let addresses = scenario
            .members
            .iter()
            .flat_map(|member| member.sources)
            .chain(virtuals)
            .collect();
        Self {
            heard: Vec::new(),
            patience,
            hosts: scenario.members.len(),
            addresses,
        }
    }

    /// Keeps a copy.
    pub fn overhears(&mut self, now: Instant, packet: &Packet) {
        if self.heard.len() == MEMORY {
            self.heard.remove(MEMORY / 2);
        }
        self.heard.push((now, packet.clone()));
    }

    /// One packet, and a bit mask of whom it reaches. `None` before he heard anything that he can use.
    pub fn strikes(&self, now: Instant, number: u64) -> Option<(Packet, u64)> {
        let mut rng = Rng::new(number);
        let usable = self
            .heard
            .iter()
            .filter(|(at, _)| *at + self.patience < now)
            .count();
        if usable == 0 {
            return None;
        }
        let (_, packet) = &self.heard[rng.index(usable)];
        let mut packet = packet.clone();
        let bytes = &mut packet.payload;
        match rng.between(0, 8) {
            0 => {}
            1 => (bytes[5], bytes[2]) = (0, 0),
            2 => (bytes[5], bytes[2]) = (255, 255),
            3 => bytes[4] = rng.byte(0, 255),
            4 => (bytes[5], bytes[2]) = (rng.byte(0, 255), rng.byte(0, 255)),
            5 => {
                // A digest for another counter, or no digest at all.
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
        let everyone = (1 << self.hosts) - 1;
        let targets = if rng.chance(500) {
            everyone
        } else {
            rng.next_u64() & everyone
        };
        Some((packet, targets))
    }
}
