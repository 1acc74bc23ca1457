//! A MASTER that is killed inside a sandbox: its pins must outlive its mounts, or it must have warned that they do not.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use carp_tests::oracle::{Voice, provoke};
use carp_tests::process::signal_each;
use carp_tests::{Carpd, Daemon, Host, eventually, lab};
use nix::sys::signal::Signal;

use super::Scene;
use crate::support::{ADDRESS, LONG, SLOW};

/// Better than [`SLOW`], and its address stays when it is killed.
const MASTER: &str = "-b 0 -k 25 --lease 0";

/// Hides the machine's `/run/carpd`, so that nothing is mounted there when carpd starts.
const HIDE_RUN: &str =
    "mkdir -p /run/carpd && mount -t tmpfs -o mode=700 none /run/carpd && exec \"$@\"";

/// The warning of a carpd whose programs end with it.
pub const WARNING: &str = "its kernel program goes with it";

/// The warning where nothing can be pinned.
pub const UNPINNED: [&str; 9] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    HIDE_RUN,
    "sh",
    "setpriv",
    "--bounding-set",
    "-sys_admin",
];

/// carpd as MASTER with tcx, started by another program that gets its command line.
pub fn sandboxed(host: &Host, wrapper: &[&str]) -> Result<Daemon> {
    let carpd = Carpd::for_address(ADDRESS, MASTER)?
        .datapath("tcx")
        .command();
    let (program, arguments) = wrapper.split_first().context("a wrapper")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(carpd.get_program())
        .args(carpd.get_args());
    let daemon = Daemon::spawn(host, "carpd", &mut command)?;
    host.wait_for_address(ADDRESS, true, LONG)
        .with_context(|| daemon.transcript())?;
    Ok(daemon)
}

/// Kills carpd on a, and counts a's answers to ten questions asked after b has taken over.
pub fn answers_when_killed(scene: &Scene) -> Result<usize> {
    let _b = Carpd::for_address(ADDRESS, SLOW)?.start(&scene.pair.b)?;
    let mark = scene.pair.capture.mark();
    let is_carpd = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("carpd"))
    };
    let pids = scene.pair.a.pids()?;
    let pids: Vec<_> = pids.iter().filter(|pid| is_carpd(pid)).collect();
    ensure!(!pids.is_empty(), "there is no carpd to kill");
    signal_each(pids, Signal::SIGKILL)?;
    scene
        .pair
        .capture
        .advertisements_reach(mark, "b", 3, LONG)?;
    ensure!(scene.pair.a.has_address(ADDRESS)?, "the address stays");
    let mark = scene.pair.capture.mark();
    let mut left = 10;
    scene
        .pair
        .capture
        .wait_after(mark, "ten questions", LONG, |captured| {
            let asked = captured
                .arp_from("n")
                .is_some_and(|arp| !arp.reply && arp.target_address == ADDRESS);
            left -= usize::from(asked);
            (left == 0).then_some(())
        })?;
    let answers = scene.answers(mark, &scene.pair.a).len();
    if answers == 0 {
        // It does not speak for the address in any other way either.
        let spoken = provoke(&scene.pair.a, &["eth0"], ADDRESS)?;
        let mut ways = spoken.keys().filter(|(_, voice)| *voice == Voice::Arp);
        ensure!(ways.next().is_none(), "{spoken:#?}");
    }
    Ok(answers)
}

fn stays_silent(wrapper: &[&str], said: Option<&str>) -> Result<()> {
    let lab = lab!();
    // The machine's bpffs exists once a carpd has run outside.
    let outside = lab.host("o", "10.9.0.8/16")?;
    let mut first = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("tcx")
        .start(&outside)?;
    first.terminate(LONG)?;
    let scene = Scene::new(lab)?;
    let a = sandboxed(&scene.pair.a, wrapper)?;
    ensure!(!a.transcript().contains(WARNING), "nothing to warn of");
    said.map(|said| a.says_once(said)).transpose()?;
    // Elsewhere, the process that can be signalled is not carpd.
    if !wrapper.contains(&"--fork") {
        let survives = &a.dump()?.status["fence-survives-kill"];
        ensure!(survives != "no", "{survives}");
    }
    let answers = answers_when_killed(&scene)?;
    ensure!(answers == 0, "{answers} answers in {wrapper:?}");
    Ok(())
}

#[test]
fn a_master_killed_in_mounts_of_its_own_is_silent() -> Result<()> {
    for propagation in ["private", "slave"] {
        stays_silent(&["unshare", "--mount", "--propagation", propagation], None)?;
    }
    Ok(())
}

#[test]
fn a_master_killed_in_a_container_with_the_machines_bpffs_is_silent() -> Result<()> {
    stays_silent(&CONTAINER, None)
}

/// A container whose process 1 has mounts without a bpffs and starts carpd in other mounts, as systemd starts a unit with
/// private mounts.
fn init(propagation: &str) -> Vec<String> {
    let script = format!(
        "mkdir -p /run/carpd && mount -t tmpfs -o mode=700 none /run/carpd && \
         {{ unshare --mount --propagation {propagation} \"$@\"; sleep 600; }}"
    );
    let words = CONTAINER.into_iter().chain(["sh", "-c", &script, "sh"]);
    words.map(str::to_owned).collect()
}

#[test]
fn a_bpffs_is_mounted_where_it_outlives_the_daemons_own_mounts() -> Result<()> {
    for propagation in ["private", "slave"] {
        let init = init(propagation);
        let init: Vec<_> = init.iter().map(String::as_str).collect();
        stays_silent(&init, Some("the fence outlives carpd, not the container"))?;
    }
    Ok(())
}

#[test]
fn detach_does_not_overlook_what_is_pinned_in_a_container() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let init = init("private");
    let init: Vec<_> = init.iter().map(String::as_str).collect();
    let _a = sandboxed(&scene.pair.a, &init)?;
    ensure!(answers_when_killed(&scene)? == 0);
    let detach = || Carpd::bare()?.args("--detach eth0").run(&scene.pair.a);
    let ended = detach()?;
    ensure!(
        ended.status == 2 && ended.stderr.contains("carpd_tcx is still attached to eth0"),
        "{ended:?}"
    );
    // The container ends with everything in it.
    scene.signal_a(Signal::SIGKILL)?;
    eventually("nothing is left", LONG, || {
        let ended = detach()?;
        Ok((ended.status == 0).then_some(()))
    })
}

/// Separate mounts and processes; carpd is process 1.
const CONTAINER: [&str; 6] = [
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

#[test]
fn where_the_pins_go_with_the_daemon_it_warns_and_names_the_way_out() -> Result<()> {
    let hidden = ["sh", "-c", HIDE_RUN, "sh"];
    for wrapper in [[&CONTAINER[..], &hidden].concat(), UNPINNED.to_vec()] {
        let scene = Scene::new(lab!())?;
        let a = sandboxed(&scene.pair.a, &wrapper)?;
        a.says_once(WARNING)?;
        let said = a.transcript();
        ensure!(
            said.contains("mount -t bpf bpf /run/carpd/bpf") && said.contains("BindPaths="),
            "{said}"
        );
        if !wrapper.contains(&"--fork") {
            let survives = &a.dump()?.status["fence-survives-kill"];
            ensure!(survives == "no", "{survives}");
        }
        // The warning was right.
        ensure!(answers_when_killed(&scene)? > 0, "{wrapper:?}");
    }
    Ok(())
}
