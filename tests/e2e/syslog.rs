//! `--facility`, read in the place of syslog: carpd runs with a `/dev` whose `log` belongs to the test.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Carpd, Daemon, Host, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair};

/// Severities of syslog(3).
const NOTICE: u8 = 5;
const INFO: u8 = 6;

/// Runs carpd until it is MASTER, stops it in an orderly way, and returns what syslog received.
fn run(host: &Host, facility: &str) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let log = UnixDatagram::bind(directory.path().join("log"))?;
    // The last facility counts; by default, the lab's carpd does not log to syslog.
    let carpd = Carpd::for_address(ADDRESS, &format!("{FAST} {facility}"))?.command();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#"mount --bind "$0" /dev && exec "$@""#)
        .arg(directory.path())
        .arg(carpd.get_program())
        .args(carpd.get_args());
    let mut daemon = Daemon::spawn(host, "carpd", &mut command)?;
    daemon.wait_for("Switching to state: MASTER", LONG)?;
    ensure!(daemon.terminate(LONG)? == 0, "{}", daemon.transcript());
    // Everything that it sent has arrived.
    log.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut lines = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(length) = log.recv(&mut buffer) {
        lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    Ok(lines)
}

/// The number at the start of a line.
fn priority(line: &str) -> Result<u8> {
    let number = line.strip_prefix('<').and_then(|line| line.split_once('>'));
    Ok(number.context("a priority")?.0.parse()?)
}

#[test]
fn each_facility_reaches_syslog_with_its_number() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for (option, facility) in [
        ("-f local3", 19),
        ("--facility=AUTHPRIV", 10),
        ("-f daemon", 3),
    ] {
        let lines = run(&pair.a, option)?;
        for line in &lines {
            ensure!(priority(line)? / 8 == facility, "{option}: {line}");
        }
        for (text, severity) in [
            ("receiving on eth0", INFO),
            ("Switching to state: BACKUP", NOTICE),
            ("Switching to state: MASTER", NOTICE),
        ] {
            let said = lines.iter().find(|line| line.contains(text));
            let said = said.with_context(|| format!("{option}: no {text} in {lines:?}"))?;
            ensure!(priority(said)? % 8 == severity, "{option}: {said}");
            ensure!(said.contains(" carpd["), "{said}");
            // syslog has the severity already.
            ensure!(
                !said.contains("[NOTICE]") && !said.contains("[INFO]"),
                "{said}"
            );
        }
    }
    Ok(())
}

#[test]
fn facility_none_is_silent_in_syslog() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let lines = run(&pair.a, "-f none")?;
    ensure!(lines.is_empty(), "{lines:?}");
    Ok(())
}
