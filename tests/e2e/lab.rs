//! The lab itself, tested with ucarp: a test that fails here does not concern carpd.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::client::owners;
use carp_tests::lab::remove_orphans;
use carp_tests::{Client, Forgery, Injector, Ucarp, lab};

const SECONDS_10: Duration = Duration::from_secs(10);

#[test]
fn two_ucarp_elect_one_and_the_client_notices_a_crash() -> Result<()> {
    let lab = lab!();
    let capture = lab.capture()?;
    let a = lab.host("a", "10.9.0.1/16")?;
    let b = lab.host("b", "10.9.0.2/16")?;
    let c = lab.host("c", "10.9.0.3/16")?;
    let address = Ipv4Addr::new(10, 9, 0, 100);
    let ucarp = |host| Ucarp::new(host, address, "-r 1");
    let mut first = ucarp(&a).start(&a)?;
    let (_, carp) = capture.advertisement(capture.mark(), "a", SECONDS_10)?;
    ensure!(
        carp.checksums_valid && carp.vhid == 7 && carp.source == a.address(),
        "{carp:?}"
    );
    ensure!(carp.is_authentic("secret", &[address]) && !carp.is_authentic("other", &[address]));
    a.ip("address add 10.9.0.100/32 dev eth0")?;

    let second = ucarp(&b).start(&b)?;
    let client = Client::start(&c, address, Duration::from_millis(10))?;
    client.wait_for_answer(SECONDS_10)?;
    ensure!(owners(&c, &capture, address, Duration::from_millis(200))? == [a.mac()].into());

    let (mark, killed) = (capture.mark(), Instant::now());
    first.kill()?;
    a.ip("address del 10.9.0.100/32 dev eth0")?;
    capture.advertisement(mark, "b", SECONDS_10)?;
    second.wait_for("Switching to state: MASTER", SECONDS_10)?;
    b.ip("address add 10.9.0.100/32 dev eth0")?;
    client.wait_for_answer(SECONDS_10)?;
    let outages = client.outages(killed);
    ensure!(
        outages.len() == 1 && outages[0].until.is_some(),
        "{outages:?}"
    );
    Ok(())
}

#[test]
fn a_forged_advertisement_deposes_ucarp_when_right_and_is_refused_when_wrong() -> Result<()> {
    let lab = lab!();
    let capture = lab.capture()?;
    let a = lab.host("a", "10.9.0.1/16")?;
    let c = lab.host("c", "10.9.0.3/16")?;
    let address = Ipv4Addr::new(10, 9, 0, 100);
    let ucarp = Ucarp::new(&a, address, "-r 1 -k 50").start(&a)?;
    ucarp.wait_for("Switching to state: MASTER", SECONDS_10)?;

    let injector = Injector::open(&c)?;
    let right = Forgery::new(c.address(), 7, "secret", address);
    let wrong = right
        .clone()
        .with(|forgery| forgery.password = "wrong".into());
    injector.send(&wrong.frame())?;
    ucarp.wait_for("Bad digest", SECONDS_10)?;
    let mark = ucarp.mark();
    ensure!(
        ucarp.lines_with("Switching to state: BACKUP").len() == 1,
        "it yielded to a wrong password"
    );
    injector.send(&right.frame())?;
    ucarp.wait_for_after(mark, "Switching to state: BACKUP", SECONDS_10)?;
    capture.wait_after(Default::default(), "our forgery", SECONDS_10, |captured| {
        captured
            .carp_from("c")
            .filter(|carp| carp.checksums_valid)
            .map(drop)
    })?;
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_no_namespace() -> Result<()> {
    let lab = lab!();
    lab.host("a", None)?;
    let names = lab.names();
    ensure!(names.len() == 2);
    drop(lab);
    for name in names {
        ensure!(
            !std::fs::exists(format!("/run/netns/{name}"))?,
            "{name} is left"
        );
    }
    Ok(())
}

#[test]
fn a_panic_takes_the_lab_down() -> Result<()> {
    let lab = lab!();
    lab.host("a", None)?;
    let names = lab.names();
    let outcome = std::thread::spawn(move || {
        let _lab = lab;
        std::panic::resume_unwind(Box::new("on purpose"));
    })
    .join();
    ensure!(outcome.is_err());
    for name in names {
        ensure!(
            !std::fs::exists(format!("/run/netns/{name}"))?,
            "{name} is left"
        );
    }
    Ok(())
}

#[test]
fn namespaces_of_a_dead_process_are_removed_and_those_of_a_living_one_are_not() -> Result<()> {
    let lab = lab!();
    let mut dead = Command::new("true").spawn()?;
    let name = format!("carp-lab-{}-1-0-orphan", dead.id());
    dead.wait()?;
    ensure!(
        Command::new("ip")
            .args(["netns", "add", &name])
            .status()?
            .success()
    );
    remove_orphans()?;
    ensure!(
        !std::fs::exists(format!("/run/netns/{name}"))?,
        "{name} is left"
    );
    for name in lab.names() {
        ensure!(
            std::fs::exists(format!("/run/netns/{name}"))?,
            "{name} is gone"
        );
    }
    Ok(())
}

#[test]
fn an_unplugged_host_has_no_carrier_until_it_is_plugged_in() -> Result<()> {
    let lab = lab!();
    let a = lab.host("a", "10.9.0.1/16")?;
    a.unplug()?;
    carp_tests::eventually("no carrier", SECONDS_10, || {
        Ok(a.ip("-o link show eth0")?
            .contains("NO-CARRIER")
            .then_some(()))
    })?;
    a.plug_in()
}
