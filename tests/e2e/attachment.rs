//! Where the kernel program is attached, and how long it stays attached.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use carp_tests::residue::Network;
use carp_tests::{Carpd, Daemon, Host, Mac, eventually, lab};

use crate::health::ids;
use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// The datapaths with a kernel program.
const KERNEL_RUNGS: [&str; 3] = ["xdp-native", "xdp-generic", "tcx"];

fn on(rung: &str, arguments: &str) -> Result<Carpd> {
    Ok(Carpd::for_address(ADDRESS, arguments)?.datapath(rung))
}

/// A carpd for another vhid and address.
fn stranger(rung: &str) -> Result<Carpd> {
    let arguments = "-v 8 -p secret -a 10.9.0.108 -b 0 -k 60";
    Ok(Carpd::new(arguments)?.datapath(rung))
}

/// The directory of carpd's pins for an interface of a host.
fn place(host: &Host, interface: &str) -> Result<PathBuf> {
    host.enter(|| {
        let index = nix::net::if_::if_nametoindex(interface)?;
        Ok(Network::current()?.pin(&index.to_string()))
    })?
}

/// The pins of carpd for an interface of a host.
fn pins(host: &Host, interface: &str) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(place(host, interface)?) else {
        return Ok(Vec::new());
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// The ids of the `bpf_link`s that a process keeps.
fn links(daemon: &Daemon) -> Result<BTreeSet<String>> {
    ids(daemon, "link_id")
}

/// Runs `carpd --detach eth0` on a host, and returns its exit status and output.
fn detach(host: &Host) -> Result<(i32, String)> {
    let ended = Carpd::bare()?.args("--detach eth0").run(host)?;
    Ok((ended.status, ended.stdout + &ended.stderr))
}

#[test]
fn every_rung_is_what_was_asked_for_and_nothing_stays_after_an_orderly_stop() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, FAST)?;
    for rung in KERNEL_RUNGS.into_iter().chain(["socket"]) {
        let mut a = on(rung, SLOW)?.start(&pair.a)?;
        let dump = a.dump()?;
        ensure!(dump.status["datapath"] == rung, "{rung}: {dump:?}");
        eventually("an advertisement is heard", LONG, || {
            Ok((a.dump()?.counter("delivered")? > 0).then_some(()))
        })
        .with_context(|| rung.to_owned())?;
        let kernel = KERNEL_RUNGS.contains(&rung);
        ensure!(links(&a)?.len() == usize::from(kernel), "{rung}");
        ensure!(
            pins(&pair.a, "eth0")?.len() == usize::from(kernel),
            "{rung}"
        );
        ensure!(a.terminate(LONG)? == 0);
        ensure!(pins(&pair.a, "eth0")?.is_empty(), "{rung}");
        let attached = pair.a.ip("-d link show eth0")?;
        ensure!(!attached.contains("prog/xdp"), "{rung}: {attached}");
    }
    Ok(())
}

#[test]
fn auto_takes_tcx_on_a_veth_and_says_why() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = on("auto", SLOW)?.start(&pair.a)?;
    let said = a.wait_for("receiving on eth0", LONG)?;
    ensure!(
        said.text.contains("tcx") && said.text.contains("veth"),
        "{}",
        said.text
    );
    ensure!(a.dump()?.status["datapath"] == "tcx");
    ensure!(
        said.text.contains("[INFO]"),
        "nothing to warn of: {}",
        said.text
    );
    Ok(())
}

#[test]
fn auto_takes_tcx_where_there_is_no_native_xdp() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, FAST)?;
    pair.a
        .ip("link add mv0 link eth0 address 02:00:00:00:07:01 type macvlan mode bridge")?;
    pair.a.ip("link add br7 type bridge")?;
    for interface in ["mv0", "br7"] {
        pair.a.ip(&format!("link set {interface} up"))?;
        let arguments = format!("{SLOW} -i {interface} -s 10.9.0.7");
        let a = on("auto", &arguments)?.spawn(&pair.a)?;
        let expected = format!("receiving on {interface} through datapath tcx");
        let said = a.wait_for(&expected, LONG)?;
        ensure!(a.dump()?.status["datapath"] == "tcx");
        ensure!(said.text.contains("no native XDP"), "{}", said.text);
        if interface == "mv0" {
            eventually("an advertisement is heard", LONG, || {
                Ok((a.dump()?.counter("delivered")? > 0).then_some(()))
            })?;
        }
    }
    Ok(())
}

#[test]
fn native_xdp_that_another_carpd_has_is_refused_with_its_pid() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let first = on("xdp-native", SLOW)?.start(&pair.a)?;
    for rung in ["xdp-native", "xdp-generic"] {
        let ended = stranger(rung)?.run(&pair.a)?;
        let owner = format!("pid {}", first.pid());
        ensure!(
            ended.status == 2 && ended.stderr.contains(rung) && ended.stderr.contains(&owner),
            "{ended:?}"
        );
    }
    ensure!(pins(&pair.a, "eth0")? == ["xdp-native"]);
    Ok(())
}

#[test]
fn several_carpd_have_a_tcx_program_each_on_one_interface() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, FAST)?;
    let mut first = on("auto", SLOW)?.start(&pair.a)?;
    let second = stranger("auto")?.start(&pair.a)?;
    for daemon in [&first, &second] {
        ensure!(daemon.dump()?.status["datapath"] == "tcx");
    }
    ensure!(pins(&pair.a, "eth0")?.len() == 2);
    eventually("the first hears what the second lets pass", LONG, || {
        Ok((first.dump()?.counter("delivered")? > 2).then_some(()))
    })?;
    ensure!(first.terminate(LONG)? == 0);
    ensure!(
        pins(&pair.a, "eth0")? == ["tcx-1"],
        "the other's is left alone"
    );
    ensure!(links(&second)?.len() == 1);
    Ok(())
}

#[test]
fn a_killed_carpd_leaves_its_program_and_the_next_start_takes_the_link_over() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for rung in KERNEL_RUNGS {
        let mut first = on(rung, SLOW)?.start(&pair.a)?;
        let link = links(&first)?;
        let pinned = pins(&pair.a, "eth0")?;
        ensure!(pinned.len() == 1, "{rung}: {pinned:?}");
        first.kill()?;
        ensure!(pins(&pair.a, "eth0")? == pinned, "{rung}");
        let mut second = on(rung, SLOW)?.start(&pair.a)?;
        // The same link, so there was no gap.
        ensure!(links(&second)? == link, "{rung}");
        ensure!(pins(&pair.a, "eth0")? == pinned, "{rung}");
        ensure!(second.terminate(LONG)? == 0);
        ensure!(pins(&pair.a, "eth0")?.is_empty(), "{rung}");
    }
    Ok(())
}

#[test]
fn attachments_of_a_killed_carpd_go_when_another_rung_starts() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for rungs in [
        ["tcx", "socket"],
        ["xdp-native", "tcx"],
        ["xdp-generic", "xdp-native"],
        ["xdp-native", "xdp-generic"],
    ] {
        let mut first = on(rungs[0], SLOW)?.start(&pair.a)?;
        first.kill()?;
        let mut second = on(rungs[1], SLOW)?.start(&pair.a)?;
        ensure!(second.dump()?.status["datapath"] == rungs[1]);
        let left = pins(&pair.a, "eth0")?;
        ensure!(
            left.iter().all(|pin| pin.starts_with(rungs[1])),
            "{rungs:?}: {left:?}"
        );
        ensure!(second.terminate(LONG)? == 0);
    }
    Ok(())
}

#[test]
fn the_pin_of_an_interface_that_is_gone_goes_with_the_next_start() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.add_link("eth7", Mac([2, 0, 0, 0, 7, 7]))?;
    let arguments = format!("{SLOW} -i eth7 -s 10.9.0.7");
    let mut first = on("tcx", &arguments)?.start(&pair.a)?;
    let place = place(&pair.a, "eth7")?;
    first.kill()?;
    ensure!(fs::exists(&place)?);
    pair.a.ip("link delete eth7")?;
    let _second = on("tcx", SLOW)?.start(&pair.a)?;
    ensure!(!fs::exists(&place)?);
    Ok(())
}

#[test]
fn detach_removes_what_was_left_and_refuses_a_living_owner() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let (status, said) = detach(&pair.a)?;
    ensure!(status == 0 && said.contains("eth0"), "{status} {said}");
    for rung in KERNEL_RUNGS {
        let mut a = on(rung, SLOW)?.start(&pair.a)?;
        let (status, said) = detach(&pair.a)?;
        let owner = format!("pid {}", a.pid());
        ensure!(
            status == 2 && said.contains(&owner) && said.contains("stop that one"),
            "{status} {said}"
        );
        ensure!(pins(&pair.a, "eth0")?.len() == 1, "{rung}");
        a.kill()?;
        let (status, said) = detach(&pair.a)?;
        ensure!(
            status == 0 && said.contains("removed") && said.contains(rung),
            "{status} {said}"
        );
        ensure!(pins(&pair.a, "eth0")?.is_empty(), "{rung}");
        let attached = pair.a.ip("-d link show eth0")?;
        ensure!(!attached.contains("prog/xdp"), "{rung}: {attached}");
    }
    Ok(())
}

#[test]
fn a_dropped_lab_removes_what_a_killed_carpd_left() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    on("tcx", SLOW)?.start(&host)?.kill()?;
    let networks: Vec<_> = lab
        .names()
        .iter()
        .flat_map(|name| Network::named(name))
        .collect();
    let left = || -> Vec<_> { networks.iter().flat_map(|it| it.residue()).collect() };
    ensure!(!left().is_empty());
    drop(lab);
    ensure!(left().is_empty(), "{:?}", left());
    Ok(())
}

#[test]
fn of_two_on_one_interface_nothing_stays_when_both_have_stopped() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let start = |vhid: u8| -> Result<Daemon> {
        let arguments = format!("-v {vhid} -p secret -a 10.9.0.10{vhid} {FAST}");
        let daemon = Carpd::new(&arguments)?.datapath("tcx").start(&pair.a)?;
        let address = format!("10.9.0.10{vhid}").parse()?;
        pair.a.wait_for_address(address, true, LONG)?;
        Ok(daemon)
    };
    for killed in [None, Some(0), Some(1)] {
        let mut both = [start(7)?, start(8)?];
        if let Some(killed) = killed {
            both[killed].kill()?;
            both[killed] = start([7, 8][killed])?;
        }
        ensure!(pins(&pair.a, "eth0")?.len() == 2, "{killed:?}");
        for daemon in &mut both {
            ensure!(daemon.terminate(LONG)? == 0);
        }
        // A link that is neither pinned nor held by a process is gone.
        ensure!(pins(&pair.a, "eth0")?.is_empty(), "{killed:?}");
    }
    Ok(())
}
