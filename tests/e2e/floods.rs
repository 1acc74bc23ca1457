//! More packets than anybody wants, for a few seconds: a BACKUP goes on hearing its MASTER, and stays.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::datapath;
use carp_tests::flood::{Flood, Kind, Volume, overflows};
use carp_tests::lab::note;
use carp_tests::{Daemon, Dump, Forgery, Host, Mark, Ucarp, lab, usage};

use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SECOND_WORSE, SLOW};

const LENGTH: Duration = Duration::from_secs(5);
/// The generator's processor; the BACKUP runs where it is let.
const CPU: usize = 1;

/// What a queue of 256 frames has room for while the machine does something else for 2 ms. As much as a core can send
/// fills the queue again and again, and what is lost there no program can believe; a benchmark measures that.
const RATE: u32 = 100_000;

/// What the BACKUP under a flood did and spent.
struct Endured {
    offered: Volume,
    /// Advertisements that the MASTER sent meanwhile.
    genuine: usize,
    /// Frames of the flood or of the MASTER that found its queue full.
    lost: u64,
    /// Its processor time, as a part of the flood's. Unit: per mille.
    permille: u128,
    mark: Mark,
}

/// One at a time: each takes a core.
static FLOODS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    FLOODS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Floods `backup` while a is MASTER.
fn endure(pair: &Pair, backup: &Host, kind: Kind, captured: Option<&Forgery>) -> Result<Endured> {
    let frames = kind.frames(pair.c.address(), 7, captured);
    let pids = backup.pids()?;
    let (mark, before, start) = (pair.capture.mark(), usage::cpu_time(&pids)?, Instant::now());
    let lost = overflows(backup)?;
    let flood = Flood::towards(backup, frames, Some(CPU), Some(RATE))?;
    // Nothing to wait for: enduring is the point.
    std::thread::sleep(LENGTH);
    let offered = flood.finish();
    let spent = usage::cpu_time(&pids)? - before;
    Ok(Endured {
        offered,
        genuine: pair.capture.advertisements(mark, "a").len(),
        lost: overflows(backup)? - lost,
        permille: spent.as_nanos() * 1000 / start.elapsed().as_nanos(),
        mark,
    })
}

impl Endured {
    fn note(&self, who: &str, kind: Kind) {
        note(&format!(
            "{who}, {kind:?} at {} packets/s: {}.{} % of a core, {} genuine advertisements on the wire, {} lost",
            self.offered.rate(),
            self.permille / 10,
            self.permille % 10,
            self.genuine,
            self.lost
        ));
    }
}

/// Far below what one core of any machine offers; less than this is no flood.
const FLOOD: u64 = 20_000;

/// The BACKUP stays what it is, its counter `what` sees the flood, and it spends at most `permille` of a core.
///
/// Both have `options`; `heard` tells from a report how many genuine advertisements it has heard.
fn stays_backup(
    kind: Kind,
    what: &str,
    options: &str,
    permille: u128,
    heard: impl Fn(&Dump) -> Option<u64>,
) -> Result<()> {
    let _alone = alone();
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, &format!("{FAST} {options}"))?;
    let b = pair.carpd(&pair.b, &format!("{SLOW} {options}"))?;
    pair.stays_the_only_master(&pair.a, 2)?;
    let captured = replayable(&pair)?;
    let (begin, before, line) = (pair.capture.mark(), b.dump()?, b.mark());
    let endured = endure(&pair, &pair.b, kind, Some(&captured))?;
    endured.note(&format!("carpd {options}, {}", datapath()), kind);
    let after = b.dump()?;
    let risen = after.risen_since(&before);
    let number = |name| risen.get(name).copied().unwrap_or_default();
    let lost = number("datapath-events-lost");
    if datapath() == "socket" && lost > number("delivered") / 4 {
        // Everything comes to the daemon there. Where it has no time for that, its buffer loses genuine ones too, and a
        // takeover is no mistake then.
        note(&format!("skipped, the socket's buffer was full: {risen:?}"));
        return Ok(());
    }
    unmoved(&pair, &b, line, endured.mark)?;
    ensure!(
        endured.offered.rate() >= FLOOD,
        "{} packets/s are no flood",
        endured.offered.rate()
    );
    ensure!(after.state == "BACKUP", "{}", after.state);
    ensure!(risen.contains_key(what), "{what} did not rise: {risen:?}");
    if datapath() == "socket" {
        return Ok(());
    }
    ensure!(lost == 0, "events were lost: {risen:?}");
    if let (Some(heard), Some(earlier)) = (heard(&after), heard(&before)) {
        let heard = heard - earlier;
        // The reports were asked for before the flood and after it, however long that took; at either end one may be
        // under way.
        let most = pair.capture.advertisements(begin, "a").len() as u64 + 1;
        let genuine = endured.genuine as u64;
        // On a noisy machine the queue may still overflow, which is not carpd's; then most are still heard.
        let least = genuine.saturating_sub(1 + endured.lost.min(genuine / 2));
        note(&format!(
            "genuine advertisements believed: {heard}, of at least {genuine} sent"
        ));
        ensure!(
            (least..=most).contains(&heard),
            "{heard} is not {least} to {most}: {risen:?}"
        );
    }
    // A tenth of a per cent is what it takes; the bound leaves room for a slow machine, on which the kernel's work for
    // the flood is also charged to whom it interrupts.
    ensure!(
        endured.permille <= permille,
        "{} ‰ of a core",
        endured.permille
    );
    Ok(())
}

/// What the core believed: all that it received and did not refuse. The datapath has counters of the same names.
fn believed(report: &Dump) -> Option<u64> {
    let counters = report.counters.iter();
    let refused = counters
        .filter(|(name, _)| name.starts_with("dropped-"))
        .map(|(_, count)| count)
        .sum();
    report
        .counters
        .get("received-inet-packets")?
        .checked_sub(refused)
}

/// b said nothing on the wire and changed nothing.
fn unmoved(pair: &Pair, b: &Daemon, line: usize, mark: Mark) -> Result<()> {
    pair.only_master_since(mark, &pair.a)?;
    let lines = b.lines();
    let change = lines[line..]
        .iter()
        .find(|line| line.text.contains("Switching to state"));
    ensure!(change.is_none(), "{change:?}");
    Ok(())
}

/// A true advertisement of a, to be sent by somebody else.
fn replayable(pair: &Pair) -> Result<Forgery> {
    let (_, carp) = pair
        .capture
        .advertisement(pair.capture.mark(), "a", LONG)
        .context("something to replay")?;
    Ok(
        Forgery::new(pair.a.address(), 7, carp_tests::daemons::PASSWORD, ADDRESS).with(|forgery| {
            forgery.advbase = carp.advbase;
            forgery.advskew = carp.advskew;
            forgery.counter = carp.counter;
        }),
    )
}

#[test]
fn forged_advertisements() -> Result<()> {
    stays_backup(Kind::Forged, "dropped-bad-authentication", "", 30, believed)
}

#[test]
fn garbage() -> Result<()> {
    stays_backup(Kind::Garbage, "passed-malformed", "", 30, believed)
}

#[test]
fn vrrp_of_others() -> Result<()> {
    stays_backup(Kind::Vrrp, "passed-vrrp", "", 30, believed)
}

/// The counter that sees a replay.
fn repetitions() -> &'static str {
    match datapath().as_str() {
        "socket" => "delivered",
        _ => "dropped-duplicate",
    }
}

#[test]
fn one_true_advertisement_again_and_again() -> Result<()> {
    // Now and then one of them is believed, so what was heard does not tell.
    stays_backup(Kind::Replayed, repetitions(), "", 50, |_| None)
}

/// With strict counters no replay is believed: what keeps the BACKUP quiet are the genuine ones, each of them heard.
#[test]
fn one_true_advertisement_again_and_again_beside_the_genuine_ones() -> Result<()> {
    let options = "--strict-counter";
    stays_backup(Kind::Replayed, repetitions(), options, 50, believed)
}

/// What the others make of it, for the record: it depends on the machine, so nothing is claimed.
#[test]
fn ucarp_under_the_same_flood() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, SECOND)?;
    let ucarp = Ucarp::new(&pair.b, ADDRESS, SECOND_WORSE).start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 2)?;
    let line = ucarp.mark();
    let endured = endure(&pair, &pair.b, Kind::Forged, None)?;
    endured.note("ucarp", Kind::Forged);
    let became = ucarp.lines()[line..]
        .iter()
        .filter(|line| line.text.contains("Switching to state: MASTER"))
        .count();
    note(&format!(
        "ucarp became a second MASTER {became} times beside the living one"
    ));
    ensure!(endured.genuine > 0, "the MASTER advertised all the time");
    Ok(())
}
