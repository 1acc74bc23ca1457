//! Measures what ucarp and keepalived do under some of the same faults, in the same lab. It claims nothing about
//! carpd and is for `docs/FAULTS.md`.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use carp_tests::lab::note;
use carp_tests::{Keepalived, Mark, Packet, Ucarp, lab};

use super::healing::{client_at, heal_with_the_client_at, set_apart};
use super::process::stopped_for;
use super::scene::Scene;
use crate::support::{ADDRESS, LONG, Scripts};

#[test]
fn how_two_ucarp_heal_is_measured() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let down = scripts.script("down", &format!("ip address del {ADDRESS}/32 dev $1"))?;
    let scripts = format!("-u {} -d {}", up.display(), down.display());
    let start = |host, arguments: &str| {
        Ucarp::new(host, ADDRESS, &format!("{arguments} {scripts}")).start(host)
    };
    let _a = start(&scene.a, "-b 1 -k 0 -r 1")?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let _b = start(&scene.b, "-b 1 -k 100")?;
    let client = scene.client()?;
    let mark = scene.capture.mark();
    set_apart(&scene, true)?;
    scene.capture.advertisement(mark, "b", LONG)?;
    let (mark, healed) = heal_with_the_client_at(&scene, &scene.b)?;
    let arp = client_at(&scene, &scene.a, healed)?;
    scene.settles_on(&scene.a, Duration::from_secs(3))?;
    let both = scene
        .last_word(mark, &scene.b)
        .map(|last| last.saturating_duration_since(healed));
    note(&format!(
        "two ucarp heal, interval 1 s: two masters for {both:?}, the client at the winner after {arp:?}, its outage {:?}",
        client.longest_outage(healed)
    ));
    Ok(())
}

#[test]
fn how_two_keepalived_heal_is_measured() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let keepalived = Keepalived::new(directory.path(), 7, ADDRESS)?;
    // Equal priorities: the higher address wins, so b is the one that stays.
    let _b = keepalived.start(&scene.b)?;
    let vrrp = |mark, host: &str| {
        let what = format!("{host} is a VRRP master");
        scene.capture.wait_after(mark, &what, LONG, |captured| {
            captured.vrrp_from(host).map(drop)
        })
    };
    vrrp(Mark::default(), "b")?;
    let _a = keepalived.start(&scene.a)?;
    let client = scene.client()?;
    let mark = scene.capture.mark();
    set_apart(&scene, true)?;
    vrrp(mark, "a")?;
    // keepalived announces again 5 s after a takeover; that must not count as a reaction to the healing.
    thread::sleep(Duration::from_secs(6));
    let (mark, healed) = heal_with_the_client_at(&scene, &scene.a)?;
    let arp = client_at(&scene, &scene.b, healed)?;
    note(&format!(
        "two keepalived heal, interval 1 s: the client at the winner after {arp:?}, its outage {:?}, the winner's \
         announcements {}",
        client.longest_outage(healed),
        scene.announcements(mark, &scene.b)
    ));
    Ok(())
}

/// How long a BACKUP that was stopped and resumes is a second MASTER, if it becomes one.
fn second_master_after(scene: &Scene, mark: Mark) -> Option<Duration> {
    let all = scene.capture.after(mark);
    let mut said = all.iter().filter(|captured| {
        *captured.host == *scene.b.name() && !matches!(captured.packet, Packet::Arp(_))
    });
    let first = said.next()?;
    Some(said.next_back().unwrap_or(first).at - first.at)
}

#[test]
fn the_effect_of_a_stopped_ucarp_backup_is_measured() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _a = Ucarp::new(&scene.a, ADDRESS, "-b 1 -k 0 -r 1").start(&scene.a)?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let b = Ucarp::new(&scene.b, ADDRESS, "-b 1 -k 100").start(&scene.b)?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 2, LONG)?;
    let mark = scene.capture.mark();
    stopped_for(&b, Duration::from_secs(10))?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 5, LONG)?;
    note(&format!(
        "ucarp BACKUP stopped for 10 s under a living MASTER: MASTER too for {:?}",
        second_master_after(&scene, mark)
    ));
    Ok(())
}

#[test]
fn the_effect_of_a_stopped_keepalived_backup_is_measured() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let keepalived = Keepalived::new(directory.path(), 7, ADDRESS)?;
    // Equal priorities, so the first stays. There is no log of changes, so count advertisements: one per second.
    let _a = keepalived.start(&scene.a)?;
    let vrrp = |mark: Mark, count: usize| {
        let mut left = count;
        scene
            .capture
            .wait_after(mark, "VRRP of a", LONG, move |captured| {
                left -= usize::from(captured.vrrp_from("a").is_some());
                (left == 0).then_some(())
            })
    };
    vrrp(Mark::default(), 1)?;
    let b = keepalived.start(&scene.b)?;
    vrrp(scene.capture.mark(), 2)?;
    let mark = scene.capture.mark();
    stopped_for(&b, Duration::from_secs(10))?;
    thread::sleep(Duration::from_secs(5));
    note(&format!(
        "keepalived BACKUP stopped for 10 s under a living MASTER: MASTER too for {:?}",
        second_master_after(&scene, mark)
    ));
    Ok(())
}

/// How often the advertising host changed.
fn changes_of_master(scene: &Scene, mark: Mark) -> usize {
    let all = scene.capture.after(mark);
    let speakers: Vec<_> = all
        .iter()
        .filter(|captured| !matches!(captured.packet, Packet::Arp(_)))
        .map(|captured| &captured.host)
        .collect();
    speakers
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count()
}

#[test]
fn the_effect_of_a_stopped_ucarp_master_is_measured() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let down = scripts.script("down", &format!("ip address del {ADDRESS}/32 dev $1"))?;
    let scripts = format!("-u {} -d {}", up.display(), down.display());
    let a = Ucarp::new(&scene.a, ADDRESS, &format!("-b 1 -k 0 -r 1 {scripts}")).start(&scene.a)?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let _b = Ucarp::new(&scene.b, ADDRESS, &format!("-b 1 -k 100 {scripts}")).start(&scene.b)?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 2, LONG)?;
    let mark = scene.capture.mark();
    stopped_for(&a, Duration::from_secs(10))?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 5, LONG)?;
    note(&format!(
        "ucarp MASTER stopped for 10 s: {} changes of who advertises, two hosts answer for {:?}",
        changes_of_master(&scene, mark),
        scene.two_owners_since(mark)
    ));
    Ok(())
}
