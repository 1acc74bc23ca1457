//! Floods for a few seconds: a BACKUP keeps hearing its MASTER, and stays BACKUP.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::datapath;
use carp_tests::flood::{Flood, Kind, Volume, overflows};
use carp_tests::lab::note;
use carp_tests::{Daemon, Dump, Forgery, Host, Mark, Ucarp, lab, usage};

use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SECOND_WORSE, SLOW};

const LENGTH: Duration = Duration::from_secs(5);
/// The generator's processor; the BACKUP may run on any.
const CPU: usize = 1;

/// The rate for which a queue of 256 frames suffices while the machine is busy for 2 ms. A core at full rate
/// overflows the queue repeatedly, and no program can receive what is lost there; a benchmark measures that.
const RATE: u32 = 100_000;

/// The behaviour and cost of the BACKUP under a flood.
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

/// Floods run one at a time, because each uses a core.
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
    // There is nothing to wait for: the test is about endurance.
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

/// Far below what one core of any machine sends; less than this is not a flood.
const FLOOD: u64 = 20_000;

/// The BACKUP stays BACKUP, its counter `what` counts the flood, and it uses at most `permille` of a core.
///
/// Both have `options`; `heard` extracts from a report how many genuine advertisements it has heard.
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
        // With the packet socket, everything reaches the daemon. If it has no time for that, its buffer loses genuine
        // ones too, and a takeover is no mistake then.
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
        // The reports were requested before and after the flood, however long that took; at either end, one may be
        // under way.
        let most = pair.capture.advertisements(begin, "a").len() as u64 + 1;
        let genuine = endured.genuine as u64;
        // On a noisy machine the queue may still overflow, which is not carpd's fault; then most are still heard.
        let least = genuine.saturating_sub(1 + endured.lost.min(genuine / 2));
        note(&format!(
            "genuine advertisements believed: {heard}, of at least {genuine} sent"
        ));
        ensure!(
            (least..=most).contains(&heard),
            "{heard} is not {least} to {most}: {risen:?}"
        );
    }
    // It uses a tenth of a per cent. The bound leaves room for a slow machine, on which the kernel's work for
    // the flood is also charged to the process that it interrupts.
    ensure!(
        endured.permille <= permille,
        "{} ‰ of a core",
        endured.permille
    );
    Ok(())
}

/// The advertisements that the core believed: those received less those rejected. The datapath has counters of the
/// same names.
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

/// b sent nothing and changed nothing.
fn unmoved(pair: &Pair, b: &Daemon, line: usize, mark: Mark) -> Result<()> {
    pair.only_master_since(mark, &pair.a)?;
    let lines = b.lines();
    let change = lines[line..]
        .iter()
        .find(|line| line.text.contains("Switching to state"));
    ensure!(change.is_none(), "{change:?}");
    Ok(())
}

/// A genuine advertisement of a, to be sent by another host.
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
    // One of them is believed now and then, so the number heard proves nothing.
    stays_backup(Kind::Replayed, repetitions(), "", 50, |_| None)
}

/// With strict counters no replay is believed, so the genuine advertisements keep the BACKUP quiet, and it hears each
/// of them.
#[test]
fn one_true_advertisement_again_and_again_beside_the_genuine_ones() -> Result<()> {
    let options = "--strict-counter";
    stays_backup(Kind::Replayed, repetitions(), options, 50, believed)
}

/// The other daemons under the same flood, for the record. It depends on the machine, so this claims nothing.
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
