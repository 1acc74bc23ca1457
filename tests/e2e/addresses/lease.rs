//! How long the address outlives a killed daemon by default.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab;
use carp_tests::lab::note;

use super::all;
use crate::support::{ADDRESS, FAST, LONG, Pair};

/// How much later than its lease the kernel may end an address, on a busy machine.
const LATE: Duration = Duration::from_secs(4);

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
