//! An address that a killed MASTER left: its heir takes it over, or removes it.

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::{daemons, lab};

use super::{address_monitor, removals};
use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SECOND_WORSE, SLOW};

#[test]
fn an_address_of_a_killed_master_is_taken_over_without_a_gap() -> Result<()> {
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
fn an_address_of_a_killed_master_is_removed_once_another_master_is_heard() -> Result<()> {
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
fn an_address_of_a_killed_master_is_claimed_by_nobody_until_the_election_is_settled() -> Result<()>
{
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
