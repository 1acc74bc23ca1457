//! Every signal, as seen from the wire.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Daemon, eventually, lab};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// The MASTER hands over, releases its address and ends with status 0.
fn stops(signal: Signal) -> Result<()> {
    stops_by(|_, a| a.signal(signal))
}

/// The same for each way to stop it.
fn stops_by(ask: impl FnOnce(&Pair, &Daemon) -> Result<()>) -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let mark = pair.capture.mark();
    ask(&pair, &a)?;
    ensure!(a.exit_code(LONG)? == 0);
    ensure!(!pair.a.has_address(ADDRESS)?);
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    Ok(())
}

#[test]
fn sigterm_hands_over_and_ends_with_status_0() -> Result<()> {
    stops(Signal::SIGTERM)
}

#[test]
fn sigint_hands_over_and_ends_with_status_0() -> Result<()> {
    stops(Signal::SIGINT)
}

#[test]
fn sigquit_hands_over_and_ends_with_status_0() -> Result<()> {
    stops(Signal::SIGQUIT)
}

#[test]
fn sighup_hands_over_and_ends_with_status_0() -> Result<()> {
    stops(Signal::SIGHUP)
}

/// By their numbers: ALRM, STKFLT, XCPU, VTALRM, PROF, IO, PWR, and the first and the last real-time signal.
#[test]
fn any_other_signal_that_would_end_it_hands_over_as_term_does() -> Result<()> {
    for number in [14, 16, 24, 26, 27, 29, 30, 34, 64] {
        stops_by(|pair, a| {
            let (pid, signal) = (a.pid().to_string(), format!("-{number}"));
            pair.a.run("kill", &[&signal, &pid]).map(drop)
        })
        .with_context(|| format!("signal {number}"))?;
    }
    Ok(())
}

/// SIGPIPE and SIGXFSZ mean that a log is gone or full, which is no reason to end.
#[test]
fn signals_about_the_log_change_nothing() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    a.signal(Signal::SIGPIPE)?;
    a.signal(Signal::SIGXFSZ)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    ensure!(a.is_running()?);
    Ok(())
}

#[test]
fn sigterm_is_heard_without_carrier() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    pair.a.unplug()?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    ensure!(a.terminate(LONG)? == 0);
    Ok(())
}

#[test]
fn sigusr1_logs_the_master_since_when_why_and_what_comes_next() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    let (master, backup) = (a.dump()?, b.dump()?);
    ensure!(master.status["master"] == "this-host", "{master:?}");
    ensure!(backup.status["master"] == "10.9.0.1", "{backup:?}");
    ensure!(backup.status["advertises"] == "0/50", "{backup:?}");
    let survives = match carp_tests::daemons::datapath().as_str() {
        "socket" => "no",
        _ => "yes",
    };
    ensure!(
        backup.status["fence-survives-kill"] == survives,
        "{backup:?}"
    );
    let kernel = match survives {
        "no" => "this host goes on answering",
        _ => "the kernel stops answering for it",
    };
    let expected = format!(
        "no MASTER was heard for the master-down time; no other host was ever heard; next: yields to a MASTER with a \
         lower advbase/advskew than 0/25; if carpd is killed, {kernel} and its address ends with its lease"
    );
    a.wait_for(&expected, LONG)?;
    let said = b.wait_for("why on eth0 id 7: BACKUP for ", LONG)?.text;
    for part in [
        "link and source address are there; MASTER is 10.9.0.1, heard 0.",
        "; next: takes over after 0.",
        "without --preempt",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    let counters = b.lines_with("[INFO] counters on ");
    let any = counters
        .iter()
        .any(|line| line.text.ends_with("=0") || line.text.contains("=0 "));
    ensure!(!counters.is_empty() && !any, "{counters:?}");
    Ok(())
}

#[test]
fn sigusr1_says_that_the_interface_is_gone() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    pair.a.ip("link delete eth0")?;
    a.wait_for("interface eth0 is gone", LONG)?;
    a.signal(Signal::SIGUSR1)?;
    let said = a.says_once("why on eth0 id 7: INIT for ")?.text;
    ensure!(
        said.ends_with("the interface is gone; next: BACKUP when the interface is there"),
        "{said}"
    );
    Ok(())
}

#[test]
fn sigusr2_where_nobody_takes_over_says_how_long_the_address_is_gone() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let start = Instant::now();
    a.signal(Signal::SIGUSR2)?;
    let said = a.wait_for("nobody has the address for 3.3 s", LONG)?;
    ensure!(said.text.contains("no other host was ever heard"));
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    a.wait_for(
        "nobody took over after SIGUSR2: no host had the address for ",
        LONG,
    )?;
    ensure!(start.elapsed() > Duration::from_secs(3));
    pair.a.wait_for_address(ADDRESS, true, LONG)
}

#[test]
fn sigusr1_logs_state_and_counters() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let master = a.dump()?;
    // The fifth may still be under way to b.
    let backup = eventually("the BACKUP has heard five", LONG, || {
        let dump = b.dump()?;
        Ok((dump.counter("delivered")? >= 5).then_some(dump))
    })?;
    ensure!((master.state.as_str(), backup.state.as_str()) == ("MASTER", "BACKUP"));
    a.wait_for("[INFO] MASTER on eth0 id 7", LONG)?;
    b.wait_for("[INFO] BACKUP on eth0 id 7", LONG)?;
    ensure!(master.counter("sent-inet-packets")? >= 5, "{master:?}");
    ensure!(master.counter("transitions-to-master")? == 1, "{master:?}");
    ensure!(backup.counters["received-inet-packets"] >= 5, "{backup:?}");
    ensure!(backup.datapath["delivered"] >= 5, "{backup:?}");
    ensure!(
        backup.status["datapath"] == carp_tests::daemons::datapath(),
        "{backup:?}"
    );
    Ok(())
}

#[test]
fn sigusr2_steps_down_with_a_bow_out_and_stays_away_for_3_seconds() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGUSR2)?;
    let (bow_out, _) = pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    // There is no other host, so it comes back, but only after it has listened.
    let mark = pair.capture.mark();
    let (back, _) = pair.capture.advertisement(mark, "a", LONG)?;
    let away = back.at.duration_since(bow_out.at);
    ensure!(away >= Duration::from_secs(3), "{away:?}");
    pair.a.wait_for_address(ADDRESS, true, LONG)
}

#[test]
fn sigusr2_on_the_master_makes_the_backup_master_for_good() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 2)?;
    let (mark, start) = (pair.capture.mark(), Instant::now());
    a.signal(Signal::SIGUSR2)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.settles_on(&pair.b, Duration::from_secs(4))?;
    ensure!(start.elapsed() > Duration::from_secs(4));
    pair.is_owned_by(&pair.b)
}

#[test]
fn sigusr2_on_a_backup_changes_nothing() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    b.signal(Signal::SIGUSR2)?;
    pair.stays_the_only_master(&pair.a, 10)?;
    ensure!(b.dump()?.state == "BACKUP");
    Ok(())
}

#[test]
fn a_stop_of_carpd_is_measured_counted_and_logged_once() -> Result<()> {
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
