//! The lease of the address: how long it outlives a killed daemon, and when it is renewed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{eventually, lab};
use nix::sys::signal::Signal;

use super::{address_monitor, all, removals};
use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// How much later than its lease the kernel may end an address, on a busy machine.
const LATE: Duration = Duration::from_secs(4);

/// The same in the tests below, whose leases are longer. The kernel counts whole seconds and is late by design.
const LEASE_SLACK: Duration = Duration::from_secs(6);

/// The lifetime that the kernel shows for the virtual address.
fn lifetime(pair: &Pair) -> Result<Duration> {
    let line = pair.a.address_line(ADDRESS)?.context("it is there")?;
    let seconds = line
        .split_once("valid_lft ")
        .and_then(|(_, rest)| rest.split_once("sec"))
        .with_context(|| line.clone())?;
    Ok(Duration::from_secs(seconds.0.parse()?))
}

#[test]
fn the_address_of_a_killed_master_is_gone_a_moment_after_the_takeover() -> Result<()> {
    for (arguments, seconds) in [(FAST, 2), ("-b 1 -k 0 -r 1", 2), ("-b 1 -k 0", 4)] {
        let lease = Duration::from_secs(seconds);
        let pair = Pair::new(lab!())?;
        let mut a = pair.master(&pair.a, arguments)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        // It is renewed, and never longer than the lease.
        let watched = Instant::now();
        let mut longest = Duration::ZERO;
        while watched.elapsed() < lease + lease / 2 {
            longest = longest.max(lifetime(&pair)?);
            ensure!(longest <= lease, "{}", all(&pair.a)?);
        }
        ensure!(longest + Duration::from_secs(1) >= lease, "{longest:?}");
        a.kill()?;
        let killed = Instant::now();
        pair.a.wait_for_address(ADDRESS, false, lease + LATE)?;
        note(&format!(
            "with {arguments} the address of a killed MASTER was there for {:?} (lease {lease:?})",
            killed.elapsed()
        ));
    }
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
fn without_a_lease_the_address_does_not_expire() -> Result<()> {
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
