//! A virtual address that somebody else removes, adds or replaces.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Captured, Mark, eventually, lab};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW, Scripts};

fn announces(captured: &Captured, host: &str) -> Option<Instant> {
    let arp = captured.arp_from(host)?;
    arp.is_gratuitous_for(ADDRESS).then_some(captured.at)
}

#[test]
fn a_removed_address_is_restored_and_announced_within_100_ms() -> Result<()> {
    let mut best = Duration::MAX;
    for command in ["del 10.9.0.100/32", "flush to 10.9.0.100/32"] {
        let pair = Pair::new(lab!())?;
        let a = pair.master(&pair.a, FAST)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        // The takeover is complete.
        pair.capture
            .advertisements_reach(Mark::default(), "a", 6, LONG)?;
        let mark = pair.capture.mark();
        let start = Instant::now();
        pair.a.ip(&format!("address {command} dev eth0"))?;
        let announced = pair
            .capture
            .wait_after(mark, "an announcement", LONG, |captured| {
                announces(captured, "a")
            })?;
        best = best.min(announced.1.duration_since(start));
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        a.wait_for("was removed by someone else", LONG)?;
        ensure!(a.dump()?.counter("addresses-restored")? == 1);
        pair.is_owned_by(&pair.a)?;
    }
    note(&format!(
        "a removed address is announced again after {best:?} (best of 2, with the time `ip` takes)"
    ));
    ensure!(best < Duration::from_millis(100), "{best:?}");
    Ok(())
}

#[test]
fn an_address_that_is_removed_again_and_again_makes_way_for_the_other_host() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, &format!("{SLOW} -P"))?;
    pair.stays_the_only_master(&pair.a, 5)?;
    for removal in 1..=3 {
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        pair.a.ip("address del 10.9.0.100/32 dev eth0")?;
        eventually("it is restored", LONG, || {
            let restored = a.dump()?.counter("addresses-restored")?;
            Ok((restored == removal).then_some(()))
        })?;
    }
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let mark = pair.capture.mark();
    pair.a.ip("address del 10.9.0.100/32 dev eth0")?;
    a.wait_for("advertising a worse priority", LONG)?;
    pair.capture
        .wait_after(mark, "a demoted advertisement", LONG, |captured| {
            let carp = captured.carp_from("a")?;
            (carp.advskew >= 240).then_some(())
        })?;
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.settles_on(&pair.b, Duration::from_secs(1))?;
    ensure!(!pair.a.has_address(ADDRESS)?);
    ensure!(a.dump()?.status["demotion"] == "240");
    pair.is_owned_by(&pair.b)
}

#[test]
fn an_address_that_somebody_else_added_is_logged_once_used_and_left_there() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("address add 10.9.0.100/32 dev eth0")?;
    let mut a = pair.master(&pair.a, FAST)?;
    a.wait_for(
        "10.9.0.100/32 is there already, added by someone else",
        LONG,
    )?;
    pair.is_owned_by(&pair.a)?;
    a.signal(Signal::SIGUSR2)?;
    a.wait_for_after(a.mark(), "Switching to state: MASTER", LONG)?;
    a.says_once("is there already")?;
    ensure!(a.terminate(LONG)? == 0);
    let line = pair.a.address_line(ADDRESS)?.context("it is still there")?;
    ensure!(line.contains("forever"), "{line}");
    Ok(())
}

#[test]
fn an_address_that_somebody_else_puts_in_place_of_ours_is_left_there() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    // carpd does not see the moment between the two.
    a.signal(Signal::SIGSTOP)?;
    pair.a.ip("address del 10.9.0.100/32 dev eth0")?;
    pair.a.ip("address add 10.9.0.100/32 dev eth0")?;
    a.signal(Signal::SIGCONT)?;
    a.wait_for(
        "10.9.0.100/32 is there already, added by someone else",
        LONG,
    )?;
    ensure!(a.terminate(LONG)? == 0);
    ensure!(pair.a.has_address(ADDRESS)?);
    Ok(())
}

#[test]
fn with_scripts_a_removed_address_is_only_logged() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", r#"exec ip address add "$2"/16 dev "$1""#)?;
    let down = scripts.script("down", r#"ip address del "$2"/16 dev "$1" 2>/dev/null"#)?;
    let arguments = format!("{FAST} -u {} -d {}", up.display(), down.display());
    let a = pair.master(&pair.a, &arguments)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    pair.a.ip("address del 10.9.0.100/16 dev eth0")?;
    a.wait_for(
        "10.9.0.100 was removed while MASTER; the scripts own it",
        LONG,
    )?;
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(!pair.a.has_address(ADDRESS)?);
    ensure!(a.dump()?.counter("addresses-restored")? == 0);
    Ok(())
}
