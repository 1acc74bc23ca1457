//! Up and down scripts: ucarp's contract, and that no script stands in the election's way.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::{Carpd, lab};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW, Scripts};

#[test]
fn the_down_script_runs_at_start_and_the_up_script_on_becoming_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let a = pair.master(&pair.a, &format!("{FAST} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    let up = scripts.path().join("up");
    a.wait_for(
        &format!("Spawning [{} eth0 10.9.0.100]", up.display()),
        LONG,
    )?;
    Ok(())
}

#[test]
fn with_an_up_script_carpd_leaves_the_address_to_it_and_announces_all_the_same() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let mark = pair.capture.mark();
    let _a = pair.master(&pair.a, &format!("{FAST} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    pair.capture
        .wait_after(mark, "a gratuitous ARP", LONG, |captured| {
            captured
                .arp_from("a")
                .filter(|arp| arp.is_gratuitous_for(ADDRESS))
                .map(drop)
        })?;
    pair.stays_the_only_master(&pair.a, 4)?;
    ensure!(
        !pair.a.has_address(ADDRESS)?,
        "the script did not add the address"
    );
    Ok(())
}

#[test]
fn a_script_that_adds_the_address_serves_the_client() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", r#"exec ip address add "$2"/32 dev "$1""#)?;
    let down = scripts.script("down", r#"ip address del "$2"/32 dev "$1" 2>/dev/null"#)?;
    let options = format!("-u {} -d {}", up.display(), down.display());
    let _b = pair.master(&pair.b, &format!("{SLOW} {options}"))?;
    let _client = pair.client()?;
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P {options}"))?;
    pair.settles_on(&pair.a, Duration::from_secs(1))?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    pair.is_owned_by(&pair.a)
}

#[test]
fn neutral_leaves_the_down_script_out_at_start() -> Result<()> {
    for option in ["-n", "--neutral"] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let _a = pair.master(
            &pair.a,
            &format!("{FAST} {option} {}", scripts.up_and_down()?),
        )?;
        scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    }
    Ok(())
}

#[test]
fn xparam_is_the_third_argument_as_it_is() -> Result<()> {
    for option in [
        vec!["-x", "a b;c"],
        vec!["--xparam", "a b;c"],
        vec!["--xparam=a b;c"],
    ] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let mut carpd = Carpd::for_address(ADDRESS, &format!("{FAST} {}", scripts.up_and_down()?))?;
        for argument in option {
            carpd = carpd.arg(argument);
        }
        let _a = carpd.start(&pair.a)?;
        scripts.wait_for_calls(&[
            "down [eth0] [10.9.0.100] [a b;c]",
            "up [eth0] [10.9.0.100] [a b;c]",
        ])?;
    }
    Ok(())
}

#[test]
fn the_scripts_see_the_address_as_it_was_given() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let carpd = Carpd::new(&format!(
        "-v 7 -p secret --addr 10.9.0.100/24 {FAST} {}",
        scripts.up_and_down()?
    ))?;
    let _a = carpd.start(&pair.a)?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100/24]", "up [eth0] [10.9.0.100/24]"])
}

#[test]
fn yielding_runs_the_down_script() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let _b = pair.master(&pair.b, &format!("{SLOW} -n {}", scripts.up_and_down()?))?;
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P"))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"])
}

#[test]
fn at_exit_the_down_script_runs_on_a_master_with_shutdown_only() -> Result<()> {
    for (option, expected) in [
        (
            "-z",
            vec!["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"],
        ),
        (
            "--shutdown",
            vec!["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"],
        ),
        ("", vec!["up [eth0] [10.9.0.100]"]),
    ] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let mut a = pair.master(
            &pair.a,
            &format!("{FAST} -n {option} {}", scripts.up_and_down()?),
        )?;
        scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
        ensure!(a.terminate(LONG)? == 0);
        ensure!(
            scripts.calls() == expected,
            "with {option:?}: {:?}",
            scripts.calls()
        );
    }
    Ok(())
}

#[test]
fn at_exit_a_backup_runs_no_script() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let _a = pair.master(&pair.a, FAST)?;
    let mut b = pair.carpd(&pair.b, &format!("{SLOW} -n -z {}", scripts.up_and_down()?))?;
    pair.stays_the_only_master(&pair.a, 2)?;
    ensure!(b.terminate(LONG)? == 0);
    ensure!(scripts.calls().is_empty(), "{:?}", scripts.calls());
    Ok(())
}

#[test]
fn at_exit_the_down_script_runs_in_init_with_shutdown_only() -> Result<()> {
    for (option, expected) in [("-z", vec!["down [eth0] [10.9.0.100]"]), ("", vec![])] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        pair.a.ip("link set eth0 down")?;
        let options = format!("{SLOW} -n {option} {}", scripts.up_and_down()?);
        let mut a = Carpd::for_address(ADDRESS, &options)?.spawn(&pair.a)?;
        a.wait_for("receiving on eth0", LONG)?;
        ensure!(a.dump()?.state == "INIT");
        ensure!(a.terminate(LONG)? == 0);
        ensure!(
            scripts.calls() == expected,
            "with {option:?}: {:?}",
            scripts.calls()
        );
    }
    Ok(())
}

#[test]
fn a_missing_script_is_named_and_the_election_goes_on() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, &format!("{FAST} -u /nowhere/up -d /nowhere/down"))?;
    a.wait_for("/nowhere/down", LONG)?;
    a.wait_for("/nowhere/up", LONG)?;
    pair.stays_the_only_master(&pair.a, 3)
}

#[test]
fn a_failing_script_is_reported_with_its_status_and_the_election_goes_on() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exit 3")?;
    let a = pair.master(&pair.a, &format!("{FAST} -u {}", up.display()))?;
    a.wait_for("failed with exit status: 3", LONG)?;
    pair.stays_the_only_master(&pair.a, 3)
}

#[test]
fn a_hanging_script_does_not_hold_the_election_up_and_is_ended() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    let down = scripts.script("down", "")?;
    let options = format!(
        "-n -u {} -d {} --script-timeout 2",
        up.display(),
        down.display()
    );
    let b = pair.master(&pair.b, &format!("{SLOW} {options}"))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    pair.stays_the_only_master(&pair.b, 3)?;
    // It yields while the script hangs.
    let mark = pair.capture.mark();
    let start = Instant::now();
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P"))?;
    pair.capture.advertisement(mark, "a", LONG)?;
    pair.settles_on(&pair.a, Duration::from_millis(500))?;
    ensure!(b.dump()?.state == "BACKUP");
    ensure!(start.elapsed() < Duration::from_secs(30));
    // The next script waits for the first one's end.
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"])?;
    ensure!(pair.b.pids()?.len() == 1, "the hanging script still runs");
    Ok(())
}

#[test]
fn a_hanging_script_does_not_keep_carpd_from_ending() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    let mut a = pair.master(
        &pair.a,
        &format!("{FAST} -z -u {} --script-timeout 1", up.display()),
    )?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGTERM)?;
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    ensure!(a.exit_code(LONG)? == 0);
    Ok(())
}

#[test]
fn a_second_stop_does_not_wait_for_a_hanging_script() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    // Its time limit is a minute, far beyond what is waited for here.
    let mut a = pair.master(&pair.a, &format!("{FAST} -u {}", up.display()))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGTERM)?;
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    ensure!(a.is_running()?, "it waits for the script");
    ensure!(a.terminate(LONG)? == 0);
    a.wait_for("not waiting for scripts", LONG)?;
    Ok(())
}
