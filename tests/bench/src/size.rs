//! Sizes, and the time to start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Lab, daemons};

use crate::report::{Cell, Column, Row, Side, Table};
use crate::systems::{Pace, Role, System};
use crate::{Findings, Plan};

const METHOD: &str = "\
*binary*: the executable after `strip`, without the shared libraries that it loads; *with libraries*: including them
(`ldd`), as stripped by distributions. *ready*: from exec until the daemon logs that it listens, with scripts and
configuration in place. *build*: `cargo build --release` of carpd into an empty directory, with the eBPF object in
place; one sample.";

const INSIDE: &str = "The binary contains Rust's standard library, tokio, clap and the eBPF object; it needs no library \
except libc.";

/// Measures sizes, start-up times, and in a full run a build from scratch.
pub fn run(plan: Plan) -> Result<Findings> {
    let systems = System::all()?;
    let mut ready: Vec<Vec<f64>> = systems.iter().map(|_| Vec::new()).collect();
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new()?;
    let host = lab.host("a", "10.9.0.1/16")?;
    for _ in 0..plan.choose(3, 20) {
        for (system, samples) in systems.iter().zip(&mut ready) {
            let launch =
                system.prepare(&host, scratch.path(), Role::Backup, Pace::Default, false)?;
            let start = Instant::now();
            let mut daemon = launch.start(&host)?;
            samples.push(start.elapsed().as_secs_f64() * 1000.0);
            daemon.terminate(std::time::Duration::from_secs(10))?;
        }
    }
    let rows = systems
        .iter()
        .zip(ready)
        .map(|(system, samples)| {
            let (alone, with) = sizes(&program(system)?)?;
            Ok(Row {
                name: system.name(),
                side: system.side(),
                cells: vec![Cell::one(alone), Cell::one(with), Cell::Samples(samples)],
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut tables = vec![Table {
        title: "Size and start".to_owned(),
        columns: vec![
            Column::less("binary, KiB").because(INSIDE),
            Column::less("with libraries, KiB").because(INSIDE),
            Column::less("ready, ms")
                .because("The verifier checks the kernel program at every start."),
        ],
        rows,
        drawn: Some(2),
    }];
    if !plan.quick {
        tables.push(build()?);
    }
    Ok(Findings {
        title: "Size and start",
        method: METHOD.to_owned(),
        tables,
        ..Findings::default()
    })
}

fn program(system: &System) -> Result<PathBuf> {
    let name = match system {
        System::Carpd(_) => return daemons::binary(),
        System::Ucarp => "ucarp",
        System::Keepalived2 | System::Keepalived3 => "keepalived",
    };
    ["/usr/sbin", "/usr/local/sbin", "/usr/bin"]
        .map(|directory| PathBuf::from(directory).join(name))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("where is {name}?"))
}

/// Returns the size alone and with its libraries. Unit: KiB.
fn sizes(program: &Path) -> Result<(f64, f64)> {
    let scratch = tempfile::tempdir()?;
    let stripped = scratch.path().join("stripped");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(program)
        .status()
        .context("failed to start strip (package binutils)")?;
    ensure!(status.success(), "failed to strip {}", program.display());
    let alone = fs::metadata(&stripped)?.len();
    let output = Command::new("ldd").arg(program).output()?;
    let mut with = alone;
    for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if word.starts_with('/') {
            with += fs::metadata(word)?.len();
        }
    }
    Ok((alone as f64 / 1024.0, with as f64 / 1024.0))
}

fn build() -> Result<Table> {
    note("  building from nothing");
    let target = tempfile::tempdir()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let start = Instant::now();
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", "carp-daemon"])
        .env("CARGO_TARGET_DIR", target.path())
        .env(
            "CARPD_EBPF_OBJECT",
            fs::canonicalize("target/bpf/carp-ebpf")?,
        )
        .status()?;
    ensure!(status.success(), "carpd does not build");
    Ok(Table {
        title: "Build".to_owned(),
        columns: vec![Column::of("seconds")],
        rows: vec![Row {
            name: "carpd".to_owned(),
            side: Side::Ours,
            cells: vec![Cell::one(start.elapsed().as_secs_f64())],
        }],
        drawn: None,
    })
}
