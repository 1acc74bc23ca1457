//! What happens in one run, drawn from its seed before it starts: hosts, timers, network, faults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Family, Profile};

use super::model::Dialect;
use super::network::Weather;
use super::packet::Group;
use super::rng::Rng;

/// When a run begins. Not 0, so that arithmetic with the clock's origin shows.
pub const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// What kind of run it is; each holds to other invariants (see the module's documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theme {
    /// carpd alone, every fault but an attacker.
    Ours,
    /// carpd with ucarp, FreeBSD and OpenBSD.
    Mixed,
    /// Any of those, and an attacker who owns no password.
    Attack,
    /// carpd with strict counters on a network that loses nothing, and the same attacker: he changes nothing.
    Strict,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which program runs on it.
    pub program: Program,
    /// Seconds.
    pub advbase: u8,
    /// 256ths of a second.
    pub advskew: u8,
    /// Silence factor.
    pub deadratio: u8,
    /// Takes over from a worse master.
    pub preempt: bool,
    /// Source addresses, by family.
    pub sources: [IpAddr; 2],
    /// How long its up and down scripts take.
    pub script: Duration,
    /// When it is started.
    pub start: Instant,
    /// Whether it is still dead, if a fault left it dead, when the quiet period begins.
    pub mortal: bool,
}

/// Which program runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The core under test.
    Carpd(Profile),
    /// A model of a foreign implementation.
    Model(Dialect),
}

/// Something that goes wrong, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies without a word.
    Crash(usize),
    /// It is stopped in an orderly way.
    Stop(usize),
    /// It is started (again).
    Start(usize),
    /// SIGSTOP, swap, debugger: packets wait in the ring with their arrival times.
    Hang(usize),
    /// It runs again.
    Resume(usize),
    /// Carrier lost.
    LinkDown(usize),
    /// Carrier back.
    LinkUp(usize),
    /// The source address of one family is removed.
    SourceLost(usize, Family),
    /// It is back.
    SourceBack(usize, Family),
    /// The device refuses to send.
    SendErrors(usize),
    /// It sends again.
    SendsAgain(usize),
    /// The operator demotes.
    Demote(usize, u8),
    /// The operator steps a master down and keeps it away for a while.
    StepDown(usize, Duration),
    /// One direction of one path is cut in one family, or in both.
    Cut(Option<Family>, usize, usize),
    /// The hosts of this bit mask cannot reach the others.
    Partition(u8),
    /// Every path is mended.
    Heal,
    /// The rate of loss changes.
    Loss(u64),
    /// The attacker sends something; the number seeds what.
    Inject(u64),
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Whose draw it is.
    pub seed: u64,
    /// What kind.
    pub theme: Theme,
    /// What the hosts share.
    pub group: Group,
    /// The hosts.
    pub members: Vec<Member>,
    /// The network.
    pub weather: Weather,
    /// Most time between an event and the moment when the daemon's thread runs.
    pub latency: Duration,
    /// Faults in order of time.
    pub faults: Vec<(Instant, Fault)>,
    /// From here on nothing goes wrong.
    pub quiet_at: Instant,
    /// Hosts with equal (advbase, advskew) and a rule among them that need not settle within a bound, since BSDs yield to
    /// each other: "exactly one master" cannot be asked.
    pub undecided_ties: bool,
    /// Members differ in how they read demotion, or an advertisement of a demoted host comes too seldom for a peer's
    /// patience: they need not settle while anyone is demoted.
    pub demotion_divides: bool,
    /// The quiet period starts with all demotions undone.
    pub undo_demotion: bool,
}

const UNIT: u64 = 1_000_000;
const STEP: Duration = Duration::from_nanos(3_906_250);

/// Milliseconds.
const fn ms(millis: u64) -> Duration {
    Duration::from_nanos(millis * UNIT)
}

impl Member {
    /// Time between two of its advertisements at the worst advskew that demotion can give it.
    #[must_use]
    pub fn interval(&self, demoted: bool) -> Duration {
        let advskew = if demoted {
            self.advskew.max(240)
        } else {
            self.advskew
        };
        match (self.advbase, advskew) {
            (0, 0) => STEP,
            (advbase, advskew) => Duration::from_secs(advbase.into()) + STEP * u32::from(advskew),
        }
    }

    /// Silence after which it takes over.
    #[must_use]
    pub fn master_down(&self) -> Duration {
        let (ratio, skew) = (u32::from(self.deadratio), u32::from(self.advskew));
        match self.advbase {
            0 => STEP * ratio * skew.max(1),
            advbase => Duration::from_secs(advbase.into()) * ratio + STEP * skew,
        }
    }

    /// (advbase, advskew): the rank in the election, lower is better.
    #[must_use]
    pub const fn rank(&self) -> (u8, u8) {
        (self.advbase, self.advskew)
    }

    /// A host with usual settings: advbase 1, deadratio 3, no scripts, no preemption. The number makes its addresses.
    #[must_use]
    pub const fn usual(program: Program, number: u8, advskew: u8) -> Self {
        let inet = IpAddr::V4(Ipv4Addr::new(10, 9, 0, number));
        let inet6 = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number as u16));
        Self {
            program,
            advbase: 1,
            advskew,
            deadratio: 3,
            preempt: false,
            sources: [inet, inet6],
            script: Duration::ZERO,
            start: START,
            mortal: false,
        }
    }

    /// Whether it is the core under test.
    #[must_use]
    pub const fn is_carpd(&self) -> bool {
        matches!(self.program, Program::Carpd(_))
    }
}

impl Scenario {
    /// A run in which nothing is left to chance but delays: these hosts on a good network in IPv4, and these faults.
    #[must_use]
    pub fn staged(
        members: Vec<Member>,
        faults: &[(Duration, Fault)],
        quiet_after: Duration,
    ) -> Self {
        let group = Group {
            vhid: 1,
            password: b"secret",
            inet: vec![Ipv4Addr::new(192, 0, 2, 100)],
            inet6: Vec::new(),
        };
        let weather = Weather {
            delay_min: Duration::from_micros(100),
            delay_max: ms(1),
            loss: 0,
            duplicates: 0,
            reflections: 0,
        };
        Self {
            seed: 0,
            theme: Theme::Ours,
            undecided_ties: undecided_ties(&members, &group),
            group,
            members,
            weather,
            latency: ms(1),
            faults: faults
                .iter()
                .map(|(after, fault)| (START + *after, *fault))
                .collect(),
            quiet_at: START + quiet_after,
            demotion_divides: false,
            undo_demotion: false,
        }
    }

    /// The run that a seed stands for.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let theme = match rng.between(0, 9) {
            0..=3 => Theme::Ours,
            4..=6 => Theme::Mixed,
            7..=8 => Theme::Attack,
            _ => Theme::Strict,
        };
        Self::draw(seed, theme, &mut rng)
    }

    fn draw(seed: u64, theme: Theme, rng: &mut Rng) -> Self {
        let fast = rng.chance(250);
        let latency = if theme == Theme::Strict {
            // Whoever is woken by a forgery handles the next genuine packet earlier: only without latency are a run
            // with the attacker and one without him comparable to the nanosecond.
            Duration::ZERO
        } else if fast {
            Duration::from_micros(500)
        } else {
            ms(rng.pick(&[1, 1, 5, 20]))
        };
        let programs = draw_programs(theme, rng);
        let weather = draw_weather(theme, fast, &programs, rng);
        let group = draw_group(&programs, rng);
        let margin = 4 * (weather.delay_max + latency);
        let members = loop {
            let members = draw_members(theme, &programs, fast, rng);
            if members.iter().all(|listener| {
                members
                    .iter()
                    .all(|speaker| patient(listener, speaker, margin))
            }) {
                break members;
            }
        };
        let undecided_ties = undecided_ties(&members, &group);
        let impatient = members.iter().any(|b| {
            members
                .iter()
                .any(|m| b.master_down() <= m.interval(true) + margin)
        });
        let demotion_divides = impatient || !one_reading_of_demotion(&members);
        let undo_demotion = demotion_divides || rng.chance(500);
        let horizon = if fast {
            ms(rng.between(500, 4_000))
        } else {
            ms(rng.between(5_000, 60_000))
        };
        let quiet_at = START + horizon;
        let mut faults = Vec::new();
        let count = rng.between(0, 10);
        for _ in 0..count {
            draw_fault(theme, &members, &group, horizon, rng, &mut faults);
        }
        if matches!(theme, Theme::Attack | Theme::Strict) {
            draw_attack(horizon, rng, &mut faults);
        }
        // Send errors leave a demotion behind that nobody but its owner can see.
        let seen = |fault: &Fault| !(demotion_divides && matches!(fault, Fault::SendErrors(_)));
        faults.retain(|(at, fault)| *at < quiet_at && seen(fault));
        faults.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            theme,
            group,
            members,
            weather,
            latency,
            faults,
            quiet_at,
            undecided_ties,
            demotion_divides,
            undo_demotion,
        }
    }

    /// The bound of this run: see the module's documentation.
    #[must_use]
    pub fn settling_time(&self) -> Duration {
        let longest = self.members.iter().map(Member::master_down).max();
        let interval = self.longest_interval();
        // Of two BSDs that yielded to each other one waits an interval longer than the other.
        let ties = if ties(&self.members).is_some() { 1 } else { 0 };
        longest.unwrap_or_default()
            + interval * (ties + self.rounds())
            + self.distrust()
            + 4 * self.step()
    }

    /// Advertisement intervals after which of several masters one remains. With strict counters advertisements that cross
    /// can use up each other's counters, and a round goes by.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        let others = u32::try_from(self.members.len()).expect("a few") - 1;
        if self.theme == Theme::Strict {
            others.max(1)
        } else {
            1
        }
    }

    /// Whether an attack may end all trust in a host: OpenBSD's counter is constant, so that whoever replays others'
    /// advertisements under its address makes it look like a forger as soon as its priority changes.
    #[must_use]
    pub fn trust_is_lost(&self) -> bool {
        let constant = |m: &Member| m.program == Program::Model(Dialect::OpenBsd);
        self.theme == Theme::Attack && self.members.iter().any(constant)
    }

    /// Longest advertisement interval.
    fn longest_interval(&self) -> Duration {
        self.members
            .iter()
            .map(|member| member.interval(true))
            .max()
            .unwrap_or_default()
    }

    /// How long genuine advertisements may be taken for forgeries after an attack: ucarp and FreeBSD go on with the
    /// counter that they heard last, so a replay makes them use counters again, of which each host remembers 16.
    #[must_use]
    pub fn distrust(&self) -> Duration {
        let follows =
            |m: &Member| matches!(m.program, Program::Model(Dialect::Ucarp | Dialect::FreeBsd));
        let attacked = self.theme == Theme::Attack && self.members.iter().any(follows);
        if attacked {
            self.longest_interval() * 16
        } else {
            Duration::ZERO
        }
    }

    /// Time from one host's decision to the reaction of another: delay on the wire and until the daemon runs.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.weather.delay_max + self.latency
    }
}

fn draw_weather(theme: Theme, fast: bool, programs: &[Program], rng: &mut Rng) -> Weather {
    let delay_max = if fast {
        Duration::from_micros(rng.between(50, 500))
    } else {
        ms(rng.pick(&[1, 2, 20, 100]))
    };
    let delay_min = if rng.chance(500) {
        delay_max / 2
    } else {
        Duration::from_micros(10)
    };
    // FreeBSD yields to its own reflection, as to any equal.
    let reflects = !programs.contains(&Program::Model(Dialect::FreeBsd)) && rng.chance(300);
    let loses = theme != Theme::Strict && rng.chance(400);
    Weather {
        delay_min,
        delay_max,
        loss: if loses {
            rng.pick(&[5, 50, 300, 700])
        } else {
            0
        },
        duplicates: if rng.chance(300) {
            rng.pick(&[10, 200])
        } else {
            0
        },
        reflections: if reflects { rng.pick(&[50, 1000]) } else { 0 },
    }
}

fn draw_programs(theme: Theme, rng: &mut Rng) -> Vec<Program> {
    let hosts = rng.pick(&[1, 2, 2, 2, 3, 3, 4, 5, 6]);
    let profile = rng.pick(&[
        Profile::Ucarp,
        Profile::Ucarp,
        Profile::FreeBsd,
        Profile::OpenBsd,
    ]);
    let carpd = Program::Carpd(profile);
    let foreign = match theme {
        Theme::Ours | Theme::Strict => return vec![carpd; hosts],
        Theme::Mixed => true,
        Theme::Attack => rng.chance(300),
    };
    // A pure neighbourhood is the usual one: the profile that fits the peers. One in four is a zoo.
    let kin = match profile {
        Profile::Ucarp => Dialect::Ucarp,
        Profile::FreeBsd => Dialect::FreeBsd,
        Profile::OpenBsd => Dialect::OpenBsd,
    };
    let zoo = rng.chance(250);
    (0..hosts.max(2))
        .map(|host| match (foreign && host > 0 && rng.chance(600), zoo) {
            (false, _) => carpd,
            (true, false) => Program::Model(kin),
            (true, true) => {
                Program::Model(rng.pick(&[Dialect::Ucarp, Dialect::FreeBsd, Dialect::OpenBsd]))
            }
        })
        .collect()
}

fn draw_group(programs: &[Program], rng: &mut Rng) -> Group {
    let inet_only = programs.contains(&Program::Model(Dialect::Ucarp));
    let families = if inet_only { 0 } else { rng.between(0, 4) };
    // ucarp knows exactly one address.
    let inet_count = if inet_only { 1 } else { rng.byte(1, 3) };
    let inet = (0..inet_count)
        .map(|n| Ipv4Addr::new(192, 0, 2, 100 + n))
        .collect();
    let inet6 = (0..rng.byte(1, 2))
        .map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n.into()))
        .collect();
    let password: &'static [u8] = rng.pick(&[b"secret".as_slice(), b"x", b"1234567890123456789"]);
    let (inet, inet6) = match families {
        0 | 1 => (inet, Vec::new()),
        2 => (Vec::new(), inet6),
        _ => (inet, inet6),
    };
    Group {
        vhid: rng.byte(1, 255),
        password,
        inet,
        inet6,
    }
}

fn draw_members(theme: Theme, programs: &[Program], fast: bool, rng: &mut Rng) -> Vec<Member> {
    let varied = rng.chance(200);
    let alike = rng.chance(150);
    let deadratio = if rng.chance(700) { 3 } else { rng.byte(1, 5) };
    let preempt = rng.chance(500);
    let every_third = rng.chance(300);
    // Who starts late knows no counters yet, and believes the first one.
    let together = theme == Theme::Strict || rng.chance(500);
    let mut third_octets: Vec<u8> = (0..6).collect();
    let common_skew = if fast {
        rng.byte(4, 60)
    } else {
        rng.byte(0, 254)
    };
    programs
        .iter()
        .zip(1_u8..)
        .map(|(&program, number)| {
            let advbase = if fast {
                0
            } else if varied {
                rng.byte(1, 4)
            } else {
                1
            };
            let advskew = if alike {
                common_skew
            } else if fast {
                rng.byte(4, 60)
            } else {
                rng.byte(0, 254)
            };
            let bsd = matches!(program, Program::Model(Dialect::FreeBsd | Dialect::OpenBsd));
            // ucarp's own timers make advbase 0 flap, and FreeBSD refuses it.
            let foreign_fast = advbase == 0
                && matches!(program, Program::Model(Dialect::Ucarp | Dialect::FreeBsd));
            // Raw and numeric order of the addresses differ: 10.9.1.x against 10.9.0.y.
            let octet = third_octets.remove(rng.index(third_octets.len()));
            let last = if rng.chance(500) {
                number
            } else {
                250 - number
            };
            let inet = Ipv4Addr::new(10, 9, octet, last);
            let inet6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, octet.into(), rng.byte(1, 9).into());
            // FreeBSD advertises 240 at most, whatever it was told.
            let advskew = if program == Program::Model(Dialect::FreeBsd) {
                advskew.min(240)
            } else {
                advskew
            };
            Member {
                program,
                advbase: if foreign_fast { 1 } else { advbase },
                advskew,
                deadratio: if bsd { 3 } else { deadratio },
                preempt: if every_third {
                    rng.chance(333)
                } else {
                    preempt
                },
                sources: [inet.into(), inet6.into()],
                script: if rng.chance(300) {
                    ms(rng.between(1, 6_000))
                } else {
                    Duration::ZERO
                },
                start: START
                    + if together || rng.chance(400) {
                        ms(rng.between(0, 10))
                    } else {
                        ms(rng.between(0, 8_000))
                    },
                mortal: rng.chance(300),
            }
        })
        .collect()
}

/// Whether the two hosts' timers decide clearly: the listener either waits for the speaker's next advertisement with
/// time to spare, or, being the better one, gives up on it long before.
fn patient(listener: &Member, speaker: &Member, margin: Duration) -> bool {
    let (patience, interval) = (listener.master_down(), speaker.interval(false));
    patience > interval + margin
        || (listener.rank() < speaker.rank() && patience + margin < interval)
}

/// Two hosts of equal rank.
fn ties(members: &[Member]) -> Option<(&Member, &Member)> {
    let earlier = members.iter().enumerate();
    earlier
        .flat_map(|(n, a)| members[..n].iter().map(move |b| (a, b)))
        .find(|(a, b)| a.rank() == b.rank())
}

/// Whether a tie may last. Not under ucarp's rule, which knows a winner; nor between two carpd who follow the BSDs' rule
/// in one family, since the one with the higher address waits longer the next time.
fn undecided_ties(members: &[Member], group: &Group) -> bool {
    let ucarp = |m: &Member| {
        matches!(
            m.program,
            Program::Carpd(Profile::Ucarp) | Program::Model(Dialect::Ucarp)
        )
    };
    let one_family = group.inet.is_empty() || group.inet6.is_empty();
    let decided = members.iter().all(ucarp)
        || (one_family && members.len() == 2 && members.iter().all(Member::is_carpd));
    ties(members).is_some() && !decided
}

/// Whether all members read a demoted host's advertisements alike.
fn one_reading_of_demotion(members: &[Member]) -> bool {
    let open_bsd = |m: &Member| {
        matches!(
            m.program,
            Program::Carpd(Profile::OpenBsd) | Program::Model(Dialect::OpenBsd)
        )
    };
    members.iter().all(open_bsd) || !members.iter().any(open_bsd)
}

fn draw_fault(
    theme: Theme,
    members: &[Member],
    group: &Group,
    horizon: Duration,
    rng: &mut Rng,
    faults: &mut Vec<(Instant, Fault)>,
) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    let start = START + ms(rng.between(0, horizon_ms));
    let end = start
        + if rng.chance(300) {
            ms(rng.between(1, 300))
        } else {
            ms(rng.between(300, horizon_ms.max(301)))
        };
    let host = rng.index(members.len());
    let other = rng.index(members.len());
    let carpd = members[host].is_carpd();
    let family = if group.uses(Family::Inet) && rng.chance(500) {
        Family::Inet
    } else {
        Family::Inet6
    };
    let mut pair = |first, last| faults.extend([(start, first), (end, last)]);
    // What a strict counter must survive without loss: everything but hosts that missed an advertisement.
    let kinds = if theme == Theme::Strict { 4 } else { 13 };
    match rng.between(0, kinds) {
        0 if carpd => pair(Fault::Hang(host), Fault::Resume(host)),
        1 if carpd => faults.push((start, Fault::StepDown(host, ms(rng.pick(&[0, 100, 3_000]))))),
        2 | 3 => pair(
            Fault::Demote(host, rng.pick(&[1, 10, 100, 240, 255])),
            Fault::Demote(host, 0),
        ),
        4 => pair(
            Fault::Demote(host, rng.byte(1, 255)),
            Fault::Demote(host, rng.byte(1, 255)),
        ),
        5 => pair(Fault::Crash(host), Fault::Start(host)),
        6 => pair(Fault::Stop(host), Fault::Start(host)),
        7 => pair(Fault::LinkDown(host), Fault::LinkUp(host)),
        8 if carpd => pair(
            Fault::SourceLost(host, family),
            Fault::SourceBack(host, family),
        ),
        9 if carpd => pair(Fault::SendErrors(host), Fault::SendsAgain(host)),
        10 => pair(
            Fault::Cut(rng.chance(500).then_some(family), host, other),
            Fault::Heal,
        ),
        11 => pair(Fault::Partition(rng.byte(1, 62)), Fault::Heal),
        12 => {
            // A flapping link.
            let (mut at, period) = (start, ms(rng.between(20, 2_000)));
            for _ in 0..rng.between(2, 8) {
                faults.extend([
                    (at, Fault::LinkDown(host)),
                    (at + period, Fault::LinkUp(host)),
                ]);
                at = at + 2 * period;
            }
        }
        13 => pair(Fault::Loss(rng.pick(&[50, 500, 1000])), Fault::Loss(0)),
        _ => pair(Fault::Crash(host), Fault::Start(host)),
    }
}

fn draw_attack(horizon: Duration, rng: &mut Rng, faults: &mut Vec<(Instant, Fault)>) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    for _ in 0..rng.between(1, 3) {
        let mut at = START + ms(rng.between(0, horizon_ms));
        let pace = rng.pick(&[100, 10_000, 300_000, 1_000_000]);
        for _ in 0..rng.between(1, 60) {
            faults.push((at, Fault::Inject(rng.next_u64())));
            at = at + Duration::from_micros(rng.between(1, pace));
        }
    }
}
