//! Deterministic simulation of whole groups: any number of hosts that run the daemon's engine, under every fault.
//!
//! | Module | Contents |
//! |---|---|
//! | [`rng`] | the only source of randomness |
//! | [`scenario`] | the events of a run, drawn from its seed |
//! | [`world`] | the event queue, the virtual clock, the hosts |
//! | [`station`] | a host and its place on the network |
//! | [`network`] | loss, delay, duplicates, reflections, cuts |
//! | [`host`] | a process: the engine of the daemon |
//! | [`machine`] | everything of a host except its process, and the engine's view of it |
//! | [`kernel`] | the kernel under a process: links, addresses, routes, the program, scripts |
//! | [`model`] | ucarp, FreeBSD, OpenBSD and NetBSD, written without the core |
//! | [`packet`] | the 36 bytes, written without the core |
//! | [`attacker`] | recordings of everything, resent, altered, and delivered before the genuine ones |
//! | [`watch`] | the invariants of one host at each step |
//! | [`signs`] | the advertisements that count as a sign of life for that host |
//! | [`duty`] | the duties of one host towards its clients: which host answers, and the state that a host leaves behind |
//! | [`group`] | the invariants between hosts |
//! | [`mod@trace`] | a failed run in words |
//!
//! One seed is one run. The clock jumps from event to event, so an hour takes a moment.
//!
//! # What must hold
//!
//! For each carpd, after every input:
//!
//! - it advertises, announces and holds addresses only as MASTER, except for the last advertisement of a host that is
//!   leaving MASTER;
//! - claims and releases alternate, and while no script runs, the addresses are there exactly while it is MASTER;
//! - a takeover programs the datapath, claims, advertises and announces, in this order;
//! - only a MASTER owns the addresses: until shortly after its next advertisement is due, provided that the last one
//!   went out, and no longer once it has announced that it leaves; it counts as alive until it runs again, and not
//!   much longer;
//! - its next deadline is in the future, and no later than its timers imply; handling a timeout twice does nothing;
//! - its replay counters rise, with strict counters also across a restart;
//! - its peers can authenticate its advertisements, and it never advertises a better priority than the configured one;
//! - it declares a master dead only after the master-down time of silence, counted from the **arrival** of the last
//!   advertisement in the kernel, however late it runs itself; if it slept through the end of that time, only after
//!   one and a half of its intervals more;
//! - every state change has a cause that its reason names;
//! - the number of actions per input, and of announcements and advertisements per interval, has a constant bound,
//!   whatever is replayed.
//!
//! For each host whose engine and kernel are simulated:
//!
//! - it answers for a virtual address only as MASTER, unless somebody else added the address or there is no fence;
//! - a MASTER whose advertisements are sent answers for every address that it has;
//! - a MASTER has its addresses again a moment after another program removed them, or within eleven seconds if that
//!   happened too often or orders failed;
//! - a host that is not MASTER has none of the addresses that carpd itself adds, except for two and a half seconds after
//!   a fault that kept it from removing them. A BACKUP that has heard no other host may keep what a dead process left;
//! - nothing that another program added is removed or changed, except for the moment in which two orders crossed;
//! - a process that is killed leaves no address beyond its lease; and its host is silent before another host takes
//!   over from silence that heard its last advertisement and waits at least as long as an equal one;
//! - once scripts have ended, their addresses are there exactly while it is MASTER;
//! - an orderly end, and the removal of a virtual host, leave no address, route, fence or entry behind.
//!
//! One run in five has rarer faults of a host, mostly together with a crash, a hang, a step-down, a lost address or an
//! interface that is created again. What must hold does not change, except for this:
//!
//! - the kernel takes too long for orders and questions, or cannot list links and addresses: until eleven seconds later,
//!   a MASTER may lack addresses, and until two and a half seconds later, another host may still have some;
//! - another process holds the locks: a virtual host is in INIT unless it has its lock, and without it the fence is the
//!   other process's, so the host may answer for what a script of ours adds;
//! - the kernel's tables refuse every change but removals: a host that is not MASTER may answer for an address that they
//!   refused to fence, until two and a half seconds later;
//! - lists fail, or the tables refuse something: what a removed virtual host leaves stays until two and a half seconds
//!   later;
//! - the tables refuse to remove an entry: it may let the host answer for as long as its MASTER owned the addresses;
//! - an address of another program ends at its time: carpd never makes that earlier, and a MASTER replaces it then.
//!
//! In three runs of ten, every carpd serves a second virtual host, which is removed and added again while it runs.
//! The rules for single hosts hold for it as well; the rules between hosts are not checked.
//!
//! For each part of the network whose hosts all hear each other and no other host, let
//!
//! - `D` be the longest master-down time of its hosts: deadratio × advbase + advskew/256 s;
//! - `I` be the longest advertisement interval: advbase + advskew/256 s, demoted advskew included;
//! - `d` be the longest delay of a frame, and `j` the longest time until a daemon with something to do runs.
//!
//! Let `t` be the time of the last fault (loss, cut, crash, hang, stop, full ring, link or address change, demotion,
//! forged packet, the end of each of these, and the end of a step-down's hold). Then there is
//!
//! - **exactly one MASTER from `t + D + I + 4(d + j)` on**, always the same one, and the best one if all preempt;
//! - **at most one MASTER outside the windows that CARP itself allows**. Consider two hosts that hear each other and
//!   have both been MASTER since `t` or later: when the better one advertises, the other one has yielded `d + j`
//!   later. A takeover by preemption begins with an advertisement, so two are MASTER for `d + j`. Otherwise two are
//!   MASTER until the next advertisement is due: for the interval that the better one's last advertisement announced,
//!   and `2(d + j)`. Under attack, the longest interval of the masters counts. With strict counters, `n` hosts may
//!   take `n` of those intervals (one less if nothing was lost), because crossing advertisements use up each other's
//!   counters, and because the better one's counter may be behind;
//! - **no time without a MASTER beyond what the timers imply.** After a crash of the settled master: the shortest
//!   master-down time of the others, and `d + 3j`. After an orderly stop: the shortest turn (advskew × 1/16 of
//!   1/256 s, at most 62 ms; 0 for other implementations), and `d + 3j`. This is checked at the end of two runs in
//!   three, and whenever a settled master leaves and nothing else goes wrong. An advertisement that is overtaken by a
//!   bow-out revokes it, so if one may be under way, the bound for a crash applies.
//!
//! **A host that takes over because of silence finds no owner**: if the last advertisement of another carpd reached
//! it, and its master-down time is no shorter than the time for which that advertisement makes its sender the owner,
//! the other one's kernel is silent, even if its process hangs, is dead or cannot send.
//!
//! CARP cannot promise more: a frame may be under way for `d`, and a master shows that it lives only once per `I`.
//!
//! Under the BSDs' rules, two hosts with equal (advbase, advskew) may both yield. Two carpd separate after another
//! `D + I`. With a real BSD, with more than two such hosts, or with two families at once, only the second bound is
//! checked.
//!
//! **An attacker** without the password records, resends, alters, and delivers copies first. All rules for single
//! hosts hold meanwhile; a sign of life that [`signs`] is sure of must count. Between hosts, the bounds above hold
//! after the attacker's last packet plus `16 I`: a ucarp, FreeBSD or NetBSD may have been led to counters that it
//! used before, and each doubling of a BACKUP's patience takes a few of their intervals. With an OpenBSD, whose
//! counter is constant, nothing is checked between hosts. If all peers are carpd and counters are strict, the
//! attacker changes nothing at all unless it delivers first: with and without the attacker, a run has the same state
//! changes at the same nanosecond, provided that every host heard from its sender what is replayed.
//!
//! **Questions.** A BACKUP that hears a ucarp, FreeBSD or NetBSD only with used counters asks by becoming MASTER. So
//! does a BACKUP when a carpd's counters reach those that the BACKUP sent and the carpd never heard. Twice in a run
//! this is no violation, even if nothing went wrong lately; the time with two MASTERs is bounded as above.
//!
//! **Answers.** A worse carpd yields to an answer to its own advertisement. A better carpd takes `2(d + j)` and an
//! eighth of both intervals for that. A ucarp, FreeBSD or NetBSD takes an interval more, and another one if delays
//! let two of our advertisements arrive in the other order; an OpenBSD takes two. It takes one interval more with
//! more than two MASTERs, and one more if both hosts sent the same counter at once.
//!
//! # What random runs leave out
//!
//! - the half second for which the engine waits for a slow kernel;
//! - duplicate address detection: every IPv6 address can be used at once;
//! - a virtual host that is added again while scripts of the removed one still run: they would undo each other's
//!   work;
//! - scripts that outlive a killed process, and an interface that is created again while a process that has shut down
//!   waits for its scripts;
//! - strict counters with an attacker **and** advertisements that a host misses (late start, crash, restart,
//!   partition, loss, a lost link or source, send errors, a full ring): a host that missed one believes a replay of
//!   it. Without the attacker, strict counters are combined with all of these;
//! - reflections with a FreeBSD or a NetBSD: it yields to its own advertisement, as to any equal one;
//! - send errors if members differ in how they read demotion: the demotion that results is invisible from outside.
//!   Otherwise, the best host is not required while one has it;
//! - members that would time out a living master, unless they are the better ones: they would flap, as configured;
//! - a hung process of another implementation: its whole machine hangs, arriving packets are lost, and its timers are
//!   late. (A hung ucarp process would read old packets as new; `tests/e2e/faults/yardstick.rs` measures that.);
//! - advbase 0 with ucarp, FreeBSD and NetBSD, which do not support it;
//! - IPv6 with NetBSD, which does not support it.

pub mod attacker;
pub mod duty;
pub mod group;
pub mod host;
pub mod kernel;
pub mod machine;
pub mod model;
pub mod network;
pub mod packet;
pub mod rng;
pub mod scenario;
pub mod signs;
pub mod station;
pub mod trace;
pub mod watch;
pub mod world;

use std::fmt::Write as _;

use scenario::Scenario;
use world::{Outcome, World};

/// Runs one seed.
///
/// # Errors
/// Returns a report for the reader: the seed, the scenario, the violation, and the trace up to it.
pub fn check_seed(seed: u64) -> Result<Outcome, String> {
    check(&Scenario::from_seed(seed))
}

/// Runs one scenario.
///
/// # Errors
/// Returns the errors of [`check_seed`].
pub fn check(scenario: &Scenario) -> Result<Outcome, String> {
    let outcome = World::new(scenario, true, false).run();
    match violation(scenario, &outcome) {
        None => Ok(outcome),
        Some(what) => Err(report(scenario, &what)),
    }
}

fn violation(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    if outcome.violation.is_some() || !scenario.attacker_is_powerless() {
        return outcome.violation.clone();
    }
    let undisturbed = World::new(scenario, false, false).run();
    let mut pairs = outcome.transitions.iter().zip(&undisturbed.transitions);
    match pairs.find(|(with, without)| with != without) {
        Some((with, without)) => Some(format!(
            "with the attacker {with:?}, without him {without:?}"
        )),
        None if outcome.transitions.len() != undisturbed.transitions.len() => {
            Some("the attacker caused or prevented a state change".into())
        }
        None => None,
    }
}

/// Describes a scenario's run in words, with or without the attacker.
#[must_use]
pub fn trace(scenario: &Scenario, attacked: bool) -> String {
    let outcome = World::new(scenario, attacked, true).run();
    let mut text = describe(scenario);
    for line in outcome.trace {
        let _ = writeln!(text, "{line}");
    }
    if let Some(what) = outcome.violation {
        let _ = writeln!(text, "VIOLATION {what}");
    }
    text
}

/// The number of lines from the end of a trace that a report shows.
const REPORT_LINES: usize = 80;

fn report(scenario: &Scenario, what: &str) -> String {
    let whole = trace(scenario, true);
    let head = describe(scenario);
    let body: Vec<_> = whole.lines().skip(head.lines().count()).collect();
    let shown = &body[body.len().saturating_sub(REPORT_LINES)..];
    let seed = scenario.seed;
    format!(
        "seed {seed}: {what}\n{head}… the last {} of {} lines (all of them: cargo xtask sim --seed {seed} --trace)\n{}\n",
        shown.len(),
        body.len(),
        shown.join("\n")
    )
}

fn describe(scenario: &Scenario) -> String {
    let Scenario {
        seed,
        theme,
        group,
        members,
        weather,
        latency,
        ring,
        quiet_at,
        undecided_ties,
        ..
    } = scenario;
    let mut text = format!(
        "seed {seed}, {theme:?}, vhid {}, addresses {:?} {:?}\n{weather:?}, latency up to {latency:?}, rings of {ring}\n\
         quiet at {:?}, settled {:?} later{}\n",
        group.vhid,
        group.inet,
        group.inet6,
        quiet_at.saturating_duration_since(scenario::START),
        scenario.settling_time(),
        if *undecided_ties {
            ", undecided ties"
        } else {
            ""
        }
    );
    for (number, member) in members.iter().enumerate() {
        let _ = writeln!(
            text,
            "host {number}: {:?} advbase {} advskew {} deadratio {} preempt {} sources {:?} scripts {:?} starts {:?}{}",
            member.program,
            member.advbase,
            member.advskew,
            member.deadratio,
            member.preempt,
            member.sources,
            member.script,
            member.start.saturating_duration_since(scenario::START),
            if member.mortal { " mortal" } else { "" }
        );
    }
    text
}
