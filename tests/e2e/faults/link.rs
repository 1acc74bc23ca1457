//! The interface: carrier, administrator, name, existence, MTU.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Host, lab};
use nix::sys::signal::Signal;

use super::scene::{FAST_MASTER_DOWN, NOISE, Scene, misses_at_most};
use crate::support::{ADDRESS, FAST, LONG, SLOW_MASTER_DOWN, takeover_time};

/// The MASTER a loses its link by `cut`, and b takes over. After the repair, a stays BACKUP although it is better,
/// and takes over when b leaves, because it listens and sends on its current link.
fn master_loses_its_link(
    what: &str,
    cut: impl FnOnce(&Host) -> Result<()>,
    repair: impl FnOnce(&Host) -> Result<()>,
) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (_a, mut b) = scene.master_and_backup()?;
    let client = scene.client()?;
    let (mark, cut_at) = (scene.capture.mark(), Instant::now());
    cut(&scene.a)?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "b took over {took:?} after the last advertisement"
    );
    client.wait_for_answer(LONG)?;
    let outage = client.longest_outage(cut_at);
    misses_at_most(&client, cut_at, SLOW_MASTER_DOWN)?;
    let repaired = scene.capture.mark();
    repair(&scene.a)?;
    ensure!(!scene.a.has_address(ADDRESS)?, "a still has the address");
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "b", 10, LONG)?;
    scene.only_master_since(repaired, &scene.b)?;
    scene.never_two_owners_since(mark)?;
    note(&format!(
        "{what}: takeover {took:?}, the client's outage {outage:?}"
    ));

    let mark = scene.capture.mark();
    b.kill()?;
    scene.b.unplug()?;
    let took = takeover_time(&scene.capture, mark, &scene.b, &scene.a)?;
    ensure!(
        (FAST_MASTER_DOWN..FAST_MASTER_DOWN + NOISE).contains(&took),
        "a took over {took:?} after the last advertisement"
    );
    client.wait_for_answer(LONG)?;
    scene.is_settled_on(&scene.a)
}

#[test]
fn a_master_whose_switch_port_goes_down_is_replaced_and_returns_as_backup() -> Result<()> {
    master_loses_its_link("switch port down", Host::unplug, Host::plug_in)
}

#[test]
fn a_master_whose_interface_is_set_down_is_replaced_and_returns_as_backup() -> Result<()> {
    master_loses_its_link(
        "admin-down",
        |host| host.ip("link set eth0 down").map(drop),
        |host| {
            host.ip("link set eth0 up")?;
            host.plug_in()
        },
    )
}

/// Without the switch: the cable is pulled out of the host, and a new one is plugged in.
fn recreate(host: &Host) -> Result<()> {
    host.add_link("eth0", host.mac())?;
    host.ip(&format!("address add {}/16 dev eth0", host.address()))?;
    host.plug_in()
}

#[test]
fn a_master_whose_interface_is_deleted_is_replaced_and_serves_its_successor_of_the_same_name()
-> Result<()> {
    master_loses_its_link(
        "interface deleted",
        |host| host.ip("link delete eth0").map(drop),
        recreate,
    )
}

#[test]
fn an_interface_that_is_deleted_and_created_again_at_once_is_served_again() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _a = scene.master(&scene.a, FAST)?;
    for _ in 0..3 {
        let mark = scene.capture.mark();
        scene.a.ip("link delete eth0")?;
        recreate(&scene.a)?;
        scene.capture.advertisements_reach(mark, "a", 5, LONG)?;
        scene.comes_to_be_owned_by(&scene.a, LONG)?;
    }
    scene.is_settled_on(&scene.a)
}

#[test]
fn a_backups_interface_that_is_created_again_hears_the_master() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    scene.b.ip("link delete eth0")?;
    recreate(&scene.b)?;
    scene.stays_the_only_master(&scene.a, 15)?;
    scene.only_master_since(mark, &scene.a)?;
    scene.never_two_owners_since(mark)
}

#[test]
fn with_both_ports_down_nobody_holds_the_address_and_afterwards_one_does() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let client = scene.client()?;
    let hosts = [&scene.a, &scene.b];
    for host in hosts {
        host.unplug()?;
    }
    for host in hosts {
        host.wait_for_address(ADDRESS, false, LONG)?;
    }
    let mark = scene.capture.mark();
    for host in hosts {
        host.plug_in()?;
    }
    let up = Instant::now();
    // a times out first; both are plugged in at the same time, so b hears a before it times out itself.
    scene.is_settled_on(&scene.a)?;
    scene.never_two_owners_since(mark)?;
    client.wait_for_answer(LONG)?;
    misses_at_most(&client, up, FAST_MASTER_DOWN)
}

#[test]
fn a_flapping_link_does_not_make_a_flapping_master() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let client = scene.client()?;
    let mark = scene.capture.mark();
    // While it flaps, a never listens for long enough; b waits, and takes over once.
    let started = Instant::now();
    let mut flaps = 0;
    while started.elapsed() < Duration::from_secs(3) {
        scene.a.ip("link set eth0 down")?;
        scene.a.ip("link set eth0 up")?;
        flaps += 1;
    }
    scene.capture.advertisement(mark, "b", LONG)?;
    scene.a.plug_in()?;
    scene.is_settled_on(&scene.b)?;
    scene.never_two_owners_since(mark)?;
    let said = scene.capture.advertisements(mark, "a");
    ensure!(
        said.iter()
            .all(|(at, _)| at.saturating_duration_since(started) < NOISE),
        "a advertised while its link flapped\n{}",
        scene.capture.summary(mark)
    );
    client.wait_for_answer(LONG)?;
    note(&format!(
        "{flaps} flaps in 3 s: the client's longest outage {:?}",
        client.longest_outage(started)
    ));
    misses_at_most(&client, started, SLOW_MASTER_DOWN)
}

#[test]
fn a_renamed_interface_is_served_on_under_its_new_name() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (a, mut b) = scene.master_and_backup()?;
    let client = scene.client()?;
    let (mark, renamed) = (scene.capture.mark(), Instant::now());
    scene.a.ip("link set eth0 name wan0")?;
    scene.stays_the_only_master(&scene.a, 10)?;
    a.wait_for("interface eth0 was renamed to wan0", LONG)?;
    scene.b.ip("link set eth0 name wan0")?;
    scene.stays_the_only_master(&scene.a, 10)?;
    scene.only_master_since(mark, &scene.a)?;
    misses_at_most(&client, renamed, Duration::ZERO)?;
    scene.never_two_owners_since(mark)?;
    // Both still receive and send: the MASTER steps down, the BACKUP takes over, and hands the address back when it stops.
    let mark = scene.capture.mark();
    let lines = a.mark();
    a.signal(Signal::SIGUSR2)?;
    scene.capture.advertisement(mark, "b", LONG)?;
    // Log lines name the interface as it is called now.
    a.wait_for_after(lines, "interface=wan0", LONG)?;
    scene.a.wait_for_address(ADDRESS, false, LONG)?;
    scene.comes_to_be_owned_by(&scene.b, LONG)?;
    let mark = scene.capture.mark();
    ensure!(b.terminate(LONG)? == 0);
    scene.capture.advertisement(mark, "a", LONG)?;
    scene.b.wait_for_address(ADDRESS, false, LONG)?;
    scene.is_settled_on(&scene.a)
}

#[test]
fn an_mtu_change_costs_no_advertisement() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (mut a, _b) = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    for host in [&scene.a, &scene.b] {
        for mtu in [1400, 9000, 68, 1500] {
            host.ip(&format!("link set eth0 mtu {mtu}"))?;
            scene
                .capture
                .advertisements_reach(scene.capture.mark(), "a", 7, LONG)?;
        }
    }
    scene.only_master_since(mark, &scene.a)?;
    scene.never_two_owners_since(mark)?;
    let mark = scene.capture.mark();
    a.kill()?;
    scene.a.unplug()?;
    scene.capture.advertisement(mark, "b", LONG)?;
    scene.is_settled_on(&scene.b)
}
