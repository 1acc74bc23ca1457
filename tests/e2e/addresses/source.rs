//! The host sends from its own address, not from the virtual one.

use anyhow::{Result, ensure};
use carp_tests::{Host, eventually, lab};

use super::{ELSEWHERE, GONE, master};
use crate::support::{ADDRESS, FAST, LONG, Pair};

const OWN: &str = "10.9.0.1";

/// The source address that the kernel chooses for each kind of destination.
fn sources(host: &Host) -> Result<Vec<(&'static str, String)>> {
    let destinations = [
        ("on the link", "10.9.0.9"),
        ("behind a gateway", "192.0.2.9"),
        ("anywhere", "198.51.100.9"),
        ("a local group", "224.0.0.5"),
        ("a group", "239.1.2.3"),
    ];
    let mut found = Vec::new();
    for (what, destination) in destinations {
        let route = host.ip(&format!("-o route get {destination}"))?;
        let mut words = route.split_whitespace();
        words.find(|word| *word == "src");
        found.push((what, words.next().unwrap_or_default().to_owned()));
    }
    Ok(found)
}

fn routes(host: &Host) -> Result<()> {
    host.ip("route replace 192.0.2.0/24 via 10.9.0.254")?;
    // It takes the interface's first address, and so does a group.
    host.ip("route replace default dev eth0")?;
    Ok(())
}

/// Everything comes from the host's own address.
fn all_from_its_own(host: &Host) -> Result<()> {
    routes(host)?;
    eventually("the host's own address is the source", LONG, || {
        let found = sources(host)?;
        Ok(found.iter().all(|(_, source)| source == OWN).then_some(()))
    })
    .or_else(|_| {
        let found = sources(host)?;
        ensure!(false, "{found:?}\n{}", host.ip("-4 address show dev eth0")?);
        Ok(())
    })
}

#[test]
fn the_hosts_own_address_is_the_source_whether_it_comes_before_or_after_the_virtual_one()
-> Result<()> {
    for prefix in ["16", "24", "32"] {
        let own = format!("address add {OWN}/16 dev eth0");
        let pair = Pair::new(lab!())?;
        let arguments = format!("{FAST} {ELSEWHERE} -a {ADDRESS}/{prefix}");
        pair.a.ip("address flush dev eth0")?;
        pair.a.ip(&own)?;
        let mut a = start(&pair, &arguments)?;
        all_from_its_own(&pair.a)?;
        pair.a.ip(&format!("address del {OWN}/16 dev eth0"))?;
        pair.a.ip(&own)?;
        all_from_its_own(&pair.a)?;
        ensure!(a.terminate(LONG)? == 0);
        pair.a.ip(&format!("address del {OWN}/16 dev eth0"))?;
        let _again = start(&pair, &arguments)?;
        pair.a.ip(&own)?;
        all_from_its_own(&pair.a)?;
        pair.is_owned_by(&pair.a)?;
    }
    Ok(())
}

fn start(pair: &Pair, arguments: &str) -> Result<carp_tests::Daemon> {
    let carpd = carp_tests::Carpd::new(&format!("-v 7 -p secret {arguments}"))?;
    let daemon = carpd.start(&pair.a)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    Ok(daemon)
}

#[test]
fn without_an_own_address_the_subnet_is_reached_from_the_virtual_one_with_a_warning() -> Result<()>
{
    for way in ["TERM", "KILL"] {
        let pair = Pair::new(lab!())?;
        pair.a.ip("address flush dev eth0")?;
        let mut a = master(&pair, &format!("{FAST} {ELSEWHERE}"))?;
        let route = || pair.a.ip("route show proto 112");
        eventually("the route to the subnet is there", LONG, || {
            Ok(route()?.contains("10.9.0.0/16").then_some(()))
        })?;
        a.says_once("this host has no address of its own in 10.9.0.0/16")?;
        // The client reaches it, and it reaches the client.
        pair.is_owned_by(&pair.a)?;
        pair.a.ip("route get 10.9.0.3")?;
        // The kernel drops it with the link, and carpd may notice the link only when it is up again.
        pair.a
            .run("sh", &["-c", "ip link set eth0 down; ip link set eth0 up"])?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        eventually("the route is there again", LONG, || {
            Ok(route()?.contains("10.9.0.0/16").then_some(()))
        })?;
        // With an own address the route is unnecessary; without it, it is necessary again.
        pair.a.ip("address add 10.9.0.1/16 dev eth0")?;
        eventually("the route goes", LONG, || {
            Ok(route()?.is_empty().then_some(()))
        })?;
        pair.a.ip("address del 10.9.0.1/16 dev eth0")?;
        eventually("the route comes back", LONG, || {
            Ok(route()?.contains("10.9.0.0/16").then_some(()))
        })?;
        if way == "TERM" {
            ensure!(a.terminate(LONG)? == 0);
        } else {
            a.kill()?;
        }
        pair.a.wait_for_address(ADDRESS, false, GONE)?;
        ensure!(route()?.is_empty(), "after {way}: {}", route()?);
    }
    Ok(())
}

#[test]
fn a_fixed_source_that_goes_away_ends_the_mastership_until_it_is_back() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // On another interface, as a router's loopback address would be.
    pair.a.ip("address add 10.9.7.7/32 dev lo")?;
    let a = pair.master(&pair.a, &format!("{FAST} -s 10.9.7.7 -P"))?;
    let _b = pair.carpd(&pair.b, "-b 0 -k 50")?;
    pair.stays_the_only_master(&pair.a, 3)?;
    let mark = pair.capture.mark();
    pair.a.ip("address del 10.9.7.7/32 dev lo")?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    a.says_once("10.9.7.7, given with --srcip, is no longer on this host")?;
    pair.stays_the_only_master(&pair.b, 5)?;
    ensure!(a.dump()?.state == "INIT");
    let why = a.says_once("why on eth0 id 7: INIT for ")?.text;
    for part in [
        "the --srcip address is gone",
        "when the --srcip address is back",
    ] {
        ensure!(why.contains(part), "{why}");
    }
    pair.a.ip("address add 10.9.7.7/32 dev lo")?;
    pair.settles_on(&pair.a, std::time::Duration::from_secs(1))?;
    pair.is_owned_by(&pair.a)
}
