//! The output of `cargo xtask demo`, and that it leaves nothing behind. It always uses native XDP, so one run is enough.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::{binary, datapath};
use carp_tests::lab::note;
use carp_tests::residue::Network;
use carp_tests::{Daemon, Host, lab};
use nix::sys::signal::Signal;

use crate::support::LONG;

/// The whole show takes 25 s.
const SHOW: Duration = Duration::from_secs(120);

/// Runs it on a host of a lab, so that nothing remains even if it fails. Its own namespaces are independent of that host.
fn start(host: &Host) -> Result<Daemon> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    Daemon::spawn(host, "demo", command.env("CARPD_BIN", binary()?))
}

fn is_shown_elsewhere() -> bool {
    let elsewhere = datapath() != "xdp-native";
    if elsewhere {
        note("skipped, the demo is on native XDP whatever the datapath of this run");
    }
    elsewhere
}

/// The namespaces that it prints.
fn namespaces(demo: &Daemon) -> Result<Vec<String>> {
    let line = demo.wait_for("Network namespaces: ", LONG)?.text;
    let names = line.split_once(": ").context("names")?.1;
    let names = names.trim_end_matches('.').split(", ");
    Ok(names.map(str::to_owned).collect())
}

fn nothing_is_left(names: &[String], networks: &[Network]) -> Result<()> {
    for name in names {
        let path = Path::new("/run/netns").join(name);
        ensure!(!path.exists(), "{name} is left");
    }
    for network in networks {
        let residue = network.residue();
        ensure!(residue.is_empty(), "{residue:?}");
    }
    Ok(())
}

#[test]
fn the_demo_plays_every_act_and_leaves_nothing() -> Result<()> {
    let lab = lab!();
    if is_shown_elsewhere() {
        return Ok(());
    }
    let mut demo = start(&lab.host("stage", None)?)?;
    let names = namespaces(&demo)?;
    let networks: Vec<_> = names.iter().flat_map(|it| Network::named(it)).collect();
    ensure!(networks.len() == names.len());
    ensure!(demo.exit_code(SHOW)? == 0, "{}", demo.transcript());
    for act in [
        "process killed",
        "better host returns",
        "orderly stop",
        "host lost",
    ] {
        let row = demo.lines_with(act);
        ensure!(row.len() == 1, "{act}: {}", demo.transcript());
    }
    ensure!(demo.lines_with("cleaned up").len() == 1);
    nothing_is_left(&names, &networks)
}

#[test]
fn the_demo_leaves_nothing_when_it_is_interrupted() -> Result<()> {
    let lab = lab!();
    if is_shown_elsewhere() {
        return Ok(());
    }
    let mut demo = start(&lab.host("stage", None)?)?;
    let names = namespaces(&demo)?;
    let networks: Vec<_> = names.iter().flat_map(|it| Network::named(it)).collect();
    ensure!(networks.len() == names.len());
    demo.wait_for("r1 is MASTER", LONG)?;
    let pinned = networks.iter().any(|network| {
        let residue = network.residue();
        residue
            .iter()
            .any(|path| path.starts_with("/run/carpd/bpf"))
    });
    ensure!(pinned, "its programs are pinned");
    demo.signal(Signal::SIGINT)?;
    ensure!(demo.exit_code(LONG)? == 130, "{}", demo.transcript());
    ensure!(demo.lines_with("cleaned up").len() == 1);
    nothing_is_left(&names, &networks)
}
