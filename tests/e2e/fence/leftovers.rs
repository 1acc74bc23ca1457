//! No host answers for the address that a killed MASTER left, whatever is started next on that interface.

use std::process::Command;

use anyhow::{Result, ensure};
use carp_tests::oracle::{Voice, must_include, provoke};
use carp_tests::{Carpd, Daemon, Host, Mac, lab};
use nix::sys::signal::Signal;

use super::Scene;
use super::holes::{index, network};
use crate::support::{ADDRESS, FAST, LONG, SLOW, Scripts};

/// Never MASTER while another host is.
pub(super) const PATIENT: &str = "-b 1 -k 200";

impl Scene {
    /// The neighbour asks ten times, and `host` does not answer.
    pub(super) fn is_silent(&self, host: &Host) -> Result<()> {
        let mark = self.pair.capture.mark();
        let mut left = 10;
        self.pair
            .capture
            .wait_after(mark, "ten questions", LONG, |captured| {
                let asked = captured
                    .arp_from("n")
                    .is_some_and(|arp| !arp.reply && arp.target_address == ADDRESS);
                left -= usize::from(asked);
                (left == 0).then_some(())
            })?;
        let answers = self.answers(mark, host).len();
        ensure!(answers == 0, "{} answered {answers} times", host.name());
        Ok(())
    }

    /// b has taken over from a, which was killed as MASTER.
    pub(super) fn after_a_was_killed(&self, a: &str, more: &str) -> Result<Daemon> {
        let killed = on_tcx(&format!("{a} {more}"))?.start(&self.pair.a)?;
        self.pair.a.wait_for_address(ADDRESS, true, LONG)?;
        let b = Carpd::for_address(ADDRESS, SLOW)?.start(&self.pair.b)?;
        self.replace_a(Signal::SIGKILL, 3)?;
        drop(killed);
        ensure!(self.pair.a.has_address(ADDRESS)?, "it was left");
        self.is_silent(&self.pair.a)?;
        Ok(b)
    }
}

pub(super) fn on_tcx(arguments: &str) -> Result<Carpd> {
    Ok(Carpd::for_address(ADDRESS, arguments)?.datapath("tcx"))
}

/// A carpd for another vhid.
pub(super) fn stranger(arguments: &str) -> Result<Carpd> {
    let all = format!("-v 8 -p secret -a 10.9.0.108 {PATIENT} {arguments}");
    Ok(Carpd::new(&all)?.datapath("tcx"))
}

#[test]
fn another_vhids_start_removes_the_address_that_a_dead_one_left() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _b = scene.after_a_was_killed(FAST, "--lease 0")?;
    let stranger = stranger("")?.start(&scene.pair.a)?;
    scene.pair.a.wait_for_address(ADDRESS, false, LONG)?;
    stranger.says_once("left by a carpd for vhid 7 that died")?;
    scene.is_silent(&scene.pair.a)
}

#[test]
fn an_address_that_the_script_of_a_dead_carpd_added_stays_silent_until_it_is_removed() -> Result<()>
{
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let _b = scene.after_a_was_killed(FAST, &format!("-u {}", up.display()))?;
    // The other carpd takes over the link, logs what it found, and leaves the link when it stops.
    let mut stranger = stranger("")?.start(&scene.pair.a)?;
    stranger.says_once("was left by a carpd for vhid 7 that died")?;
    scene.is_silent(&scene.pair.a)?;
    ensure!(stranger.terminate(LONG)? == 0);
    scene.is_silent(&scene.pair.a)?;
    let ended = Carpd::bare()?.args("--detach eth0").run(&scene.pair.a)?;
    ensure!(ended.status == 0, "{ended:?}");
    scene.waits_for_answer(&scene.pair.a)
}

#[test]
fn a_restart_that_runs_no_down_script_keeps_the_address_silent() -> Result<()> {
    for down in ["", "-n -d /bin/true"] {
        let scene = Scene::new(lab!())?;
        let scripts = Scripts::new()?;
        let up = scripts.script("up", &format!("ip address replace {ADDRESS}/32 dev $1"))?;
        let more = format!("-u {} {down}", up.display());
        let mut b = scene.after_a_was_killed(FAST, &more)?;
        let _again = on_tcx(&format!("{PATIENT} {more}"))?.start(&scene.pair.a)?;
        scene.is_silent(&scene.pair.a)?;
        ensure!(b.terminate(LONG)? == 0);
        // As MASTER it answers again.
        scene.waits_for_answer(&scene.pair.a)?;
    }
    Ok(())
}

#[test]
fn a_down_script_in_native_mode_does_not_lift_the_fence() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _b = scene.after_a_was_killed(FAST, "--lease 0")?;
    let mark = scene.pair.capture.mark();
    let _again = on_tcx(&format!("{PATIENT} -d /bin/true"))?.start(&scene.pair.a)?;
    scene.pair.a.wait_for_address(ADDRESS, false, LONG)?;
    ensure!(scene.answers(mark, &scene.pair.a).is_empty());
    Ok(())
}

/// The address disappears with the interface, and is later an ordinary one of another interface.
#[test]
fn leftovers_of_a_dead_carpd_on_an_interface_that_is_gone_silence_nobody() -> Result<()> {
    for moved in [false, true] {
        let lab = lab!();
        let host = lab.host("a", "10.9.0.1/16")?;
        host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
        host.ip("address add 10.8.0.1/24 dev eth1")?;
        let place = network(&host)?.pin(&index(&host, "eth1")?.to_string());
        let killed = format!("-i eth1 -f none -v 7 -p secret -a {ADDRESS} --lease 0 {FAST}");
        let mut killed = Carpd::bare()?.args(&killed).datapath("tcx").start(&host)?;
        host.wait_for_address(ADDRESS, true, LONG)?;
        killed.kill()?;
        ensure!(place.exists(), "it was pinned");
        if moved {
            let other = lab.host("b", "10.9.0.2/16")?;
            let mut holder = other.spawn(Command::new("sleep").arg("60"))?;
            host.ip(&format!("link set eth1 netns {}", holder.id()))?;
            holder.kill()?;
            holder.wait()?;
        } else {
            host.ip("link delete eth1")?;
        }
        let _stranger = stranger("")?.start(&host)?;
        ensure!(!place.exists(), "moved: {moved}");
        host.ip(&format!("address add {ADDRESS}/16 dev eth0"))?;
        let spoken = provoke(&host, &["eth0"], ADDRESS)?;
        must_include(&spoken, Voice::Arp, &["datagram of its own on eth0"])?;
    }
    Ok(())
}

#[test]
fn a_restart_with_another_address_removes_the_one_before() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _b = scene.after_a_was_killed(FAST, "--lease 0")?;
    let mark = scene.pair.capture.mark();
    let other = format!("-v 7 -p secret -a 10.9.0.101 {PATIENT}");
    let _again = Carpd::new(&other)?.datapath("tcx").start(&scene.pair.a)?;
    scene.pair.a.wait_for_address(ADDRESS, false, LONG)?;
    ensure!(scene.answers(mark, &scene.pair.a).is_empty());
    Ok(())
}

#[test]
fn a_start_that_fails_leaves_the_fence_as_it_was() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _b = scene.after_a_was_killed(FAST, "--lease 0")?;
    let directory = tempfile::tempdir()?;
    let [password, file] = ["password", "vhosts"].map(|name| directory.path().join(name));
    std::fs::write(&password, "secret\n")?;
    let password = password.display();
    let lines = format!(
        "-i eth0 -v 7 -o {password} -a {ADDRESS}\n-i nowhere -v 8 -o {password} -a 10.9.0.108\n"
    );
    std::fs::write(&file, lines)?;
    let ended = Carpd::bare()?
        .args("-f none --datapath tcx --lease 0")
        .arg("--vhosts")
        .arg(file.display().to_string())
        .run(&scene.pair.a)?;
    ensure!(
        ended.status == 2 && ended.stderr.contains("nowhere"),
        "{ended:?}"
    );
    ensure!(scene.pair.a.has_address(ADDRESS)?);
    scene.is_silent(&scene.pair.a)
}

#[test]
fn a_down_script_that_fails_leaves_the_address_silent_until_it_is_gone() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let down = scripts.script("down", "exit 1")?;
    let more = format!("-u {} -d {}", up.display(), down.display());
    let _a = on_tcx(&format!("{SLOW} {more}"))?.start(&scene.pair.a)?;
    scene.waits_for_answer(&scene.pair.a)?;
    let mark = scene.pair.capture.mark();
    let _b = Carpd::for_address(ADDRESS, &format!("{FAST} -P"))?.start(&scene.pair.b)?;
    scene
        .pair
        .capture
        .advertisements_reach(mark, "b", 5, LONG)?;
    scripts.wait_for_calls(&[
        "down [eth0] [10.9.0.100]",
        "up [eth0] [10.9.0.100]",
        "down [eth0] [10.9.0.100]",
    ])?;
    ensure!(scene.pair.a.has_address(ADDRESS)?);
    scene.is_silent(&scene.pair.a)?;
    // An operator removes it, and later adds it again.
    scene
        .pair
        .a
        .ip(&format!("address delete {ADDRESS}/32 dev eth0"))?;
    scene.pair.a.wait_for_address(ADDRESS, false, LONG)?;
    let again = format!("address add {ADDRESS}/32 dev eth0");
    carp_tests::eventually("the fence is lifted", LONG, || {
        let _ = scene.pair.a.ip(&again);
        Ok(scene.waits_briefly(&scene.pair.a).then_some(()))
    })
}

#[test]
fn a_foreign_address_with_another_prefix_is_left_and_ours_is_removed() -> Result<()> {
    let scene = Scene::new(lab!())?;
    scene
        .pair
        .a
        .ip(&format!("address add {ADDRESS}/24 dev eth0"))?;
    let a = Carpd::new(&format!("-v 7 -p secret -a {ADDRESS}/24 {SLOW}"))?;
    let _a = a.start(&scene.pair.a)?;
    let lines = || -> Result<String> { scene.pair.a.ip("-o -4 address show dev eth0") };
    carp_tests::eventually("both are there", LONG, || {
        Ok(lines()?.contains("10.9.0.100/32").then_some(()))
    })?;
    let _b = Carpd::for_address(ADDRESS, &format!("{FAST} -P"))?.start(&scene.pair.b)?;
    carp_tests::eventually("ours is gone", LONG, || {
        Ok((!lines()?.contains("10.9.0.100/32")).then_some(()))
    })?;
    ensure!(lines()?.contains("10.9.0.100/24"), "{}", lines()?);
    Ok(())
}
