//! System calls that fail while carpd serves. An error of one interface affects only that interface, and whatever
//! ends the daemon, it bows out and releases.
//!
//! The calls are made to fail by `failing.c`, built here and preloaded.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use carp_tests::{Carpd, Daemon, Host, Mark, eventually, lab};
use nix::errno::Errno;

use super::scene::Scene;
use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// The kinds of calls, in the order of `failing.c`.
#[derive(Clone, Copy)]
enum Call {
    PacketReceive,
    ListRequest,
    Notification,
    Timer,
    List,
}

/// Forever.
const ALWAYS: i32 = i32::MAX;

/// Makes calls of the daemons that are started with it fail.
struct Failing {
    directory: tempfile::TempDir,
    setting: File,
}

impl Failing {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let setting = File::create_new(directory.path().join("setting"))?;
        setting.write_all_at(&[0; 40], 0)?;
        let failing = Self { directory, setting };
        // The linker that built this test is a C compiler.
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(failing.library())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/faults/failing.c"))
            .arg("-ldl")
            .output()?;
        ensure!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        Ok(failing)
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("failing.so")
    }

    /// The next `times` calls of this kind fail.
    fn fail(&self, call: Call, times: i32, errno: Errno) -> Result<()> {
        let place = call as u64 * 8;
        self.setting
            .write_all_at(&(errno as i32).to_ne_bytes(), place + 4)?;
        self.setting.write_all_at(&times.to_ne_bytes(), place)?;
        Ok(())
    }

    /// How many are still to fail.
    fn left(&self, call: Call) -> Result<i32> {
        let mut times = [0; 4];
        self.setting.read_exact_at(&mut times, call as u64 * 8)?;
        Ok(i32::from_ne_bytes(times))
    }

    /// Waits until all of these calls have failed.
    fn have_failed(&self, call: Call) -> Result<()> {
        eventually("the calls have failed", LONG, || {
            Ok((self.left(call)? == 0).then_some(()))
        })
    }

    fn spawn(&self, host: &Host, arguments: &str, datapath: &str) -> Result<Daemon> {
        let mut command = Carpd::for_address(ADDRESS, arguments)?
            .datapath(datapath)
            .command();
        command
            .env("LD_PRELOAD", self.library())
            .env("CARP_TEST_FAILING", self.directory.path().join("setting"));
        Daemon::spawn(host, "carpd", &mut command)
    }

    fn carpd(&self, host: &Host, arguments: &str, datapath: &str) -> Result<Daemon> {
        let daemon = self.spawn(host, arguments, datapath)?;
        daemon.wait_for("Switching to state: BACKUP", LONG)?;
        Ok(daemon)
    }
}

#[test]
fn a_receive_error_opens_the_socket_anew_and_ends_nothing() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let failing = Failing::new()?;
    let a = failing.carpd(&scene.a, FAST, "socket")?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let b = failing.carpd(&scene.b, SLOW, "socket")?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let mark = scene.capture.mark();
    // The next of the two to receive gets one.
    for _ in 0..3 {
        failing.fail(Call::PacketReceive, 1, Errno::EIO)?;
        failing.have_failed(Call::PacketReceive)?;
        scene.stays_the_only_master(&scene.a, 20)?;
    }
    scene.only_master_since(mark, &scene.a)?;
    let said = [&a, &b].map(|daemon| daemon.lines_with("failed to receive advertisements").len());
    ensure!((1..=3).contains(&(said[0] + said[1])), "{said:?}");
    scene.is_settled_on(&scene.a)
}

#[test]
fn a_backup_that_cannot_receive_at_all_is_in_init_until_it_can() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let failing = Failing::new()?;
    let b = failing.carpd(&pair.b, SLOW, "socket")?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let mark = pair.capture.mark();
    failing.fail(Call::PacketReceive, ALWAYS, Errno::ENOMEM)?;
    b.wait_for("Switching to state: INIT", LONG)?;
    // Many times its master-down time. It tries every second but does not log every attempt.
    pair.stays_the_only_master(&pair.a, 40)?;
    let said = b.lines_with("failed to receive advertisements").len();
    ensure!((1..=2).contains(&said), "{said}");
    failing.fail(Call::PacketReceive, 0, Errno::UnknownErrno)?;
    eventually("it hears again", LONG, || {
        let dump = b.dump()?;
        let heard = dump.state == "BACKUP" && dump.counter("delivered")? > 5;
        Ok(heard.then_some(()))
    })?;
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn links_that_cannot_be_listed_are_listed_later() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let failing = Failing::new()?;
    let a = failing.carpd(&scene.a, FAST, "tcx")?;
    let mark = scene.capture.mark();
    scene.stays_the_only_master(&scene.a, 5)?;
    // Notifications are lost, so everything has to be listed again, which fails.
    failing.fail(Call::ListRequest, ALWAYS, Errno::ENOMEM)?;
    failing.fail(Call::Notification, 1, Errno::ENOBUFS)?;
    scene.a.ip("address add 10.9.0.77/24 dev eth0")?;
    a.wait_for("failed to list links and addresses", LONG)?;
    // Meanwhile another change happens, of which it receives the notification.
    scene.stays_the_only_master(&scene.a, 30)?;
    a.says_once("failed to list links and addresses")?;
    failing.fail(Call::Notification, 1, Errno::ENOBUFS)?;
    scene.a.ip("address del 10.9.0.1/16 dev eth0")?;
    failing.have_failed(Call::Notification)?;
    let listed = scene.capture.mark();
    failing.fail(Call::ListRequest, 0, Errno::UnknownErrno)?;
    scene
        .capture
        .wait_after(listed, "it knows its address", LONG, |captured| {
            captured
                .carp_from("a")
                .filter(|carp| carp.source.octets() == [10, 9, 0, 77])
                .map(drop)
        })?;
    scene.only_master_since(mark, &scene.a)
}

#[test]
fn a_netlink_socket_that_fails_is_opened_anew() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let failing = Failing::new()?;
    let a = failing.carpd(&scene.a, FAST, "tcx")?;
    scene.stays_the_only_master(&scene.a, 5)?;
    failing.fail(Call::Notification, 1, Errno::EIO)?;
    scene.a.ip("address add 10.9.0.77/24 dev eth0")?;
    a.wait_for("failed to watch links and addresses", LONG)?;
    let mark = scene.capture.mark();
    scene.a.ip("address del 10.9.0.1/16 dev eth0")?;
    scene
        .capture
        .wait_after(mark, "it follows the change", LONG, |captured| {
            captured
                .carp_from("a")
                .filter(|carp| carp.source.octets() == [10, 9, 0, 77])
                .map(drop)
        })?;
    scene.is_settled_on(&scene.a)
}

#[test]
fn an_interrupted_list_is_taken_again() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let failing = Failing::new()?;
    // Each time without a single link, and flagged as interrupted.
    failing.fail(Call::List, 3, Errno::UnknownErrno)?;
    let mut a = failing.carpd(&pair.a, FAST, "tcx")?;
    ensure!(failing.left(Call::List)? == 0);
    pair.capture.advertisement(Mark::default(), "a", LONG)?;
    ensure!(a.terminate(LONG)? == 0);
    // A list that is never complete is an error.
    failing.fail(Call::List, ALWAYS, Errno::UnknownErrno)?;
    let mut a = failing.spawn(&pair.a, FAST, "tcx")?;
    ensure!(a.exit_code(LONG)? == 2, "{}", a.transcript());
    a.says_once("what they list went on changing")?;
    Ok(())
}

#[test]
fn a_daemon_that_cannot_wait_any_more_bows_out_and_releases() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let failing = Failing::new()?;
    let mut a = failing.carpd(&scene.a, FAST, "tcx")?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let _b = scene.carpd(&scene.b, SLOW)?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let mark = scene.capture.mark();
    failing.fail(Call::Timer, ALWAYS, Errno::EIO)?;
    ensure!(a.exit_code(LONG)? == 2, "{}", a.transcript());
    a.says_once("failed to set the timer")?;
    scene
        .capture
        .wait_after(mark, "255/255", LONG, |captured| {
            captured
                .carp_from("a")
                .filter(|carp| carp.is_bow_out())
                .map(drop)
        })?;
    ensure!(!scene.a.has_address(ADDRESS)?, "a still has the address");
    scene.is_settled_on(&scene.b)
}
