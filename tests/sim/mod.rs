//! Deterministic simulation of whole groups: the engine of the daemon, in any number of hosts, under every fault.
//!
//! | Module | What it is |
//! |---|---|
//! | [`rng`] | the only source of chance |
//! | [`scenario`] | what happens in a run, drawn from its seed |
//! | [`world`] | the event queue, the virtual clock, the hosts |
//! | [`station`] | a host and its place on the network |
//! | [`network`] | loss, delay, duplicates, reflections, cuts |
//! | [`host`] | a process: the engine of the daemon |
//! | [`machine`] | everything of a host but its process, and what the engine learns from it |
//! | [`kernel`] | what a host has beneath the process: links, addresses, routes, the program, scripts |
//! | [`bare`] | a process with the core alone, for what the daemon does not serve yet: IPv6 |
//! | [`model`] | ucarp, FreeBSD, OpenBSD and NetBSD, written without the core |
//! | [`packet`] | the 36 bytes, written without the core |
//! | [`attacker`] | recordings of everything, resent, altered, and before the genuine ones |
//! | [`watch`] | what must hold for one host at each step |
//! | [`signs`] | what that host must take for a sign of life |
//! | [`duty`] | what one host owes its clients: who answers, and what is left |
//! | [`group`] | what must hold between hosts |
//! | [`mod@trace`] | a failed run in words |
//!
//! One seed is one run. The clock jumps from event to event, so an hour takes a moment.
//!
//! # What must hold
//!
//! For each carpd, after every input:
//!
//! - it advertises, announces and holds addresses only as MASTER; the one exception is the last advertisement of a host
//!   that is leaving MASTER;
//! - claims and releases alternate; when no script runs, the addresses are there exactly while it is MASTER;
//! - a takeover tells the datapath, claims, advertises, announces, in this order;
//! - only a MASTER owns the addresses, no longer than an advertisement that went out makes it one, until beyond the next
//!   one, and not when it says that it leaves; it counts as alive until it runs again, and not much longer;
//! - its next deadline is in the future, and no later than its timers imply; handling a timeout twice does nothing;
//! - its replay counters rise, and with strict counters they go on rising after a restart;
//! - its peers can authenticate what it sends, and it never advertises better than it is configured;
//! - it declares a master dead only after the master-down time of silence, counted from the **arrival** of the last
//!   advertisement in the kernel, however late it runs itself; and after it slept through the end of that time, only after
//!   one and a half more of its intervals;
//! - every state change has a cause that its reason names;
//! - actions per input, and announcements and advertisements per interval, have a constant bound, whoever replays what.
//!
//! For each host whose engine and kernel are simulated:
//!
//! - it answers for a virtual address only as MASTER, unless somebody else added the address or there is no fence;
//! - a MASTER whose advertisements are sent answers for every address that it has;
//! - a MASTER has its addresses again a moment after somebody removed them; within eleven seconds where that happened too often,
//!   or orders failed;
//! - nothing that somebody else added is removed or changed, except for a moment in which two orders crossed;
//! - a process that is killed leaves no address beyond its lease, and the host is silent before a host that heard the last
//!   advertisement, and waits as long as an equal one, takes over from silence;
//! - once scripts have ended, their addresses are there exactly while it is MASTER;
//! - an orderly end, and the removal of a virtual host, leaves no address, no route, no fence and no entry.
//!
//! In three runs of ten every carpd serves a second virtual host, which is removed and added again while it runs. All of this
//! holds for it as well; nothing is asked between hosts.
//!
//! For each part of the network whose hosts all hear each other and nobody else. Let
//!
//! - `D` be the longest master-down time of its hosts: deadratio × advbase + advskew/256 s;
//! - `I` be the longest advertisement interval: advbase + advskew/256 s, demoted advskew included;
//! - `d` be the longest delay of a frame, `j` the longest time until a daemon runs that has something to do.
//!
//! Then, when the last fault (loss, cut, crash, hang, stop, full ring, link or address change, demotion, forged packet, and
//! the end of each; the end of a step-down's hold) is at `t`:
//!
//! - **exactly one MASTER from `t + D + I + 4(d + j)` on**, the same one for ever, and the best one where all preempt;
//! - **at most one outside the windows that CARP itself allows**. Two hosts that hear each other, and have both been
//!   MASTER since `t` or later: when the better one advertises, the other one has yielded `d + j` later. A takeover by
//!   preemption begins with an advertisement, so two are MASTER for `d + j`. Otherwise they are until the next one is due:
//!   for the interval that the better one's last advertisement announced, and `2(d + j)`. Under attack the longest interval
//!   of the masters counts; with strict counters `n` hosts may take `n` of those, one less where nothing was lost, because
//!   advertisements that cross use up each other's counters, and because the better one's counter may be behind;
//! - **no longer without one than the others' timers imply.** When the settled master crashes: the shortest master-down
//!   time of the others, `d + 3j`. When it stops in an orderly way: the shortest turn (advskew × 1/16 of 1/256 s, at most
//!   62 ms; 0 for the others' implementations), `d + 3j`. This is checked in the end of two runs of three, and whenever a
//!   master that had settled goes and nothing else goes wrong. An advertisement that a bow-out overtakes on its way takes it
//!   back, so where one may be under way the bound is the one of a crash.
//!
//! **A host that takes over because of silence finds no owner**: when the last advertisement of another carpd reached it, and
//! its master-down time is no shorter than what that advertisement is worth, the other one's kernel is silent, were its
//! process hung, dead or unable to send.
//!
//! CARP cannot promise more: a frame may be under way for `d`, and a master says that it lives only every `I`.
//!
//! Equal (advbase, advskew) under the BSDs' rules let both hosts yield. Two carpd come apart after another `D + I`. With a
//! real BSD among them, or more than two, or in two families at once, nothing but the second bound is asked.
//!
//! **An attacker** without the password records, resends, alters, and is first with copies. All rules for single hosts hold
//! meanwhile; a sign of life that [`signs`] is sure of must count. Between hosts the bounds above hold after his last packet, plus
//! `16 I`: he may have led a ucarp, FreeBSD or NetBSD to counters that it used before, and each doubling of a BACKUP's patience takes
//! a few of their intervals. With an OpenBSD, whose counter is constant, nothing is asked between hosts. Where all peers are carpd and
//! counters are strict he changes nothing at all, unless he is first: with him and without him, a run has the same state changes at
//! the same nanosecond, provided that everyone heard from its sender what he replays.
//!
//! **Questions.** A BACKUP that hears a ucarp, FreeBSD or NetBSD only with counters that were used before asks by becoming MASTER,
//! and so it does where a carpd comes to what the BACKUP sent and it never heard. Twice in a run that is no violation, though
//! nothing went wrong lately; how long two are MASTER is bounded as ever.
//!
//! **Answers.** A worse carpd yields to an answer to what it sent itself. That takes a better carpd `2(d + j)` and an eighth of both
//! intervals, a ucarp, FreeBSD or NetBSD an interval more, another one where delays let two of ours come in the other order, and an
//! OpenBSD two; where more than two are MASTER, an interval more. Another one where both sent the same counter at once.
//!
//! # What random runs leave out
//!
//! - the engine in IPv6, which the daemon does not serve yet: there the core runs alone;
//! - a virtual host that is added again while scripts of the removed one still run: they would undo each other's work;
//! - scripts that outlive a process that is killed, and an interface that is created again while a process that has shut down waits
//!   for its scripts;
//! - strict counters with an attacker **and** advertisements that somebody misses (late start, crash, restart, partition,
//!   loss, a lost link or source, send errors, a full ring): whoever missed one believes a replay of it. Without the attacker
//!   strict counters meet all of them;
//! - reflections where a FreeBSD or a NetBSD is: it yields to its own, as to any equal;
//! - send errors where members differ in how they read demotion: the demotion that they leave is not to be seen from
//!   outside. Elsewhere the best host is not asked for while one has it;
//! - members so impatient that a living master times out for them, unless they are the better ones: they would flap, as
//!   configured;
//! - a hung process of a foreign implementation: its whole machine hangs, what arrives meanwhile is lost, and its timers
//!   are late. (ucarp as a process would read old packets as new: `tests/e2e/faults/yardstick.rs` measures that.);
//! - advbase 0 with ucarp, FreeBSD and NetBSD, who do not work with it;
//! - IPv6 with NetBSD, who does not speak it.

pub mod attacker;
pub mod bare;
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
/// A report for the reader: the seed, the scenario, what was broken, and the trace up to there.
pub fn check_seed(seed: u64) -> Result<Outcome, String> {
    check(&Scenario::from_seed(seed))
}

/// Runs one scenario.
///
/// # Errors
/// As [`check_seed`].
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

/// Everything about a scenario's run, in words; with the attacker or without him.
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

/// How many of the last lines of a trace a report shows.
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
