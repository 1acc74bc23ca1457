//! Who stays sane under a flood.

use std::time::{Duration, Instant};

use anyhow::Result;
use carp_tests::daemons::PASSWORD;
use carp_tests::flood::{Flood, Kind};
use carp_tests::lab::note;
use carp_tests::{Daemon, Forgery, Lab, usage};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::report::{Cell, Column, Row, Table};
use crate::systems::{ADDRESS, Pace, Role, System, VHID};
use crate::{Findings, Plan};

/// Processors of the generator and of the BACKUP.
const GENERATOR: usize = 1;
const VICTIM: usize = 0;

const METHOD: &str = "\
A MASTER and a BACKUP of one kind, an advertisement a second. One processor does nothing but send 36-byte packets of
protocol 112 into the BACKUP's cable (`sendmmsg`, `PACKET_QDISC_BYPASS`); the BACKUP's processes are bound to another.
The MASTER's cable is quiet, and its advertisements are counted where they enter the switch. *forged*: the right vhid,
a wrong digest (keepalived: the right VRID, a wrong password; version 3, which has no authentication, a wrong checksum).
*garbage*: random bytes behind the IP header. *vrrp*: sound packets of another VRRP group. *replayed*: one authentic
advertisement of the MASTER again and again. A false takeover is a BACKUP that becomes MASTER although its MASTER lives
and advertises. *heard*: advertisements that carpd's datapath handed up as authentic, where there is such a count.";

/// A column for each quantity of [`Sample`].
fn columns() -> Vec<Column> {
    vec![
        Column::of("offered/s"),
        Column::less("daemon, % of a core").because(
            "The socket receives every packet of protocol 112 in userspace, as the peers do.",
        ),
        Column::of("softirq, % of a core"),
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
    genuine: Vec<f64>,
    heard: Vec<f64>,
    takeovers: Vec<f64>,
}

/// Runs every flood against every system.
pub fn run(plan: Plan) -> Result<Findings> {
    let systems: Vec<System> = System::all()?
        .into_iter()
        .filter(|system| !plan.quick || *system != System::Keepalived3)
        .collect();
    let floods = match plan.quick {
        true => vec![("forged", Duration::from_secs(4))],
        false => vec![
            ("forged", Duration::from_secs(30)),
            ("garbage", Duration::from_secs(10)),
            ("vrrp", Duration::from_secs(10)),
            ("replayed", Duration::from_secs(10)),
        ],
    };
    let rounds = plan.choose(1, 3);
    let mut tables = Vec::new();
    for (name, length) in floods {
        let mut all: Vec<Samples> = systems.iter().map(|_| Samples::default()).collect();
        for _ in 0..rounds {
            for (system, samples) in systems.iter().zip(&mut all) {
                note(&format!("  {name}: {}", system.name()));
                flood(system, name, length, samples)?;
            }
        }
        let rows = systems.iter().zip(all);
        let rows = rows.map(|(system, samples)| row(system, samples)).collect();
        tables.push(Table {
            title: format!("Flood: {name}, {} s", length.as_secs()),
            columns: columns(),
            rows,
            drawn: Some(1),
        });
    }
    Ok(Findings {
        title: "Floods",
        method: METHOD.to_owned(),
        tables,
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
            Cell::Samples(samples.genuine),
            heard,
            Cell::Samples(samples.takeovers),
        ],
    }
}

fn flood(system: &System, name: &str, length: Duration, samples: &mut Samples) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let capture = lab.capture()?;
    let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
    let _master = system.start(&a, scratch.path(), Role::Master, Pace::Default)?;
    let found = capture.wait_after(
        capture.mark(),
        "the MASTER's advertisement",
        Duration::from_secs(15),
        |captured| system.advertises(captured, "a").then(|| captured.clone()),
    )?;
    let backup = system.start(&b, scratch.path(), Role::Backup, Pace::Default)?;
    // Heard twice: it knows its MASTER.
    for _ in 0..2 {
        let (mark, wait) = (capture.mark(), Duration::from_secs(15));
        capture.wait_after(mark, "its next", wait, |captured| {
            system.advertises(captured, "a").then_some(())
        })?;
    }
    let pids = b.pids()?;
    for pid in &pids {
        bind(*pid, VICTIM);
    }
    let captured = found.0.carp_from("a").map(|carp| {
        Forgery::new(a.address(), VHID, PASSWORD, ADDRESS).with(|forgery| {
            forgery.advbase = carp.advbase;
            forgery.advskew = carp.advskew;
            forgery.counter = carp.counter;
        })
    });
    let kind = kind(system, name);
    let source = if name == "replayed" {
        a.address()
    } else {
        [10, 9, 0, 66].into()
    };
    let frames = kind.frames(source, VHID, captured.as_ref());

    let before = delivered(system, &backup)?;
    let (line, mark) = (backup.mark(), capture.mark());
    let (cpu, softirq, start) = (
        usage::cpu_time(&pids)?,
        usage::softirq_times()?,
        Instant::now(),
    );
    let running = Flood::towards(&b, frames, Some(GENERATOR))?;
    std::thread::sleep(length);
    let volume = running.finish();
    let spent = usage::cpu_time(&pids)? - cpu;
    let softirq: Duration = usage::softirq_times()?
        .iter()
        .zip(softirq)
        .map(|(after, before)| after.saturating_sub(before))
        .sum();
    let elapsed = start.elapsed().as_secs_f64();
    let genuine = capture
        .after(mark)
        .iter()
        .filter(|captured| system.advertises(captured, "a"))
        .count();
    let takeovers = system.takeovers(&backup, line);
    let after = delivered(system, &backup)?;

    samples.offered.push(volume.rate() as f64);
    samples.daemon.push(spent.as_secs_f64() / elapsed * 100.0);
    samples
        .softirq
        .push(softirq.as_secs_f64() / elapsed * 100.0);
    samples.genuine.push(genuine as f64);
    samples.takeovers.push(takeovers as f64);
    // A replay is authentic: what is handed up of it would count as genuine.
    if let (Some(before), Some(after)) = (before, after)
        && name != "replayed"
    {
        samples.heard.push((after - before) as f64);
    }
    Ok(())
}

/// What `name` means to a system.
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

/// Of carpd, where the kernel judges authenticity.
fn delivered(system: &System, daemon: &Daemon) -> Result<Option<u64>> {
    match system {
        System::Carpd(datapath) if datapath != "socket" => {
            Ok(daemon.dump()?.datapath.get("delivered").copied())
        }
        System::Carpd(_) | System::Ucarp | System::Keepalived2 | System::Keepalived3 => Ok(None),
    }
}

/// Keeps a process on one processor, if there is that one.
fn bind(pid: u32, cpu: usize) {
    let mut set = CpuSet::new();
    if let (Ok(()), Ok(pid)) = (set.set(cpu), i32::try_from(pid)) {
        let _ = sched_setaffinity(Pid::from_raw(pid), &set);
    }
}
