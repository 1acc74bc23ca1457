//! Multicast groups that the host has joined, as its kernel reports them.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use carp_tests::packet::GROUP;
use carp_tests::{Carpd, Host, Mac, lab};

use crate::support::{ADDRESS, LONG, Pair, SLOW};

/// Whether `eth0` is in the group, in IP (so that snooping switches learn of it) and at the link (so that its filter
/// is open).
fn is_joined(host: &Host, group: Ipv4Addr) -> Result<(bool, bool)> {
    let list = host.ip("maddress show dev eth0")?;
    let has = |kind: &str, address: &str| {
        list.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(kind) && words.next() == Some(address)
        })
    };
    let mac = Mac::of_group(group).to_string();
    Ok((has("inet", &group.to_string()), has("link", &mac)))
}

#[test]
fn the_group_is_joined_while_carpd_runs() -> Result<()> {
    let other = Ipv4Addr::new(239, 1, 2, 3);
    let pair = Pair::new(lab!())?;
    for (options, group) in [("", GROUP), ("--mcast 239.1.2.3", other)] {
        let mut a = Carpd::for_address(ADDRESS, &format!("{SLOW} {options}"))?.start(&pair.a)?;
        for known in [GROUP, other] {
            let joined = is_joined(&pair.a, known)?;
            ensure!(
                joined == (known == group, known == group),
                "{options}: {known} {joined:?}"
            );
        }
        ensure!(a.terminate(LONG)? == 0);
        ensure!(is_joined(&pair.a, group)? == (false, false), "{options}");
    }
    Ok(())
}

#[test]
fn without_multicast_no_group_is_joined() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = Carpd::for_address(ADDRESS, &format!("{SLOW} -M"))?.start(&pair.a)?;
    ensure!(!is_joined(&pair.a, GROUP)?.0);
    Ok(())
}
