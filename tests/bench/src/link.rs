//! The cost of a daemon for the traffic of its link.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use carp_tests::lab::note;
use carp_tests::{Daemon, Host, Lab, eventually};
use serde_json::Value;

use crate::report::{Cell, Column, Row, Side, Table, number as figure};
use crate::scene::heard;
use crate::systems::{Pace, Role, System, record};
use crate::{Findings, Plan};

const METHOD: &str = "\
Three hosts are on a switch (veth pairs and a bridge). The daemon under test is BACKUP on the receiving host, and a
daemon of the same kind is MASTER on another. `iperf3` sends one TCP stream from the third host, then UDP packets of 64
bytes as fast as it can. *CPU* is the busy time of all processors per gigabyte, or per million packets, received; it
includes sending, switching and receiving. In a row `+ gro`, GRO is on for the receiving veth (`ethtool -K eth0 gro
on`); the kernel leaves it off there by default. *state changes* are those of the BACKUP while the streams ran.
keepalived was measured with VRRPv2; version 3 receives in the same way. tcpdump shows what ucarp's tap costs without
ucarp, and does not count as a peer.";

const WHY: &str = "\
    With any native XDP program, a veth passes on single pages: large TCP segments are copied and no longer merged. \
    Every other datapath inspects packets that the stack holds anyway.";

/// What runs on the receiver's link.
struct Load {
    what: What,
    gro: bool,
}

enum What {
    Nothing,
    Daemon(System),
    /// ucarp's capture, without ucarp.
    Tcpdump,
}

impl Load {
    fn name(&self) -> String {
        let name = match &self.what {
            What::Nothing => "nothing".to_owned(),
            What::Daemon(system) => system.name(),
            What::Tcpdump => "tcpdump with ucarp's filter".to_owned(),
        };
        name + if self.gro { " + gro" } else { "" }
    }

    fn side(&self) -> Side {
        match &self.what {
            // GRO is a setting, not a limit; the loss of a datapath with GRO shows in its own pair of rows.
            What::Nothing if self.gro => Side::Aside,
            What::Nothing => Side::Limit,
            What::Daemon(system) => system.side(),
            What::Tcpdump => Side::Aside,
        }
    }

    /// Every load, those with GRO after those without.
    fn all(plan: Plan) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        let mut add = |what: fn(&System) -> What, system: &System, settings: &[bool]| {
            all.extend(settings.iter().map(|gro| Self {
                what: what(system),
                gro: *gro,
            }));
        };
        let daemon: fn(&System) -> What = |system| What::Daemon(system.clone());
        add(|_| What::Nothing, &System::Ucarp, &[false, true]);
        for system in System::all()? {
            match &system {
                System::Keepalived3 => {}
                System::Carpd(datapath) if ["tcx", "xdp-native"].contains(&datapath.as_str()) => {
                    add(daemon, &system, &[false, true]);
                }
                System::Carpd(_) | System::Keepalived2 if plan.quick => {}
                System::Carpd(_) | System::Ucarp | System::Keepalived2 => {
                    add(daemon, &system, &[false]);
                }
            }
        }
        if !plan.quick {
            add(|_| What::Tcpdump, &System::Ucarp, &[false]);
        }
        Ok(all)
    }
}

#[derive(Default)]
struct Samples {
    tcp: Vec<f64>,
    tcp_cpu: Vec<f64>,
    udp: Vec<f64>,
    udp_cpu: Vec<f64>,
    state_changes: Vec<f64>,
}

/// Measures every load in turn, repeatedly.
pub fn run(plan: Plan) -> Result<Findings> {
    let loads = Load::all(plan)?;
    let (tcp, udp) = plan.choose((1, 1), (4, 2));
    let mut all: Vec<Samples> = loads.iter().map(|_| Samples::default()).collect();
    let rounds = plan.choose(1, 3);
    for round in 1..=rounds {
        note(&format!("  round {round} of {rounds}"));
        for (load, samples) in loads.iter().zip(&mut all) {
            one(load, tcp, udp, samples).with_context(|| load.name())?;
        }
    }
    let rows = loads.iter().zip(all).map(|(load, samples)| Row {
        name: load.name(),
        side: load.side(),
        cells: vec![
            Cell::Samples(samples.tcp),
            Cell::Samples(samples.tcp_cpu),
            Cell::Samples(samples.udp),
            Cell::Samples(samples.udp_cpu),
            Cell::Samples(samples.state_changes),
        ],
    });
    let table = Table {
        title: "Received through one veth".to_owned(),
        columns: vec![
            Column::more("TCP, Gbit/s").because(WHY),
            Column::less("CPU, s/GB").because(WHY),
            Column::more("UDP, packets/s").because(
                "A program adds some 50 ns, or a tap a wake-up, to a microsecond in the network stack.",
            ),
            Column::less("CPU, s/million").because(
                "A program adds some 50 ns, or a tap a wake-up, to a microsecond in the network stack.",
            ),
            Column::less("state changes"),
        ],
        rows: rows.collect(),
        drawn: Some(0),
    };
    Ok(Findings {
        title: "Traffic of the link",
        method: METHOD.to_owned(),
        remarks: advice(&table).into_iter().collect(),
        tables: vec![table],
        ..Findings::default()
    })
}

/// Returns the datapath that users of containers should choose: the one with the most TCP throughput in these
/// measurements.
fn advice(table: &Table) -> Option<String> {
    let median = |row: &Row| Some(row.cells.first()?.summary()?.median);
    let mut settings: Vec<(f64, &str)> = table
        .rows
        .iter()
        .filter(|row| row.side != Side::Peer && !row.name.starts_with("tcpdump"))
        .filter_map(|row| Some((median(row)?, row.name.as_str())))
        .collect();
    settings.sort_by(|one, other| other.0.total_cmp(&one.0));
    let (_, best) = settings
        .iter()
        .find(|(_, name)| name.starts_with("carpd"))?;
    let numbers: Vec<String> = settings
        .iter()
        .map(|(median, name)| format!("{name} {} Gbit/s", figure(*median)))
        .collect();
    Some(format!(
        "For a container's veth, the best choice here is **{best}**, judged by the TCP stream: {}. GRO helps where the \
         sender's segments arrive unmerged, and has to be switched on by hand. Differences of a few per cent are noise.",
        numbers.join(", ")
    ))
}

fn one(load: &Load, tcp: u32, udp: u32, samples: &mut Samples) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let capture = lab.capture()?;
    let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
    let c = lab.host("c", "10.9.0.3/16")?;
    if load.gro {
        a.run("ethtool", &["-K", "eth0", "gro", "on"])?;
    }
    let start = |host, role, system: &System| {
        let daemon = system.start(host, scratch.path(), role, Pace::Default)?;
        heard(&capture, capture.mark(), system, "b", 1)?;
        anyhow::Ok(daemon)
    };
    let running = match &load.what {
        What::Nothing => Vec::new(),
        // Each returns once the MASTER has been heard, and the BACKUP hears it too.
        What::Daemon(system) => vec![
            start(&b, Role::Master, system)?,
            start(&a, Role::Backup, system)?,
        ],
        What::Tcpdump => vec![tcpdump(&a)?],
    };
    // It sees every packet of the streams on their way through the switch.
    drop(capture);
    let server = Daemon::spawn(&a, "iperf3", Command::new("iperf3").arg("-s"))?.quiet();
    // The C library buffers its output, so the open port is what counts.
    eventually("iperf3 listens", Duration::from_secs(10), || {
        let listening = a.run("ss", &["-Hltn", "sport = :5201"])?;
        Ok((!listening.is_empty()).then_some(()))
    })?;
    let line = running.last().map(Daemon::mark).unwrap_or_default();

    let (report, busy) = iperf(&c, scratch.path(), &format!("-t {tcp}"))?;
    let received = number(&report, "/end/sum_received/bytes")?;
    samples
        .tcp
        .push(number(&report, "/end/sum_received/bits_per_second")? / 1e9);
    samples.tcp_cpu.push(busy.as_secs_f64() / (received / 1e9));

    let (report, busy) = iperf(&c, scratch.path(), &format!("-u -b 0 -l 64 -t {udp}"))?;
    let packets = number(&report, "/end/sum/packets")? - number(&report, "/end/sum/lost_packets")?;
    let seconds = number(&report, "/end/sum/seconds")?;
    samples.udp.push(packets / seconds);
    samples.udp_cpu.push(busy.as_secs_f64() / (packets / 1e6));
    if let (What::Daemon(system), Some(backup)) = (&load.what, running.last()) {
        let changes = system.takeovers(backup, line);
        samples.state_changes.push(changes as f64);
    }
    drop(server);
    Ok(())
}

/// ucarp 1.5 asks libpcap for all packets of protocol 112 except its own; every packet also goes through the filter
/// of its packet socket.
fn tcpdump(host: &Host) -> Result<Daemon> {
    let mut command = Command::new("tcpdump");
    let filter = format!("proto 112 and src host not {}", host.address());
    command.args(["-i", "eth0", "-n", "-w", "/dev/null", &filter]);
    record("tcpdump", &command, Path::new("DIR"));
    let daemon = Daemon::spawn(host, "tcpdump", &mut command)?.quiet();
    daemon.wait_for("listening on eth0", Duration::from_secs(10))?;
    Ok(daemon)
}

/// Returns iperf3's report, and the busy time of all processors meanwhile.
fn iperf(host: &Host, scratch: &Path, arguments: &str) -> Result<(Value, Duration)> {
    let file = scratch.join("iperf.json");
    let before = busy()?;
    let common = format!("-c 10.9.0.1 -J --logfile {} {arguments}", file.display());
    let words: Vec<&str> = common.split_whitespace().collect();
    record("iperf3", Command::new("iperf3").args(&words), scratch);
    host.run("iperf3", &words)?;
    let spent = busy()?.saturating_sub(before);
    let text = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    Ok((serde_json::from_str(&text)?, spent))
}

fn number(report: &Value, place: &str) -> Result<f64> {
    report
        .pointer(place)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3 reports no {place}"))
}

/// Returns the time for which the processors did not idle since the machine started.
fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let total: u64 = ticks.iter().sum();
    Ok(Duration::from_millis((total - idle) * 10))
}
