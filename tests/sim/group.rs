//! The invariants between hosts: which host is MASTER in each part of the network, after the last fault.

use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Profile, State};

use super::model::Dialect;
use super::network::Network;
use super::packet::FAMILIES;
use super::scenario::{
    Fault, Implementation, Member, START, STEP, Scenario, Theme, reading_of_demotion_is_one,
};
use super::station::{Body, Station};
use super::watch::Violation;

/// The least time between a question and the advertisement before it, where their order matters.
const OVERTAKES: Duration = Duration::from_millis(1);

/// The number of takeovers from silence in one run that are no violation, beside a living ucarp, FreeBSD or NetBSD in
/// calm conditions.
const QUESTIONS_MAX: u32 = 2;

/// When the last fault was, and what was seen since.
#[derive(Debug)]
pub struct Calm {
    members: Vec<Member>,
    families_used: [bool; 2],
    theme: Theme,
    settling_time: Duration,
    distrust: Duration,
    trust_is_lost: bool,
    rounds: u32,
    /// Whether every host that receives an advertisement believes it: there are no strict counters that may be used
    /// up, and no attacker makes others look like forgers.
    hears_the_first: bool,
    delay: Duration,
    /// Whether delays differ by more than [`OVERTAKES`].
    overtakes: bool,
    latency: Duration,
    undecided_ties: bool,
    /// Whether no master can stop without the others hearing of it.
    losers_are_heard: bool,
    /// Whether demotion makes the rules of the hosts contradict each other.
    demotion_divides: bool,
    since: Instant,
    /// How often a carpd asked a living MASTER whether it lives.
    questions: u32,
    /// The deadline by which one of these hosts must have followed a master that crashed or stopped.
    succession: Option<(u64, Instant)>,
    /// The settled parts, each with its master.
    settled: Vec<(u64, usize)>,
}

impl Calm {
    /// Creates the state at the beginning of a run.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            members: scenario.members.clone(),
            families_used: FAMILIES.map(|family| scenario.group.uses(family)),
            theme: scenario.theme,
            settling_time: scenario.settling_time(),
            distrust: scenario.distrust(),
            trust_is_lost: scenario.trust_is_lost(),
            rounds: scenario.rounds(),
            hears_the_first: !matches!(scenario.theme, Theme::Strict | Theme::Attack),
            delay: scenario.weather.delay_max,
            overtakes: scenario.weather.delay_max - scenario.weather.delay_min > OVERTAKES,
            latency: scenario.latency,
            undecided_ties: scenario.undecided_ties,
            losers_are_heard: losers_are_heard(scenario),
            demotion_divides: scenario.demotion_divides,
            since: START,
            questions: 0,
            succession: None,
            settled: Vec::new(),
        }
    }

    /// Notes that a fault happened, ended, or lasts until then.
    pub fn disturb(&mut self, until: Instant) {
        self.since = self.since.max(until);
        self.settled.clear();
        self.succession = None;
    }

    /// Notes that a host is about to crash or to be stopped in an orderly way, which is a fault as well. If it is the
    /// master of settled hosts, another one must follow within a bound, unless something else goes wrong before.
    /// Returns whether that will be checked.
    pub fn leaves(
        &mut self,
        now: Instant,
        number: usize,
        bows_out: bool,
        stations: &[Station],
    ) -> bool {
        let part = self.settled.iter().find(|(_, master)| *master == number);
        let Some(part) = part.map(|(part, _)| *part & !(1 << number)) else {
            return false;
        };
        let others = || (0..stations.len()).filter(move |other| part >> other & 1 == 1);
        // An advertisement that was sent before the bow-out, and arrives after it, revokes it.
        let last = stations[number].last_sent.back();
        let overtaken = last.is_some_and(|sent| now < sent.at + self.delay + self.latency);
        let bows_out = bows_out && !overtaken;
        let waits = others().map(|other| {
            let member = &self.members[other];
            match (bows_out, member.is_carpd()) {
                // The delay of a backup: 1/16 of its advskew, as it would advertise it.
                (true, true) => {
                    STEP * u32::from(self.standing(other, stations).2) / 16
                        + member.turn_by_address()
                        + self.suspense(member)
                }
                (true, false) if member.advbase > 0 => Duration::ZERO,
                // With advbase 0, the others do not recognise a bow-out.
                (true | false, _) => member.patience(),
            }
        });
        let Some(wait) = waits.min() else {
            return false;
        };
        self.disturb(now);
        self.succession = Some((part, now + wait + self.delay + 3 * self.latency));
        true
    }

    /// Returns the master of the first settled part.
    #[must_use]
    pub fn master(&self) -> Option<usize> {
        self.settled.first().map(|(_, master)| *master)
    }

    /// Whether a host that just became MASTER is better than the other masters, which are about to hear it: usually a
    /// takeover by preemption.
    #[must_use]
    pub fn is_takeover(&self, number: usize, stations: &[Station]) -> bool {
        let mine = self.standing(number, stations);
        let mut others = masters(!(1 << number), stations).into_iter().peekable();
        others.peek().is_some() && others.all(|other| mine < self.standing(other, stations))
    }

    /// Notes that a carpd took over from silence. While a ucarp, FreeBSD or NetBSD is MASTER, that is a question:
    /// their counters return to used ones if recordings lead them down, or if they missed what another host sent. It
    /// is a question as well while a carpd is MASTER whose counters reach those that the asking host sent and it
    /// never heard.
    pub fn asks(&mut self, now: Instant, asking: usize, stations: &[Station]) {
        let used = &stations[asking].used;
        let comes_to = |last: u64| {
            used.range(last.saturating_sub(31)..=last + 31)
                .next()
                .is_some()
        };
        let may_repeat = |number: &usize| match self.members[*number].program {
            Implementation::Model(dialect) => !dialect.has_constant_counter(),
            Implementation::Carpd(_) => {
                let mut sent = stations[*number].used.iter();
                *number != asking && sent.next_back().is_some_and(|last| comes_to(*last))
            }
        };
        // Any earlier question is answered by the time at which they must have settled.
        let late = now >= self.since + self.settling_time / 2;
        if late && self.questions < QUESTIONS_MAX && masters(!0, stations).iter().any(may_repeat) {
            self.questions += 1;
            self.disturb(now);
        }
    }

    /// Notes that a full ring lost packets; the last advertisement of a leaving host may have been among them.
    pub fn packets_are_lost(&mut self, now: Instant) {
        self.losers_are_heard = false;
        self.disturb(now);
    }

    /// Checks every part of the network. Returns whether any part was settled.
    ///
    /// # Errors
    /// No master, two masters for too long, a change of master without a reason, or a master that is not the best
    /// host.
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
                || station.is_troubled()
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
        if let Some((part, until)) = self.succession {
            if now > until {
                return Err(format!(
                    "no host of {part:#b} has followed the master: it is {:?} late",
                    now.saturating_duration_since(until)
                ));
            }
            if !masters(part, stations).is_empty() {
                self.succession = None;
            }
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

    /// Returns bit masks of hosts that all hear each other and no other host. Hosts with paths in one direction or
    /// one family only are in none.
    fn parts(&self, stations: &[Station], network: &Network) -> Vec<u64> {
        let count = stations.len();
        let hosts = || (0..count).filter(|host| stations[*host].takes_part());
        if !network.is_cut() {
            // Most of the time, all hosts hear each other.
            let all = hosts().fold(0, |mask, host| mask | 1 << host);
            return Vec::from_iter((all != 0).then_some(all));
        }
        let paths = |a: usize, b: usize| {
            let ways = FAMILIES.into_iter().zip(self.families_used);
            let used = ways.filter(|(_, used)| *used);
            used.flat_map(move |(family, _)| {
                [network.reaches(family, a, b), network.reaches(family, b, a)]
            })
        };
        let joined = |a: usize, b: usize| {
            stations[a].takes_part()
                && stations[b].takes_part()
                && (a == b || paths(a, b).all(|open| open))
        };
        let lame = |a: usize, b: usize| {
            let (some, all) = (paths(a, b).any(|way| way), paths(a, b).all(|way| way));
            stations[b].takes_part() && some && !all
        };
        let neighbours: Vec<u64> = (0..count)
            .map(|a| {
                (0..count)
                    .filter(|b| joined(a, *b))
                    .fold(0, |mask, b| mask | 1 << b)
            })
            .collect();
        let whole = |a: usize| {
            (0..count).all(|b| b == a || !lame(a, b))
                && (0..count)
                    .filter(|b| neighbours[a] >> b & 1 == 1)
                    .all(|b| neighbours[b] == neighbours[a])
        };
        let mut parts = Vec::new();
        for a in hosts().filter(|a| whole(*a)) {
            let members_whole = (0..count)
                .filter(|b| neighbours[a] >> b & 1 == 1)
                .all(whole);
            if members_whole && !parts.contains(&neighbours[a]) {
                parts.push(neighbours[a]);
            }
        }
        parts
    }

    /// Checks two masters that hear each other. The worse one yields when it hears the better one: at once if the
    /// better one has just taken over, and otherwise when the better one's next advertisement is due, according to
    /// its last one.
    fn check_split(
        &self,
        now: Instant,
        parts: &[u64],
        stations: &[Station],
    ) -> Result<(), Violation> {
        for part in parts {
            let masters = masters(*part, stations);
            let standing = |number: &usize| self.standing(*number, stations);
            let Some(best) = masters.iter().map(standing).min() else {
                continue;
            };
            // The rule decides a tie; the others must hear its winner.
            let best: Vec<usize> = masters
                .iter()
                .copied()
                .filter(|number| standing(number) == best)
                .collect();
            for other in &masters {
                let until = best
                    .iter()
                    .filter(|better| *better != other)
                    .map(|better| {
                        let until = self.yields_by(*other, *better, stations);
                        if best.contains(other) {
                            until.max(self.yields_by(*better, *other, stations))
                        } else {
                            until
                        }
                    })
                    .max();
                if until.is_some_and(|until| until < now) {
                    let since = self.both_since(*other, best[0], stations);
                    return Err(format!(
                        "hosts {masters:?} hear each other; {other} and {best:?}, which is better, have both been MASTER \
                         for {:?}",
                        now.saturating_duration_since(since)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Since when both have been MASTER without a fault.
    fn both_since(&self, one: usize, other: usize, stations: &[Station]) -> Instant {
        let (one, other) = (&stations[one], &stations[other]);
        self.since.max(one.reigns_since).max(other.reigns_since)
    }

    /// The deadline by which the worse one must have heard of the better one.
    fn yields_by(&self, one: usize, better: usize, stations: &[Station]) -> Instant {
        let since = self.both_since(one, better, stations);
        let step = self.delay + self.latency;
        let mut answer = self.answers_within(one, better);
        if coincides(one, better, since, stations) {
            answer += self.members[better].interval(true);
        }
        let standing = self.standing(better, stations);
        if !self.hears_the_first {
            let paces = masters(!0, stations).into_iter();
            let slowest =
                paces.map(|number| longest_pace(&self.members[number], &stations[number], since));
            let pace = slowest.max().unwrap_or_default();
            return since + pace * self.rounds + self.distrust + answer + 2 * step;
        }
        let mut due = since;
        for sent in &stations[better].last_sent {
            let (demotion, advbase, advskew) = sent.standing();
            if sent.at >= since && sent.credible && (demotion, advbase, advskew) <= standing {
                return sent.at + answer + step;
            }
            if (advbase, advskew) != (255, 255) {
                due = since.max(sent.at) + self.members[better].gap(advbase, advskew);
            }
        }
        due + answer + 2 * step
    }

    /// For a minute after an altered advertisement, takeovers wait for the other version.
    fn suspense(&self, member: &Member) -> Duration {
        match self.theme {
            Theme::Attack | Theme::Strict => {
                (member.interval(true) / 4).min(Duration::from_millis(100))
            }
            Theme::Ours | Theme::Mixed => Duration::ZERO,
        }
    }

    /// Returns how long a worse master waits after it has heard a better one. A carpd yields to an answer to its own
    /// advertisement. A better carpd answers at once, or after an eighth of an interval if it has answered often
    /// already; the same delay applies to the worse one that asks. Other implementations answer with their next
    /// advertisement. An OpenBSD cannot answer and is believed with its third advertisement. With more than two
    /// masters, the answer to one may come too early for another, which then gets the next advertisement.
    ///
    /// If two advertisements of a carpd may arrive in the wrong order, a host that continues from the counter that it
    /// heard last answers the earlier one first.
    fn answers_within(&self, one: usize, better: usize) -> Duration {
        let better = &self.members[better];
        let next = match self.members.len() {
            0..=2 => Duration::ZERO,
            _ => better.interval(true),
        };
        match (self.members[one].program, better.program) {
            (Implementation::Model(_), _) => Duration::ZERO,
            (Implementation::Carpd(_), Implementation::Carpd(_)) => {
                let paced = (self.members[one].interval(true) + better.interval(true)) / 8;
                next + paced + 2 * (self.delay + self.latency)
            }
            (Implementation::Carpd(_), Implementation::Model(Dialect::OpenBsd)) => {
                better.interval(true) * 2
            }
            (Implementation::Carpd(_), Implementation::Model(_)) => {
                next + better.interval(true) * (1 + u32::from(self.overtakes))
            }
        }
    }

    /// Demotion, advbase and advskew as the host would advertise them; less is better. Only OpenBSD compares the
    /// first.
    fn standing(&self, number: usize, stations: &[Station]) -> (u8, u8, u8) {
        let (member, station) = (&self.members[number], &stations[number]);
        let (demotion, penalty) = (station.demotion, station.is_suppressed());
        let (demotion, advskew) = match member.program {
            Implementation::Carpd(Profile::OpenBsd) => {
                (demotion.saturating_add(penalty.into()), member.advskew)
            }
            Implementation::Model(dialect) => {
                let byte_4 = if dialect.uses_byte_4() { demotion } else { 0 };
                (byte_4, dialect.advertised(member.advskew, demotion))
            }
            Implementation::Carpd(Profile::Ucarp | Profile::FreeBsd) => {
                let demotion = if penalty { 240 } else { demotion };
                let demoted = member.advskew.saturating_add(demotion).min(240);
                (0, demoted.max(member.advskew))
            }
        };
        (demotion, member.advbase, advskew)
    }

    fn check_settled(&mut self, part: u64, stations: &[Station]) -> Result<(), Violation> {
        let quiet = self.settling_time;
        if self.undecided_ties {
            // They settle one by one; how long two may overlap is checked above.
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

    /// Checks whom clients use: the host that announced last, which must be the master. This is checked only with
    /// ucarp's rules, where a master that steps down says so (the BSDs share one MAC address, so it does not matter
    /// to them), and only if the host that gave up in favour of another could tell it.
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
                Implementation::Carpd(Profile::Ucarp) | Implementation::Model(Dialect::Ucarp)
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

    /// Returns the host that must be MASTER if all preempt and all compare ranks alike.
    fn best(&self, part: u64, stations: &[Station]) -> Option<usize> {
        let hosts = || (0..stations.len()).filter(move |number| part >> number & 1 == 1);
        let alike = reading_of_demotion_is_one(hosts().map(|number| &self.members[number]));
        // Send errors leave a demotion that outlasts them and is invisible to others.
        let penalty = hosts().any(|number| stations[number].is_suppressed());
        if !alike || penalty || !hosts().all(|number| self.members[number].preempt) {
            return None;
        }
        let rank = |number: usize| self.standing(number, stations);
        let best = hosts().min_by_key(|number| rank(*number))?;
        // Which host wins a tie depends on which one was there first.
        hosts()
            .all(|number| number == best || rank(number) != rank(best))
            .then_some(best)
    }
}

/// Whether both have sent the same counter, which answers neither: both continued from the same third counter, and
/// the numbers that they skip differ only by chance.
fn coincides(one: usize, better: usize, since: Instant, stations: &[Station]) -> bool {
    let counters = |number: usize| {
        let sent = stations[number].last_sent.iter();
        let sent = sent.filter(move |sent| sent.at >= since);
        sent.filter_map(|sent| sent.payload.get(8..16))
    };
    counters(one).any(|counter| counters(better).any(|other| other == counter))
}

/// Returns the longest interval that its advertisements announced, from the last one before `since` on.
fn longest_pace(member: &Member, station: &Station, since: Instant) -> Duration {
    let sent = station.last_sent.iter().map(|sent| {
        let (_, advbase, advskew) = sent.standing();
        (sent.at, member.gap(advbase, advskew))
    });
    let bow_out = member.gap(255, 255);
    let of_masters = sent.filter(|(_, pace)| *pace != bow_out);
    of_masters.fold(Duration::ZERO, |longest, (at, pace)| {
        if at < since { pace } else { longest.max(pace) }
    })
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
