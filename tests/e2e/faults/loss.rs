//! The path between the hosts: loss in one direction, duplicates, reordering, delay, reflection.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Cable, Carpd, Quality, lab};

use super::scene::{FAST_INTERVAL, NOISE, Scene};
use crate::support::{ADDRESS, FAST, LONG, SLOW_MASTER_DOWN};

#[test]
fn a_backup_that_cannot_hear_takes_over_and_yields_when_it_hears_again() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let cable = Cable::splice(&scene.b)?;
    let _daemons = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    cable.to_host(Quality::Lost);
    let (first, _) = scene.capture.advertisement(mark, "b", LONG)?;

    // The link is cut in one direction, so CARP cannot avoid two MASTERs. The better one hears the other, and
    // answers it at most once per interval, so that clients come back to it without much traffic.
    scene.capture.advertisements_reach(mark, "b", 12, LONG)?;
    let window = first.at.elapsed();
    let announced = scene.announcements(mark, &scene.a);
    let intervals = usize::try_from(window.as_micros() / FAST_INTERVAL.as_micros())?;
    ensure!(announced > 0, "a does not answer a worse master");
    ensure!(
        announced <= intervals * 2 + 5,
        "{announced} announcements in {intervals} intervals"
    );

    let (mark, healed) = (scene.capture.mark(), Instant::now());
    cable.to_host(Quality::Good);
    scene.is_settled_on(&scene.a)?;
    let last = scene
        .last_word(mark, &scene.b)
        .map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(healed)
        });
    ensure!(
        last < FAST_INTERVAL + NOISE,
        "b was MASTER for {last:?} more"
    );
    scene.announcement(mark, &scene.a, Duration::ZERO)?;
    note(&format!(
        "one-way loss towards the BACKUP: {announced} announcements in {window:?}; healed, two masters for {last:?}"
    ));
    Ok(())
}

#[test]
fn a_worse_master_that_cannot_hear_the_better_one_does_not_keep_it_from_serving() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let cable = Cable::splice(&scene.b)?;
    let _b = scene.master(&scene.b, "-b 0 -k 50")?;
    cable.to_host(Quality::Lost);
    // a hears b, preempts it, and is not heard: both are MASTER, and the better one answers the other all the time.
    let _a = scene.master(&scene.a, &format!("{FAST} -P"))?;
    let mark = scene.capture.mark();
    scene.capture.advertisements_reach(mark, "a", 10, LONG)?;
    ensure!(scene.last_word(mark, &scene.b).is_some());
    ensure!(
        scene.announcements(mark, &scene.a) > 0,
        "a does not answer a worse master"
    );
    let (mark, healed) = (scene.capture.mark(), Instant::now());
    cable.to_host(Quality::Good);
    scene.is_settled_on(&scene.a)?;
    let last = scene.last_word(mark, &scene.b).unwrap_or(healed);
    let both = last.saturating_duration_since(healed);
    ensure!(
        both < FAST_INTERVAL + NOISE,
        "b was MASTER for {both:?} more"
    );
    Ok(())
}

#[test]
fn loss_for_less_than_the_master_down_time_changes_nothing() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let cable = Cable::splice(&scene.a)?;
    let _a = scene.master(&scene.a, FAST)?;
    // Three of five advertisements are lost; half a second remains as an allowance for a busy machine.
    let _b = scene.carpd(&scene.b, "-b 0 -k 50 -r 5")?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let mark = scene.capture.mark();
    for _ in 0..4 {
        let losing = scene.capture.mark();
        cable.from_host(Quality::Lost);
        scene.capture.advertisements_reach(losing, "a", 3, LONG)?;
        cable.from_host(Quality::Good);
        scene
            .capture
            .advertisements_reach(scene.capture.mark(), "a", 2, LONG)?;
    }
    scene.only_master_since(mark, &scene.a)
}

/// Both directions of the MASTER's cable have this quality: no state changes, and a crash is still noticed.
fn changes_nothing(quality: Quality) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let cable = Cable::splice(&scene.a)?;
    let (mut a, _b) = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    cable.from_host(quality);
    cable.to_host(quality);
    scene.stays_the_only_master(&scene.a, 20)?;
    scene.never_two_owners_since(mark)?;
    let mark = scene.capture.mark();
    a.kill()?;
    scene.a.unplug()?;
    let (first, _) = scene.capture.advertisement(mark, "b", LONG)?;
    let last = scene
        .capture
        .advertisements(carp_tests::Mark::default(), "a");
    let (last, _) = last.last().context("a was MASTER")?;
    let silence = first.at - *last;
    let late = if let Quality::Late(by) = quality {
        by
    } else {
        Duration::ZERO
    };
    // What waits in the cable for the next one, to be swapped with it, was captured and never arrives.
    let early = if quality == Quality::Swapped {
        FAST_INTERVAL
    } else {
        Duration::ZERO
    };
    ensure!(
        (SLOW_MASTER_DOWN - early..SLOW_MASTER_DOWN + late + NOISE).contains(&silence),
        "{quality:?}: b took over after {silence:?}"
    );
    Ok(())
}

#[test]
fn doubled_advertisements_change_nothing() -> Result<()> {
    changes_nothing(Quality::Doubled)
}

#[test]
fn swapped_advertisements_change_nothing() -> Result<()> {
    changes_nothing(Quality::Swapped)
}

#[test]
fn late_advertisements_change_nothing() -> Result<()> {
    changes_nothing(Quality::Late(Duration::from_millis(250)))
}

#[test]
fn reflected_advertisements_change_nothing() -> Result<()> {
    changes_nothing(Quality::Mirrored)
}

/// The switch reflects frames, so a MASTER hears itself, which has no effect.
fn hairpin_changes_nothing(datapath: &str) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let carpd = |arguments| {
        Ok::<_, anyhow::Error>(Carpd::for_address(ADDRESS, arguments)?.datapath(datapath))
    };
    for host in [&scene.a, &scene.b] {
        host.set_hairpin(true)?;
    }
    let a = carpd(FAST)?.start(&scene.a)?;
    scene
        .capture
        .advertisement(carp_tests::Mark::default(), "a", LONG)?;
    let mut b = carpd("-b 0 -k 50")?.start(&scene.b)?;
    let mark = scene.capture.mark();
    scene.stays_the_only_master(&scene.a, 20)?;
    // An answer to a worse master would be an announcement for every reflected advertisement.
    let announced = scene.announcements(mark, &scene.a);
    ensure!(announced <= 2, "{announced} announcements");
    let dump = a.dump()?;
    ensure!(
        dump.counter("dropped-own-source")? >= 10,
        "nothing came back"
    );
    // One per second reaches the daemon, which logs the cause.
    let shown = dump.counter("dropped-own-echo")?;
    ensure!(
        shown >= 1 && shown == dump.counter("suspects-delivered")?,
        "{shown} shown: {dump:?}"
    );
    a.wait_for("our own advertisement came back", LONG)?;
    ensure!(b.terminate(LONG)? == 0);
    scene.only_master_since(mark, &scene.a)?;

    // A bow-out that comes back does not promote its sender.
    let b = carpd("-b 0 -k 50")?.start(&scene.b)?;
    let mark = scene.capture.mark();
    a.signal(nix::sys::signal::Signal::SIGUSR2)?;
    scene.capture.advertisements_reach(mark, "b", 10, LONG)?;
    ensure!(b.dump()?.state == "MASTER");
    scene.is_settled_on(&scene.b)
}

#[test]
fn own_advertisements_from_a_hairpin_port_change_nothing() -> Result<()> {
    thread::scope(|scope| {
        let socket = scope.spawn(|| hairpin_changes_nothing("socket"));
        hairpin_changes_nothing("xdp-native")?;
        socket.join().expect("it returns its failures")
    })
}
