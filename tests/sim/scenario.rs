//! What happens in one run, drawn from its seed before it starts: hosts, timers, network, faults.

mod config;
mod draw;
pub mod mishap;
pub mod plan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Family, Profile};

use super::model::Dialect;
use super::network::Weather;
use super::packet::Group;
use mishap::Mishap;
use plan::Plan;

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
    /// carpd with strict counters: every fault, or the same attacker, who changes nothing where nothing is lost.
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
    /// Its whole machine is paused, kernel and all, as a hypervisor does: what arrives meanwhile is lost, unnoticed.
    Pause(usize),
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
    /// Something happens to the kernel of a carpd.
    Mishap(usize, Mishap),
    /// A carpd is to serve the second virtual host no longer.
    Remove(usize),
    /// It is to serve it again.
    Add(usize),
    /// The attacker sends something; the number seeds what.
    Inject(u64),
    /// The attacker carries on with the plan of this number, or begins to.
    Stroke(usize),
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
    /// How many packets the ring between a carpd and its kernel holds.
    pub ring: usize,
    /// Another virtual host that every carpd serves beside the first, with the ranks of these hosts turned round.
    pub second: Option<Group>,
    /// Prefix length of the virtual addresses.
    pub prefix: u8,
    /// How many notifications a carpd's socket holds.
    pub notifications: usize,
    /// Whether the kernels have programs, and so a fence; otherwise there are sockets.
    pub programs: bool,
    /// Faults in order of time.
    pub faults: Vec<(Instant, Fault)>,
    /// What the attacker is up to.
    pub plans: Vec<Plan>,
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
    /// What becomes of the master in the end, when all has settled.
    pub finale: Option<Finale>,
}

/// How the master of a settled group ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finale {
    /// Without a word.
    Crash,
    /// In an orderly way.
    Stop,
}

const UNIT: u64 = 1_000_000;
/// One step of advskew.
pub const STEP: Duration = Duration::from_nanos(3_906_250);

/// Time between two advertisements that say so.
#[must_use]
pub fn interval(advbase: u8, advskew: u8) -> Duration {
    match (advbase, advskew) {
        (0, 0) => STEP,
        (advbase, advskew) => Duration::from_secs(advbase.into()) + STEP * u32::from(advskew),
    }
}

/// Milliseconds.
const fn ms(millis: u64) -> Duration {
    Duration::from_nanos(millis * UNIT)
}

impl Member {
    /// Longest time between two of its advertisements; if `demoted`, at the worst advskew that demotion can give it.
    #[must_use]
    pub fn interval(&self, demoted: bool) -> Duration {
        let advskew = if demoted {
            self.advskew.max(240)
        } else {
            self.advskew
        };
        self.timer(interval(self.advbase, advskew))
    }

    /// Longest time after an advertisement that says so until its next one. The first interval of a BSD's reign is the
    /// configured one.
    #[must_use]
    pub fn gap(&self, advbase: u8, advskew: u8) -> Duration {
        let configured = match self.program {
            Program::Carpd(_) | Program::Model(Dialect::Ucarp) => Duration::ZERO,
            Program::Model(_) => interval(self.advbase, self.advskew),
        };
        self.timer(interval(advbase, advskew).max(configured))
    }

    /// Longest silence after which it takes over, for its own part.
    #[must_use]
    pub fn master_down(&self) -> Duration {
        let (ratio, skew) = (u32::from(self.deadratio), u32::from(self.advskew));
        self.timer(match self.advbase {
            0 => STEP * ratio * skew.max(1),
            advbase => Duration::from_secs(advbase.into()) * ratio + STEP * skew,
        })
    }

    /// How long a timer of its takes.
    fn timer(&self, exact: Duration) -> Duration {
        match self.program {
            Program::Carpd(_) => exact,
            Program::Model(dialect) => dialect.timer(exact),
        }
    }

    /// Silence after which it takes over from a BSD: with advbase 0 that one's ticks count.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let ticks = match (self.advbase, self.program) {
            (0, Program::Carpd(_)) => ms(20) + STEP * u32::from(self.advskew.max(1)) * 3,
            _ => Duration::ZERO,
        };
        self.master_down().max(ticks)
    }

    /// How much later than by its advskew alone a carpd follows a bow-out under the BSDs' rules.
    #[must_use]
    pub fn turn_by_address(&self) -> Duration {
        match (self.program, self.sources) {
            (Program::Carpd(Profile::Ucarp) | Program::Model(_), _) => Duration::ZERO,
            (Program::Carpd(_), [IpAddr::V4(inet), IpAddr::V6(inet6)]) => ms(u64::from(
                (inet.octets()[3] & 15).max(inet6.octets()[15] & 15),
            )),
            (Program::Carpd(_), _) => Duration::ZERO,
        }
    }

    /// (advbase, advskew) as it advertises them when nothing demotes it: the rank in the election, lower is better.
    #[must_use]
    pub fn rank(&self) -> (u8, u8) {
        let advskew = match self.program {
            Program::Carpd(_) => self.advskew,
            Program::Model(dialect) => dialect.advertised(self.advskew, 0),
        };
        (self.advbase, advskew)
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
            ring: 1_000,
            second: None,
            prefix: 32,
            notifications: 1_000,
            programs: true,
            faults: faults
                .iter()
                .map(|(after, fault)| (START + *after, *fault))
                .collect(),
            plans: Vec::new(),
            quiet_at: START + quiet_after,
            demotion_divides: false,
            undo_demotion: false,
            finale: None,
        }
    }

    /// Whether there is an attacker who must change nothing at all: who alters nothing on its way.
    #[must_use]
    pub fn attacker_is_powerless(&self) -> bool {
        let injects =
            |(_, fault): &(Instant, Fault)| matches!(fault, Fault::Inject(_) | Fault::Stroke(_));
        let overtakes = |plan: &plan::Plan| matches!(plan.ploy, plan::Ploy::Overtake(_));
        self.theme == Theme::Strict
            && self.faults.iter().any(injects)
            && !self.plans.iter().any(overtakes)
    }

    /// The bound of this run: see the module's documentation.
    #[must_use]
    pub fn settling_time(&self) -> Duration {
        let longest = self.members.iter().map(Member::patience);
        let (silence, interval) = (longest.max().unwrap_or_default(), self.longest_interval());
        // Two BSDs that yielded to each other both wait again, and one of them an interval longer.
        let tie = if ties(&self.members).is_some() {
            silence + interval
        } else {
            Duration::ZERO
        };
        silence
            + interval * (self.rounds() + self.answers())
            + tie
            + self.distrust()
            + 4 * self.step()
    }

    /// Intervals more until a worse carpd has its answer: ucarp, FreeBSD and NetBSD give it with their next advertisement, an
    /// OpenBSD is believed with its third, and where more than two are master an answer may come too early.
    fn answers(&self) -> u32 {
        let more = u32::from(self.members.len() > 2);
        let of_others = self.members.iter().map(|member| match member.program {
            Program::Carpd(_) => 0,
            Program::Model(dialect) if dialect.has_constant_counter() => 2,
            Program::Model(_) => 1,
        });
        more + of_others.max().unwrap_or_default()
    }

    /// Advertisement intervals after which of several masters one remains. With strict counters advertisements that cross
    /// can use up each other's counters, and a round goes by; and where advertisements were lost, the better one's
    /// counters may be behind, until it has heard the other.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        let hosts = u32::try_from(self.members.len()).expect("a few");
        match self.theme {
            Theme::Strict if self.attacker_is_powerless() => (hosts - 1).max(1),
            Theme::Strict => hosts,
            Theme::Ours | Theme::Mixed | Theme::Attack => 1,
        }
    }

    /// Whether an attack may decide who is MASTER: OpenBSD's counter is constant, so that whoever heard it can speak in its name.
    #[must_use]
    pub fn trust_is_lost(&self) -> bool {
        let constant = |m: &Member| matches!(m.program, Program::Model(dialect) if dialect.has_constant_counter());
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

    /// How long genuine advertisements may prove nothing after an attack: ucarp and FreeBSD go on with the counter that they
    /// heard last, so a replay makes them use counters again, and a BACKUP that asked is patient.
    #[must_use]
    pub fn distrust(&self) -> Duration {
        if self.theme == Theme::Attack {
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

/// Whether all of them read a demoted host's advertisements alike: nobody puts demotion into byte 4, or everybody
/// compares that first, as every carpd and OpenBSD do.
#[must_use]
pub fn reading_of_demotion_is_one<'a>(members: impl Iterator<Item = &'a Member>) -> bool {
    let (mut fills, mut ignores) = (false, false);
    for member in members {
        match member.program {
            Program::Carpd(profile) => fills |= profile == Profile::OpenBsd,
            Program::Model(dialect) => {
                fills |= dialect.uses_byte_4();
                ignores |= !dialect.uses_byte_4();
            }
        }
    }
    !(fills && ignores)
}
