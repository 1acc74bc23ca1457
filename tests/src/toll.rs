//! The cost of a disturbance for the client and the election.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::process::Daemon;
use crate::witness::Sighting;
use crate::{Capture, Client, Mark, Witness};

/// The beginning of a disturbance.
#[derive(Clone, Debug)]
pub struct Watch {
    begin: Instant,
    mark: Mark,
    lines: Vec<usize>,
}

/// What happened since a [`Watch`] began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// The client's longest outage.
    pub outage: Duration,
    /// The sum of its outages.
    pub lost: Duration,
    /// State changes of all daemons, as they log them.
    pub changes: usize,
    /// Time in which two hosts answered for the address.
    pub two: Duration,
    /// The longest such time without a break.
    pub longest_two: Duration,
    /// Time in which no host answered.
    pub nobody: Duration,
    /// The time watched.
    pub watched: Duration,
}

impl Watch {
    /// Begins now.
    #[must_use]
    pub fn begin(capture: &Capture, daemons: &[&Daemon]) -> Self {
        Self {
            begin: Instant::now(),
            mark: capture.mark(),
            lines: daemons.iter().map(|daemon| daemon.mark()).collect(),
        }
    }

    /// When it began.
    #[must_use]
    pub fn begin_at(&self) -> Instant {
        self.begin
    }

    /// Its place in the capture.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// What happened so far. `daemons` are those given at the beginning.
    ///
    /// # Errors
    /// When the witness has seen nothing.
    pub fn toll(
        &self,
        capture: &Capture,
        client: &Client,
        witness: &Witness,
        daemons: &[&Daemon],
    ) -> Result<Toll> {
        let sightings = witness.sightings(capture, self.mark);
        ensure!(sightings.len() > 1, "the witness has seen nothing");
        let changes = daemons
            .iter()
            .zip(&self.lines)
            .map(|(daemon, line)| daemon.transitions_since(*line));
        let outages = client.outages(self.begin);
        Ok(Toll {
            outage: client.longest_outage(self.begin),
            lost: outages.iter().map(|outage| outage.duration()).sum(),
            changes: changes.sum(),
            two: spells(&sightings, |owners| owners > 1).iter().sum(),
            longest_two: longest(&spells(&sightings, |owners| owners > 1)),
            nobody: spells(&sightings, |owners| owners == 0).iter().sum(),
            watched: self.begin.elapsed(),
        })
    }
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [outage, lost, two, longest_two, nobody, watched] = [
            self.outage,
            self.lost,
            self.two,
            self.longest_two,
            self.nobody,
            self.watched,
        ]
        .map(|duration| duration.as_millis());
        write!(
            f,
            "{} state changes in {watched} ms, the client's longest outage {outage} ms (all: {lost}), two MASTERs for {two} \
             ms (at a time {longest_two}), nobody for {nobody} ms",
            self.changes
        )
    }
}

/// Uninterrupted times with such a number of owners. Each sighting stands for the time until the next.
fn spells(sightings: &[Sighting], is_such: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut spells = Vec::new();
    let mut present = Duration::ZERO;
    for pair in sightings.windows(2) {
        if is_such(pair[0].owners.len()) {
            present += pair[1].asked.saturating_duration_since(pair[0].asked);
        } else if !present.is_zero() {
            spells.push(std::mem::take(&mut present));
        }
    }
    if !present.is_zero() {
        spells.push(present);
    }
    spells
}

fn longest(spells: &[Duration]) -> Duration {
    spells.iter().max().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mac;

    #[test]
    fn a_spell_ends_where_the_owners_change() {
        let begin = Instant::now();
        let seen = |(ms, owners): (u64, u8)| Sighting {
            asked: begin + Duration::from_millis(ms),
            owners: (0..owners).map(|last| Mac([2, 0, 0, 0, 0, last])).collect(),
        };
        let sightings: Vec<_> = [(0, 1), (10, 2), (20, 2), (30, 0), (40, 1), (50, 2), (65, 2)]
            .into_iter()
            .map(seen)
            .collect();
        let ms = Duration::from_millis;
        assert_eq!(
            spells(&sightings, |owners| owners > 1),
            [ms(20), ms(15)],
            "the last one stands for nothing"
        );
        assert_eq!(spells(&sightings, |owners| owners == 0), [ms(10)]);
        assert_eq!(longest(&[]), Duration::ZERO);
    }
}
