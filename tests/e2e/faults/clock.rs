//! The wall clock, set forward and back by a year.
//!
//! Setting the machine's clock would disturb everything else on it, and time namespaces move only the other clocks, so
//! a preloaded library, `wall_clock.c`, gives carpd its own wall clock. It moves `CLOCK_REALTIME` and the time
//! stamps of received packets alike; carpd sees no other trace of the wall clock.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use carp_tests::{Carpd, Daemon, Host, Mark, eventually, lab};
use nix::sys::signal::Signal;

use super::scene::{NOISE, Scene};
use crate::support::{ADDRESS, FAST, LONG, SLOW, SLOW_MASTER_DOWN, takeover_time};

const YEAR: i64 = 365 * 24 * 3600;

/// A wall clock for the daemons that are started with it.
struct WallClock {
    directory: tempfile::TempDir,
    setting: File,
}

impl WallClock {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let setting = File::create_new(directory.path().join("setting"))?;
        setting.write_all_at(&[0; 24], 0)?;
        let clock = Self { directory, setting };
        // The linker that built this test is a C compiler.
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(clock.library())
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/e2e/faults/wall_clock.c"
            ))
            .arg("-ldl")
            .output()?;
        ensure!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        Ok(clock)
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("wall_clock.so")
    }

    /// Sets the clock's error in seconds.
    fn set_wrong_by(&self, seconds: i64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let since = i64::try_from(now.as_nanos())?;
        let mut before = [0; 8];
        self.setting.read_exact_at(&mut before, 0)?;
        self.setting.write_all_at(&before, 16)?;
        self.setting.write_all_at(&since.to_ne_bytes(), 8)?;
        self.setting.write_all_at(&seconds.to_ne_bytes(), 0)?;
        Ok(())
    }

    fn carpd(&self, host: &Host, arguments: &str, datapath: &str) -> Result<Daemon> {
        let mut command = Carpd::for_address(ADDRESS, arguments)?
            .datapath(datapath)
            .command();
        command.env("LD_PRELOAD", self.library()).env(
            "CARP_TEST_WALL_CLOCK",
            self.directory.path().join("setting"),
        );
        let daemon = Daemon::spawn(host, "carpd", &mut command)?;
        daemon.wait_for("Switching to state: BACKUP", LONG)?;
        Ok(daemon)
    }
}

/// The year with which a daemon's log lines begin.
fn year(daemon: &Daemon) -> Result<i64> {
    let mark = daemon.mark();
    daemon.signal(Signal::SIGUSR1)?;
    let line = daemon.wait_for_after(mark, "counters on", LONG)?;
    Ok(line.text[..4].parse()?)
}

fn a_year_forward_and_back(datapath: &str) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let clock = WallClock::new()?;
    let mut a = clock.carpd(&scene.a, FAST, datapath)?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let b = clock.carpd(&scene.b, SLOW, datapath)?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let client = scene.client()?;
    let (mark, started) = (scene.capture.mark(), std::time::Instant::now());
    let now = year(&b)?;
    for wrong_by in [YEAR, -YEAR, 0] {
        clock.set_wrong_by(wrong_by)?;
        // The test is meaningless unless the clock moves.
        let expected = now + wrong_by / YEAR;
        eventually("the daemons see another year", LONG, || {
            let seen = [year(&a)?, year(&b)?];
            Ok(seen
                .iter()
                .all(|seen| seen.abs_diff(expected) == 0)
                .then_some(()))
        })?;
        scene.stays_the_only_master(&scene.a, 15)?;
    }
    // A BACKUP that is late while the clock moves, in both directions.
    for wrong_by in [YEAR, -YEAR] {
        b.signal(Signal::SIGSTOP)?;
        scene
            .capture
            .advertisements_reach(scene.capture.mark(), "a", 5, LONG)?;
        clock.set_wrong_by(wrong_by)?;
        scene
            .capture
            .advertisements_reach(scene.capture.mark(), "a", 5, LONG)?;
        b.signal(Signal::SIGCONT)?;
        scene.stays_the_only_master(&scene.a, 15)?;
    }
    scene.only_master_since(mark, &scene.a)?;
    scene.never_two_owners_since(mark)?;
    let outage = client.longest_outage(started);
    ensure!(outage < NOISE, "the client's outage was {outage:?}");

    // Replay counters start from the wall clock. A MASTER that is restarted with a clock a year behind is believed
    // all the same.
    let mark = scene.capture.mark();
    a.kill()?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    let _a = clock.carpd(&scene.a, &format!("{FAST} -P"), datapath)?;
    scene.is_settled_on(&scene.a)
}

#[test]
fn the_wall_clock_set_by_a_year_changes_nothing() -> Result<()> {
    thread::scope(|scope| {
        let socket = scope.spawn(|| a_year_forward_and_back("socket"));
        a_year_forward_and_back("xdp-native")?;
        socket.join().expect("it returns its failures")
    })
}

/// A machine whose clock is wrong from the start, such as one without a battery.
#[test]
fn hosts_whose_wall_clocks_differ_by_years_elect_one() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (past, future) = (WallClock::new()?, WallClock::new()?);
    past.set_wrong_by(-20 * YEAR)?;
    future.set_wrong_by(20 * YEAR)?;
    let _a = past.carpd(&scene.a, FAST, "socket")?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    let _b = future.carpd(&scene.b, SLOW, "socket")?;
    scene.stays_the_only_master(&scene.a, 15)?;
    scene.is_settled_on(&scene.a)
}
