//! Pins of a carpd whose tables have another layout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use carp_common::abi::layout::VERSION;
use carp_tests::{Carpd, Daemon, Host, eventually, lab};
use nix::sys::signal::Signal;

use super::Scene;
use super::holes::{egress, index, network, on};
use super::leftovers::{PATIENT, stranger};
use crate::support::{ADDRESS, FAST, LONG, SLOW, Scripts};

/// Returns the pin of a shared table of this version.
fn table(host: &Host, name: &str) -> Result<PathBuf> {
    Ok(network(host)?.pin(&format!("{name}-{VERSION}")))
}

/// Creates a map and pins it.
fn create(host: &Host, pin: &Path, rest: &str) -> Result<()> {
    let all = format!("map create {} {rest} name other", pin.display());
    host.run("bpftool", &all.split(' ').collect::<Vec<_>>())?;
    Ok(())
}

/// Two versions that differ in layout but not in number, or an object that was never a table.
#[test]
fn an_object_pinned_in_the_place_of_a_table_is_set_aside() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let host = &scene.pair.a;
    // The bpffs exists once a carpd has run.
    let mut carpd = on("tcx", SLOW)?.start(host)?;
    ensure!(carpd.terminate(LONG)? == 0);
    for (name, map) in [
        ("vhosts", "type hash key 12 value 72 entries 8192"),
        ("addresses", "type array key 4 value 16 entries 16384"),
        ("addresses", "type hash key 24 value 16 entries 16"),
    ] {
        let table = table(host, name)?;
        fs::remove_file(&table)?;
        create(host, &table, map)?;
        let mut carpd = on("tcx", FAST)?.start(host)?;
        carpd.says_once("is of another layout: set aside")?;
        host.wait_for_address(ADDRESS, true, LONG)?;
        scene.waits_for_answer(host)?;
        ensure!(carpd.terminate(LONG)? == 0);
    }
    Ok(())
}

/// Renames the pins of a carpd to those of another layout. The carpd continues to use them, and no other one will.
/// Returns the new pins.
fn of_another_layout(host: &Host) -> Result<Vec<PathBuf>> {
    let network = network(host)?;
    let mut renamed = Vec::new();
    for name in ["vhosts", "addresses"] {
        let other = network.pin(&format!("{name}-9"));
        fs::rename(table(host, name)?, &other)?;
        renamed.push(other);
    }
    fs::rename(network.pin(&egress()), network.pin("egress-9"))?;
    Ok(renamed)
}

/// A MASTER whose script added the address was killed, and b has taken over; the address is still there, and silent.
fn killed(scene: &Scene, rung: &str, more: &str) -> Result<Daemon> {
    let killed = on(rung, &format!("{FAST} {more}"))?.start(&scene.pair.a)?;
    scene.pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let b = Carpd::for_address(ADDRESS, SLOW)?.start(&scene.pair.b)?;
    scene.replace_a(Signal::SIGKILL, 3)?;
    drop(killed);
    scene.is_silent(&scene.pair.a)?;
    Ok(b)
}

/// The next version takes over what a killed MASTER left, and the clients of the other MASTER notice nothing.
#[test]
fn a_newer_carpd_takes_over_the_fence_of_an_older_one_that_was_killed() -> Result<()> {
    for rung in ["tcx", "xdp-native"] {
        let scene = Scene::new(lab!())?;
        let host = &scene.pair.a;
        let scripts = Scripts::new()?;
        let up = scripts.script("up", &format!("ip address replace {ADDRESS}/32 dev $1"))?;
        let more = format!("-u {}", up.display());
        let mut b = killed(&scene, rung, &more)?;
        let others = of_another_layout(host)?;
        let mark = scene.pair.capture.mark();
        let again = on(rung, &format!("{PATIENT} {more}"))?.start(host)?;
        again.says_once("link that an earlier run left")?;
        for other in &others {
            ensure!(!other.exists(), "{rung}: {} is left", other.display());
        }
        ensure!(!network(host)?.pin("egress-9").exists(), "{rung}");
        scene.is_silent(host)?;
        ensure!(host.has_address(ADDRESS)?, "it was not put to the test");
        let answers = scene.answers(mark, host);
        ensure!(
            answers.is_empty(),
            "{rung}: answered {} times",
            answers.len()
        );
        // When it is MASTER again, it answers again.
        ensure!(b.terminate(LONG)? == 0);
        scene.waits_for_answer(host)?;
    }
    Ok(())
}

/// The fenced addresses may have been in a table that cannot be read.
#[test]
fn our_own_address_is_silent_where_the_older_table_cannot_be_read() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let host = &scene.pair.a;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address replace {ADDRESS}/32 dev $1"))?;
    let more = format!("-u {}", up.display());
    let mut b = killed(&scene, "tcx", &more)?;
    let others = of_another_layout(host)?;
    fs::remove_file(&others[1])?;
    create(host, &others[1], "type array key 4 value 64 entries 8")?;
    let mark = scene.pair.capture.mark();
    let _again = on("tcx", &format!("{PATIENT} {more}"))?.start(host)?;
    scene.is_silent(host)?;
    ensure!(scene.answers(mark, host).is_empty());
    ensure!(b.terminate(LONG)? == 0);
    scene.waits_for_answer(host)
}

/// A start for another vhid takes over the program, and keeps the addresses silent whose owner is not known.
#[test]
fn a_strangers_address_in_an_older_table_stays_silent_until_it_is_gone() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let host = &scene.pair.a;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address replace {ADDRESS}/32 dev $1"))?;
    let _b = killed(&scene, "tcx", &format!("-u {}", up.display()))?;
    of_another_layout(host)?;
    let mut stranger = stranger("")?.start(host)?;
    scene.is_silent(host)?;
    // The pins that it left stay because of the address.
    ensure!(stranger.terminate(LONG)? == 0);
    scene.is_silent(host)?;
    let ended = Carpd::bare()?.args("--detach eth0").run(host)?;
    ensure!(ended.status == 0, "{ended:?}");
    scene.waits_for_answer(host)
}

/// The earlier layout: each address had a deadline, with its owner beside it.
#[test]
fn the_owners_in_a_table_of_version_2_are_known() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let host = &scene.pair.a;
    let _b = killed(&scene, "tcx", "--lease 0")?;
    let others = of_another_layout(host)?;
    for other in &others {
        fs::remove_file(other)?;
    }
    let older = network(host)?.pin("fence-2");
    create(host, &older, "type hash key 20 value 16 entries 16384")?;
    let [a, b, c, d] = index(host, "eth0")?.to_le_bytes();
    let key = "10 9 0 100 0 0 0 0 0 0 0 0 0 0 0 0 4 0 0 0";
    let value = format!("1 0 0 0 0 0 0 0 {a} {b} {c} {d} 7 0 0 0");
    let update = format!(
        "map update pinned {} key {key} value {value}",
        older.display()
    );
    host.run("bpftool", &update.split(' ').collect::<Vec<_>>())?;
    let mark = scene.pair.capture.mark();
    let stranger = stranger("")?.start(host)?;
    stranger.says_once("left by a carpd for vhid 7 that died")?;
    host.wait_for_address(ADDRESS, false, LONG)?;
    ensure!(scene.answers(mark, host).is_empty());
    ensure!(!older.exists(), "it is of no use any more");
    Ok(())
}

/// Both versions on one interface: both receive advertisements, and the older one's tables stay as long as it lives.
#[test]
fn an_older_carpd_that_lives_goes_on_beside_a_newer_one() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let pair = &scene.pair;
    let their_address = "10.9.0.108".parse()?;
    let master = Carpd::new(&format!("-v 8 -p secret -a {their_address} {FAST}"))?;
    let _b = master.start(&pair.b)?;
    pair.b.wait_for_address(their_address, true, LONG)?;
    let older = Carpd::new(&format!("-v 8 -p secret -a {their_address} {SLOW}"))?;
    let mut older = older.datapath("tcx").start(&pair.a)?;
    let others = of_another_layout(&pair.a)?;
    let newer = on("tcx", FAST)?.start(&pair.a)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    scene.waits_for_answer(&pair.a)?;
    for daemon in [&older, &newer] {
        let before = daemon.dump()?.counter("delivered")?;
        ensure!(
            daemon.dump()?.state
                == if std::ptr::eq(daemon, &older) {
                    "BACKUP"
                } else {
                    "MASTER"
                }
        );
        if std::ptr::eq(daemon, &older) {
            eventually("it hears", LONG, || {
                Ok((daemon.dump()?.counter("delivered")? > before + 3).then_some(()))
            })?;
        }
    }
    for other in &others {
        ensure!(other.exists(), "{} is in use", other.display());
    }
    ensure!(older.terminate(LONG)? == 0);
    ensure!(newer.dump()?.state == "MASTER");
    scene.waits_for_answer(&pair.a)
}
