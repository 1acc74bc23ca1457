//! Ports that pass only the network card's own MAC address, as those of hypervisors do.

use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Cable, Host, Mark, Quality, Ucarp, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SECOND_WORSE, SLOW};

/// Puts `host` behind a port that drops frames from any other MAC address than that of its network card.
fn behind_such_a_port(host: &Host) -> Result<Cable> {
    let cable = Cable::splice(host)?;
    cable.from_host(Quality::OnlyFrom(host.mac()));
    Ok(cable)
}

#[test]
fn behind_ports_that_pass_the_own_mac_alone_both_are_master_and_name_the_option() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _cables = [behind_such_a_port(&pair.a)?, behind_such_a_port(&pair.b)?];
    let a = pair.master(&pair.a, FAST)?;
    let b = pair.master(&pair.b, SLOW)?;
    for daemon in [&a, &b] {
        let line = daemon.wait_for("no advertisement was ever heard", LONG)?;
        ensure!(
            line.text.contains("own MAC address") && line.text.contains("--own-mac"),
            "{}",
            line.text
        );
    }
    ensure!(a.dump()?.state == "MASTER" && b.dump()?.state == "MASTER");
    Ok(())
}

#[test]
fn a_peer_with_another_password_is_not_blamed_on_a_port() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let _b = pair.master(&pair.b, &format!("{SLOW} -p another"))?;
    let conflict = a.wait_for("another CARP MASTER answers ARP for it", LONG)?;
    a.wait_for("Bad digest", LONG)?;
    ensure!(!conflict.text.contains("--own-mac"), "{}", conflict.text);
    Ok(())
}

#[test]
fn with_own_mac_one_is_master_behind_such_ports_and_the_other_takes_over() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _cables = [behind_such_a_port(&pair.a)?, behind_such_a_port(&pair.b)?];
    let mut a = pair.master(&pair.a, &format!("{FAST} --own-mac"))?;
    let b = pair.carpd(&pair.b, &format!("{SLOW} --own-mac"))?;
    pair.stays_the_only_master(&pair.a, 20)?;
    pair.is_owned_by(&pair.a)?;
    let heard = b.dump()?;
    ensure!(heard.state == "BACKUP", "{}", heard.state);
    let client = pair.client()?;
    let (mark, start) = (pair.capture.mark(), std::time::Instant::now());
    ensure!(a.terminate(LONG)? == 0);
    let (_, carp) = pair.capture.advertisement(mark, "b", LONG)?;
    ensure!(carp.ether_source == pair.b.mac(), "{carp:?}");
    client.wait_for_answer(LONG)?;
    let outage = client.longest_outage(start);
    note(&format!(
        "a bow-out with --own-mac behind ports that pass no other: the client missed {outage:?}"
    ));
    ensure!(outage < Duration::from_secs(1), "{outage:?}");
    pair.is_owned_by(&pair.b)
}

#[test]
fn equals_with_own_mac_settle_on_one() -> Result<()> {
    let equal = "-b 0 -k 40 --own-mac";
    let pair = Pair::with_addresses(lab!(), "10.9.0.9/16", "10.9.0.8/16")?;
    pair.b.isolate()?;
    let _a = pair.master(&pair.a, equal)?;
    let mark = pair.capture.mark();
    let b = pair.carpd(&pair.b, equal)?;
    b.wait_for("Switching to state: MASTER", LONG)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.b.rejoin()?;
    pair.settles_on(&pair.b, Duration::from_millis(2500))
}

#[test]
fn a_ucarp_believes_a_carpd_that_sends_from_its_own_mac() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, &format!("{SECOND} --own-mac"))?;
    let ucarp = Ucarp::new(&pair.b, ADDRESS, SECOND_WORSE).start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 6)?;
    ensure!(ucarp.lines_with("Switching to state: MASTER").is_empty());
    for (_, carp) in pair.capture.advertisements(Mark::default(), "a") {
        ensure!(carp.ether_source == pair.a.mac(), "{carp:?}");
    }
    Ok(())
}
