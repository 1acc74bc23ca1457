//! Recordings of a lone ucarp from before the hosts ran, with random counters and the same password.

use anyhow::{Context as _, Result, ensure};
use carp_tests::attack::STRANGER;
use carp_tests::lab::note;
use carp_tests::{Attacker, Injector, Lab, Recording, Toll, Ucarp};

use super::scene::{INTERVALS, NOISE, Scene};
use crate::faults::scene::FAST_INTERVAL;
use crate::support::{ADDRESS, LONG, SLOW_MASTER_DOWN};

/// The advertisements of a lone ucarp in a separate lab, with the same vhid, password and address.
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
    // In ascending order, each is above all before it.
    tape.sort_by_key(|recording| recording.carp().counter);
    Ok(tape)
}

/// The receiver of the recordings.
#[derive(Clone, Copy, Debug)]
enum Towards {
    Everybody,
    /// The BACKUP alone, as past the switch or while the MASTER does not receive.
    Backup,
}

/// Plays some of the recordings to a pair with these options, each one as 0/0 from a stranger and from the MASTER.
fn played(options: &str, towards: Towards) -> Result<Toll> {
    let tape = {
        let lab = Lab::new()?;
        of_a_lone_ucarp(&lab)?
    };
    let scene = Scene::new(Lab::new()?, options)?;
    let backup = Injector::towards(&scene.pair.b)?;
    let watch = scene.watch();
    // The highest ones in ascending order, because a strict host waits for counters above those of the pair.
    let skipped = tape.len() - usize::try_from(INTERVALS)?;
    for recording in tape.into_iter().skip(skipped) {
        let better = recording.shown(0, 0);
        for copy in [
            better.clone().from(STRANGER),
            better.from(scene.pair.a.address()),
        ] {
            match towards {
                Towards::Everybody => scene.attacker.send(&copy)?,
                Towards::Backup => backup.send(copy.frame())?,
            }
        }
        std::thread::sleep(FAST_INTERVAL);
    }
    // After a master-down time, every effect has happened.
    std::thread::sleep(SLOW_MASTER_DOWN + NOISE);
    let toll = scene.toll_now(&watch)?;
    note(&format!(
        "recordings of a lone ucarp, {options} towards {towards:?}: {toll}"
    ));
    Ok(toll)
}

#[test]
fn advertisements_of_a_lone_ucarp_under_the_same_password_change_nothing() -> Result<()> {
    if !Lab::require_root() {
        return Ok(());
    }
    for (options, towards) in [
        ("", Towards::Everybody),
        ("", Towards::Backup),
        ("--strict-counter", Towards::Everybody),
    ] {
        let toll = played(options, towards)?;
        ensure!(toll.changes == 0, "{options} {towards:?}: {toll}");
        ensure!(toll.outage < NOISE, "{options} {towards:?}: {toll}");
        ensure!(toll.nobody < NOISE, "{options} {towards:?}: {toll}");
    }
    Ok(())
}

/// Known limit: a strict host that hears a higher counter waits for one above it, and cannot tell these recordings from
/// a ucarp that came back. If the MASTER has not heard it, its genuine advertisements are below. Change the password when
/// the last ucarp leaves.
#[test]
fn advertisements_of_a_lone_ucarp_under_the_same_password_deafen_strict_counters() -> Result<()> {
    if !Lab::require_root() {
        return Ok(());
    }
    let toll = played("--strict-counter", Towards::Backup)?;
    ensure!(toll.changes > 0, "{toll}");
    ensure!(toll.outage < NOISE, "{toll}");
    Ok(())
}

/// The remaining risk in groups that may contain an OpenBSD: an OpenBSD repeats one counter, so a repeated counter
/// that no host here ever heard looks like one. With it, an attacker can be MASTER while sending; afterwards the pair
/// continues as before.
#[test]
fn one_unheard_recording_repeated_is_an_openbsd_unless_there_is_none() -> Result<()> {
    if !Lab::require_root() {
        return Ok(());
    }
    let recording = {
        let lab = Lab::new()?;
        of_a_lone_ucarp(&lab)?.pop().context("a ucarp advertises")?
    };
    for (options, is_believed) in [("", true), ("--no-openbsd", false)] {
        let scene = Scene::new(Lab::new()?, options)?;
        let better = recording.clone().shown(0, 0).from(STRANGER);
        let watch = scene.watch();
        for _ in 0..INTERVALS {
            scene.attacker.send(&better)?;
            std::thread::sleep(FAST_INTERVAL);
        }
        let sent = watch.begin_at().elapsed();
        std::thread::sleep(SLOW_MASTER_DOWN + NOISE);
        let toll = scene.toll_now(&watch)?;
        note(&format!(
            "one unheard recording as 0/0, sent for {sent:?}, {options}: {toll}"
        ));
        if is_believed {
            ensure!(toll.changes > 0, "the known limit is gone: {toll}");
        } else {
            ensure!(toll.changes == 0 && toll.nobody < NOISE, "{toll}");
        }
        ensure!(toll.lost < sent + SLOW_MASTER_DOWN + NOISE, "{toll}");
        scene.pair.settles_on(&scene.pair.a, FAST_INTERVAL * 8)?;
        scene.client.wait_for_answer(LONG)?;
    }
    Ok(())
}
