//! Startup: interfaces that are absent, down or without addresses, hooks that are taken, and going into the background.

use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::{Carpd, Daemon, Mac, Mark, eventually, lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

#[test]
fn an_absent_interface_is_named_with_status_2() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let ended = Carpd::for_address(ADDRESS, "-i eth7")?.run(&pair.a)?;
    ensure!(
        ended.status == 2 && ended.stderr.contains("eth7"),
        "{ended:?}"
    );
    ensure!(
        ended.stderr.contains("--wait-interface"),
        "the way out is named: {ended:?}"
    );
    Ok(())
}

#[test]
fn wait_interface_waits_for_an_absent_interface_and_serves_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = Carpd::for_address(
        ADDRESS,
        &format!("{FAST} -i eth7 -s 10.9.0.7 --wait-interface"),
    )?
    .spawn(&pair.a)?;
    a.wait_for("eth7", LONG)?;
    ensure!(a.is_running()?);
    pair.a.add_link("eth7", Mac([2, 0, 0, 0, 7, 7]))?;
    pair.capture
        .advertisement(Mark::default(), "a-eth7", LONG)?;
    ensure!(a.terminate(LONG)? == 0);
    Ok(())
}

fn is_in_init(daemon: &Daemon) -> Result<()> {
    // Before that, it would not handle SIGUSR1.
    daemon.wait_for("receiving on eth0", LONG)?;
    ensure!(daemon.dump()?.state == "INIT");
    Ok(())
}

#[test]
fn an_interface_that_is_down_means_init_until_it_comes_up() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("link set eth0 down")?;
    let a = Carpd::for_address(ADDRESS, FAST)?.spawn(&pair.a)?;
    is_in_init(&a)?;
    ensure!(
        a.lines_with("Switching to state").is_empty(),
        "no state but INIT"
    );
    let mark = pair.capture.mark();
    pair.a.ip("link set eth0 up")?;
    pair.capture.advertisement(mark, "a", LONG)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)
}

#[test]
fn an_interface_without_carrier_means_init_until_it_has_one() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.unplug()?;
    let a = Carpd::for_address(ADDRESS, FAST)?.spawn(&pair.a)?;
    is_in_init(&a)?;
    let mark = pair.capture.mark();
    pair.a.plug_in()?;
    pair.capture.advertisement(mark, "a", LONG)?;
    Ok(())
}

#[test]
fn an_interface_without_an_address_means_init_until_it_has_one() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("address flush dev eth0")?;
    let a = Carpd::for_address(ADDRESS, FAST)?.spawn(&pair.a)?;
    is_in_init(&a)?;
    let mark = pair.capture.mark();
    pair.a.ip("address add 10.9.0.1/16 dev eth0")?;
    let (_, carp) = pair.capture.advertisement(mark, "a", LONG)?;
    ensure!(carp.source == pair.a.address(), "{carp:?}");
    Ok(())
}

#[test]
fn with_a_source_given_an_interface_needs_no_address_of_its_own() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("address flush dev eth0")?;
    let _a = Carpd::for_address(ADDRESS, &format!("{FAST} -s 10.9.0.1"))?.spawn(&pair.a)?;
    let (_, carp) = pair.capture.advertisement(Mark::default(), "a", LONG)?;
    ensure!(carp.source == pair.a.address(), "{carp:?}");
    Ok(())
}

#[test]
fn daemonize_returns_0_and_serves_in_the_background() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let ended = Carpd::for_address(ADDRESS, &format!("{FAST} -B"))?.run(&pair.a)?;
    ensure!(ended.status == 0, "{ended:?}");
    pair.capture.advertisement(Mark::default(), "a", LONG)?;
    let pids = pair.a.pids()?;
    ensure!(pids.len() == 1, "{pids:?}");
    let pid = Pid::from_raw(i32::try_from(pids[0])?);
    ensure!(
        nix::unistd::getsid(Some(pid))? == pid,
        "a session of its own"
    );
    ensure!(std::fs::read_link(format!("/proc/{pid}/cwd"))? == std::path::Path::new("/"));
    let mark = pair.capture.mark();
    kill(pid, Signal::SIGTERM)?;
    eventually("it ends", LONG, || {
        Ok(pair.a.pids()?.is_empty().then_some(()))
    })?;
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    Ok(())
}

#[test]
fn daemonize_reports_an_error_at_start_with_its_status() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let ended = Carpd::for_address(ADDRESS, "-B -i eth7")?.run(&pair.a)?;
    ensure!(
        ended.status == 2 && ended.stderr.contains("eth7"),
        "{ended:?}"
    );
    let ended = Carpd::for_address(ADDRESS, "-B -v 0")?.run(&pair.a)?;
    ensure!(
        ended.status == 1 && ended.stderr.contains("--vhid"),
        "{ended:?}"
    );
    ensure!(pair.a.pids()?.is_empty(), "something still runs");
    Ok(())
}

#[test]
fn a_daemonized_second_server_of_a_vhid_is_refused_by_the_parent() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let first = pair.carpd(&pair.a, SLOW)?;
    let ended = Carpd::for_address(ADDRESS, &format!("{SLOW} -k 60 -B"))?
        .datapath("auto")
        .run(&pair.a)?;
    ensure!(ended.status == 2, "{ended:?}");
    let expected = format!("vhid 7 on eth0 is already served by pid {}", first.pid());
    ensure!(ended.stderr.contains(&expected), "{ended:?}");
    Ok(())
}

#[test]
fn an_address_that_was_there_before_is_no_obstacle() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("address add 10.9.0.100/32 dev eth0")?;
    let mut a = pair.master(&pair.a, FAST)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    let _client = pair.client()?;
    pair.is_owned_by(&pair.a)?;
    ensure!(a.is_running()?);
    Ok(())
}

#[test]
fn a_start_takes_less_than_the_master_down_time_it_then_waits() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mark = pair.capture.mark();
    let a = pair.carpd(&pair.a, SLOW)?;
    let lines = a.lines_with("Switching to state: BACKUP");
    let (first, _) = pair.capture.advertisement(mark, "a", LONG)?;
    let waited = first.at.saturating_duration_since(lines[0].at);
    ensure!(waited < Duration::from_secs(2), "{waited:?}");
    Ok(())
}
