//! Which daemons keep working during a flood.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use carp_tests::daemons::{self, PASSWORD};
use carp_tests::flood::{Flood, Kind};
use carp_tests::lab::note;
use carp_tests::{Capture, Daemon, Forgery, Host, Lab, usage};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::report::{Cell, Column, Row, Table};
use crate::scene::heard;
use crate::systems::{ADDRESS, Pace, Role, System, VHID};
use crate::{Findings, Plan};

/// The processors of the generator and of the BACKUP.
const GENERATOR: usize = 1;
const VICTIM: usize = 0;

const METHOD: &str = "\
A MASTER and a BACKUP of one kind send an advertisement every second. One processor only sends 36-byte packets of
protocol 112 into the BACKUP's cable (`sendmmsg`, `PACKET_QDISC_BYPASS`); the BACKUP's processes are bound to another
processor. A veth has no wire: the kernel code that receives a packet, including carpd's program, runs on the
generator's processor as part of sending. A more expensive way to receive therefore lowers the *offered* rate, and the
cost must be read per packet: *µs a packet* is the daemon's time and all softirq time, divided by the packets. The
MASTER's cable carries no flood, and its advertisements are counted where they enter the switch. *forged*: the right
vhid and a wrong digest (keepalived: the right VRID and a wrong password; version 3, which has no authentication: a
wrong checksum). *garbage*: random bytes after the IP header. *vrrp*: valid packets of another VRRP group. *replayed*:
one authentic advertisement of the MASTER, repeated. In a false takeover, the BACKUP becomes MASTER although its MASTER
is alive and advertises. *genuine heard*: what the BACKUP reports as accepted during the flood. For carpd these are the
packets received less those dropped (SIGUSR1), and for keepalived those that it counts as received (SIGUSR2), which
passed its checks. ucarp does not count, and none of them can tell the origin of a replayed packet, which is authentic.";

/// One column for each quantity of [`Samples`].
fn columns() -> Vec<Column> {
    const WHY: &str = "\
        The packet socket, for kernels and devices without the other datapaths, receives every packet of protocol 112 in \
        userspace, as the peers do, and checks a digest.";
    vec![
        Column::of("offered/s"),
        Column::less("daemon, % of a core").because(WHY),
        Column::of("softirq, % of a core"),
        Column::less("µs a packet").because(WHY),
        Column::of("genuine sent"),
        Column::of("genuine heard"),
        Column::less("false takeovers"),
    ]
}

#[derive(Default)]
struct Samples {
    offered: Vec<f64>,
    daemon: Vec<f64>,
    softirq: Vec<f64>,
    packet: Vec<f64>,
    genuine: Vec<f64>,
    heard: Vec<f64>,
    takeovers: Vec<f64>,
}

/// Runs every flood against every system.
pub fn run(plan: Plan) -> Result<Findings> {
    let systems: Vec<System> = System::all()?
        .into_iter()
        .filter(|system| {
            let generic = System::Carpd("xdp-generic".to_owned());
            !plan.quick || ![System::Keepalived3, generic].contains(system)
        })
        .collect();
    let seconds = Duration::from_secs;
    let floods = match plan.quick {
        true => vec![("forged", seconds(3))],
        false => vec![
            ("forged", seconds(30)),
            ("garbage", seconds(8)),
            ("vrrp", seconds(8)),
            ("replayed", seconds(8)),
        ],
    };
    let rounds = plan.choose(1, 2);
    let mut all: Vec<Vec<Samples>> = floods
        .iter()
        .map(|_| systems.iter().map(|_| Samples::default()).collect())
        .collect();
    for round in 1..=rounds {
        for (index, system) in systems.iter().enumerate() {
            note(&format!("  {}, round {round} of {rounds}", system.name()));
            let pair = Pair::start(system)?;
            for ((name, length), samples) in floods.iter().zip(&mut all) {
                pair.flood(name, *length, &mut samples[index])
                    .with_context(|| format!("{name}, {}", system.name()))?;
            }
        }
    }
    let tables = floods.iter().zip(all).map(|((name, length), all)| {
        let rows = systems.iter().zip(all);
        Table {
            title: format!("Flood: {name}, {} s", length.as_secs()),
            columns: columns(),
            rows: rows.map(|(system, samples)| row(system, samples)).collect(),
            drawn: Some(1),
        }
    });
    Ok(Findings {
        title: "Floods",
        method: METHOD.to_owned(),
        tables: tables.collect(),
        ..Findings::default()
    })
}

fn row(system: &System, samples: Samples) -> Row {
    let heard = if samples.heard.is_empty() {
        Cell::none()
    } else {
        Cell::Samples(samples.heard)
    };
    Row {
        name: system.name(),
        side: system.side(),
        cells: vec![
            Cell::Samples(samples.offered),
            Cell::Samples(samples.daemon),
            Cell::Samples(samples.softirq),
            Cell::Samples(samples.packet),
            Cell::Samples(samples.genuine),
            heard,
            Cell::Samples(samples.takeovers),
        ],
    }
}

/// Two hosts with one kind of daemon. Fields are dropped in order, the lab last.
struct Pair<'a> {
    system: &'a System,
    backup: Daemon,
    _master: Daemon,
    capture: Capture,
    a: Host,
    b: Host,
    _lab: Lab,
    scratch: tempfile::TempDir,
}

impl<'a> Pair<'a> {
    fn start(system: &'a System) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let lab = Lab::new()?;
        let capture = lab.capture()?;
        let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
        let master = system.start(&a, scratch.path(), Role::Master, Pace::Default)?;
        heard(&capture, capture.mark(), system, "a", 1)?;
        let backup = system.start(&b, scratch.path(), Role::Backup, Pace::Default)?;
        for pid in b.pids()? {
            bind(pid, VICTIM);
        }
        Ok(Self {
            system,
            backup,
            _master: master,
            capture,
            a,
            b,
            _lab: lab,
            scratch,
        })
    }

    fn flood(&self, name: &str, length: Duration, samples: &mut Samples) -> Result<()> {
        let system = self.system;
        // A BACKUP that has heard two advertisements, also after an earlier flood, knows its MASTER.
        let found = heard(&self.capture, self.capture.mark(), system, "a", 2)?;
        let captured = found.carp_from("a").map(|carp| {
            Forgery::new(self.a.address(), VHID, PASSWORD, ADDRESS).with(|forgery| {
                forgery.advbase = carp.advbase;
                forgery.advskew = carp.advskew;
                forgery.counter = carp.counter;
            })
        });
        let source = if name == "replayed" {
            self.a.address()
        } else {
            [10, 9, 0, 66].into()
        };
        let frames = kind(system, name).frames(source, VHID, captured.as_ref());

        let pids = self.b.pids()?;
        let accepted = self.accepted()?;
        let (line, mark) = (self.backup.mark(), self.capture.mark());
        let (cpu, softirq, start) = (
            usage::cpu_time(&pids)?,
            usage::softirq_times()?,
            Instant::now(),
        );
        let running = Flood::towards(&self.b, frames, Some(GENERATOR), None)?;
        std::thread::sleep(length);
        let volume = running.finish();
        let spent = (usage::cpu_time(&pids)? - cpu).as_secs_f64();
        let softirq: Duration = usage::softirq_times()?
            .iter()
            .zip(softirq)
            .map(|(after, before)| after.saturating_sub(before))
            .sum();
        let softirq = softirq.as_secs_f64();
        let elapsed = start.elapsed().as_secs_f64();
        let all = self.capture.after(mark);
        let genuine = all.iter().filter(|one| system.advertises(one, "a")).count();
        let takeovers = system.takeovers(&self.backup, line);

        samples.offered.push(volume.rate() as f64);
        samples.daemon.push(spent / elapsed * 100.0);
        samples.softirq.push(softirq / elapsed * 100.0);
        let packets = volume.frames.max(1) as f64;
        samples.packet.push((spent + softirq) / packets * 1e6);
        samples.genuine.push(genuine as f64);
        samples.takeovers.push(takeovers as f64);
        // A replay is authentic, so what is accepted of it would count as genuine.
        if let (Some(before), Some(after)) = (accepted, self.accepted()?)
            && name != "replayed"
        {
            samples.heard.push(after as f64 - before as f64);
        }
        Ok(())
    }

    /// Returns how many advertisements the BACKUP has accepted so far, if it reports that.
    fn accepted(&self) -> Result<Option<i64>> {
        match self.system {
            System::Carpd(_) => {
                let counters = self.backup.dump()?.counters;
                let sum = |prefix: &str| -> u64 {
                    let all = counters.iter().filter(|(name, _)| name.starts_with(prefix));
                    all.map(|(_, count)| count).sum()
                };
                let accepted = i64::try_from(sum("received-"))? - i64::try_from(sum("dropped-"))?;
                Ok(Some(accepted))
            }
            System::Keepalived2 | System::Keepalived3 => {
                let directory = self.scratch.path().join(self.b.name());
                let statistics = daemons::keepalived_statistics(&self.backup, &directory)?;
                // Those that fail a check are counted elsewhere.
                let received = statistics.iter().find(|(name, _)| name == "Received");
                let (_, received) = received.context("no advertisements received")?;
                Ok(Some(i64::try_from(*received)?))
            }
            System::Ucarp => Ok(None),
        }
    }
}

/// The meaning of `name` for a system.
fn kind(system: &System, name: &str) -> Kind {
    match (name, system) {
        ("garbage", _) => Kind::Garbage,
        ("vrrp", _) => Kind::Vrrp,
        ("forged", System::Keepalived2) => Kind::ForgedVrrp2,
        ("forged", System::Keepalived3) => Kind::ForgedVrrp3,
        ("replayed", System::Keepalived2) => Kind::ReplayedVrrp2,
        ("replayed", System::Keepalived3) => Kind::ReplayedVrrp3,
        ("replayed", _) => Kind::Replayed,
        _ => Kind::Forged,
    }
}

/// Binds a process to one processor, if that processor exists.
fn bind(pid: u32, cpu: usize) {
    let mut set = CpuSet::new();
    if let (Ok(()), Ok(pid)) = (set.set(cpu), i32::try_from(pid)) {
        let _ = sched_setaffinity(Pid::from_raw(pid), &set);
    }
}
