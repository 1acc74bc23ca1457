//! A dead MASTER stays dead, however often its recordings are played.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::attack::STRANGER;
use carp_tests::lab::note;
use carp_tests::{Mark, Recording, lab};

use super::scene::Scene;
use crate::faults::scene::{FAST_INTERVAL, NOISE};
use crate::support::SLOW_MASTER_DOWN;

/// How long the recordings are played: more than three master-down times of the BACKUP.
const PLAYED: Duration = Duration::from_secs(3);

/// Kills the MASTER, cuts its cable, and plays its advertisements, each altered as the attacker wants.
fn is_replaced(mut scene: Scene, what: &str, alter: impl Fn(Recording) -> Recording) -> Result<()> {
    let (a, b) = (scene.pair.a.address(), scene.pair.b.clone());
    scene.attacker.recorded(a, 45, PLAYED * 10)?;
    scene.pair.a.isolate()?;
    scene.a.kill()?;
    let mark = scene.pair.capture.mark();
    let all = scene.pair.capture.advertisements(Mark::default(), "a");
    let (last, _) = all.last().context("a has advertised")?;
    // Without the last one, which may not have arrived.
    let mut tape = scene.attacker.heard(a);
    tape.pop();

    let begin = Instant::now();
    let mut played = tape.into_iter().cycle();
    while begin.elapsed() < PLAYED {
        let recording = played.next().context("the tape has no end")?;
        scene.attacker.send(&alter(recording))?;
        std::thread::sleep(FAST_INTERVAL);
    }

    let spoken = scene.pair.capture.advertisements(mark, b.name());
    let took = spoken
        .first()
        .map(|(at, _)| at.saturating_duration_since(*last));
    let lines = scene.b.lines_with("Switching to state: MASTER").len();
    note(&format!(
        "a dead MASTER, {what}: replaced after {took:?}, master-down time {SLOW_MASTER_DOWN:?}; the BACKUP became MASTER \
         {lines} times; the client's outage {:?}",
        scene.client.longest_outage(*last)
    ));
    let took = took.with_context(|| format!("{what}: nobody took over in {PLAYED:?}"))?;
    ensure!(took < SLOW_MASTER_DOWN + NOISE / 2, "{what}: {took:?}");
    // It stays MASTER, although the dead one is better.
    ensure!(lines == 1, "{what}: the BACKUP became MASTER {lines} times");
    ensure!(
        scene.b.dump()?.state == "MASTER",
        "{what}: it did not stay MASTER"
    );
    Ok(())
}

#[test]
fn a_dead_master_is_replaced_though_its_advertisements_are_played_again() -> Result<()> {
    is_replaced(Scene::new(lab!(), "")?, "played again", |recording| {
        recording
    })
}

#[test]
fn a_dead_master_is_replaced_though_its_advertisements_are_played_as_better_ones() -> Result<()> {
    is_replaced(Scene::new(lab!(), "")?, "played as 0/0", |recording| {
        recording.shown(0, 0)
    })
}

#[test]
fn a_dead_master_is_replaced_though_what_it_said_before_the_backup_ran_is_played() -> Result<()> {
    let scene = Scene::older(lab!(), "")?;
    is_replaced(scene, "played from before the BACKUP ran", |recording| {
        recording
    })
}

#[test]
fn a_dead_master_is_replaced_though_its_advertisements_come_from_another_source() -> Result<()> {
    is_replaced(
        Scene::new(lab!(), "")?,
        "played as 0/0 from another source",
        |recording| recording.from(STRANGER).shown(0, 0),
    )
}
