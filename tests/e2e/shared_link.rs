//! Several carpd on one link of one host, as ucarp users run them: one process per vhid.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use carp_tests::{Carpd, Daemon, Host, Mark, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// The address of vhid 8.
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);

fn vhid_8(host: &Host, arguments: &str) -> Result<Daemon> {
    Carpd::new(&format!("-v 8 -p other -a {SECOND_ADDRESS} {arguments}"))?
        .datapath("auto")
        .start(host)
}

#[test]
fn two_carpd_for_two_vhids_on_one_interface_both_work() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // a is better for vhid 7, b for vhid 8.
    let a7 = pair.carpd(&pair.a, &format!("{FAST} -P"))?;
    let b7 = pair.carpd(&pair.b, SLOW)?;
    let a8 = vhid_8(&pair.a, SLOW)?;
    let b8 = vhid_8(&pair.b, &format!("{FAST} -P"))?;
    let from = |mark, host: &str, vhid| {
        pair.capture.wait_after(
            mark,
            &format!("vhid {vhid} from {host}"),
            LONG,
            |captured| {
                captured
                    .carp_from(host)
                    .filter(|carp| carp.vhid == vhid)
                    .map(drop)
            },
        )
    };
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    pair.b.wait_for_address(SECOND_ADDRESS, true, LONG)?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    pair.a.wait_for_address(SECOND_ADDRESS, false, LONG)?;

    let mark = pair.capture.mark();
    for _ in 0..10 {
        from(pair.capture.mark(), "a", 7)?;
        from(pair.capture.mark(), "b", 8)?;
    }
    for captured in pair.capture.after(mark) {
        let wrong = captured.carp_from("a").is_some_and(|carp| carp.vhid == 8)
            || captured.carp_from("b").is_some_and(|carp| carp.vhid == 7);
        ensure!(!wrong, "{captured:?}");
    }
    for daemon in [&a7, &b7, &a8, &b8] {
        let dump = daemon.dump()?;
        ensure!(
            dump.counter("dropped-bad-authentication")? == 0,
            "each sees its own vhid only: {dump:?}"
        );
        ensure!(
            dump.counter("dropped-bad-vhid")? == 0,
            "each sees its own vhid only: {dump:?}"
        );
    }
    // The second one on the interface has its own program, whatever the first one uses.
    ensure!(a8.dump()?.status["datapath"] == "tcx");

    // Each fails over independently.
    let mark = pair.capture.mark();
    drop(a7);
    from(mark, "b", 7)?;
    drop(b8);
    from(mark, "a", 8)?;
    Ok(())
}

#[test]
fn the_same_vhid_twice_on_one_interface_is_refused_with_the_owners_pid() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let first = pair.carpd(&pair.a, SLOW)?;
    for datapath in ["auto", "socket"] {
        // With the same options, the start would leave it alone; see `locks`.
        let ended = Carpd::for_address(ADDRESS, &format!("{SLOW} -k 60"))?
            .datapath(datapath)
            .run(&pair.a)?;
        ensure!(ended.status == 2, "{ended:?}");
        let expected = format!("vhid 7 on eth0 is already served by pid {}", first.pid());
        ensure!(ended.stderr.contains(&expected), "{ended:?}");
    }
    Ok(())
}

#[test]
fn a_killed_carpd_leaves_no_lock() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut first = pair.carpd(&pair.a, SLOW)?;
    first.kill()?;
    let _second = pair.carpd(&pair.a, SLOW)?;
    pair.capture.advertisement(Mark::default(), "a", LONG)?;
    Ok(())
}

#[test]
fn a_script_that_outlives_its_carpd_holds_no_lock() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = crate::support::Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    let mut first = pair.carpd(&pair.a, &format!("{FAST} -u {}", up.display()))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    first.kill()?;
    ensure!(!pair.a.pids()?.is_empty(), "the script outlives it");
    let _second = pair.carpd(&pair.a, SLOW)?;
    Ok(())
}

#[test]
fn one_vhid_on_two_interfaces_of_one_name_in_two_namespaces_is_no_conflict() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 2)
}
