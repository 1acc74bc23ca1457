//! The virtual address among the host's own addresses: none of these is ever lost or replaced as a source.

mod lease;
mod predecessor;
mod random;
mod restore;
mod source;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Carpd, Daemon, Host, eventually, lab};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair};

/// In the virtual address's subnet.
const ALIAS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
/// Never on the host, so that the virtual address stays while the host has no address of its own.
const ELSEWHERE: &str = "-s 10.9.0.77";
/// The longest time by which an address outlives its daemon with [`FAST`]: 2 s, as the kernel counts.
const GONE: Duration = Duration::from_secs(8);

/// carpd for the address with its subnet's prefix.
fn with_prefix(arguments: &str) -> Result<Carpd> {
    Carpd::new(&format!("-v 7 -p secret -a {ADDRESS}/16 {arguments}"))
}

/// It is MASTER and has its address.
fn master(pair: &Pair, arguments: &str) -> Result<Daemon> {
    let daemon = with_prefix(arguments)?.start(&pair.a)?;
    pair.a
        .wait_for_address(ADDRESS, true, LONG)
        .with_context(|| daemon.transcript())?;
    Ok(daemon)
}

/// Prints every change of an address of `host` from now on, one line each.
pub fn address_monitor(host: &Host) -> Result<Daemon> {
    let monitor = Daemon::spawn(
        host,
        "ip-monitor",
        Command::new("ip").args(["-o", "monitor", "address"]),
    )?;
    // It does not report that it listens, so wait until a change made here appears.
    eventually("the monitor listens", LONG, || {
        host.ip("address add 192.0.2.77/32 dev lo")?;
        host.ip("address del 192.0.2.77/32 dev lo")?;
        Ok((!monitor.lines_with("192.0.2.77").is_empty()).then_some(()))
    })?;
    Ok(monitor)
}

/// How often the virtual address was removed, according to such a monitor.
fn removals(monitor: &Daemon) -> usize {
    let lines = monitor.lines_with(&format!("inet {ADDRESS}/"));
    lines
        .iter()
        .filter(|line| line.text.contains("Deleted"))
        .count()
}

/// The addresses of `eth0`, as `ip` writes them.
fn all(host: &Host) -> Result<String> {
    host.ip("-o -4 address show dev eth0")
}

/// Deletes the host's own address and adds it again; carpd has time between the two to put back what went with it.
fn replace_own(pair: &Pair) -> Result<()> {
    pair.a.ip("address del 10.9.0.1/16 dev eth0")?;
    std::thread::sleep(Duration::from_millis(200));
    pair.a.ip("address add 10.9.0.1/16 dev eth0")?;
    Ok(())
}

/// The host's addresses, apart from the virtual one, are `expected`, however carpd ends.
fn survives(pair: &Pair, carpd: &mut Daemon, way: &str, expected: &[Ipv4Addr]) -> Result<()> {
    match way {
        "TERM" => ensure!(carpd.terminate(LONG)? == 0),
        "KILL" => carpd.kill()?,
        "USR2" => carpd.signal(Signal::SIGUSR2)?,
        _ => ensure!(false, "{way}?"),
    }
    pair.a.wait_for_address(ADDRESS, false, GONE)?;
    for address in expected {
        ensure!(
            pair.a.has_address(*address)?,
            "{address} is gone after {way}:\n{}",
            all(&pair.a)?
        );
    }
    Ok(())
}

#[test]
fn an_own_address_that_is_deleted_and_added_again_while_master_survives_every_way_of_going()
-> Result<()> {
    for way in ["TERM", "KILL", "USR2"] {
        for source in ["-s 10.9.0.1", ELSEWHERE] {
            let pair = Pair::new(lab!())?;
            let mut a = master(&pair, &format!("{FAST} {source}"))?;
            replace_own(&pair)?;
            pair.a.wait_for_address(ADDRESS, true, LONG)?;
            survives(&pair, &mut a, way, &[pair.a.address()])?;
        }
    }
    Ok(())
}

#[test]
fn addresses_that_come_before_and_after_the_virtual_one_survive_every_way_of_going() -> Result<()> {
    for way in ["TERM", "KILL", "USR2"] {
        let pair = Pair::new(lab!())?;
        pair.a.ip("address flush dev eth0")?;
        let mut a = master(&pair, &format!("{FAST} {ELSEWHERE}"))?;
        // As DHCP or an administrator would.
        pair.a.ip("address add 10.9.0.1/16 dev eth0")?;
        pair.a.ip(&format!("address add {ALIAS}/16 dev eth0"))?;
        survives(&pair, &mut a, way, &[pair.a.address(), ALIAS])?;
    }
    Ok(())
}

#[test]
fn an_own_address_survives_a_better_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = master(&pair, &format!("-b 0 -k 50 {ELSEWHERE}"))?;
    replace_own(&pair)?;
    let _b = pair.carpd(&pair.b, &format!("{FAST} -P"))?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    ensure!(pair.a.has_address(pair.a.address())?, "{}", all(&pair.a)?);
    Ok(())
}

#[test]
fn the_virtual_address_survives_the_deletion_of_the_hosts_own() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = master(&pair, &format!("{FAST} {ELSEWHERE}"))?;
    let monitor = address_monitor(&pair.a)?;
    pair.a.ip("address del 10.9.0.1/16 dev eth0")?;
    pair.is_owned_by(&pair.a)?;
    // When this notification arrives, those of all earlier deletions have arrived.
    pair.a.ip("address add 192.0.2.78/32 dev lo")?;
    monitor.wait_for("192.0.2.78", LONG)?;
    let deleted = monitor.lines_with("Deleted");
    ensure!(
        !deleted.iter().any(|line| line.text.contains("10.9.0.100")),
        "{}",
        monitor.transcript()
    );
    ensure!(a.dump()?.counter("addresses-restored")? == 0);
    Ok(())
}

#[test]
fn the_stop_of_one_virtual_host_does_not_touch_another_one_of_its_subnet() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let start = |vhid: u8| -> Result<Daemon> {
        let address = Ipv4Addr::new(10, 20, 0, 100 + vhid);
        let carpd = Carpd::new(&format!("-v {vhid} -p secret -a {address}/24 {FAST}"))?;
        // Two processes on one interface.
        let daemon = carpd.datapath("socket").start(&pair.a)?;
        pair.a.wait_for_address(address, true, LONG)?;
        Ok(daemon)
    };
    let mut first = start(1)?;
    let second = start(2)?;
    let monitor = address_monitor(&pair.a)?;
    ensure!(first.terminate(LONG)? == 0);
    monitor.wait_for("10.20.0.101", LONG)?;
    // Renewed, so still there.
    let mark = monitor.mark();
    monitor.wait_for_after(mark, "10.20.0.102", LONG)?;
    let deleted = monitor.lines_with("Deleted");
    ensure!(
        !deleted.iter().any(|line| line.text.contains("10.20.0.102")),
        "{}",
        monitor.transcript()
    );
    ensure!(second.dump()?.counter("addresses-restored")? == 0);
    Ok(())
}

#[test]
fn the_virtual_address_that_somebody_else_replaces_is_left_alone() -> Result<()> {
    for way in ["TERM", "KILL"] {
        let pair = Pair::new(lab!())?;
        let mut a = pair.master(&pair.a, FAST)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        pair.a
            .ip(&format!("address replace {ADDRESS}/32 dev eth0"))?;
        a.wait_for("added by someone else", LONG)?;
        if way == "TERM" {
            ensure!(a.terminate(LONG)? == 0);
        } else {
            a.kill()?;
        }
        let line = pair.a.address_line(ADDRESS)?.context("it is gone")?;
        ensure!(line.contains("forever"), "{line}");
    }
    Ok(())
}
