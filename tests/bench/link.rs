//! What a daemon costs the traffic of its link.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use carp_tests::lab::note;
use carp_tests::{Daemon, Host, Lab, eventually};
use serde_json::Value;

use crate::report::{Cell, Column, Row, Side, Table};
use crate::systems::{Pace, Role, System};
use crate::{Findings, Plan};

const METHOD: &str = "\
Two hosts on a switch (veth pairs and a bridge); the daemon runs on the one that receives. `iperf3` sends one TCP stream,
then UDP packets of 64 bytes as fast as it can. *CPU* is the busy time of all processors for each gigabyte, or million
packets, that was received: sending, switching and receiving together. A row `+ gro` has GRO switched on for the veth
(`ethtool -K eth0 gro on`), which the kernel otherwise leaves off there.";

/// What is on the receiver's link.
enum Load {
    Nothing,
    Daemon {
        system: System,
        gro: bool,
    },
    /// ucarp's capture without ucarp.
    Tcpdump,
}

impl Load {
    fn name(&self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Daemon { system, gro } => {
                format!("{}{}", system.name(), if *gro { " + gro" } else { "" })
            }
            Self::Tcpdump => "tcpdump with ucarp's filter".to_owned(),
        }
    }

    fn side(&self) -> Side {
        match self {
            Self::Nothing => Side::Limit,
            Self::Daemon { system, .. } => system.side(),
            Self::Tcpdump => Side::Peer,
        }
    }
}

#[derive(Default)]
struct Samples {
    tcp: Vec<f64>,
    tcp_cpu: Vec<f64>,
    udp: Vec<f64>,
    udp_cpu: Vec<f64>,
}

/// Every load in turn, again and again.
pub fn run(plan: Plan) -> Result<Findings> {
    let mut loads = vec![Load::Nothing];
    for system in System::all()? {
        let has_gro = matches!(&system, System::Carpd(datapath) if datapath == "xdp-native");
        if plan.quick && system == System::Keepalived3 {
            continue;
        }
        loads.push(Load::Daemon {
            system: system.clone(),
            gro: false,
        });
        if has_gro {
            loads.push(Load::Daemon { system, gro: true });
        }
    }
    loads.push(Load::Tcpdump);
    let (tcp, udp) = plan.choose((1, 1), (5, 3));
    let mut all: Vec<Samples> = loads.iter().map(|_| Samples::default()).collect();
    for round in 0..plan.choose(1, 5) {
        note(&format!("  round {}", round + 1));
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
        ],
    });
    Ok(Findings {
        title: "Traffic of the link",
        method: METHOD.to_owned(),
        tables: vec![Table {
            title: "Received through one veth".to_owned(),
            columns: vec![
                Column::more("TCP, Gbit/s"),
                Column::less("CPU, s/GB"),
                Column::more("UDP, packets/s"),
                Column::less("CPU, s/million"),
            ],
            rows: rows.collect(),
            drawn: Some(0),
        }],
        remarks: vec![
            "Native XDP on a veth copies every large TCP segment, whatever the program does; on a container's veth \
             choose `--datapath tcx` (or `socket` before Linux 6.6). Native XDP is for network cards."
                .to_owned(),
        ],
        ..Findings::default()
    })
}

fn one(load: &Load, tcp: u32, udp: u32, samples: &mut Samples) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let (a, c) = (lab.host("a", "10.9.0.1/16")?, lab.host("c", "10.9.0.3/16")?);
    let _running = match load {
        Load::Nothing => None,
        Load::Daemon { system, gro } => {
            let daemon = system.start(&a, scratch.path(), Role::Backup, Pace::Default)?;
            if *gro {
                a.run("ethtool", &["-K", "eth0", "gro", "on"])?;
            }
            Some(daemon)
        }
        Load::Tcpdump => Some(tcpdump(&a)?),
    };
    let server = Daemon::spawn(&a, "iperf3", Command::new("iperf3").arg("-s"))?.quiet();
    // Its output is held back by the C library; the port is what counts.
    eventually("iperf3 listens", Duration::from_secs(10), || {
        let listening = a.run("ss", &["-Hltn", "sport = :5201"])?;
        Ok((!listening.is_empty()).then_some(()))
    })?;

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
    drop(server);
    Ok(())
}

/// ucarp 1.5 asks libpcap for "proto 112 and src host not OURS"; it takes every packet through a packet socket as well.
fn tcpdump(host: &Host) -> Result<Daemon> {
    let mut command = Command::new("tcpdump");
    command.args(["-i", "eth0", "-n", "-w", "/dev/null", "ip proto 112"]);
    let daemon = Daemon::spawn(host, "tcpdump", &mut command)?.quiet();
    daemon.wait_for("listening on eth0", Duration::from_secs(10))?;
    Ok(daemon)
}

/// iperf3's report, and the busy time of all processors meanwhile.
fn iperf(host: &Host, scratch: &Path, arguments: &str) -> Result<(Value, Duration)> {
    let file = scratch.join("iperf.json");
    let before = busy()?;
    let common = format!("-c 10.9.0.1 -J --logfile {} {arguments}", file.display());
    host.run("iperf3", &common.split_whitespace().collect::<Vec<_>>())?;
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

/// Time that the processors did not idle since the machine started.
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
