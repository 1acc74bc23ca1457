//! A pair of hosts, a client, and a neighbour that continuously asks for the virtual address by ARP.

use std::ops::Deref;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Captured, Client, Daemon, Host, Lab, Mac, Mark, Witness, eventually};

use crate::support::{ADDRESS, FAST, LONG, Pair, SKEW_STEP, SLOW};

/// An allowance for other work on the machine, added to any time.
pub const NOISE: Duration = Duration::from_secs(1);

/// [`FAST`]'s advertisement interval, exactly: 25/256 s.
pub const FAST_INTERVAL: Duration = SKEW_STEP.saturating_mul(25);
/// [`FAST`]'s master-down time, exactly.
pub const FAST_MASTER_DOWN: Duration = SKEW_STEP.saturating_mul(75);

/// Since `start`, the client's outages were at most `bound`, plus the allowance for noise.
pub fn misses_at_most(client: &Client, start: Instant, bound: Duration) -> Result<()> {
    let outage = client.longest_outage(start);
    ensure!(
        outage < bound + NOISE,
        "the client's outage was {outage:?}, more than {bound:?}"
    );
    Ok(())
}

/// A [`Pair`] and a watching neighbour.
pub struct Scene {
    witness: Witness,
    pair: Pair,
}

impl Deref for Scene {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl Scene {
    /// a is 10.9.0.1, b 10.9.0.2, the client c 10.9.0.3, the neighbour n 10.9.0.9.
    pub fn new(lab: Lab) -> Result<Self> {
        let neighbour = lab.host("n", "10.9.0.9/16")?;
        Ok(Self {
            witness: Witness::start(&neighbour, ADDRESS)?,
            pair: Pair::new(lab)?,
        })
    }

    /// a is MASTER and fast, b is a slower BACKUP; both are known to work.
    pub fn master_and_backup(&self) -> Result<(Daemon, Daemon)> {
        self.master_and_backup_at(FAST, SLOW)
    }

    /// The same with other timers, a's being faster.
    pub fn master_and_backup_at(&self, fast: &str, slow: &str) -> Result<(Daemon, Daemon)> {
        let a = self.master(&self.a, fast)?;
        let b = self.carpd(&self.b, slow)?;
        self.stays_the_only_master(&self.a, 5)?;
        Ok((a, b))
    }

    /// Two hosts never answered the same request from `mark` on, and one host answered some.
    pub fn never_two_owners_since(&self, mark: Mark) -> Result<()> {
        eventually("the neighbour gets an answer", LONG, || {
            let sightings = self.witness.sightings(&self.capture, mark);
            let mut owners = sightings.iter().map(|sighting| sighting.owners.len());
            Ok(owners.any(|owners| owners > 0).then_some(()))
        })?;
        let sightings = self.witness.sightings(&self.capture, mark);
        let double = sightings.iter().find(|sighting| sighting.owners.len() > 1);
        ensure!(
            double.is_none(),
            "{double:?} both answered\n{}",
            self.capture.summary(mark)
        );
        Ok(())
    }

    /// The times of the requests after `mark` that two hosts answered.
    pub fn double_sightings(&self, mark: Mark) -> Vec<Instant> {
        let sightings = self.witness.sightings(&self.capture, mark).into_iter();
        let double = sightings.filter(|sighting| sighting.owners.len() > 1);
        double.map(|sighting| sighting.asked).collect()
    }

    /// The time from the first to the last request after `mark` that two hosts answered; `None` if there was none.
    pub fn two_owners_since(&self, mark: Mark) -> Option<Duration> {
        let double = self.double_sightings(mark);
        Some(*double.last()? - *double.first()?)
    }

    /// Waits until only `host` answers the neighbour, five times in a row.
    pub fn comes_to_be_owned_by(&self, host: &Host, within: Duration) -> Result<()> {
        let mark = self.capture.mark();
        let what = format!("only {} answers for {ADDRESS}", host.name());
        eventually(&what, within, || {
            let sightings = self.witness.sightings(&self.capture, mark);
            let last = sightings.iter().rev().take(5);
            let only_host = last
                .filter(|sighting| sighting.owners == [host.mac()].into())
                .count();
            Ok((only_host == 5).then_some(()))
        })
        .with_context(|| self.capture.summary(mark))
    }

    /// When `host` last advertised since `mark`.
    pub fn last_word(&self, mark: Mark, host: &Host) -> Option<Instant> {
        let all = self.capture.advertisements(mark, host.name());
        all.last().map(|(at, _)| *at)
    }

    /// Waits until a gratuitous ARP of `host` crosses the switch.
    pub fn announcement(&self, mark: Mark, host: &Host, within: Duration) -> Result<Captured> {
        let what = format!("{} announces {ADDRESS}", host.name());
        let (captured, ()) = self.capture.wait_after(mark, &what, within, |captured| {
            captured
                .arp_from(host.name())
                .filter(|arp| arp.is_gratuitous_for(ADDRESS))
                .map(drop)
        })?;
        Ok(captured)
    }

    /// Waits until `host` has made the last announcement of its first takeover, which comes five seconds after it.
    pub fn announced_late(&self, host: &Host) -> Result<()> {
        let (first, _) = self
            .capture
            .advertisement(Mark::default(), host.name(), LONG)?;
        let late = first.at + Duration::from_secs(4);
        eventually("the last announcement of the takeover", LONG, || {
            let all = self.capture.after(Mark::default());
            let announced = all.iter().filter(|captured| captured.at >= late);
            let mut arps = announced.filter_map(|captured| captured.arp_from(host.name()));
            Ok(arps.any(|arp| arp.is_gratuitous_for(ADDRESS)).then_some(()))
        })
    }

    /// How often `host` has announced the address since `mark`.
    pub fn announcements(&self, mark: Mark, host: &Host) -> usize {
        let all = self.capture.after(mark);
        let of_host = all
            .iter()
            .filter_map(|captured| captured.arp_from(host.name()));
        of_host.filter(|arp| arp.is_gratuitous_for(ADDRESS)).count()
    }

    /// The MAC address of the virtual address in the client's ARP cache.
    pub fn client_believes(&self) -> Result<Option<Mac>> {
        let entry = self.c.ip(&format!("neigh show {ADDRESS} dev eth0"))?;
        let mut words = entry.split_whitespace();
        let text = words
            .find(|word| *word == "lladdr")
            .and_then(|_| words.next());
        let Some(text) = text else {
            return Ok(None);
        };
        let mut bytes = [0; 6];
        for (byte, part) in bytes.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(part, 16)?;
        }
        Ok(Some(Mac(bytes)))
    }

    /// `winner` is the only MASTER, on the wire and for the neighbour, and the client reaches it.
    pub fn is_settled_on(&self, winner: &Host) -> Result<()> {
        self.settles_on(winner, Duration::from_secs(1))?;
        self.comes_to_be_owned_by(winner, LONG)?;
        let mark = self.capture.mark();
        self.capture
            .advertisements_reach(mark, winner.name(), 3, LONG)?;
        self.never_two_owners_since(mark)?;
        self.client()?;
        Ok(())
    }
}
