//! What must hold between hosts: who is MASTER in each part of the network, once nothing goes wrong any more.

use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Profile, State};

use super::model::Dialect;
use super::network::Network;
use super::scenario::{Fault, Member, Program, START, Scenario};
use super::station::{Body, Station};
use super::watch::Violation;
use super::world::FAMILIES;

/// Since when nothing went wrong, and what was seen since.
#[derive(Debug)]
pub struct Calm {
    members: Vec<Member>,
    families_used: [bool; 2],
    settling_time: Duration,
    distrust: Duration,
    trust_is_lost: bool,
    rounds: u32,
    step: Duration,
    undecided_ties: bool,
    /// Nobody stops being a master unheard.
    losers_are_heard: bool,
    /// Demotion makes the hosts' rules contradict each other.
    demotion_divides: bool,
    /// Send errors leave a penalty that outlasts them, so nobody can tell from outside who is best.
    hidden_penalties: bool,
    since: Instant,
    /// Since when some part of the network has had two masters.
    split_since: Option<Instant>,
    /// The settled parts with their master.
    settled: Vec<(u64, usize)>,
}

impl Calm {
    /// At the beginning of a run.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            members: scenario.members.clone(),
            families_used: FAMILIES.map(|family| scenario.group.uses(family)),
            settling_time: scenario.settling_time(),
            distrust: scenario.distrust(),
            trust_is_lost: scenario.trust_is_lost(),
            rounds: scenario.rounds(),
            step: scenario.step(),
            undecided_ties: scenario.undecided_ties,
            losers_are_heard: losers_are_heard(scenario),
            demotion_divides: scenario.demotion_divides,
            hidden_penalties: scenario
                .faults
                .iter()
                .any(|(_, fault)| matches!(fault, Fault::SendErrors(_))),
            since: START,
            split_since: None,
            settled: Vec::new(),
        }
    }

    /// Something went wrong, or ended, or takes until then.
    pub fn disturb(&mut self, until: Instant) {
        self.since = self.since.max(until);
        self.settled.clear();
    }

    /// Looks at every part of the network. True when there was something settled to look at.
    ///
    /// # Errors
    /// No master, two masters for too long, a change of master without a reason, or one who is not the best.
    pub fn check(
        &mut self,
        now: Instant,
        stations: &[Station],
        network: &Network,
    ) -> Result<bool, Violation> {
        if self.trust_is_lost {
            return Ok(false);
        }
        let uneasy = |station: &Station| {
            station.hung
                || station.send_errors
                || (self.demotion_divides && station.demotion > 0)
                || station
                    .sources
                    .iter()
                    .zip(self.families_used)
                    .any(|(has, uses)| uses && !has)
        };
        if network.loss() > 0
            || stations
                .iter()
                .any(|station| station.takes_part() && uneasy(station))
        {
            self.disturb(now);
        }
        let parts = self.parts(stations, network);
        self.check_split(now, &parts, stations)?;
        if now < self.since + self.settling_time {
            return Ok(false);
        }
        for part in &parts {
            self.check_settled(*part, stations)?;
        }
        Ok(!parts.is_empty())
    }

    /// Bit masks of hosts who all hear each other and nobody else. Hosts with one-way or one-family paths are in none.
    fn parts(&self, stations: &[Station], network: &Network) -> Vec<u64> {
        let count = stations.len();
        let paths = |a: usize, b: usize| {
            let ways = FAMILIES
                .into_iter()
                .zip(self.families_used)
                .filter(|(_, used)| *used);
            ways.flat_map(|(family, _)| {
                [network.reaches(family, a, b), network.reaches(family, b, a)]
            })
            .collect::<Vec<_>>()
        };
        let joined = |a: usize, b: usize| {
            stations[a].takes_part()
                && stations[b].takes_part()
                && (a == b || paths(a, b).into_iter().all(|open| open))
        };
        let lame = |a: usize, b: usize| {
            let open = paths(a, b);
            stations[b].takes_part() && open.iter().any(|way| *way) && open.iter().any(|way| !*way)
        };
        let neighbours: Vec<u64> = (0..count)
            .map(|a| {
                (0..count)
                    .filter(|b| joined(a, *b))
                    .fold(0, |mask, b| mask | 1 << b)
            })
            .collect();
        let whole = |a: usize| {
            stations[a].takes_part()
                && (0..count).all(|b| b == a || !lame(a, b))
                && (0..count)
                    .filter(|b| neighbours[a] >> b & 1 == 1)
                    .all(|b| neighbours[b] == neighbours[a])
        };
        let mut parts = Vec::new();
        for a in (0..count).filter(|a| whole(*a)) {
            let members_whole = (0..count)
                .filter(|b| neighbours[a] >> b & 1 == 1)
                .all(whole);
            if members_whole && !parts.contains(&neighbours[a]) {
                parts.push(neighbours[a]);
            }
        }
        parts
    }

    /// Two masters who hear each other: one remains within one advertisement interval of theirs.
    fn check_split(
        &mut self,
        now: Instant,
        parts: &[u64],
        stations: &[Station],
    ) -> Result<(), Violation> {
        let split = parts
            .iter()
            .map(|part| masters(*part, stations))
            .find(|masters| masters.len() > 1);
        let Some(masters) = split else {
            self.split_since = None;
            return Ok(());
        };
        let since = (*self.split_since.get_or_insert(now)).max(self.since);
        let interval = masters
            .iter()
            .map(|number| self.members[*number].interval(true))
            .max()
            .unwrap_or_default();
        // A ucarp hears nothing while its script runs.
        let deaf = masters
            .iter()
            .filter(|number| self.members[**number].program == Program::Model(Dialect::Ucarp))
            .map(|number| self.members[*number].script)
            .max()
            .unwrap_or_default();
        let bound = interval * self.rounds + self.distrust + deaf + 2 * self.step;
        if since + bound < now {
            let lasted = now.saturating_duration_since(since);
            return Err(format!(
                "hosts {masters:?} hear each other and have both been MASTER for {lasted:?}"
            ));
        }
        Ok(())
    }

    fn check_settled(&mut self, part: u64, stations: &[Station]) -> Result<(), Violation> {
        let quiet = self.settling_time;
        if self.undecided_ties {
            // They settle one by one; how long two may overlap is asked above.
            return Ok(());
        }
        let master = match masters(part, stations)[..] {
            [master] => master,
            [] => {
                return Err(format!(
                    "no MASTER among hosts {part:#b}, {quiet:?} after the last fault"
                ));
            }
            ref masters => {
                return Err(format!(
                    "hosts {masters:?} are MASTER, {quiet:?} after the last fault"
                ));
            }
        };
        self.check_clients(part, master, stations)?;
        match self.settled.iter().find(|(known, _)| *known == part) {
            Some((_, before)) if *before != master => {
                return Err(format!(
                    "host {master} took over from {before} without a fault"
                ));
            }
            Some(_) => {}
            None => self.settled.push((part, master)),
        }
        if let Some(best) = self.best(part, stations)
            && best != master
        {
            return Err(format!(
                "host {master} is MASTER, but {best} is better and preempts"
            ));
        }
        Ok(())
    }

    /// Clients send to whoever announced last: that must be the master. Only asked of ucarp's rules, where a master who
    /// steps down says so (the BSDs share one MAC address and do not care), and only where whoever gave up in favour of
    /// another could tell him.
    fn check_clients(
        &self,
        part: u64,
        master: usize,
        stations: &[Station],
    ) -> Result<(), Violation> {
        if !self.losers_are_heard {
            return Ok(());
        }
        let ucarp = |number: usize| {
            matches!(
                self.members[number].program,
                Program::Carpd(Profile::Ucarp) | Program::Model(Dialect::Ucarp)
            )
        };
        let hosts = || (0..stations.len()).filter(move |number| part >> number & 1 == 1);
        if !hosts().all(ucarp) {
            return Ok(());
        }
        for (family, _) in self
            .families_used
            .iter()
            .enumerate()
            .filter(|(_, used)| **used)
        {
            let announced = |number: usize| stations[number].announced_at[family];
            if let Some(other) = hosts().find(|number| announced(*number) > announced(master)) {
                return Err(format!(
                    "host {master} is MASTER, but {other} announced the addresses after it"
                ));
            }
        }
        Ok(())
    }

    /// Who must be MASTER when everyone preempts and all read ranks alike.
    fn best(&self, part: u64, stations: &[Station]) -> Option<usize> {
        let hosts = || (0..stations.len()).filter(move |number| part >> number & 1 == 1);
        let open_bsd = |number: usize| {
            matches!(
                self.members[number].program,
                Program::Carpd(Profile::OpenBsd) | Program::Model(Dialect::OpenBsd)
            )
        };
        let alike = hosts().all(open_bsd) || !hosts().any(open_bsd);
        if !alike || self.hidden_penalties || !hosts().all(|number| self.members[number].preempt) {
            return None;
        }
        let rank = |number: usize| {
            let (member, demotion) = (&self.members[number], stations[number].demotion);
            match member.program {
                Program::Carpd(Profile::OpenBsd) | Program::Model(Dialect::OpenBsd) => {
                    (demotion, member.advbase, member.advskew)
                }
                Program::Model(Dialect::Ucarp) => (0, member.advbase, member.advskew),
                Program::Carpd(Profile::Ucarp | Profile::FreeBsd)
                | Program::Model(Dialect::FreeBsd) => (
                    0,
                    member.advbase,
                    member
                        .advskew
                        .saturating_add(demotion)
                        .min(240)
                        .max(member.advskew),
                ),
            }
        };
        let best = hosts().min_by_key(|number| rank(*number))?;
        // Who wins a tie depends on who was there first.
        hosts()
            .all(|number| number == best || rank(number) != rank(best))
            .then_some(best)
    }
}

fn losers_are_heard(scenario: &Scenario) -> bool {
    let harmless = |fault: &Fault| {
        matches!(
            fault,
            Fault::Partition(_)
                | Fault::Heal
                | Fault::Hang(_)
                | Fault::Resume(_)
                | Fault::Demote(..)
        )
    };
    scenario.weather.loss == 0 && scenario.faults.iter().all(|(_, fault)| harmless(fault))
}

fn masters(part: u64, stations: &[Station]) -> Vec<usize> {
    let is_master = |number: &usize| {
        part >> number & 1 == 1
            && !matches!(stations[*number].body, Body::Dead)
            && stations[*number].state() == State::Master
    };
    (0..stations.len()).filter(is_master).collect()
}
