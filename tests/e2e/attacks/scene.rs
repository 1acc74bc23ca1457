//! A pair with a client, a neighbour that continuously asks for the address, and an attacker who records.

use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::attack::Field;
use carp_tests::lab::note;
use carp_tests::toll::{Toll, Watch};
use carp_tests::{Attacker, Cable, Client, Daemon, Lab, Witness};

use crate::faults::scene::FAST_INTERVAL;
use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// How often the neighbour asks.
pub const PACE: Duration = Duration::from_millis(20);
/// An allowance for a busy machine: a few unanswered probes of the client and requests of the neighbour.
pub const NOISE: Duration = Duration::from_millis(120);
/// How many of the MASTER's intervals an attack lasts: more than two master-down times of the BACKUP.
pub const INTERVALS: u32 = 16;

/// The number of recordings from before the BACKUP ran; no attack starts with more.
const OLDER: usize = 10;

/// Fields are dropped in order, the lab last.
pub struct Scene {
    pub client: Client,
    witness: Witness,
    pub attacker: Attacker,
    pub a: Daemon,
    pub b: Daemon,
    cable: Option<Cable>,
    pub pair: Pair,
}

impl Scene {
    /// a is MASTER and preempts, b is a slower BACKUP; both have these options too. b has heard everything that the
    /// attacker recorded.
    pub fn new(lab: Lab, options: &str) -> Result<Self> {
        Self::build(lab, options, false, 0)
    }

    /// The same, and the attacker has recordings from before b ran.
    pub fn older(lab: Lab, options: &str) -> Result<Self> {
        Self::build(lab, options, false, OLDER)
    }

    /// The same, with a cable of b that can delay frames.
    pub fn with_cable(lab: Lab, options: &str) -> Result<Self> {
        Self::build(lab, options, true, 0)
    }

    fn build(lab: Lab, options: &str, cable: bool, older: usize) -> Result<Self> {
        let (neighbour, x) = (
            lab.host("n", "10.9.0.9/16")?,
            lab.host("x", "10.9.0.66/16")?,
        );
        let pair = Pair::new(lab)?;
        let cable = cable.then(|| Cable::splice(&pair.b)).transpose()?;
        let attacker = Attacker::start(&x)?;
        let a = pair.master(&pair.a, &format!("{FAST} -P {options}"))?;
        attacker.recorded(pair.a.address(), older, LONG)?;
        let b = pair.carpd(&pair.b, &format!("{SLOW} {options}"))?;
        pair.stays_the_only_master(&pair.a, 2)?;
        if older == 0 {
            attacker.forget();
        }
        Ok(Self {
            client: pair.client()?,
            witness: Witness::every(PACE, &neighbour, ADDRESS)?,
            attacker,
            a,
            b,
            cable,
            pair,
        })
    }

    pub fn field(&self) -> Field<'_> {
        Field {
            attacker: &self.attacker,
            master: &self.pair.a,
            backup: &self.pair.b,
            cable: self.cable.as_ref(),
            interval: FAST_INTERVAL,
        }
    }

    pub fn watch(&self) -> Watch {
        Watch::begin(&self.pair.capture, &[&self.a, &self.b])
    }

    /// What happened since, and a little longer: a takeover may be under way.
    pub fn toll(&self, watch: &Watch) -> Result<Toll> {
        let mark = self.pair.capture.mark();
        self.pair.capture.advertisements_reach(mark, "a", 3, LONG)?;
        self.toll_now(watch)
    }

    /// What happened since.
    pub fn toll_now(&self, watch: &Watch) -> Result<Toll> {
        for daemon in [&self.a, &self.b] {
            // Its next advertisement comes after earlier ones, which may still be on their way. A killed one sends nothing.
            let _ = daemon.dump();
        }
        watch.toll(
            &self.pair.capture,
            &self.client,
            &self.witness,
            &[&self.a, &self.b],
        )
    }

    /// No host has changed state, and no client has noticed anything.
    pub fn nothing_happened(&self, what: &str, watch: &Watch) -> Result<()> {
        let toll = self.toll(watch)?;
        note(&format!("{what}: {toll}"));
        ensure!(toll.changes == 0, "{what}: {toll}");
        ensure!(toll.outage < NOISE, "{what}: {toll}");
        ensure!(toll.nobody < NOISE, "{what}: {toll}");
        ensure!(toll.longest_two < NOISE, "{what}: {toll}");
        let spoken = self.pair.capture.advertisements(watch.mark(), "b");
        ensure!(spoken.is_empty(), "{what}: the BACKUP advertised");
        Ok(())
    }
}
