//! Thousands of virtual hosts.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::PASSWORD;
use carp_tests::lab::note;
use carp_tests::{Carpd, Daemon, Host, Lab, Ucarp, eventually, usage};

use crate::ear::{Ear, INTERVAL};
use crate::report::{Cell, Column, Curve, Goal, Line, Row, Side, Table};
use crate::systems::{Launch, datapath};
use crate::{Findings, Plan};

const METHOD: &str = "\
Two hosts are joined by veth pairs with up to 255 virtual hosts each, and every virtual host advertises once per second.
All are MASTER on one host and BACKUP on the other. carpd and keepalived are one process (keepalived: two, with its
parent), ucarp is one per virtual host. *memory* is the proportional set size of all processes of a host, *maps* the
kernel memory of their eBPF maps. CPU is the user and system time of these processes over a window in which no other
program listens. On a veth, the kernel receives in the time of the sender and wakes the receiver, so with a BACKUP on
the same machine the MASTER pays for what the other host's kernel does with its packets. *MASTER alone* comes from a
window before the BACKUP started, and is what a MASTER costs its own host. *settled* is the time from exec until every
virtual host has advertised (the protocols wait 3 to 3.6 s before that). In a separate window, a packet socket on the
other host takes the kernel's arrival times: *latest* is the longest time without an advertisement of one virtual host,
less the interval, including the silence at the end; *behind the grid* is the longest delay of an advertisement against
the times given by its virtual host's first advertisement in the window and the interval. In both windows every virtual
host kept advertising and no BACKUP became MASTER; a run in which that is not so is an error, not a sample.";

const MEMORY: &str = "The figure includes carpd's ring buffer, which *maps* counts too. The rest is some 6 KiB per virtual \
host; a third of that remembers what it sent and heard, so that it believes neither its own echo nor a replay.";

const MASTER: &str = "With each advertisement, a MASTER tells the kernel how long it may answer for the addresses. That is one \
system call more than the peers need, and it is what silences the MASTER when it dies.";

const BUNCHES: &str = "carpd sends advertisements in bunches and processes what arrived between them, so that nothing waits \
for thousands of others.";

/// Virtual hosts on one link.
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
            Self::Carpd => format!("carpd, {}", datapath()),
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::Carpd => Side::Ours,
            Self::Ucarp | Self::Keepalived => Side::Peer,
        }
    }

    /// Returns what the daemon logs when a virtual host becomes MASTER.
    const fn takeover(self) -> &'static str {
        match self {
            Self::Ucarp | Self::Carpd => "Switching to state: MASTER",
            Self::Keepalived => "Entering MASTER STATE",
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Sample {
    count: f64,
    master_mib: f64,
    backup_mib: f64,
    maps_mib: f64,
    /// Before the BACKUP was started.
    alone_percent: f64,
    master_percent: f64,
    backup_percent: f64,
    settled_s: f64,
    latest_ms: f64,
    behind_ms: f64,
}

impl Sample {
    /// The processor time of a MASTER alone per virtual host and advertisement. Unit: µs.
    fn master_us(&self) -> f64 {
        self.alone_percent * 10_000.0 / self.count
    }
}

/// The number of virtual hosts, their kind, and the measurements.
struct Size {
    count: usize,
    rows: Vec<(Kind, Vec<Sample>)>,
}

/// Every number of virtual hosts with every kind.
pub fn run(plan: Plan) -> Result<Findings> {
    let counts = plan.choose(&[255][..], &[1, 10, 100, 255, 1020, 4080][..]);
    // The curve needs its points, and the goals need the spread.
    let rounds = |count| match (plan.quick, count) {
        (false, 255 | 4080) => 3,
        _ => 1,
    };
    let window = plan.choose(Duration::from_secs(3), Duration::from_secs(8));
    let mut sizes = Vec::new();
    for &count in counts {
        let mut rows = Kind::ALL.map(|kind| (kind, Vec::new())).to_vec();
        // 600 MiB for 255 is all that needs to be known.
        rows.retain(|(kind, _)| *kind != Kind::Ucarp || count <= ON_A_LINK && !plan.quick);
        for _ in 0..rounds(count) {
            for (kind, samples) in &mut rows {
                note(&format!("  {count} virtual hosts: {}", kind.name()));
                samples.push(
                    one(*kind, count, window)
                        .with_context(|| format!("{count} virtual hosts, {}", kind.name()))?,
                );
            }
        }
        sizes.push(Size { count, rows });
    }
    Ok(Findings {
        title: "Scale",
        method: METHOD.to_owned(),
        tables: sizes.iter().map(table).collect(),
        curves: curves(&sizes),
        goals: sizes.last().map(goals).unwrap_or_default(),
        ..Findings::default()
    })
}

/// The limits for 4 080 virtual hosts, applied to the greatest number that was tried.
fn goals(size: &Size) -> Vec<Goal> {
    let ours = size.rows.iter().find(|(kind, _)| *kind == Kind::Carpd);
    let goal = |what: &str, most: f64, unit: &str, pick: fn(&Sample) -> f64| {
        let what = format!("{what} of {} virtual hosts as MASTER", size.count);
        let samples = ours.iter().flat_map(|(_, samples)| samples).map(pick);
        Goal::at_most(&what, most, unit, samples)
    };
    let memory = |sample: &Sample| sample.master_mib + sample.maps_mib;
    vec![
        goal("processor time", 5.0, "% of a core", |sample| {
            sample.alone_percent
        }),
        goal("memory and maps", 64.0, "MiB", memory),
        goal("latest advertisement", 20.0, "ms", |sample| {
            sample.latest_ms
        }),
    ]
}

fn table(size: &Size) -> Table {
    let row = |(kind, samples): &(Kind, Vec<Sample>)| {
        let pick = |pick: fn(&Sample) -> f64| Cell::Samples(samples.iter().map(pick).collect());
        Row {
            name: kind.name(),
            side: kind.side(),
            cells: vec![
                pick(|sample| sample.master_mib),
                pick(|sample| sample.backup_mib),
                pick(|sample| sample.maps_mib),
                pick(|sample| sample.alone_percent),
                pick(|sample| sample.master_percent),
                pick(|sample| sample.backup_percent),
                pick(|sample| sample.settled_s),
                pick(|sample| sample.latest_ms),
                pick(|sample| sample.behind_ms),
            ],
        }
    };
    let links = size.count.div_ceil(ON_A_LINK);
    Table {
        title: format!(
            "{} virtual hosts on {links} link{}",
            size.count,
            if links == 1 { "" } else { "s" }
        ),
        columns: vec![
            Column::less("memory, MASTER, MiB").because(MEMORY),
            Column::less("memory, BACKUP, MiB").because(MEMORY),
            Column::less("maps, MiB")
                .because("The peers have no kernel program, and receive every packet in userspace instead."),
            Column::less("MASTER alone, % of a core").because(MASTER),
            Column::less("MASTER, % of a core").because(MASTER),
            Column::less("BACKUP, % of a core").because(
                "Both the kernel program and the daemon check the digest of each advertisement; VRRP has no digest.",
            ),
            Column::less("settled, s")
                .because("Before it serves, carpd takes two locks for each virtual host, and writes its entry and its keys \
                     to the kernel's tables."),
            Column::less("latest, ms").because(BUNCHES),
            Column::less("behind the grid, ms").because(BUNCHES),
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
        curve("Memory as MASTER", "MiB", |sample| sample.master_mib),
        curve("Processor time as MASTER alone", "% of a core", |sample| {
            sample.alone_percent
        }),
        curve("Processor time as BACKUP", "% of a core", |sample| {
            sample.backup_percent
        }),
        curve(
            "Processor time of a MASTER alone for each virtual host",
            "µs/s",
            Sample::master_us,
        ),
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
    let masters = kind.prepare(&a, scratch.path(), count, true)?;
    let backups = kind.prepare(&b, scratch.path(), count, false)?;
    let start_all = |launches: &[Launch], host: &Host| -> Result<Vec<Daemon>> {
        launches.iter().map(|launch| launch.spawn(host)).collect()
    };
    let start = Instant::now();
    let _masters = start_all(&masters, &a)?;
    eventually("all have advertised", Duration::from_secs(120), || {
        Ok((ear.count() >= count).then_some(()))
    })?;
    let settled = start.elapsed();
    drop(ear);
    // The end of their start, which no event reports.
    let rest = || thread::sleep(Duration::from_secs(4));
    rest();
    let alone = spent(window, &[&a])?;
    let backups = start_all(&backups, &b)?;
    rest();

    let lines: Vec<usize> = backups.iter().map(Daemon::mark).collect();
    let both = spent(window, &[&a, &b])?;

    let ear = Ear::open(&b)?;
    thread::sleep(window);
    let silence = ear.longest_silence();
    ensure!(
        ear.count() == count && silence < 2 * INTERVAL,
        "{} of {count} virtual hosts advertised, one of them not for {silence:?}",
        ear.count()
    );
    let takeovers = backups.iter().zip(lines).flat_map(|(daemon, mark)| {
        let lines = daemon.lines().into_iter().skip(mark);
        lines.filter(|line| line.text.contains(kind.takeover()))
    });
    let takeovers = takeovers.count();
    ensure!(takeovers == 0, "{takeovers} of BACKUP became MASTER");
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    Ok(Sample {
        count: count as f64,
        master_mib: mib(usage::memory(&a.pids()?)?.pss),
        backup_mib: mib(usage::memory(&b.pids()?)?.pss),
        maps_mib: mib(usage::map_memory(&a.pids()?)?),
        alone_percent: alone[0],
        master_percent: both[0],
        backup_percent: both[1],
        settled_s: settled.as_secs_f64(),
        latest_ms: silence.saturating_sub(INTERVAL).as_secs_f64() * 1000.0,
        behind_ms: ear.behind_the_grid().as_secs_f64() * 1000.0,
    })
}

/// Returns the processor time of each host's processes during the window, in per cent of a core.
fn spent(window: Duration, hosts: &[&Host]) -> Result<Vec<f64>> {
    let pids = hosts.iter().map(|host| host.pids());
    let pids: Vec<_> = pids.collect::<Result<_>>()?;
    let cpu =
        || -> Result<Vec<Duration>> { pids.iter().map(|pids| usage::cpu_time(pids)).collect() };
    let (before, start) = (cpu()?, Instant::now());
    thread::sleep(window);
    let (after, elapsed) = (cpu()?, start.elapsed());
    let spent = after
        .iter()
        .zip(&before)
        .map(|(after, before)| *after - *before);
    Ok(spent
        .map(|spent| spent.div_duration_f64(elapsed) * 100.0)
        .collect())
}

fn interface(link: usize) -> String {
    format!("l{link}")
}

/// Returns link and id of the nth virtual host, both counted from 1.
const fn place(index: usize) -> (usize, usize) {
    (index / ON_A_LINK + 1, index % ON_A_LINK + 1)
}

impl Kind {
    /// Returns its processes, ready to be started.
    fn prepare(
        self,
        host: &Host,
        directory: &Path,
        count: usize,
        master: bool,
    ) -> Result<Vec<Launch>> {
        let own = directory.join(host.name());
        fs::create_dir_all(&own)?;
        let launches = match self {
            Self::Carpd => vec![carpd(&own, count, master)?],
            Self::Keepalived => vec![keepalived(&own, count, master)?],
            Self::Ucarp => (0..count).map(|index| ucarp(index, master)).collect(),
        };
        // The first one stands for all.
        for launch in launches.iter().take(1) {
            launch.record(host, &own);
        }
        Ok(launches)
    }
}

fn carpd(directory: &Path, count: usize, master: bool) -> Result<Launch> {
    let password = directory.join("password");
    fs::write(&password, format!("{PASSWORD}\n"))?;
    // A file that others could read would cause a warning.
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
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
    let carpd = Carpd::bare()?
        .args("-f none --vhosts")
        .arg(file.display().to_string());
    Ok(Launch::Carpd(carpd.datapath(&datapath())))
}

fn keepalived(directory: &Path, count: usize, master: bool) -> Result<Launch> {
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
    Launch::keepalived(directory, &text)
}

fn ucarp(index: usize, master: bool) -> Launch {
    let (advskew, own) = if master { (0, 1) } else { (100, 2) };
    let (link, id) = place(index);
    let arguments = format!(
        "-i {} -f none -v {id} -p {PASSWORD} -s 10.{link}.0.{own} -a 10.{link}.1.{id} -k {advskew}",
        interface(link)
    );
    let words = arguments.split_whitespace().map(str::to_owned);
    Launch::Ucarp(Ucarp::with_arguments(words.collect()))
}
