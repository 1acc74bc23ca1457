//! The address that advertisements come from: removed, replaced, shared.

use std::net::Ipv4Addr;

use anyhow::Result;
use carp_tests::lab;

use super::scene::Scene;
use crate::support::{ADDRESS, LONG};

/// An advertisement from this source is on the wire.
fn advertises_from(scene: &Scene, host: &str, source: Ipv4Addr) -> Result<()> {
    let what = format!("{host} advertises from {source}");
    scene
        .capture
        .wait_after(scene.capture.mark(), &what, LONG, |captured| {
            captured
                .carp_from(host)
                .filter(|carp| carp.source == source)
                .map(drop)
        })?;
    Ok(())
}

#[test]
fn a_master_that_loses_its_source_address_leaves_and_returns_as_backup() -> Result<()> {
    let scene = Scene::new(lab!())?;
    // When a is back, it is the better one and waits for 2.3 s, so b, which advertises every 0.9 s, may be late by 1.4 s
    // before a takes over from it, as it should. At the usual paces that is 0.1 s.
    let _daemons = scene.master_and_backup_at("-b 0 -k 200", "-b 0 -k 220")?;
    let client = scene.client()?;
    let mark = scene.capture.mark();
    scene.a.ip("address del 10.9.0.1/16 dev eth0")?;
    scene.a.wait_for_address(ADDRESS, false, LONG)?;
    let said = scene.capture.mark();
    scene.capture.advertisement(mark, "b", LONG)?;
    client.wait_for_answer(LONG)?;
    scene.a.ip("address add 10.9.0.1/16 dev eth0")?;
    scene.capture.advertisements_reach(said, "b", 10, LONG)?;
    scene.only_master_since(said, &scene.b)?;
    scene.never_two_owners_since(mark)?;
    scene.is_settled_on(&scene.b)
}

#[test]
fn a_master_whose_source_address_changes_goes_on_from_the_new_one() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    scene.a.ip("address add 10.9.0.77/24 dev eth0")?;
    scene.a.ip("address del 10.9.0.1/16 dev eth0")?;
    advertises_from(&scene, "a", Ipv4Addr::new(10, 9, 0, 77))?;
    scene.stays_the_only_master(&scene.a, 10)?;
    scene.only_master_since(mark, &scene.a)?;
    scene.comes_to_be_owned_by(&scene.a, LONG)
}
