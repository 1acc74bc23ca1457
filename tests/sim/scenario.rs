//! The events of one run, drawn from its seed before it starts: hosts, timers, network, faults.

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

/// The begin of a run. It is not 0, so that arithmetic with the clock's origin shows.
pub const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// The kind of a run; each has its own invariants (see the module's documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theme {
    /// carpd only, with every fault but no attacker.
    Ours,
    /// carpd together with ucarp, FreeBSD and OpenBSD.
    Mixed,
    /// Any of those, and an attacker without the password.
    Attack,
    /// carpd with strict counters, and either every fault, or the same attacker, who changes nothing if nothing is
    /// lost.
    Strict,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Member {
    /// The program that runs on it.
    pub program: Implementation,
    /// Seconds.
    pub advbase: u8,
    /// 256ths of a second.
    pub advskew: u8,
    /// The deadratio.
    pub deadratio: u8,
    /// Whether it takes over from a worse master.
    pub preempt: bool,
    /// Source addresses, by family.
    pub sources: [IpAddr; 2],
    /// The time that its up and down scripts take.
    pub script: Duration,
    /// When it is started.
    pub start: Instant,
    /// Whether it stays dead in the quiet period, if a fault killed it.
    pub mortal: bool,
}

/// The program that runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The core under test.
    Carpd(Profile),
    /// A model of another implementation.
    Model(Dialect),
}

/// A fault, or the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed.
    Crash(usize),
    /// The process is stopped in an orderly way.
    Stop(usize),
    /// The process is started (again).
    Start(usize),
    /// SIGSTOP, swapping or a debugger: packets wait in the ring with their arrival times.
    Hang(usize),
    /// The whole machine is paused with its kernel, as by a hypervisor: packets that arrive meanwhile are lost
    /// without notice.
    Pause(usize),
    /// The process or the machine runs again.
    Resume(usize),
    /// The carrier is lost.
    LinkDown(usize),
    /// The carrier is back.
    LinkUp(usize),
    /// The source address of one family is removed.
    SourceLost(usize, Family),
    /// The source address is back.
    SourceBack(usize, Family),
    /// The device refuses to send.
    SendErrors(usize),
    /// The device sends again.
    SendsAgain(usize),
    /// The operator demotes.
    Demote(usize, u8),
    /// The operator steps a master down.
    StepDown(usize),
    /// One direction of one path is cut, in one family or in both.
    Cut(Option<Family>, usize, usize),
    /// The hosts of this bit mask cannot reach the others.
    Partition(u8),
    /// Every path is restored.
    Heal,
    /// The rate of loss changes.
    Loss(u64),
    /// Something happens to the kernel of a carpd.
    Mishap(usize, Mishap),
    /// A carpd stops serving the second virtual host.
    Remove(usize),
    /// A carpd serves the second virtual host again.
    Add(usize),
    /// The attacker sends something; the number seeds it.
    Inject(u64),
    /// The attacker begins or continues the plan with this number.
    Stroke(usize),
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed from which it was drawn.
    pub seed: u64,
    /// The kind of run.
    pub theme: Theme,
    /// The settings that the hosts have in common.
    pub group: Group,
    /// The hosts.
    pub members: Vec<Member>,
    /// The network.
    pub weather: Weather,
    /// The longest time between an event and the run of the daemon's thread.
    pub latency: Duration,
    /// The capacity of the ring between a carpd and its kernel, in packets.
    pub ring: usize,
    /// A second virtual host that every carpd serves, with the ranks of the hosts reversed.
    pub second: Option<Group>,
    /// Prefix length of the virtual addresses.
    pub prefix: u8,
    /// The capacity of a carpd's netlink socket, in notifications.
    pub notifications: usize,
    /// Whether the kernels support programs, and so a fence; otherwise there are sockets.
    pub programs: bool,
    /// The faults, in order of time.
    pub faults: Vec<(Instant, Fault)>,
    /// The plans of the attacker.
    pub plans: Vec<Plan>,
    /// The time from which on nothing goes wrong.
    pub quiet_at: Instant,
    /// Whether hosts with equal (advbase, advskew) and different rules need not settle within a bound, because BSDs
    /// yield to each other; "exactly one master" cannot be checked then.
    pub undecided_ties: bool,
    /// Whether members differ in how they read demotion, or a demoted host advertises too rarely for a peer's
    /// patience; they need not settle while any host is demoted.
    pub demotion_divides: bool,
    /// Whether the quiet period starts with all demotions undone.
    pub undo_demotion: bool,
    /// The fate of the master in the end, when all hosts have settled.
    pub finale: Option<Finale>,
}

/// The end of the master of a settled group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finale {
    /// It is killed.
    Crash,
    /// It is stopped in an orderly way.
    Stop,
}

const UNIT: u64 = 1_000_000;
/// One step of advskew.
pub const STEP: Duration = Duration::from_nanos(3_906_250);

/// Returns the time between two advertisements with these values.
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
    /// Returns the longest time between two of its advertisements; if `demoted`, with the worst advskew that demotion
    /// can give it.
    #[must_use]
    pub fn interval(&self, demoted: bool) -> Duration {
        let advskew = if demoted {
            self.advskew.max(240)
        } else {
            self.advskew
        };
        self.timer(interval(self.advbase, advskew))
    }

    /// Returns the longest time from an advertisement with these values to its next one. The first interval of a BSD
    /// as MASTER is the configured one.
    #[must_use]
    pub fn gap(&self, advbase: u8, advskew: u8) -> Duration {
        let configured = match self.program {
            Implementation::Carpd(_) | Implementation::Model(Dialect::Ucarp) => Duration::ZERO,
            Implementation::Model(_) => interval(self.advbase, self.advskew),
        };
        self.timer(interval(advbase, advskew).max(configured))
    }

    /// Returns the longest silence after which it takes over, as far as it depends on this host.
    #[must_use]
    pub fn master_down(&self) -> Duration {
        let (ratio, skew) = (u32::from(self.deadratio), u32::from(self.advskew));
        self.timer(match self.advbase {
            0 => STEP * ratio * skew.max(1),
            advbase => Duration::from_secs(advbase.into()) * ratio + STEP * skew,
        })
    }

    /// Returns the longest real time of one of its timers.
    fn timer(&self, exact: Duration) -> Duration {
        match self.program {
            Implementation::Carpd(_) => exact,
            Implementation::Model(dialect) => dialect.timer(exact),
        }
    }

    /// Returns the silence after which it takes over from a BSD; with advbase 0 the BSD's ticks count.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let ticks = match (self.advbase, self.program) {
            (0, Implementation::Carpd(_)) => ms(20) + STEP * u32::from(self.advskew.max(1)) * 3,
            _ => Duration::ZERO,
        };
        self.master_down().max(ticks)
    }

    /// Returns how much later than by its advskew alone a carpd follows a bow-out under the BSDs' rules.
    #[must_use]
    pub fn turn_by_address(&self) -> Duration {
        match (self.program, self.sources) {
            (Implementation::Carpd(Profile::Ucarp) | Implementation::Model(_), _) => Duration::ZERO,
            (Implementation::Carpd(_), [IpAddr::V4(inet), IpAddr::V6(inet6)]) => ms(u64::from(
                (inet.octets()[3] & 15).max(inet6.octets()[15] & 15),
            )),
            (Implementation::Carpd(_), _) => Duration::ZERO,
        }
    }

    /// Returns (advbase, advskew) as it advertises them when nothing demotes it: its rank in the election, lower is
    /// better.
    #[must_use]
    pub fn rank(&self) -> (u8, u8) {
        let advskew = match self.program {
            Implementation::Carpd(_) => self.advskew,
            Implementation::Model(dialect) => dialect.advertised(self.advskew, 0),
        };
        (self.advbase, advskew)
    }

    /// Creates a host with usual settings: advbase 1, deadratio 3, no scripts, no preemption. The number determines
    /// its addresses.
    #[must_use]
    pub const fn usual(program: Implementation, number: u8, advskew: u8) -> Self {
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

    /// Whether it runs the core under test.
    #[must_use]
    pub const fn is_carpd(&self) -> bool {
        matches!(self.program, Implementation::Carpd(_))
    }
}

impl Scenario {
    /// Creates a run in which only delays are random: these hosts on a good network in IPv4, with these faults.
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

    /// Whether there is an attacker who must change nothing at all, because it alters nothing on its way.
    #[must_use]
    pub fn attacker_is_powerless(&self) -> bool {
        let injects =
            |(_, fault): &(Instant, Fault)| matches!(fault, Fault::Inject(_) | Fault::Stroke(_));
        let overtakes = |plan: &plan::Plan| matches!(plan.ploy, plan::Ploy::Overtake(_));
        self.theme == Theme::Strict
            && self.faults.iter().any(injects)
            && !self.plans.iter().any(overtakes)
    }

    /// Returns the bound of this run; see the module's documentation.
    #[must_use]
    pub fn settling_time(&self) -> Duration {
        let longest = self.members.iter().map(Member::patience);
        let (silence, interval) = (longest.max().unwrap_or_default(), self.longest_interval());
        // Two BSDs that yielded to each other both wait again, and one of them waits an interval longer.
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

    /// Returns the number of additional intervals until a worse carpd has its answer. ucarp, FreeBSD and NetBSD
    /// answer with their next advertisement; an OpenBSD is believed with its third; and with more than two masters an
    /// answer may come too early.
    fn answers(&self) -> u32 {
        let more = u32::from(self.members.len() > 2);
        let of_others = self.members.iter().map(|member| match member.program {
            Implementation::Carpd(_) => 0,
            Implementation::Model(dialect) if dialect.has_constant_counter() => 2,
            Implementation::Model(_) => 1,
        });
        more + of_others.max().unwrap_or_default()
    }

    /// Returns the number of advertisement intervals after which one of several masters remains. With strict
    /// counters, crossing advertisements can use up each other's counters, which costs a round; and if advertisements
    /// were lost, the counters of the better one may be behind until it has heard the other.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        let hosts = u32::try_from(self.members.len()).expect("a few");
        match self.theme {
            Theme::Strict if self.attacker_is_powerless() => (hosts - 1).max(1),
            Theme::Strict => hosts,
            Theme::Ours | Theme::Mixed | Theme::Attack => 1,
        }
    }

    /// Whether an attack may decide which host is MASTER: OpenBSD's counter is constant, so anyone who heard it can
    /// advertise in its name.
    #[must_use]
    pub fn trust_is_lost(&self) -> bool {
        let constant = |m: &Member| matches!(m.program, Implementation::Model(dialect) if dialect.has_constant_counter());
        self.theme == Theme::Attack && self.members.iter().any(constant)
    }

    /// Returns the longest advertisement interval.
    fn longest_interval(&self) -> Duration {
        self.members
            .iter()
            .map(|member| member.interval(true))
            .max()
            .unwrap_or_default()
    }

    /// Returns how long genuine advertisements may prove nothing after an attack: ucarp and FreeBSD continue from the
    /// counter that they heard last, so a replay makes them reuse counters, and a BACKUP that has asked is patient.
    #[must_use]
    pub fn distrust(&self) -> Duration {
        if self.theme == Theme::Attack {
            self.longest_interval() * 16
        } else {
            Duration::ZERO
        }
    }

    /// Returns the time from a decision of one host to the reaction of another: the delay on the wire, and until the
    /// daemon runs.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.weather.delay_max + self.latency
    }
}

/// Whether two hosts have equal ranks.
fn ties(members: &[Member]) -> Option<(&Member, &Member)> {
    let earlier = members.iter().enumerate();
    earlier
        .flat_map(|(n, a)| members[..n].iter().map(move |b| (a, b)))
        .find(|(a, b)| a.rank() == b.rank())
}

/// Whether a tie may last. It may not under ucarp's rule, which decides it; nor between two carpd that follow the
/// BSDs' rule in one family, because the one with the higher address waits longer the next time.
fn undecided_ties(members: &[Member], group: &Group) -> bool {
    let ucarp = |m: &Member| {
        matches!(
            m.program,
            Implementation::Carpd(Profile::Ucarp) | Implementation::Model(Dialect::Ucarp)
        )
    };
    let one_family = group.inet.is_empty() || group.inet6.is_empty();
    let decided = members.iter().all(ucarp)
        || (one_family && members.len() == 2 && members.iter().all(Member::is_carpd));
    ties(members).is_some() && !decided
}

/// Whether all of them read a demoted host's advertisements alike: either no host puts demotion into byte 4, or all
/// compare it first, as every carpd and OpenBSD do.
#[must_use]
pub fn reading_of_demotion_is_one<'a>(members: impl Iterator<Item = &'a Member>) -> bool {
    let (mut fills, mut ignores) = (false, false);
    for member in members {
        match member.program {
            Implementation::Carpd(profile) => fills |= profile == Profile::OpenBsd,
            Implementation::Model(dialect) => {
                fills |= dialect.uses_byte_4();
                ignores |= !dialect.uses_byte_4();
            }
        }
    }
    !(fills && ignores)
}
