//! Virtual addresses that others remove, claim or had before; leases; and stalls of carpd.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Captured, Daemon, Injector, Mac, Mark, daemons, eventually, lab};
use nix::sys::signal::Signal;

use crate::addresses::address_monitor;
use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SECOND_WORSE, SLOW, Scripts};

/// The time that the kernel adds to the lifetime of an address; it counts whole seconds and is late by design.
const LEASE_SLACK: Duration = Duration::from_secs(6);

fn announces(captured: &Captured, host: &str) -> Option<Instant> {
    let arp = captured.arp_from(host)?;
    arp.is_gratuitous_for(ADDRESS).then_some(captured.at)
}

fn removals(monitor: &Daemon) -> usize {
    let lines = monitor.lines_with(&format!("inet {ADDRESS}/"));
    lines
        .iter()
        .filter(|line| line.text.contains("Deleted"))
        .count()
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
fn an_address_that_somebody_else_added_is_said_once_used_and_left_there() -> Result<()> {
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
fn with_scripts_a_removed_address_is_only_said() -> Result<()> {
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

/// A packet of a host that has the address too.
fn claim(mac: Mac) -> Vec<u8> {
    carp_tests::client::arp_request(mac, ADDRESS, ADDRESS)
}

#[test]
fn another_host_that_claims_the_address_is_named_once_and_answered_once_a_second() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let injector = Injector::open(&pair.c)?;
    let thief = Mac([2, 0, 0, 0, 0x66, 0x66]);
    // Both announcements of the takeover have passed, and so has the time in which an earlier MASTER might still answer.
    pair.capture
        .advertisements_reach(Mark::default(), "a", 12, LONG)?;
    let (mark, start) = (pair.capture.mark(), Instant::now());
    eventually("it is named", LONG, || {
        injector.send(&claim(thief))?;
        let named = a.lines_with(&format!("{ADDRESS} is also at {thief}"));
        Ok((!named.is_empty()).then_some(()))
    })?;
    let flood_until = Instant::now() + Duration::from_millis(2500);
    let mut sent = 0_u64;
    while Instant::now() < flood_until {
        injector.send(&claim(thief))?;
        sent += 1;
        // The interval of the attacker, which does not overload the capture.
        std::thread::sleep(Duration::from_millis(1));
    }
    eventually("most of it is counted", LONG, || {
        let counted = a.dump()?.counter("arp-conflicts")?;
        Ok((counted > sent / 2).then_some(()))
    })?;
    let announcements = pair
        .capture
        .after(mark)
        .iter()
        .filter(|captured| announces(captured, "a").is_some())
        .count();
    // One each second, at both ends, and the late one of the takeover.
    let most = usize::try_from(start.elapsed().as_secs())? + 3;
    ensure!(
        (2..=most).contains(&announcements),
        "{announcements} announcements, {most} at most"
    );
    a.says_once("is also at")?;
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn another_host_that_only_answers_for_the_address_is_found() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // Only its answers to other hosts reveal it.
    pair.c.ip("address add 10.9.0.100/32 dev eth0")?;
    let a = pair.master(&pair.a, FAST)?;
    a.wait_for(&format!("{ADDRESS} is also at {}", pair.c.mac()), LONG)?;
    ensure!(a.dump()?.counter("arp-conflicts")? >= 1);
    Ok(())
}

#[test]
fn a_backup_and_a_takeover_see_no_conflict() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    let injector = Injector::open(&pair.c)?;
    for _ in 0..20 {
        injector.send(&claim(Mac([2, 0, 0, 0, 0x66, 0x66])))?;
    }
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.dump()?.counter("arp-conflicts")? == 0);
    let mark = pair.capture.mark();
    ensure!(a.terminate(LONG)? == 0);
    pair.capture.advertisements_reach(mark, "b", 10, LONG)?;
    let dump = b.dump()?;
    ensure!(dump.state == "MASTER" && dump.counter("arp-conflicts")? == 0);
    Ok(())
}

#[test]
fn a_lease_is_renewed_while_master_and_runs_out_after_sigkill() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let lease = Duration::from_secs(5);
    let mut a = pair.master(&pair.a, &format!("{FAST} --lease 5"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let monitor = address_monitor(&pair.a)?;
    let renewals = || monitor.lines_with(&format!("inet {ADDRESS}/")).len();
    eventually("three renewals", LONG, || {
        Ok((renewals() >= 3).then_some(()))
    })?;
    ensure!(removals(&monitor) == 0, "{}", monitor.transcript());
    let line = pair.a.ip("-o -4 address show to 10.9.0.100")?;
    ensure!(
        line.contains("valid_lft") && !line.contains("forever"),
        "{line}"
    );
    let killed = Instant::now();
    a.kill()?;
    pair.a
        .wait_for_address(ADDRESS, false, lease + LEASE_SLACK)?;
    note(&format!(
        "after SIGKILL an address leased for {lease:?} was there for {:?}",
        killed.elapsed()
    ));
    Ok(())
}

#[test]
fn without_a_lease_the_address_is_there_for_ever() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, &format!("{FAST} --lease 0"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let line = pair.a.ip("-o -4 address show to 10.9.0.100")?;
    ensure!(line.contains("valid_lft forever"), "{line}");
    Ok(())
}

#[test]
fn a_lease_that_ran_out_while_carpd_was_stopped_is_given_again() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, &format!("{FAST} --lease 5"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    a.signal(Signal::SIGSTOP)?;
    pair.a
        .wait_for_address(ADDRESS, false, Duration::from_secs(5) + LEASE_SLACK)?;
    a.signal(Signal::SIGCONT)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    // Nobody removed it, so it does not count as a removal.
    ensure!(a.dump()?.counter("addresses-restored")? == 0);
    ensure!(
        a.lines_with("by someone else").is_empty(),
        "{}",
        a.transcript()
    );
    Ok(())
}

#[test]
fn a_late_master_that_lost_the_election_does_not_renew() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, &format!("{SLOW} --lease 8"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let _b = pair.carpd(&pair.b, &format!("{FAST} -r 10"))?;
    let monitor = address_monitor(&pair.a)?;
    let changes = || monitor.lines_with(&format!("inet {ADDRESS}/")).len();
    // The whole lease remains when it stops.
    eventually("it renews", LONG, || Ok((changes() > 0).then_some(())))?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGSTOP)?;
    // Longer than half the lease: on its return the renewal is due.
    pair.capture.advertisements_reach(mark, "b", 40, LONG)?;
    let before = changes();
    a.signal(Signal::SIGCONT)?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    eventually("the removal shows", LONG, || {
        Ok((removals(&monitor) == 1).then_some(()))
    })?;
    ensure!(changes() == before + 1, "{}", monitor.transcript());
    Ok(())
}

#[test]
fn what_a_killed_master_left_is_taken_over_without_a_gap() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, &format!("{FAST} --lease 30"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let monitor = address_monitor(&pair.a)?;
    a.kill()?;
    let mut again = pair.master(&pair.a, FAST)?;
    again.wait_for("took over 10.9.0.100/32", LONG)?;
    ensure!(removals(&monitor) == 0, "{}", monitor.transcript());
    pair.is_owned_by(&pair.a)?;
    ensure!(again.terminate(LONG)? == 0);
    pair.a.wait_for_address(ADDRESS, false, LONG)
}

#[test]
fn what_a_killed_master_left_is_removed_once_another_master_is_heard() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, &format!("{FAST} --lease 30"))?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    let mark = pair.capture.mark();
    a.kill()?;
    pair.capture.advertisement(mark, "b", LONG)?;
    ensure!(pair.a.has_address(ADDRESS)?, "nobody removed it");
    let _again = pair.carpd(&pair.a, FAST)?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    pair.is_owned_by(&pair.b)
}

#[test]
fn what_a_killed_master_left_is_claimed_by_nobody_until_the_election_is_settled() -> Result<()> {
    if daemons::datapath() == "socket" {
        note("skipped: the socket datapath has no fence");
        return Ok(());
    }
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, &format!("{FAST} --lease 30"))?;
    let _b = pair.carpd(&pair.b, SECOND)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    let mark = pair.capture.mark();
    a.kill()?;
    // b is heard once per second; until then, the new carpd on a does not know which host owns the address.
    pair.capture.advertisement(mark, "b", LONG)?;
    let again = pair.carpd(&pair.a, SECOND_WORSE)?;
    while pair.a.has_address(ADDRESS)? {
        pair.is_owned_by(&pair.b)?;
    }
    again.wait_for("removing 10.9.0.100/32, left by an earlier run", LONG)?;
    pair.is_owned_by(&pair.b)
}

#[test]
fn a_script_that_could_not_start_for_lack_of_descriptors_runs_once_there_are_some() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let a = pair.carpd(&pair.a, &format!("{SLOW} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]"])?;
    let limit = |soft: u32| {
        let limits = format!("--nofile={soft}:1024");
        pair.a
            .run("prlimit", &[&format!("--pid={}", a.pid()), &limits])
    };
    limit(3)?;
    a.wait_for("trying again", LONG)?;
    limit(1024)?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    a.says_once("trying again")?;
    Ok(())
}

#[test]
fn a_stop_of_carpd_is_measured_counted_and_said_once() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, SLOW)?;
    let b = pair.carpd(&pair.b, &format!("{SLOW} -r 100"))?;
    pair.stays_the_only_master(&pair.a, 3)?;
    // The BACKUP too, because it receives late.
    for daemon in [&a, &b] {
        let before = daemon.dump()?.counter("event-loop-stalls")?;
        daemon.signal(Signal::SIGSTOP)?;
        let stopped = Instant::now();
        // Only for the BACKUP is the end of the stop visible on the wire.
        std::thread::sleep(Duration::from_millis(800));
        daemon.signal(Signal::SIGCONT)?;
        let least = stopped.elapsed() - Duration::from_millis(250);
        let dump = daemon.dump()?;
        ensure!(dump.counter("event-loop-stalls")? > before);
        let worst = Duration::from_millis(dump.status["worst-stall-ms"].parse()?);
        ensure!(
            worst >= least && worst < Duration::from_secs(5),
            "{worst:?}, at least {least:?}"
        );
        daemon.says_once("carpd was stopped, or")?;
    }
    Ok(())
}
