//! Random sequences of everything that can happen to the addresses of a host, its own and the virtual ones: at the end
//! every address that carpd did not add is there, and none that it added.
//!
//! `CARP_TEST_SEQUENCES` sets the number of sequences and `CARP_TEST_SEED` the first seed. A failure names its seed, and
//! `CARP_TEST_SEED=N CARP_TEST_SEQUENCES=1` repeats the same sequence.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use carp_tests::lab::note;
use carp_tests::sim::rng::Rng;
use carp_tests::{Carpd, Daemon, Host, Lab, eventually};
use nix::sys::signal::Signal;

use crate::support::LONG;

/// Without `CARP_TEST_SEQUENCES`.
const SEQUENCES: u64 = 60;
/// Most of a sequence is waiting.
const WORKERS: u64 = 8;
/// How long an address may outlive its daemon, on a busy machine.
const GONE: Duration = Duration::from_secs(20);

/// The virtual addresses: one subnet, two virtual hosts.
const VIRTUAL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 100), Ipv4Addr::new(10, 9, 0, 101)];

type Entry = (Ipv4Addr, u8);

/// The addresses that the test added, as the kernel keeps them: an interface's first address of a subnet is its
/// primary, and deleting it deletes the others too.
#[derive(Debug, Default)]
struct Model(Vec<Entry>);

fn same_subnet(one: Entry, other: Entry) -> bool {
    let net = |(address, prefix): Entry| {
        u32::from(address)
            .checked_shr(32 - u32::from(prefix))
            .unwrap_or(0)
    };
    one.1 == other.1 && net(one) == net(other)
}

impl Model {
    fn delete(&mut self, entry: Entry) {
        let primary = self.0.iter().find(|known| same_subnet(**known, entry));
        if primary == Some(&entry) {
            self.0.retain(|known| !same_subnet(*known, entry));
        } else {
            self.0.retain(|known| *known != entry);
        }
    }
}

struct Worker {
    a: Host,
    b: Host,
    password: tempfile::TempDir,
    _lab: Lab,
}

impl Worker {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let password = tempfile::tempdir()?;
        std::fs::write(password.path().join("password"), "secret\n")?;
        Ok(Self {
            a: lab.host("a", "10.9.0.1/16")?,
            b: lab.host("b", "10.9.0.2/16")?,
            password,
            _lab: lab,
        })
    }
}

/// One sequence in progress.
struct Sequence<'a> {
    worker: &'a Worker,
    random: Rng,
    model: Model,
    options: String,
    carpd: Option<Daemon>,
    told: String,
}

impl Sequence<'_> {
    fn run(&mut self) -> Result<()> {
        self.worker.a.ip("address flush dev eth0")?;
        for _ in 0..self.random.index(3) {
            self.add()?;
        }
        let prefix = self.random.pick(&[16, 16, 24, 25, 32]);
        let source = self
            .random
            .pick(&["-s 10.9.0.77", "-s 10.9.0.77", "-s 10.9.0.1", ""]);
        let password = self.worker.password.path().join("password");
        let vhosts = self.worker.password.path().join("vhosts");
        let mut lines = String::new();
        for (address, vhid) in VIRTUAL.iter().zip(7..).take(1 + self.random.index(2)) {
            writeln!(
                lines,
                "-i eth0 -v {vhid} -o {} -a {address}/{prefix} -b 0 -k 4 {source}",
                password.display()
            )?;
        }
        std::fs::write(&vhosts, &lines)?;
        self.options = format!("--vhosts {}", vhosts.display());
        self.tell(&lines);
        self.start()?;
        for _ in 0..self.random.between(4, 12) {
            self.step()?;
        }
        self.end()
    }

    fn tell(&mut self, what: &str) {
        self.told.push_str(what.trim_end());
        self.told.push('\n');
    }

    /// How carpd receives makes no difference here; the socket starts fastest.
    fn start(&mut self) -> Result<()> {
        self.tell("start");
        let carpd = Carpd::bare()?
            .args("-f none --datapath socket")
            .args(&self.options);
        self.carpd = Some(carpd.spawn(&self.worker.a)?.quiet());
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        match self.random.index(16) {
            0..3 => self.add(),
            3..5 => self.delete_own(),
            5 => {
                self.ip("address flush dev eth0");
                self.model.0.clear();
                Ok(())
            }
            6 => {
                // Ours, if it is there.
                let virtual_one = self.random.pick(&VIRTUAL);
                if !self.model.0.contains(&(virtual_one, 32)) {
                    self.ip(&format!("address del {virtual_one}/32 dev eth0"));
                }
                Ok(())
            }
            7 => {
                let entry = (self.random.pick(&VIRTUAL), 32);
                if self.ip(&format!("address replace {}/32 dev eth0", entry.0))
                    && !self.model.0.contains(&entry)
                {
                    self.model.0.push(entry);
                }
                Ok(())
            }
            8 => self.better_master(),
            9 => self.signal(Signal::SIGUSR2),
            10 => {
                self.terminate()?;
                self.start()
            }
            11 => {
                self.kill()?;
                self.start()
            }
            12 => {
                self.kill()?;
                if self.random.chance(300) {
                    self.wait_until_gone()?;
                }
                self.start()
            }
            13 => {
                self.ip("link set eth0 down");
                self.ip("link set eth0 up");
                Ok(())
            }
            _ => {
                let pause = self.random.between(1, 150);
                self.tell(&format!("pause {pause} ms"));
                thread::sleep(Duration::from_millis(pause));
                Ok(())
            }
        }
    }

    /// Whether the kernel did it.
    fn ip(&mut self, arguments: &str) -> bool {
        let done = self.worker.a.ip(arguments).is_ok();
        self.tell(&format!(
            "ip {arguments}{}",
            if done { "" } else { ": refused" }
        ));
        done
    }

    fn add(&mut self) -> Result<()> {
        let address = self.random.pick(&[
            Ipv4Addr::new(10, 9, 0, 1),
            Ipv4Addr::new(10, 9, 0, 2),
            Ipv4Addr::new(10, 9, 0, 99),
            Ipv4Addr::new(10, 9, 1, 1),
            Ipv4Addr::new(192, 0, 2, 1),
            VIRTUAL[0],
        ]);
        let entry = (address, self.random.pick(&[16, 16, 24, 25, 32]));
        if !self.model.0.contains(&entry)
            && self.ip(&format!("address add {address}/{} dev eth0", entry.1))
        {
            self.model.0.push(entry);
        }
        Ok(())
    }

    fn delete_own(&mut self) -> Result<()> {
        if self.model.0.is_empty() {
            return Ok(());
        }
        let (address, prefix) = self.random.pick(&self.model.0);
        ensure!(
            self.ip(&format!("address del {address}/{prefix} dev eth0")),
            "{address}/{prefix} was gone already"
        );
        self.model.delete((address, prefix));
        Ok(())
    }

    fn better_master(&mut self) -> Result<()> {
        self.tell("a better MASTER comes and goes");
        let carpd = Carpd::for_address(VIRTUAL[0], "-b 0 -k 1 -P -s 10.9.0.2")?;
        let mut better = carpd.datapath("socket").spawn(&self.worker.b)?.quiet();
        better.wait_for("state: MASTER", LONG)?;
        ensure!(better.terminate(LONG)? == 0);
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.tell(signal.as_str());
        match self.started()? {
            Some(carpd) => carpd.signal(signal),
            None => Ok(()),
        }
    }

    /// Waits until it handles signals. `None` if it refused to start, because the host has only the virtual address.
    fn started(&mut self) -> Result<Option<&mut Daemon>> {
        let carpd = self.carpd.as_mut().context("it runs")?;
        if let Err(error) = carpd.wait_for("receiving on eth0", LONG) {
            carpd
                .wait_for("is the only address of eth0", LONG)
                .map_err(|_| error)?;
            return Ok(None);
        }
        Ok(Some(carpd))
    }

    /// Whether it was there to be ended.
    fn terminate(&mut self) -> Result<bool> {
        self.tell("TERM");
        let Some(carpd) = self.started()? else {
            return Ok(false);
        };
        let code = carpd.terminate(LONG)?;
        ensure!(code == 0, "carpd ended with {code}");
        Ok(true)
    }

    fn kill(&mut self) -> Result<()> {
        self.tell("KILL");
        self.carpd.as_mut().context("it runs")?.kill()
    }

    fn here(&self) -> Result<BTreeSet<Entry>> {
        let lines = self.worker.a.ip("-o -4 address show dev eth0")?;
        let entries = lines.lines().map(|line| {
            let mut words = line.split_whitespace();
            words.find(|word| *word == "inet");
            let (address, prefix) = words
                .next()
                .and_then(|word| word.split_once('/'))
                .with_context(|| line.to_owned())?;
            Ok((address.parse()?, prefix.parse()?))
        });
        entries.collect()
    }

    /// The host has only the addresses that the test added.
    fn wait_until_gone(&mut self) -> Result<()> {
        self.tell("wait until the lease has ended");
        let expected: BTreeSet<Entry> = self.model.0.iter().copied().collect();
        let outcome = eventually("what carpd added is gone", GONE, || {
            let here = self.here()?;
            thread::sleep(Duration::from_millis(50));
            Ok(here.is_subset(&expected).then_some(()))
        });
        outcome.with_context(|| format!("{:?}, expected {expected:?}", self.here()))?;
        let missing: Vec<Entry> = expected.difference(&self.here()?).copied().collect();
        ensure!(missing.is_empty(), "missing: {missing:?}");
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.random.chance(500) && self.terminate()? {
            let here = self.here()?;
            let left: Vec<&Entry> = here
                .iter()
                .filter(|entry| !self.model.0.contains(entry))
                .collect();
            ensure!(left.is_empty(), "left after TERM: {left:?}");
        } else {
            self.kill()?;
        }
        self.wait_until_gone()
    }
}

fn run(worker: &Worker, seed: u64) -> Result<()> {
    let mut sequence = Sequence {
        worker,
        random: Rng::new(seed),
        model: Model::default(),
        options: String::new(),
        carpd: None,
        told: String::new(),
    };
    let outcome = sequence.run();
    outcome.with_context(|| {
        let transcript = sequence.carpd.as_ref().map(Daemon::transcript);
        format!(
            "CARP_TEST_SEED={seed} CARP_TEST_SEQUENCES=1\n{}{}",
            sequence.told,
            transcript.unwrap_or_default()
        )
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_sequence_of_changes_loses_an_address_that_carpd_did_not_add() -> Result<()> {
    if !Lab::require_root() {
        return Ok(());
    }
    let count = number("CARP_TEST_SEQUENCES").unwrap_or(SEQUENCES);
    let seed = number("CARP_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let work = || -> Result<()> {
        let worker = Worker::new()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            if let Err(error) = run(&worker, seed + number) {
                // The others need not continue.
                next.store(count, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    let workers = number("CARP_TEST_WORKERS").unwrap_or(WORKERS).min(count);
    let outcomes: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| thread.join();
        threads
            .into_iter()
            .map(|thread| join(thread).unwrap_or_else(|_| Err(anyhow!("a worker panicked"))))
            .collect()
    });
    note(&format!(
        "{} random sequences from seed {seed} on, {:?}",
        next.load(Ordering::Relaxed).min(count),
        start.elapsed()
    ));
    outcomes.into_iter().collect()
}
