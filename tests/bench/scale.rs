//! Thousands of virtual hosts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::daemons::PASSWORD;
use carp_tests::lab::note;
use carp_tests::{Carpd, Daemon, Host, Keepalived, Lab, daemons, eventually, usage};

use crate::ear::Ear;
use crate::report::{Cell, Column, Curve, Line, Row, Side, Table};
use crate::{Findings, Plan};

const METHOD: &str = "\
Two hosts joined by veth pairs, up to 255 virtual hosts on each, an advertisement a second for each. All are MASTER on
one host and BACKUP on the other. carpd and keepalived are one process (keepalived: two, with its parent), ucarp is one
for each virtual host. Memory is the proportional set size of all processes of the MASTER's host (kernel memory, of eBPF
maps for one, is not in it); CPU is user and system time of these processes over the window; *settled* is the time from
exec until every virtual host has advertised (the protocols wait 3 to 3.6 s before that); *latest* is the longest time
between two advertisements of one virtual host, as the other host's kernel received them, less the interval.";

/// Virtual hosts on a link.
const ON_A_LINK: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ucarp,
    Keepalived,
    Carpd,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Ucarp, Self::Keepalived, Self::Carpd];

    fn name(self) -> String {
        match self {
            Self::Ucarp => "ucarp".to_owned(),
            Self::Keepalived => "keepalived, VRRPv2".to_owned(),
            Self::Carpd => format!("carpd, {}", daemons::datapath()),
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::Carpd => Side::Ours,
            Self::Ucarp | Self::Keepalived => Side::Peer,
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Sample {
    pss_mib: f64,
    master_percent: f64,
    backup_percent: f64,
    settled_s: f64,
    latest_ms: f64,
}

/// How many, of which kind, and what was measured.
struct Size {
    count: usize,
    rows: Vec<(Kind, Vec<Sample>)>,
}

/// Every number of virtual hosts with every kind.
pub fn run(plan: Plan) -> Result<Findings> {
    let counts = plan.choose(&[10, 255][..], &[1, 10, 100, 255, 1020, 4080][..]);
    let rounds = plan.choose(1, 3);
    let window = plan.choose(Duration::from_secs(4), Duration::from_secs(30));
    let mut sizes = Vec::new();
    for &count in counts {
        let mut rows = Kind::ALL.map(|kind| (kind, Vec::new())).to_vec();
        // 600 MiB for 255 is what there is to know.
        rows.retain(|(kind, _)| *kind != Kind::Ucarp || count <= ON_A_LINK && !plan.quick);
        for _ in 0..rounds {
            for (kind, samples) in &mut rows {
                note(&format!("  {count} virtual hosts: {}", kind.name()));
                samples.push(one(*kind, count, window)?);
            }
        }
        sizes.push(Size { count, rows });
    }
    Ok(Findings {
        title: "Scale",
        method: METHOD.to_owned(),
        tables: sizes.iter().map(table).collect(),
        curves: curves(&sizes),
        ..Findings::default()
    })
}

fn table(size: &Size) -> Table {
    let row = |(kind, samples): &(Kind, Vec<Sample>)| {
        let pick = |pick: fn(&Sample) -> f64| Cell::Samples(samples.iter().map(pick).collect());
        Row {
            name: kind.name(),
            side: kind.side(),
            cells: vec![
                pick(|sample| sample.pss_mib),
                pick(|sample| sample.master_percent),
                pick(|sample| sample.backup_percent),
                pick(|sample| sample.settled_s),
                pick(|sample| sample.latest_ms),
            ],
        }
    };
    let links = size.count.div_ceil(ON_A_LINK);
    Table {
        title: format!("{} virtual hosts on {links} links", size.count),
        columns: vec![
            Column::less("memory, MiB"),
            Column::less("MASTER, % of a core"),
            Column::less("BACKUP, % of a core"),
            Column::less("settled, s"),
            Column::less("latest, ms"),
        ],
        rows: size.rows.iter().map(row).collect(),
        drawn: None,
    }
}

fn curves(sizes: &[Size]) -> Vec<Curve> {
    let curve = |title: &str, y: &str, pick: fn(&Sample) -> f64| Curve {
        title: title.to_owned(),
        x: "virtual hosts".to_owned(),
        y: y.to_owned(),
        lines: Kind::ALL
            .iter()
            .map(|kind| Line {
                name: kind.name(),
                side: kind.side(),
                points: sizes
                    .iter()
                    .filter_map(|size| {
                        let (_, samples) = size.rows.iter().find(|(found, _)| found == kind)?;
                        let values = Cell::Samples(samples.iter().map(pick).collect());
                        Some((size.count as f64, values.summary()?.median))
                    })
                    .collect(),
            })
            .filter(|line| !line.points.is_empty())
            .collect(),
    };
    vec![
        curve("Memory", "MiB", |sample| sample.pss_mib),
        curve("Processor time as MASTER", "% of a core", |sample| {
            sample.master_percent
        }),
        curve("Processor time as BACKUP", "% of a core", |sample| {
            sample.backup_percent
        }),
    ]
}

fn one(kind: Kind, count: usize, window: Duration) -> Result<Sample> {
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let (a, b) = (lab.host("a", None)?, lab.host("b", None)?);
    let links = count.div_ceil(ON_A_LINK);
    for link in 1..=links {
        a.wire(
            &b,
            &interface(link),
            &format!("10.{link}.0.1/16"),
            &format!("10.{link}.0.2/16"),
        )?;
    }
    let ear = Ear::open(&b)?;
    let start = Instant::now();
    let _masters = kind.start(&a, scratch.path(), count, true)?;
    eventually("all have advertised", Duration::from_secs(120), || {
        Ok((ear.count() >= count).then_some(()))
    })?;
    let settled = start.elapsed();
    let _backups = kind.start(&b, scratch.path(), count, false)?;
    // What their start has left to do: nothing says when that is done.
    thread::sleep(Duration::from_secs(5));
    ensure!(
        ear.count() == count,
        "{} virtual hosts advertise, {count} were started",
        ear.count()
    );

    ear.forget();
    let (masters, backups) = (a.pids()?, b.pids()?);
    let cpu = || -> Result<[Duration; 2]> {
        Ok([usage::cpu_time(&masters)?, usage::cpu_time(&backups)?])
    };
    let (before, start) = (cpu()?, Instant::now());
    thread::sleep(window);
    let (after, elapsed) = (cpu()?, start.elapsed().as_secs_f64());
    let percent = |index: usize| {
        let spent: Duration = after[index] - before[index];
        spent.as_secs_f64() / elapsed * 100.0
    };
    let late = ear.longest_silence().saturating_sub(Duration::from_secs(1));
    Ok(Sample {
        pss_mib: usage::memory(&masters)?.pss as f64 / 1_048_576.0,
        master_percent: percent(0),
        backup_percent: percent(1),
        settled_s: settled.as_secs_f64(),
        latest_ms: late.as_secs_f64() * 1000.0,
    })
}

fn interface(link: usize) -> String {
    format!("l{link}")
}

/// Link and id of the nth virtual host, both from 1 on.
const fn place(index: usize) -> (usize, usize) {
    (index / ON_A_LINK + 1, index % ON_A_LINK + 1)
}

impl Kind {
    fn start(
        self,
        host: &Host,
        directory: &Path,
        count: usize,
        master: bool,
    ) -> Result<Vec<Daemon>> {
        let own = directory.join(host.name());
        fs::create_dir_all(&own)?;
        match self {
            Self::Carpd => carpd(host, &own, count, master),
            Self::Keepalived => keepalived(host, &own, count, master),
            Self::Ucarp => ucarp(host, count, master),
        }
    }
}

fn carpd(host: &Host, directory: &Path, count: usize, master: bool) -> Result<Vec<Daemon>> {
    let password = directory.join("password");
    fs::write(&password, format!("{PASSWORD}\n"))?;
    // Open to others would be worth a warning.
    Command::new("chmod").arg("600").arg(&password).status()?;
    let advskew = if master { 0 } else { 100 };
    let mut lines = String::new();
    for index in 0..count {
        let (link, id) = place(index);
        writeln!(
            lines,
            "-i {} -v {id} -o {} -a 10.{link}.1.{id}/16 -k {advskew}",
            interface(link),
            password.display()
        )?;
    }
    let file = directory.join("vhosts");
    fs::write(&file, lines)?;
    let daemon = Carpd::bare()?
        .args("-f none")
        .datapath(&daemons::datapath())
        .arg("--vhosts")
        .arg(file.display().to_string())
        .start(host)?;
    Ok(vec![daemon.quiet()])
}

fn keepalived(host: &Host, directory: &Path, count: usize, master: bool) -> Result<Vec<Daemon>> {
    let priority = if master { 150 } else { 100 };
    let mut text = String::new();
    for index in 0..count {
        let (link, id) = place(index);
        writeln!(
            text,
            "vrrp_instance v{index} {{\n  state BACKUP\n  interface {}\n  virtual_router_id {id}\n  \
             priority {priority}\n  advert_int 1\n  authentication {{\n    auth_type PASS\n    \
             auth_pass {PASSWORD}\n  }}\n  virtual_ipaddress {{\n    10.{link}.1.{id}/16\n  }}\n}}",
            interface(link)
        )?;
    }
    let daemon = Keepalived::with_configuration(directory, &text)?.start(host)?;
    Ok(vec![daemon.quiet()])
}

fn ucarp(host: &Host, count: usize, master: bool) -> Result<Vec<Daemon>> {
    let (advskew, own) = if master { (0, 1) } else { (100, 2) };
    (0..count)
        .map(|index| {
            let (link, id) = place(index);
            let mut command = Command::new("ucarp");
            let arguments = format!(
                "-i {} -f none -v {id} -p {PASSWORD} -s 10.{link}.0.{own} -a 10.{link}.1.{id} -k {advskew}",
                interface(link)
            );
            command.args(arguments.split_whitespace());
            Ok(Daemon::spawn(host, "ucarp", &mut command)?.quiet())
        })
        .collect()
}
