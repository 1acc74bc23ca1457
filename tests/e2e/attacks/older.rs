//! Recordings from before the hosts ran: of a lone ucarp, whose counters are random, under the same password.

use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::attack::STRANGER;
use carp_tests::lab::note;
use carp_tests::{Attacker, Lab, Recording, Toll, Ucarp};

use super::scene::{INTERVALS, NOISE, Scene};
use crate::faults::scene::FAST_INTERVAL;
use crate::support::{ADDRESS, LONG};

/// What a ucarp without company advertised, in a lab of its own: the same vhid, password and address.
fn of_a_lone_ucarp(lab: &Lab) -> Result<Vec<Recording>> {
    let (host, x) = (
        lab.host("u", "10.9.0.5/16")?,
        lab.host("x", "10.9.0.66/16")?,
    );
    let attacker = Attacker::start(&x)?;
    // An advertisement each 39 ms.
    let ucarp = Ucarp::new(&host, ADDRESS, "-b 0 -k 10").start(&host)?;
    let mut tape = attacker.recorded(host.address(), 40, LONG)?;
    drop(ucarp);
    // Highest last: each is above all before it.
    tape.sort_by_key(|recording| recording.carp().counter);
    Ok(tape)
}

/// Plays some of the tape against a pair with these options, each one as 0/0 from a stranger and from the MASTER.
fn played(options: &str) -> Result<Toll> {
    let tape = {
        let lab = Lab::new()?;
        of_a_lone_ucarp(&lab)?
    };
    let scene = Scene::new(Lab::new()?, options)?;
    let watch = scene.watch();
    // Beginning in the middle: counters above those of the pair are what a strict one waits for.
    let tape = tape.iter().rev().take(usize::try_from(INTERVALS)?).rev();
    for recording in tape {
        let better = recording.clone().shown(0, 0);
        scene.attacker.send(&better.clone().from(STRANGER))?;
        scene.attacker.send(&better.from(scene.pair.a.address()))?;
        std::thread::sleep(FAST_INTERVAL);
    }
    // What is going to happen is under way by then.
    std::thread::sleep(Duration::from_millis(200));
    let toll = scene.toll_now(&watch)?;
    note(&format!("recordings of a lone ucarp, {options}: {toll}"));
    Ok(toll)
}

#[test]
fn what_a_lone_ucarp_sent_under_the_same_password_changes_nothing() -> Result<()> {
    if !Lab::require_root() {
        return Ok(());
    }
    let toll = played("")?;
    ensure!(toll.changes == 0, "{toll}");
    ensure!(toll.outage < NOISE, "{toll}");
    ensure!(toll.nobody < NOISE, "{toll}");
    Ok(())
}

/// Known limit: a strict host believes whatever counts up from what it heard, and nothing tells these recordings from a
/// ucarp that came back. Change the password when the last ucarp leaves.
#[test]
fn what_a_lone_ucarp_sent_under_the_same_password_is_believed_by_strict_counters() -> Result<()> {
    if !Lab::require_root() {
        return Ok(());
    }
    let toll = played("--strict-counter")?;
    ensure!(toll.changes > 0, "{toll}");
    Ok(())
}
