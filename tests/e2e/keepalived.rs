//! A VRRP instance of keepalived on the same link, with our vhid as its VRID.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::{Capture, Keepalived, Mark, lab};

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

#[test]
fn keepalived_with_our_vhid_as_vrid_and_carpd_do_not_disturb_each_other() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let keepalived = Keepalived::new(directory.path(), 7, OTHER)?;
    // keepalived's own tie is decided by the higher address: b's.
    let mut vrrp_b = keepalived.start(&pair.b)?;
    wait_for_vrrp(&pair.capture, Mark::default(), "b")?;
    let vrrp_a = keepalived.start(&pair.a)?;
    let carp_a = pair.master(&pair.a, FAST)?;
    let carp_b = pair.carpd(&pair.b, SLOW)?;

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
    // carpd says, once, that both want one virtual MAC, and counts VRRP apart from errors.
    let dump = carp_a.dump()?;
    ensure!(dump.counter("passed-vrrp-same-vhid")? >= 4, "{dump:?}");
    ensure!(dump.counter("dropped-bad-authentication")? == 0, "{dump:?}");
    let warnings = carp_a.lines_with("VRRP");
    ensure!(
        warnings.len() == 1,
        "{} warnings about VRRP",
        warnings.len()
    );

    // Each election goes its own way: keepalived's MASTER leaves, carpd's stays.
    let mark = pair.capture.mark();
    vrrp_b.terminate(LONG)?;
    wait_for_vrrp(&pair.capture, mark, "a")?;
    pair.only_master_since(mark, &pair.a)?;
    // And the other way round.
    let mark = pair.capture.mark();
    drop(carp_a);
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.settles_on(&pair.b, Duration::from_secs(1))?;
    ensure!(carp_b.dump()?.state == "MASTER");
    wait_for_vrrp(&pair.capture, pair.capture.mark(), "a")
}
