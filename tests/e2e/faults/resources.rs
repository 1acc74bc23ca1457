//! Missing resources: scripts that do not end, no descriptors, a full ring, lost notifications, a full send queue.

use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Carpd, Daemon, Forgery, Host, Injector, eventually, lab};
use nix::sys::signal::Signal;

use super::scene::{FAST_MASTER_DOWN, NOISE, Scene, misses_at_most};
use crate::support::{ADDRESS, FAST, LONG, SLOW, SLOW_MASTER_DOWN, Scripts, takeover_time};

#[test]
fn hanging_scripts_do_not_hold_up_a_state_that_flaps() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script(
        "up",
        &format!("ip address add {ADDRESS}/32 dev $1; exec sleep 1000"),
    )?;
    let down = scripts.script(
        "down",
        &format!("ip address del {ADDRESS}/32 dev $1; exec sleep 1000"),
    )?;
    let arguments = format!(
        "{FAST} --script-timeout 1 -u {} -d {}",
        up.display(),
        down.display()
    );
    let _a = scene.carpd(&scene.a, &arguments)?;
    let client = scene.client()?;
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    for _ in 0..4 {
        let (first, _) = scene
            .capture
            .advertisement(scene.capture.mark(), "a", LONG)?;
        scene
            .capture
            .advertisements_reach(scene.capture.mark(), "a", 3, LONG)?;
        let mark = scene.capture.mark();
        scene.a.ip("link set eth0 down")?;
        scene.a.ip("link set eth0 up")?;
        scene.a.plug_in()?;
        let started = Instant::now();
        let (back, _) = scene.capture.advertisement(mark, "a", LONG)?;
        ensure!(back.at > first.at);
        longest = longest.max(back.at.saturating_duration_since(started));
        // One script at a time, and what it started.
        let processes = scene.a.pids()?.len();
        ensure!(processes <= 4, "{processes} processes on the host");
    }
    ensure!(longest < FAST_MASTER_DOWN + NOISE, "{longest:?}");
    // The last call is the one for the state it is in.
    eventually("the last script called is up", LONG, || {
        let calls = scripts.calls();
        Ok(calls
            .last()
            .filter(|call| call.starts_with("up "))
            .map(drop))
    })?;
    client.wait_for_answer(LONG)?;
    // A script that hangs, of each kind, may come before the one that adds the address.
    let scripts_end = Duration::from_secs(2);
    misses_at_most(&client, begin, scripts_end + FAST_MASTER_DOWN)?;
    note(&format!(
        "hanging scripts: MASTER again {longest:?} after the link, master-down time {FAST_MASTER_DOWN:?}"
    ));
    Ok(())
}

/// Takes away, or gives back, the right to open files.
fn limit_descriptors(daemon: &Daemon, limit: u32) -> Result<()> {
    let output = Command::new("prlimit")
        .arg(format!("--pid={}", daemon.pid()))
        .arg(format!("--nofile={limit}:1024"))
        .output()
        .context("prlimit is part of util-linux")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn without_descriptors_the_election_goes_on() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (mut a, b) = scene.master_and_backup()?;
    for daemon in [&a, &b] {
        limit_descriptors(daemon, 3)?;
    }
    scene.stays_the_only_master(&scene.a, 10)?;
    let mark = scene.capture.mark();
    a.kill()?;
    scene.a.unplug()?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    scene.is_settled_on(&scene.b)?;
    ensure!(scene.b.has_address(ADDRESS)?);

    // A new interface cannot be served now; once there are descriptors it is. carpd logs that although it has just warned
    // that the old interface lost its address.
    scene.b.ip("address del 10.9.0.2/16 dev eth0")?;
    eventually("it says that it has no address to send from", LONG, || {
        let said = b.lines_with("eth0 has no IPv4 address to send from");
        Ok((!said.is_empty()).then_some(()))
    })?;
    scene.b.ip("link delete eth0")?;
    scene.b.add_link("eth0", scene.b.mac())?;
    scene.b.ip("address add 10.9.0.2/16 dev eth0")?;
    scene.b.plug_in()?;
    eventually("it says that it cannot", LONG, || {
        let said = b.lines_with("cannot serve eth0 yet");
        Ok((!said.is_empty()).then_some(()))
    })?;
    let mark = scene.capture.mark();
    limit_descriptors(&b, 1024)?;
    scene.capture.advertisement(mark, "b", LONG)?;
    scene.is_settled_on(&scene.b)
}

#[test]
fn without_descriptors_for_its_scripts_a_backup_takes_over_all_the_same() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let mut a = scene.master(&scene.a, FAST)?;
    let b = scene.carpd(&scene.b, &format!("{SLOW} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]"])?;
    scene.stays_the_only_master(&scene.a, 5)?;
    limit_descriptors(&b, 3)?;
    let mark = scene.capture.mark();
    a.kill()?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    limit_descriptors(&b, 1024)?;
    let _a = scene.carpd(&scene.a, &format!("{FAST} -P"))?;
    scene.settles_on(&scene.a, Duration::from_secs(1))
}

/// A burst of genuine advertisements like a's. Their counters are above a's and rise, so that no limit
/// applies to them.
fn flood_as(a: &Host, injector: &Injector, counters: Range<u64>) -> Result<()> {
    let genuine = Forgery::new(a.address(), 7, "secret", ADDRESS).with(|genuine| {
        genuine.advbase = 0;
        genuine.advskew = 25;
    });
    for counter in counters {
        let frame = genuine
            .clone()
            .with(|genuine| genuine.counter = 1 << 62 | counter);
        injector.send(&frame.frame())?;
    }
    Ok(())
}

/// More than any ring or socket buffer holds.
const FLOOD: u64 = 5_000;

/// When the stopped BACKUP resumes, its buffer is full of old packets and the newest were lost: at least `missed` of a's.
fn full_buffer(datapath: &str, missed: usize) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let mut a = scene.master(&scene.a, FAST)?;
    let carpd = Carpd::for_address(ADDRESS, SLOW)?.datapath(datapath);
    let b = carpd.start(&scene.b)?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let mark = scene.capture.mark();
    b.signal(Signal::SIGSTOP)?;
    // Only b: a would raise its own counters above them.
    flood_as(&scene.a, &Injector::towards(&scene.b)?, 0..FLOOD)?;
    // For longer than the master-down time, there is no room for a's advertisements.
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", missed, LONG)?;
    b.signal(Signal::SIGCONT)?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 15, LONG)?;
    ensure!(
        b.dump()?.counter("datapath-events-lost")? > 0,
        "the buffer was not full"
    );
    ensure!(
        scene.capture.advertisements(mark, "b").is_empty(),
        "b thought the living a dead"
    );
    scene.never_two_owners_since(mark)?;
    let mark = scene.capture.mark();
    a.kill()?;
    scene.a.unplug()?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    Ok(())
}

#[test]
fn a_full_ring_does_not_make_a_living_master_dead() -> Result<()> {
    full_buffer("xdp-native", 15)
}

/// Stopped for little more than the master-down time: what fills the ring arrived before, so the silence would be
/// long enough.
#[test]
fn a_full_ring_after_a_short_stop_does_not_make_a_living_master_dead() -> Result<()> {
    full_buffer("xdp-native", 7)
}

#[test]
fn a_full_socket_buffer_does_not_make_a_living_master_dead() -> Result<()> {
    full_buffer("socket", 15)
}

#[test]
fn a_flood_of_genuine_advertisements_makes_no_second_master() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    let mut sent = 0;
    let injector = Injector::open(&scene.c)?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        // The BACKUP hears its MASTER far too often, each time with another counter; the MASTER hears its own address.
        flood_as(&scene.a, &injector, sent..sent + 1_000)?;
        sent += 1_000;
    }
    let took = started.elapsed();
    ensure!(
        scene.capture.advertisements(mark, "b").is_empty(),
        "b took over in a flood of its MASTER's advertisements"
    );
    scene.never_two_owners_since(mark)?;
    note(&format!(
        "{sent} genuine advertisements in {took:?}: no second master"
    ));
    scene.is_settled_on(&scene.a)
}

#[test]
fn after_a_netlink_overrun_carpd_lists_everything_again() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (a, _b) = scene.master_and_backup()?;
    a.signal(Signal::SIGSTOP)?;
    // Far more notifications than its socket holds; then the two that matter are lost. Among those that are not is one
    // that is no longer true.
    let batch = tempfile::NamedTempFile::new()?;
    let mut lines = String::from("address add 10.9.0.77/24 dev eth0\n");
    for number in 0..4_000 {
        let (high, low) = (number / 250, number % 250 + 1);
        lines += &format!("address add 127.1.{high}.{low}/32 dev lo\n");
        if number == 1_200 {
            lines += "address del 10.9.0.77/24 dev eth0\n";
        }
    }
    std::fs::write(batch.path(), lines)?;
    let path = batch.path().to_string_lossy().into_owned();
    scene.a.run("ip", &["-batch", &path])?;
    scene.a.ip("address add 10.9.0.77/24 dev eth0")?;
    scene.a.ip("address del 10.9.0.1/16 dev eth0")?;
    let mark = scene.capture.mark();
    a.signal(Signal::SIGCONT)?;
    scene.capture.wait_after(
        mark,
        "a advertises from its new address",
        LONG,
        |captured| {
            captured
                .carp_from("a")
                .filter(|carp| carp.source.octets() == [10, 9, 0, 77])
                .map(drop)
        },
    )?;
    a.wait_for("notifications were lost", LONG)
        .context("the socket did not overrun")?;
    scene.is_settled_on(&scene.a)
}

/// A full send queue: the kernel refuses every frame with ENOBUFS.
fn refuse_to_send(host: &Host, on: bool) -> Result<()> {
    let arguments: &[&str] = if on {
        &[
            "qdisc", "add", "dev", "eth0", "root", "bfifo", "limit", "10",
        ]
    } else {
        &["qdisc", "del", "dev", "eth0", "root"]
    };
    host.run("tc", arguments).map(drop)
}

/// Waits until carpd has failed to send that often; the wire shows what it does then.
fn wait_for_send_errors(daemon: &Daemon, count: u64) -> Result<()> {
    eventually("advertisements cannot be sent", LONG, || {
        let failed = daemon.dump()?.counter("send-failed-memory-error")?;
        Ok((failed >= count).then_some(()))
    })
}

#[test]
fn send_errors_demote_a_master_and_successes_undo_it() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let a = scene.master(&scene.a, FAST)?;
    refuse_to_send(&scene.a, true)?;
    wait_for_send_errors(&a, 3)?;
    let mark = scene.capture.mark();
    refuse_to_send(&scene.a, false)?;
    let advskew = |advskew| {
        let what = format!("an advertisement with advskew {advskew}");
        scene.capture.wait_after(mark, &what, LONG, |captured| {
            captured
                .carp_from("a")
                .filter(|carp| carp.advskew == advskew)
                .map(drop)
        })
    };
    let (demoted, ()) = advskew(240)?;
    let (recovered, ()) = advskew(25)?;
    ensure!(demoted.at < recovered.at);
    let said = scene.capture.advertisements(mark, "a");
    let demoted = said
        .iter()
        .take_while(|(_, carp)| carp.advskew == 240)
        .count();
    ensure!(
        (1..=4).contains(&demoted),
        "{demoted} demoted advertisements"
    );
    scene.is_settled_on(&scene.a)
}

#[test]
fn a_master_that_cannot_send_gives_the_address_up_to_one_that_can() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (_a, _b) = scene.master_and_backup()?;
    let client = scene.client()?;
    let (mark, cut) = (scene.capture.mark(), Instant::now());
    refuse_to_send(&scene.a, true)?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    scene.a.wait_for_address(ADDRESS, false, LONG)?;
    client.wait_for_answer(LONG)?;
    note(&format!(
        "send errors: takeover {took:?}, the client's outage {:?}",
        client.longest_outage(cut)
    ));
    misses_at_most(&client, cut, SLOW_MASTER_DOWN)?;
    let repaired = scene.capture.mark();
    refuse_to_send(&scene.a, false)?;
    scene
        .capture
        .advertisements_reach(repaired, "b", 10, LONG)?;
    scene.only_master_since(repaired, &scene.b)?;
    scene.never_two_owners_since(mark)?;
    scene.is_settled_on(&scene.b)
}
