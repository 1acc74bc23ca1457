//! What must hold between hosts: who is MASTER in each part of the network, once nothing goes wrong any more.

use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Profile, State};

use super::model::Dialect;
use super::network::Network;
use super::scenario::{
    Fault, Member, Program, START, STEP, Scenario, Theme, reading_of_demotion_is_one,
};
use super::station::{Body, Station};
use super::watch::Violation;
use super::world::FAMILIES;

/// How far apart a question and the advertisement before it are, at least, where it matters which of them comes first.
const OVERTAKES: Duration = Duration::from_millis(1);

/// Takeovers from silence beside a living ucarp, FreeBSD or NetBSD that are no violation when all has been calm, in one run.
const QUESTIONS_MAX: u32 = 2;

/// Since when nothing went wrong, and what was seen since.
#[derive(Debug)]
pub struct Calm {
    members: Vec<Member>,
    families_used: [bool; 2],
    theme: Theme,
    settling_time: Duration,
    distrust: Duration,
    trust_is_lost: bool,
    rounds: u32,
    /// Whoever gets an advertisement believes it: no strict counters that may be used up, no attacker who makes others
    /// look like forgers.
    hears_the_first: bool,
    delay: Duration,
    /// Delays differ by more than [`OVERTAKES`].
    overtakes: bool,
    latency: Duration,
    undecided_ties: bool,
    /// Nobody stops being a master unheard.
    losers_are_heard: bool,
    /// Demotion makes the hosts' rules contradict each other.
    demotion_divides: bool,
    since: Instant,
    /// Times a carpd asked a living MASTER whether it lives.
    questions: u32,
    /// Until when somebody of these hosts must have followed a master that crashed or stopped.
    succession: Option<(u64, Instant)>,
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

    /// Something went wrong, or ended, or takes until then.
    pub fn disturb(&mut self, until: Instant) {
        self.since = self.since.max(until);
        self.settled.clear();
        self.succession = None;
    }

    /// A host is about to crash, or to be stopped in an orderly way, which is a fault as well. When it is the master of
    /// settled hosts, another one must follow within a bound, if nothing else goes wrong before. True when that is going to
    /// be checked.
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
        // An advertisement that was sent before the bow-out, and arrives after it, takes it back.
        let last = stations[number].last_sent.back();
        let overtaken = last.is_some_and(|sent| now < sent.at + self.delay + self.latency);
        let bows_out = bows_out && !overtaken;
        let waits = others().map(|other| {
            let member = &self.members[other];
            match (bows_out, member.is_carpd()) {
                // The turn of a backup: 1/16 of its advskew, as it would advertise it.
                (true, true) => {
                    STEP * u32::from(self.standing(other, stations).2) / 16
                        + member.turn_by_address()
                        + self.suspense(member)
                }
                (true, false) if member.advbase > 0 => Duration::ZERO,
                // With advbase 0 the others do not know a bow-out.
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

    /// Whom the first settled part has as its master.
    #[must_use]
    pub fn master(&self) -> Option<usize> {
        self.settled.first().map(|(_, master)| *master)
    }

    /// Whether a host that just became MASTER is better than the other masters, who are about to hear it: a takeover by
    /// preemption, for most.
    #[must_use]
    pub fn is_takeover(&self, number: usize, stations: &[Station]) -> bool {
        let mine = self.standing(number, stations);
        let mut others = masters(!(1 << number), stations).into_iter().peekable();
        others.peek().is_some() && others.all(|other| mine < self.standing(other, stations))
    }

    /// A carpd took over from silence. While a ucarp, FreeBSD or NetBSD is MASTER that is a question: their counters come to
    /// others that were used before, when recordings lead them down, or when they missed what somebody else sent. So it is
    /// while a carpd is that comes to what the asking one sent, and never heard that.
    pub fn asks(&mut self, now: Instant, asking: usize, stations: &[Station]) {
        let used = &stations[asking].used;
        let comes_to = |last: u64| {
            used.range(last.saturating_sub(31)..=last + 31)
                .next()
                .is_some()
        };
        let may_repeat = |number: &usize| match self.members[*number].program {
            Program::Model(dialect) => !dialect.has_constant_counter(),
            Program::Carpd(_) => {
                let mut sent = stations[*number].used.iter();
                *number != asking && sent.next_back().is_some_and(|last| comes_to(*last))
            }
        };
        // What is asked before that is answered until they must have settled.
        let late = now >= self.since + self.settling_time / 2;
        if late && self.questions < QUESTIONS_MAX && masters(!0, stations).iter().any(may_repeat) {
            self.questions += 1;
            self.disturb(now);
        }
    }

    /// A full ring lost packets: what somebody said when he left may have been among them.
    pub fn packets_are_lost(&mut self, now: Instant) {
        self.losers_are_heard = false;
        self.disturb(now);
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
                    "nobody of hosts {part:#b} has followed the master, {:?} too late",
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

    /// Two masters who hear each other: the worse one yields when it hears the better one, that is at once when that one
    /// has just taken over, and otherwise when its next advertisement is due, by what its last one said.
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
            // Who wins a tie is the rule's affair; the others must hear that one.
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
                        "hosts {masters:?} hear each other; {other} and {best:?}, which is better, have both been MASTER for {:?}",
                        now.saturating_duration_since(since)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Since when both have been MASTER and nothing went wrong.
    fn both_since(&self, one: usize, other: usize, stations: &[Station]) -> Instant {
        let (one, other) = (&stations[one], &stations[other]);
        self.since.max(one.reigns_since).max(other.reigns_since)
    }

    /// When the one must have heard of the better one.
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

    /// What was altered on its way makes takeovers wait for the other version, for a minute.
    fn suspense(&self, member: &Member) -> Duration {
        match self.theme {
            Theme::Attack | Theme::Strict => {
                (member.interval(true) / 4).min(Duration::from_millis(100))
            }
            Theme::Ours | Theme::Mixed => Duration::ZERO,
        }
    }

    /// How long a worse master waits after it heard a better one: a carpd yields to an answer to what it sent itself. A better
    /// carpd gives it at once, or after an eighth of an interval when it has answered much already, as has the worse one that
    /// asks; the others with their next advertisement; and an OpenBSD, which cannot, is believed
    /// with its third. Where more than two are master the answer to one may come too early for another, and the next
    /// advertisement is it.
    ///
    /// Where two of ours may come in the other order, one who goes on with what it heard last answers the earlier one first.
    fn answers_within(&self, one: usize, better: usize) -> Duration {
        let better = &self.members[better];
        let next = match self.members.len() {
            0..=2 => Duration::ZERO,
            _ => better.interval(true),
        };
        match (self.members[one].program, better.program) {
            (Program::Model(_), _) => Duration::ZERO,
            (Program::Carpd(_), Program::Carpd(_)) => {
                let paced = (self.members[one].interval(true) + better.interval(true)) / 8;
                next + paced + 2 * (self.delay + self.latency)
            }
            (Program::Carpd(_), Program::Model(Dialect::OpenBsd)) => better.interval(true) * 2,
            (Program::Carpd(_), Program::Model(_)) => {
                next + better.interval(true) * (1 + u32::from(self.overtakes))
            }
        }
    }

    /// Demotion, advbase and advskew as the host would advertise them; less is better. OpenBSD alone compares the first.
    fn standing(&self, number: usize, stations: &[Station]) -> (u8, u8, u8) {
        let (member, station) = (&self.members[number], &stations[number]);
        let (demotion, penalty) = (station.demotion, station.is_suppressed());
        let (demotion, advskew) = match member.program {
            Program::Carpd(Profile::OpenBsd) => {
                (demotion.saturating_add(penalty.into()), member.advskew)
            }
            Program::Model(dialect) => {
                let byte_4 = if dialect.uses_byte_4() { demotion } else { 0 };
                (byte_4, dialect.advertised(member.advskew, demotion))
            }
            Program::Carpd(Profile::Ucarp | Profile::FreeBsd) => {
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
        let alike = reading_of_demotion_is_one(hosts().map(|number| &self.members[number]));
        // Send errors leave a penalty that outlasts them, which nobody else can tell.
        let penalty = hosts().any(|number| stations[number].is_suppressed());
        if !alike || penalty || !hosts().all(|number| self.members[number].preempt) {
            return None;
        }
        let rank = |number: usize| self.standing(number, stations);
        let best = hosts().min_by_key(|number| rank(*number))?;
        // Who wins a tie depends on who was there first.
        hosts()
            .all(|number| number == best || rank(number) != rank(best))
            .then_some(best)
    }
}

/// Whether both have sent the same counter, which answers neither: they went on from the same third one, and the numbers that
/// they leave out differ by chance only.
fn coincides(one: usize, better: usize, since: Instant, stations: &[Station]) -> bool {
    let counters = |number: usize| {
        let sent = stations[number].last_sent.iter();
        let sent = sent.filter(move |sent| sent.at >= since);
        sent.filter_map(|sent| sent.payload.get(8..16))
    };
    counters(one).any(|counter| counters(better).any(|other| other == counter))
}

/// The longest interval of those that its advertisements announced, from the last one before `since` on.
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
