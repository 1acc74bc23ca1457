//! Shared parts of the tests: one address, a few sets of timers, and a pair of hosts with a client.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::client::owners;
use carp_tests::{Capture, Carpd, Client, Daemon, Host, Lab, Mark};

/// The virtual address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// Far longer than any wait; reaching it is a failure.
pub const LONG: Duration = Duration::from_secs(15);

/// One step of advskew: 1/256 s.
pub const SKEW_STEP: Duration = Duration::from_nanos(3_906_250);
/// Interval 98 ms, master-down time 293 ms.
pub const FAST: &str = "-b 0 -k 25";
/// Interval 195 ms, master-down time 586 ms.
pub const SLOW: &str = "-b 0 -k 50";
/// [`SLOW`]'s master-down time, exactly: 3 × 50/256 s.
pub const SLOW_MASTER_DOWN: Duration = SKEW_STEP.saturating_mul(150);
/// For groups with ucarp, which flaps with advbase 0: interval 1 s, master-down time 1 s.
pub const SECOND: &str = "-b 1 -k 0 -r 1";
/// Worse than [`SECOND`]: master-down time 3.39 s. ucarp reads what it captured up to a second late, so as a BACKUP it
/// needs more than two of its MASTER's intervals.
pub const SECOND_WORSE: &str = "-b 1 -k 100 -r 3";

/// Two hosts that share the address, a client, and a capture of everything that they send.
pub struct Pair {
    pub capture: Capture,
    pub a: Host,
    pub b: Host,
    pub c: Host,
    // Dropped last: the hosts and daemons of a test live in it.
    _lab: Lab,
}

impl Pair {
    /// a is 10.9.0.1, b is 10.9.0.2, the client c is 10.9.0.3.
    pub fn new(lab: Lab) -> Result<Self> {
        Self::with_addresses(lab, "10.9.0.1/16", "10.9.0.2/16")
    }

    pub fn with_addresses(lab: Lab, a: &str, b: &str) -> Result<Self> {
        Ok(Self {
            capture: lab.capture()?,
            a: lab.host("a", a)?,
            b: lab.host("b", b)?,
            c: lab.host("c", "10.9.0.3/16")?,
            _lab: lab,
        })
    }

    /// Starts carpd on a host for the pair's address.
    pub fn carpd(&self, host: &Host, arguments: &str) -> Result<Daemon> {
        Carpd::for_address(ADDRESS, arguments)?.start(host)
    }

    /// Starts carpd on a host and waits until it is MASTER: until its first advertisement is on the wire.
    pub fn master(&self, host: &Host, arguments: &str) -> Result<Daemon> {
        let mark = self.capture.mark();
        let daemon = self.carpd(host, arguments)?;
        self.capture
            .advertisement(mark, host.name(), LONG)
            .with_context(|| daemon.transcript())?;
        Ok(daemon)
    }

    /// Probes the address from the client every 10 ms, answered at least once already.
    pub fn client(&self) -> Result<Client> {
        let client = Client::start(&self.c, ADDRESS, Duration::from_millis(10))?;
        client.wait_for_answer(LONG)?;
        Ok(client)
    }

    /// The host alone answers ARP for the address.
    pub fn is_owned_by(&self, host: &Host) -> Result<()> {
        let macs = owners(&self.c, &self.capture, ADDRESS, Duration::from_millis(200))?;
        ensure!(
            macs == [host.mac()].into(),
            "{ADDRESS} must be at {} alone, answers came from {macs:?}",
            host.mac()
        );
        Ok(())
    }

    /// `host` advertises `count` more times, and the other hosts send nothing meanwhile.
    pub fn stays_the_only_master(&self, host: &Host, count: usize) -> Result<()> {
        let mark = self.capture.mark();
        self.capture
            .advertisements_reach(mark, host.name(), count, LONG)?;
        self.only_master_since(mark, host)
    }

    /// Only `host` has advertised since `mark`.
    pub fn only_master_since(&self, mark: Mark, host: &Host) -> Result<()> {
        for captured in self.capture.after(mark) {
            ensure!(
                captured.carp_from(&captured.host).is_none() || *captured.host == *host.name(),
                "{} advertised too\n{}",
                captured.host,
                self.capture.summary(mark)
            );
        }
        Ok(())
    }

    /// Waits until only `host` has been heard for `window`.
    pub fn settles_on(&self, host: &Host, window: Duration) -> Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            let mark = self.capture.mark();
            let start = Instant::now();
            while start.elapsed() < window {
                self.capture
                    .advertisement(self.capture.mark(), host.name(), LONG)?;
            }
            let outcome = self.only_master_since(mark, host);
            if outcome.is_ok() || Instant::now() > deadline {
                return outcome;
            }
        }
    }
}

/// Scripts that record how they were called.
pub struct Scripts {
    directory: tempfile::TempDir,
}

impl Scripts {
    pub fn new() -> Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir()?,
        })
    }

    /// A script that appends `NAME ARGUMENT ARGUMENT …` to the record, then does `body`.
    pub fn script(&self, name: &str, body: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        let record = self.record();
        let text = format!(
            "#!/bin/sh\nprintf '%s' '{name}' >> {record}\nfor word; do printf ' [%s]' \"$word\" >> {record}; done\n\
             printf '\\n' >> {record}\n{body}\n",
            record = record.display()
        );
        // Written by another process: a file that was open for writing here while another test's thread forked could
        // not be executed (ETXTBSY).
        let mut writer = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()?;
        std::io::Write::write_all(
            &mut writer.stdin.take().context("stdin is piped")?,
            text.as_bytes(),
        )?;
        ensure!(writer.wait()?.success(), "install failed");
        Ok(path)
    }

    /// `-u UP -d DOWN` with scripts that only record their calls.
    pub fn up_and_down(&self) -> Result<String> {
        let (up, down) = (self.script("up", "")?, self.script("down", "")?);
        Ok(format!("-u {} -d {}", up.display(), down.display()))
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The calls so far, oldest first.
    pub fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.record()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until these are all the calls.
    pub fn wait_for_calls(&self, expected: &[&str]) -> Result<()> {
        carp_tests::eventually(&format!("calls {expected:?}"), LONG, || {
            Ok((self.calls() == expected).then_some(()))
        })
        .with_context(|| format!("the calls were {:?}", self.calls()))
    }

    fn record(&self) -> PathBuf {
        self.directory.path().join("record")
    }
}

/// Time from `host`'s last advertisement before `mark` to `other`'s first one after it.
pub fn takeover_time(capture: &Capture, mark: Mark, host: &Host, other: &Host) -> Result<Duration> {
    let (first, _) = capture.advertisement(mark, other.name(), LONG)?;
    let all = capture.advertisements(Mark::default(), host.name());
    let last = all
        .iter()
        .rfind(|(at, carp)| *at < first.at && !carp.is_bow_out());
    let (last, _) = last.context("the host has advertised")?;
    Ok(first.at.duration_since(*last))
}
