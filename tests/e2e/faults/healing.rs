//! Two MASTERs meet: one remains, and clients find it at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Host, Mark, Ucarp, eventually, lab};

use super::scene::{FAST_INTERVAL, NOISE, Scene, misses_at_most};
use crate::support::{ADDRESS, FAST, LONG, SLOW, Scripts};

/// The hosts cannot hear each other; the client and the neighbour hear both.
pub fn set_apart(scene: &Scene, apart: bool) -> Result<()> {
    scene.a.set_isolated(apart)?;
    scene.b.set_isolated(apart)
}

/// Both are MASTER, the client uses `loser`, and the network heals. Returns when it heals.
pub fn heal_with_the_client_at(scene: &Scene, loser: &Host) -> Result<(Mark, Instant)> {
    eventually("the client is at the one that will lose", LONG, || {
        Ok((scene.client_believes()? == Some(loser.mac())).then_some(()))
    })?;
    // Linux does not change an ARP entry in the first second after an update.
    std::thread::sleep(Duration::from_millis(1200));
    ensure!(scene.client_believes()? == Some(loser.mac()));
    let healed = (scene.capture.mark(), Instant::now());
    set_apart(scene, false)?;
    Ok(healed)
}

/// Time until the client's ARP entry names `host`.
pub fn client_at(scene: &Scene, host: &Host, since: Instant) -> Result<Duration> {
    eventually("the client's ARP entry is right", LONG, || {
        Ok((scene.client_believes()? == Some(host.mac())).then_some(since.elapsed()))
    })
}

#[test]
fn after_a_partition_the_better_master_remains_and_the_client_is_at_it_at_once() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let client = scene.client()?;
    // A later announcement would move the client during the partition.
    scene.announced_late(&scene.a)?;
    let mark = scene.capture.mark();
    set_apart(&scene, true)?;
    scene.capture.advertisements_reach(mark, "b", 3, LONG)?;
    ensure!(
        scene.two_owners_since(mark).is_some(),
        "the partition shows in nothing"
    );

    let (mark, healed) = heal_with_the_client_at(&scene, &scene.b)?;
    let arp = client_at(&scene, &scene.a, healed)?;
    scene.is_settled_on(&scene.a)?;
    let both = scene
        .last_word(mark, &scene.b)
        .map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(healed)
        });
    let announced = scene
        .announcement(mark, &scene.a, LONG)?
        .at
        .saturating_duration_since(healed);
    for (what, took) in [
        ("two masters", both),
        ("the winner's announcement", announced),
        ("the client's ARP entry", arp),
    ] {
        ensure!(took < FAST_INTERVAL * 2 + NOISE, "{what}: {took:?}");
    }
    // One that answers b's last advertisements, limited in rate, and another one for clients that missed it.
    let announcements = scene.announcements(mark, &scene.a);
    note(&format!(
        "healing: two masters for {both:?}, announced after {announced:?}, the client at the winner after {arp:?}, its \
         outage {:?}; interval {FAST_INTERVAL:?}",
        client.longest_outage(healed)
    ));
    misses_at_most(&client, healed, FAST_INTERVAL * 2)?;
    client.wait_for_answer(LONG)?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 10, LONG)?;
    ensure!(
        scene.announcements(mark, &scene.a) <= announcements + 1,
        "announcements without end"
    );
    Ok(())
}

/// The winner advertises so much more often that the loser hears it first and has nothing to answer. The winner
/// learns of the loser only from its last advertisement.
fn winner_that_is_heard_first(profile: &str) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _a = scene.master(&scene.a, &format!("{FAST} --profile {profile}"))?;
    let _b = scene.carpd(&scene.b, &format!("-b 2 -k 0 -r 1 --profile {profile}"))?;
    let client = scene.client()?;
    // A later announcement would move the client during the partition.
    scene.announced_late(&scene.a)?;
    let mark = scene.capture.mark();
    set_apart(&scene, true)?;
    scene.capture.advertisement(mark, "b", LONG)?;
    let (_, healed) = heal_with_the_client_at(&scene, &scene.b)?;
    let arp = client_at(&scene, &scene.a, healed)?;
    note(&format!(
        "healing, profile {profile}, the winner heard first: the client at the winner after {arp:?}, its outage {:?}",
        client.longest_outage(healed)
    ));
    ensure!(arp < FAST_INTERVAL * 2 + NOISE, "{profile}: {arp:?}");
    misses_at_most(&client, healed, FAST_INTERVAL * 2)?;
    scene.is_settled_on(&scene.a)
}

#[test]
fn after_a_partition_the_winner_announces_again_even_when_the_loser_heard_it_first() -> Result<()> {
    for profile in ["ucarp", "freebsd", "openbsd"] {
        winner_that_is_heard_first(profile)?;
    }
    Ok(())
}

#[test]
fn after_a_partition_a_worse_master_that_was_there_first_yields_too() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _b = scene.master(&scene.b, SLOW)?;
    set_apart(&scene, true)?;
    let _a = scene.master(&scene.a, FAST)?;
    let mark = scene.capture.mark();
    set_apart(&scene, false)?;
    let healed = Instant::now();
    scene.is_settled_on(&scene.a)?;
    let last = scene.last_word(mark, &scene.b).unwrap_or(healed);
    let both = last.saturating_duration_since(healed);
    ensure!(both < FAST_INTERVAL + NOISE, "{both:?}");
    scene.announcement(mark, &scene.a, Duration::ZERO)?;
    Ok(())
}

#[test]
fn after_a_partition_ucarp_yields_to_carpd_and_the_client_is_at_it_at_once() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let down = scripts.script("down", &format!("ip address del {ADDRESS}/32 dev $1"))?;
    let _a = scene.master(&scene.a, "-b 1 -k 0 -r 1")?;
    let arguments = format!("-b 1 -k 100 -u {} -d {}", up.display(), down.display());
    let _b = Ucarp::new(&scene.b, ADDRESS, &arguments).start(&scene.b)?;
    let _client = scene.client()?;
    // A later announcement would move the client during the partition.
    scene.announced_late(&scene.a)?;
    let mark = scene.capture.mark();
    set_apart(&scene, true)?;
    scene.capture.advertisement(mark, "b", LONG)?;
    let (_, healed) = heal_with_the_client_at(&scene, &scene.b)?;
    let arp = client_at(&scene, &scene.a, healed)?;
    scene.settles_on(&scene.a, Duration::from_secs(3))?;
    scene.comes_to_be_owned_by(&scene.a, LONG)?;
    note(&format!(
        "healing against ucarp, interval 1 s: the client at the winner after {arp:?}"
    ));
    ensure!(arp < Duration::from_secs(2) + NOISE, "{arp:?}");
    Ok(())
}
