//! Ways past the fence that were once open, each in the situation in which it was found.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use carp_common::abi::layout::VERSION;
use carp_tests::lab::note;
use carp_tests::oracle::{Voice, must_include, provoke};
use carp_tests::residue::Network;
use carp_tests::{Carpd, Client, Host, Lab, Mac, eventually, lab};
use nix::sys::signal::Signal;

use super::Scene;
use crate::support::{ADDRESS, FAST, LONG, SLOW};

pub(super) fn on(rung: &str, arguments: &str) -> Result<Carpd> {
    Ok(Carpd::for_address(ADDRESS, arguments)?.datapath(rung))
}

pub(super) fn network(host: &Host) -> Result<Network> {
    Ok(host.enter(Network::current)??)
}

/// The name of the directory of the links at egress.
pub(super) fn egress() -> String {
    format!("egress-{VERSION}")
}

/// The pins at egress of the host's network namespace.
pub(super) fn egress_pins(host: &Host) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(network(host)?.pin(&egress())) else {
        return Ok(Vec::new());
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

pub(super) fn index(host: &Host, interface: &str) -> Result<u32> {
    Ok(host.enter(|| nix::net::if_::if_nametoindex(interface))??)
}

/// Programs on the killed MASTER's host use the address that is still there. Their kernel asks for every receiver in
/// the name of the address, and every host that hears such a request would believe that the address is there.
#[test]
fn packets_that_a_dead_masters_host_sends_from_the_address_do_not_take_it_back() -> Result<()> {
    for rung in ["tcx", "xdp-native"] {
        let scene = Scene::new(lab!())?;
        let pair = &scene.pair;
        let _a = on(rung, &format!("{FAST} --lease 0"))?.start(&pair.a)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        let _b = on(rung, SLOW)?.start(&pair.b)?;
        let client = Client::start(&pair.c, ADDRESS, Duration::from_millis(10))?;
        client.wait_for_answer(LONG)?;
        scene.replace_a(Signal::SIGKILL, 5)?;
        let socket = pair
            .a
            .enter(|| UdpSocket::bind(SocketAddrV4::new(ADDRESS, 0)))??;
        let [mut right, mut wrong] = [0, 0];
        for number in 0..200 {
            let nobody = Ipv4Addr::new(10, 9, 7, number);
            // Refused once the kernel found no neighbour.
            let _ = socket.send_to(b"?", SocketAddrV4::new(nobody, 9));
            let neighbour = pair.c.ip(&format!("neigh show {ADDRESS}"))?;
            // The kernel keeps an entry for a second before it believes another host.
            std::thread::sleep(Duration::from_millis(15));
            right += usize::from(neighbour.contains(&pair.b.mac().to_string()));
            wrong += usize::from(neighbour.contains(&pair.a.mac().to_string()));
        }
        ensure!(pair.a.has_address(ADDRESS)?, "it was not put to the test");
        note(&format!(
            "{rung}: of 200 looks at the client's neighbours the address was {wrong} times at the dead MASTER"
        ));
        ensure!(wrong == 0 && right > 0, "{rung}: {wrong} {right}");
    }
    Ok(())
}

/// A port that appears after carpd started is covered too, and the next carpd covers all of them, however the first
/// one ended.
#[test]
fn egress_is_covered_on_every_port_as_long_as_it_is_needed() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    let killed = format!("{FAST} --lease 0");
    let mut first = on("tcx", &killed)?.start(&host)?;
    host.wait_for_address(ADDRESS, true, LONG)?;
    host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
    let pins = |interfaces: &[&str]| -> Result<Vec<String>> {
        let mut pins = interfaces
            .iter()
            .map(|it| Ok(format!("{}-arp", index(&host, it)?)))
            .collect::<Result<Vec<_>>>()?;
        pins.sort();
        Ok(pins)
    };
    let both = pins(&["eth0", "eth1"])?;
    eventually("the new port is covered", LONG, || {
        Ok((egress_pins(&host)? == both).then_some(()))
    })?;
    first.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    let spoken = provoke(&host, &["eth0", "eth1"], ADDRESS)?;
    ensure!(
        !spoken.keys().any(|(_, voice)| *voice == Voice::Arp),
        "{spoken:?}"
    );
    ensure!(egress_pins(&host)? == both, "the dead one's stays");

    // Two more carpd share it. The one that stops first does not remove it.
    let mut second = on("tcx", &killed)?.start(&host)?;
    let third = "-v 8 -p secret -a 10.9.0.108 -b 1 -k 200";
    let mut third = Carpd::new(third)?.datapath("tcx").start(&host)?;
    ensure!(egress_pins(&host)? == both, "taken over");
    ensure!(second.terminate(LONG)? == 0);
    ensure!(egress_pins(&host)? == both, "the third uses it");
    host.ip("link delete eth1")?;
    let one = pins(&["eth0"])?;
    eventually("the port that went is forgotten", LONG, || {
        Ok((egress_pins(&host)? == one).then_some(()))
    })?;
    ensure!(third.terminate(LONG)? == 0);
    ensure!(!network(&host)?.pin(&egress()).exists(), "nothing stays");
    ensure!(network(&host)?.residue().len() <= 2, "but the empty tables");
    Ok(())
}

/// A fence that a carpd on another interface left is removed once its address has expired with the lease.
#[test]
fn egress_goes_with_the_last_carpd_when_nothing_is_left_to_fence() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
    host.ip("address add 10.8.0.1/24 dev eth1")?;
    let killed = format!("-i eth1 -f none -v 7 -p secret -a 10.8.0.100 {FAST}");
    let mut killed = Carpd::bare()?.args(&killed).datapath("tcx").start(&host)?;
    let address = Ipv4Addr::new(10, 8, 0, 100);
    host.wait_for_address(address, true, LONG)?;
    let mut living = on("tcx", SLOW)?.start(&host)?;
    killed.kill()?;
    host.wait_for_address(address, false, LONG)?;
    ensure!(egress_pins(&host)?.len() == 2);
    ensure!(living.terminate(LONG)? == 0);
    ensure!(egress_pins(&host)?.is_empty(), "nothing is fenced");
    Ok(())
}

#[test]
fn detach_lifts_the_fence_at_egress_too() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    let mut killed = on("tcx", &format!("{FAST} --lease 0 --fence all"))?.start(&host)?;
    host.wait_for_address(ADDRESS, true, LONG)?;
    killed.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(provoke(&host, &["eth0"], ADDRESS)?.is_empty());
    let ended = Carpd::bare()?.args("--detach eth0").run(&host)?;
    ensure!(
        ended.status == 0 && ended.stdout.contains("removed the egress program"),
        "{ended:?}"
    );
    ensure!(egress_pins(&host)?.is_empty());
    let spoken = provoke(&host, &["eth0"], ADDRESS)?;
    must_include(&spoken, Voice::Arp, &["datagram of its own on eth0"])?;
    must_include(&spoken, Voice::Ip, &["ping unicast 0 tags on eth0"])
}

/// A hypervisor's bridge must carry the frames of others, above all the new MASTER's answers to the machines behind the
/// bridge.
#[test]
fn frames_that_a_bridge_carries_for_others_pass_the_egress() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let pair = &scene.pair;
    let (a, machine) = (&pair.a, &pair.c);
    a.wire(machine, "v0", "10.8.0.1/24", "10.8.0.3/24")?;
    for command in [
        "address flush dev eth0",
        "address flush dev v0",
        "link add br7 type bridge mcast_snooping 0",
        "link set br7 address 02:00:00:00:07:07",
        "link set eth0 master br7",
        "link set v0 master br7",
        "link set br7 up",
        "address add 10.9.0.1/16 dev br7",
    ] {
        a.ip(command)?;
    }
    // The machine reaches the link only through the bridge.
    machine.ip("address flush dev eth0")?;
    machine.ip("address add 10.9.0.3/16 dev v0")?;
    let carpd = Carpd::bare()?.args("-i br7 -f none -v 7 -p secret --lease 0");
    let carpd = carpd.args(&format!("-a {ADDRESS} {FAST} --fence all"));
    let mut killed = carpd.datapath("tcx").start(a)?;
    a.wait_for_address(ADDRESS, true, LONG)?;
    let b = on("tcx", SLOW)?.start(&pair.b)?;
    killed.kill()?;
    b.wait_for("Switching to state: MASTER", LONG)?;
    ensure!(a.has_address(ADDRESS)?, "it was not put to the test");
    // Like a machine that was just started, it has to send an ARP request.
    machine.ip("neigh flush dev v0")?;
    let client = Client::start(machine, ADDRESS, Duration::from_millis(10))?;
    client.wait_for_answer(LONG)?;
    let neighbour = machine.ip(&format!("neigh show {ADDRESS}"))?;
    let mac = pair.b.mac().to_string();
    ensure!(neighbour.contains(&mac), "{neighbour} is not at {mac}");
    Ok(())
}

/// The kernel gives the inode number of a deleted namespace to a later one.
#[test]
fn a_later_namespace_with_the_same_number_inherits_no_fence() -> Result<()> {
    // The kernel hands out the lowest free number first, and other processes on this machine may be faster.
    for _ in 0..30 {
        let lab = lab!();
        if let Some(host) = successor_of_a_killed_masters_host(&lab)? {
            return speaks_for_its_own_address(&host);
        }
    }
    bail!("no namespace got the number of an earlier one")
}

/// A host whose namespace has the number of one in which a MASTER was killed and left its fence.
fn successor_of_a_killed_masters_host(lab: &Lab) -> Result<Option<Host>> {
    let first = lab.host("a", "10.9.0.1/16")?;
    let before = network(&first)?;
    let mut killed = on("tcx", &format!("{FAST} --lease 0"))?.start(&first)?;
    first.wait_for_address(ADDRESS, true, LONG)?;
    killed.kill()?;
    // An administrator deletes it without knowing about pins.
    let name = lab.names().pop().context("it was just made")?;
    lab.switch_ip(&format!("netns delete {name}"))?;
    for number in 0..8 {
        let host = lab.host(&format!("b{number}"), "10.9.0.2/16")?;
        let after = network(&host)?;
        if after.inode() == before.inode() {
            ensure!(after != before, "a cookie is never given again");
            return Ok(Some(host));
        }
    }
    Ok(None)
}

/// Uses an address without carpd, on a host with a carpd that serves another one.
fn speaks_for_its_own_address(host: &Host) -> Result<()> {
    host.ip(&format!("address add {ADDRESS}/16 dev eth0"))?;
    let other = "-v 9 -p secret -a 10.9.0.109 -b 1 -k 200";
    let _other = Carpd::new(other)?.datapath("tcx").start(host)?;
    let spoken = provoke(host, &["eth0"], ADDRESS)?;
    let both = [
        "ARP hardware 1 operation 1 on eth0",
        "datagram of its own on eth0",
    ];
    must_include(&spoken, Voice::Arp, &both)
}
