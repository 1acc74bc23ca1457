//! The log: its contents, and that no failure of it affects the election.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::process::signal_each;
use carp_tests::{Carpd, Daemon, Host, daemons, eventually, lab};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// carpd on a terminal that shows nothing until it is read. Killed when dropped.
struct Halted {
    child: Child,
    screen: File,
}

impl Halted {
    fn start(host: &Host, carpd: &Carpd) -> Result<Self> {
        let terminal = openpty(None, None)?;
        let mut command = carpd.command();
        command
            .stdin(Stdio::null())
            .stdout(terminal.slave.try_clone()?)
            .stderr(terminal.slave);
        Ok(Self {
            child: host.spawn(&mut command)?,
            screen: terminal.master.into(),
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Requests so many reports that carpd logs more than a terminal holds (64 KiB).
    fn fill(&self) -> Result<()> {
        for _ in 0..300 {
            self.signal(Signal::SIGUSR1)?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn exit_code(&mut self) -> Result<Option<i32>> {
        let status = eventually("it ends", LONG, || Ok(self.child.try_wait()?))?;
        Ok(status.code())
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // This fails only if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves one virtual host, and so many others with vhids from 10 on and slow timers.
fn many_virtual_hosts(directory: &Path, count: u8, one: &str) -> Result<Carpd> {
    let (password, vhosts) = (directory.join("password"), directory.join("vhosts"));
    fs::write(&password, "secret\n")?;
    let line = |options: &str| format!("-i eth0 -o {} {options}\n", password.display());
    let others = (10..10 + count).map(|vhid| line(&format!("-v {vhid} -a 10.9.1.{vhid}")));
    fs::write(&vhosts, line(one) + &others.collect::<String>())?;
    let arguments = format!("-f none --vhosts {}", vhosts.display());
    Ok(Carpd::bare()?
        .datapath(&daemons::datapath())
        .args(&arguments))
}

#[test]
fn a_reader_that_stops_holds_up_no_advertisement_and_is_told_what_it_missed() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mark = pair.capture.mark();
    let directory = tempfile::tempdir()?;
    // The others log more than carpd keeps for a reader (2 MiB).
    let others = many_virtual_hosts(directory.path(), 100, &format!("-v 7 -a {ADDRESS} {FAST}"))?;
    let mut a = Halted::start(&pair.a, &others)?;
    pair.capture.advertisement(mark, "a", LONG)?;
    // It would take over.
    let _b = pair.carpd(&pair.b, SLOW)?;
    let mark = pair.capture.mark();
    // One report is more than a terminal holds, and no signal interrupts a write.
    for _ in 0..3 {
        a.signal(Signal::SIGUSR1)?;
        pair.capture
            .advertisements_reach(pair.capture.mark(), "a", 10, LONG)?;
    }
    a.fill()?;
    pair.capture.advertisements_reach(mark, "a", 10, LONG)?;
    pair.only_master_since(mark, &pair.a)?;
    // The reader resumes.
    let mut screen = a.screen.try_clone()?;
    let (said, heard) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut bytes) {
            text += &String::from_utf8_lossy(&bytes[..length]);
            if text.contains("log lines were lost here: the reader of the log did not keep up") {
                // The test may have ended.
                let _ = said.send(());
                return;
            }
        }
    });
    heard
        .recv_timeout(LONG)
        .context("nothing about lost lines")?;
    ensure!(a.child.try_wait()?.is_none());
    Ok(())
}

#[test]
fn a_reader_that_stops_does_not_keep_carpd_from_handing_over() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mark = pair.capture.mark();
    let mut a = Halted::start(&pair.a, &Carpd::for_address(ADDRESS, FAST)?)?;
    pair.capture.advertisement(mark, "a", LONG)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    a.fill()?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGTERM)?;
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    ensure!(a.exit_code()? == Some(0));
    ensure!(!pair.a.has_address(ADDRESS)?);
    Ok(())
}

/// The kernel sends SIGXFSZ when a file reaches `ulimit -f`.
#[test]
fn a_log_file_that_is_full_does_not_end_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let (log, errors) = (File::create(&path)?, File::create(&path)?);
    let carpd = Carpd::for_address(ADDRESS, FAST)?.command();
    let mut command = Command::new("prlimit");
    command
        .arg("--fsize=8192")
        .arg(carpd.get_program())
        .args(carpd.get_args())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let mark = pair.capture.mark();
    let child = pair.a.spawn(&mut command)?;
    // Killed when dropped.
    let mut a = Halted {
        child,
        screen: File::open("/dev/null")?,
    };
    pair.capture.advertisement(mark, "a", LONG)?;
    a.fill()?;
    ensure!(
        fs::metadata(&path)?.len() == 8192,
        "the limit was not reached"
    );
    pair.stays_the_only_master(&pair.a, 5)?;
    a.signal(Signal::SIGTERM)?;
    ensure!(a.exit_code()? == Some(0));
    Ok(())
}

#[test]
fn the_first_lines_name_version_and_options_and_not_the_password() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let options = format!("-v 7 -p swordfish -a {ADDRESS}/24 {FAST} -P --lease 20");
    let mut a = Carpd::new(&options)?.start(&pair.a)?;
    let version = env!("CARGO_PKG_VERSION");
    let first = a.lines().first().context("a line")?.text.clone();
    ensure!(
        first.contains(&format!(
            "[NOTICE] carpd {version} starts with 1 virtual host: datapath "
        )),
        "{first}"
    );
    ensure!(first.contains(", fence arp, lease 20 s"), "{first}");
    let second = a.says_once("eth0 id 7: 10.9.0.100/24, ")?.text;
    ensure!(
        second.contains("advbase 0, advskew 25, deadratio 3, profile ucarp")
            && second.contains("preempt"),
        "{second}"
    );
    ensure!(a.lines_with("swordfish").is_empty());
    // The last one reports the end.
    ensure!(a.terminate(LONG)? == 0);
    let last = a.lines().last().context("a line")?.text.clone();
    ensure!(last.ends_with("[NOTICE] carpd has stopped"), "{last}");
    Ok(())
}

#[test]
fn a_change_of_state_is_a_notice_with_the_time_zone() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut command = Carpd::for_address(ADDRESS, FAST)?.command();
    let a = Daemon::spawn(&pair.a, "carpd", command.env("TZ", "Asia/Kolkata"))?;
    let line = a.wait_for("Switching to state: MASTER", LONG)?.text;
    let (at, rest) = line.split_once(": ").context("a time")?;
    ensure!(at.ends_with("+05:30"), "{line}");
    ensure!(rest.starts_with("[NOTICE] Switching"), "{line}");
    Ok(())
}

#[test]
fn the_lines_of_many_virtual_hosts_are_bounded_together() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let a =
        many_virtual_hosts(directory.path(), 240, &format!("-v 7 -a {ADDRESS}"))?.spawn(&pair.a)?;
    a.wait_for("Switching to state: BACKUP", LONG)?;
    let begin = Instant::now();
    while a
        .lines_with("log lines were left out: more than 20000 within 30 s")
        .is_empty()
    {
        ensure!(begin.elapsed() < 6 * LONG, "nothing was left out");
        a.signal(Signal::SIGUSR1)?;
        thread::sleep(Duration::from_millis(200));
    }
    let lines = a.lines();
    let first = lines.first().context("a line")?.at;
    // Without the edges, because the time of reading a line gives the time of writing only approximately.
    let within = lines
        .iter()
        .filter(|line| line.at < first + Duration::from_secs(25))
        .count();
    ensure!(
        within > 15_000,
        "there were too few to say anything: {within}"
    );
    // The window's last line reports it.
    ensure!(within <= 20_001, "{within} lines within 25 s");
    Ok(())
}

#[test]
fn in_the_background_without_a_log_daemon_the_silence_is_warned_of() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let directory = tempfile::tempdir()?;
    for (facility, reason) in [
        ("-f none", "--facility none turns syslog off"),
        ("-f daemon", "no log daemon listens at /dev/log"),
    ] {
        let carpd = Carpd::for_address(ADDRESS, &format!("{FAST} -B {facility}"))?.command();
        // A `/dev` without `log`; carpd opens `null` in it when it is ready.
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(r#"cp -a /dev/null "$0" && mount --bind "$0" /dev && exec "$@""#)
            .arg(directory.path())
            .arg(carpd.get_program())
            .args(carpd.get_args());
        let mut parent = Daemon::spawn(&pair.a, "carpd", &mut command)?;
        ensure!(parent.exit_code(LONG)? == 0, "{}", parent.transcript());
        let said = parent.wait_for("nothing will be logged", LONG)?.text;
        ensure!(said.contains(reason), "{said}");
        signal_each(&pair.a.pids()?, Signal::SIGTERM)?;
        eventually("it ends", LONG, || {
            Ok(pair.a.pids()?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}
