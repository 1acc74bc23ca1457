//! A VRRP instance of keepalived on the same link, with carpd's vhid as its VRID.
//!
//! keepalived (2.2.7) starts its advertisement timer again for every packet of its VRID in its group, valid or not. A
//! CARP master (carpd, ucarp or a BSD) that advertises more often than keepalived silences keepalived's master; nothing
//! on the CARP side can change that but a group of its own.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use carp_tests::{Capture, Keepalived, Lab, Mark, lab};

use crate::support::{FAST, LONG, Pair, SLOW};

/// keepalived's own virtual address.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);

fn wait_for_vrrp(capture: &Capture, mark: Mark, host: &str) -> Result<()> {
    capture.wait_after(mark, "a VRRP advertisement", LONG, |captured| {
        captured
            .vrrp_from(host)
            .filter(|vrrp| vrrp.priority > 0 && vrrp.vrid == 7)
            .map(drop)
    })?;
    Ok(())
}

/// Both elections run on both hosts, each with its MASTER on another host, and each fails over independently.
fn run_side_by_side(lab: Lab, better: &str, worse: &str) -> Result<()> {
    let pair = Pair::new(lab)?;
    let directory = tempfile::tempdir()?;
    let keepalived = Keepalived::new(directory.path(), 7, OTHER)?;
    // keepalived's own tie is decided by the higher address: b's.
    let mut vrrp_b = keepalived.start(&pair.b)?;
    wait_for_vrrp(&pair.capture, Mark::default(), "b")?;
    let vrrp_a = keepalived.start(&pair.a)?;
    let carp_a = pair.master(&pair.a, better)?;
    let carp_b = pair.carpd(&pair.b, worse)?;

    let mark = pair.capture.mark();
    for _ in 0..4 {
        wait_for_vrrp(&pair.capture, pair.capture.mark(), "b")?;
    }
    pair.only_master_since(mark, &pair.a)?;
    for captured in pair.capture.after(mark) {
        ensure!(
            captured.vrrp_from("a").is_none(),
            "keepalived's BACKUP spoke"
        );
    }
    ensure!(vrrp_a.lines_with("MASTER STATE").is_empty());
    pair.is_owned_by(&pair.a)?;
    // carpd logs it once, and counts VRRP separately from errors.
    let dump = carp_a.dump()?;
    ensure!(dump.counter("passed-vrrp-same-vhid")? >= 4, "{dump:?}");
    ensure!(dump.counter("dropped-bad-authentication")? == 0, "{dump:?}");
    carp_a.says_once("VRRP")?;

    let mark = pair.capture.mark();
    vrrp_b.terminate(LONG)?;
    wait_for_vrrp(&pair.capture, mark, "a")?;
    pair.only_master_since(mark, &pair.a)?;

    let mark = pair.capture.mark();
    drop(carp_a);
    pair.capture.advertisement(mark, "b", LONG)?;
    ensure!(carp_b.dump()?.state == "MASTER");
    wait_for_vrrp(&pair.capture, pair.capture.mark(), "a")
}

#[test]
fn keepalived_with_our_vhid_as_vrid_and_carpd_do_not_disturb_each_other() -> Result<()> {
    // Intervals longer than keepalived's second.
    run_side_by_side(lab!(), "-b 1 -k 60 -r 1", "-b 1 -k 160 -r 1")
}

#[test]
fn in_a_group_of_its_own_carpd_may_advertise_faster_than_keepalived() -> Result<()> {
    let group = "-m 239.192.0.7";
    run_side_by_side(
        lab!(),
        &format!("{FAST} {group}"),
        &format!("{SLOW} {group}"),
    )
}
