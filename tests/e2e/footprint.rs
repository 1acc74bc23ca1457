//! The cost of an idle carpd, and the secrets that it keeps.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Carpd, Forgery, Injector, Mark, daemons, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// A number from `/proc/PID/status`.
fn status(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line
        .and_then(|line| line.split_whitespace().next())
        .context("no such line")?;
    Ok(value.parse()?)
}

#[test]
fn an_idle_backup_has_less_than_12_mib_resident() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 10)?;
    // For an unoptimised build, only its allocations are meaningful.
    let unoptimised = daemons::binary()?
        .components()
        .any(|part| part.as_os_str() == "debug");
    let name = if unoptimised { "RssAnon" } else { "VmRSS" };
    let resident = status(b.pid(), name)?;
    note(&format!("{name} of an idle BACKUP: {resident} KiB"));
    ensure!(resident < 12 * 1024, "{name} is {resident} KiB");
    Ok(())
}

#[test]
fn an_idle_backup_wakes_up_for_advertisements_only() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let wakeups = || status(b.pid(), "voluntary_ctxt_switches");
    let (mark, before) = (pair.capture.mark(), wakeups()?);
    pair.capture.advertisements_reach(mark, "a", 30, LONG)?;
    let advertisements = pair.capture.advertisements(mark, "a").len() as u64;
    let woken = wakeups()? - before;
    note(&format!(
        "an idle BACKUP woke up {woken} times for {advertisements} advertisements"
    ));
    // Plus or minus one packet at either end.
    ensure!(
        woken <= advertisements + 3,
        "{woken} wake-ups for {advertisements} advertisements"
    );
    Ok(())
}

#[test]
fn a_flood_of_broken_packets_leaves_memory_as_it_was() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let forgery = Forgery::new(pair.c.address(), 7, "wrong", ADDRESS);
    let injector = Injector::open(&pair.c)?;
    let flood = |first: u64| -> Result<u64> {
        // Every packet has another source and another counter, and carpd must not store anything for each.
        for number in first..first + 20_000 {
            let [.., high, low] = number.to_be_bytes();
            let frame = forgery.clone().with(|forgery| {
                forgery.source = [10, 9, high, low].into();
                forgery.counter = number;
            });
            injector.send(&frame.frame())?;
        }
        pair.capture
            .advertisements_reach(pair.capture.mark(), "a", 2, LONG)?;
        status(a.pid(), "VmRSS")
    };
    let warm = flood(0)?;
    let after = flood(20_000)?;
    ensure!(after < warm + 512, "{warm} KiB became {after} KiB");
    Ok(())
}

#[test]
fn a_password_shows_nowhere() -> Result<()> {
    let pair = Pair::new(lab!())?;
    const PASSWORD: &str = "swordfish-1234";
    for option in [
        vec!["-p", PASSWORD],
        vec!["--pass=swordfish-1234"],
        vec!["-pswordfish-1234"],
    ] {
        let mark = pair.capture.mark();
        let carpd = Carpd::new(&format!("-v 7 -a {ADDRESS} {FAST} -D"))?;
        let mut a = option.into_iter().fold(carpd, Carpd::arg).spawn(&pair.a)?;
        let (_, carp) = pair.capture.advertisement(mark, "a", LONG)?;
        ensure!(carp.is_authentic(PASSWORD, &[ADDRESS]));
        let shown = fs::read(format!("/proc/{}/cmdline", a.pid()))?;
        let shown = String::from_utf8_lossy(&shown);
        ensure!(!shown.contains(PASSWORD), "{shown:?}");
        ensure!(
            shown.contains("-v"),
            "only the password is hidden: {shown:?}"
        );
        a.dump()?;
        ensure!(a.terminate(LONG)? == 0);
        ensure!(a.lines_with(PASSWORD).is_empty());
    }
    Ok(())
}

#[test]
fn a_wrong_password_of_ours_shows_in_no_error() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = Carpd::new(&format!("-v 7 -p swordfish -a {ADDRESS} {SLOW} -D"))?.start(&pair.b)?;
    b.wait_for("Bad digest", LONG)?;
    ensure!(b.lines_with("swordfish").is_empty() && b.lines_with("secret").is_empty());
    // Two passwords make two groups, each with its MASTER.
    pair.capture.advertisement(Mark::default(), "b", LONG)?;
    Ok(())
}
