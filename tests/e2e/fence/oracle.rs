//! The fence against the kernel: what makes an unfenced kernel speak for the address has no effect on a fenced one.

use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::oracle::{Spoken, Voice, must_include, provoke};
use carp_tests::{Carpd, Host, Lab, Mac, lab};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::support::{ADDRESS, FAST, LONG};

const PORTS: [&str; 2] = ["eth0", "eth1"];

/// Forms that are known to make every Linux speak.
const QUESTIONS: [&str; 8] = [
    "ARP hardware 1 operation 1 on eth0",
    "ARP hardware 6 operation 1 on eth0",
    "ARP probe hardware 6 unicast 0 tags on eth0",
    "ARP question hardware 1 broadcast 3 tags on eth0",
    "ARP question hardware 6 unicast 4 tags on eth0",
    "ARP hardware 1 operation 1 on eth1",
    "datagram of its own on eth1",
    "UDP unicast 1 tags on eth0",
];
const PACKETS: [&str; 4] = [
    "ping unicast 0 tags on eth0",
    "ping unicast 3 tags on eth1",
    "TCP unicast 0 tags on eth1",
    "UDP unicast 3 tags on eth0",
];

/// A host with two ports on the link and, if the kernel has VLANs, one in a VLAN.
fn host(lab: &Lab) -> Result<Host> {
    let host = lab.host("a", "10.9.0.1/16")?;
    host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
    match host.ip("link add link eth0 name eth0.5 type vlan id 5") {
        Ok(_) => drop(host.ip("link set eth0.5 up")?),
        Err(error) => note(&format!("no VLAN is tried: {error}")),
    }
    Ok(host)
}

/// What the host sends after its MASTER was killed and every deadline has passed.
fn after_a_kill(host: &Host, rung: &str, fence: &str) -> Result<Spoken> {
    let arguments = format!("{FAST} --lease 0 --fence {fence}");
    let carpd = Carpd::for_address(ADDRESS, &arguments)?.datapath(rung);
    let mut master = carpd.start(host)?;
    host.wait_for_address(ADDRESS, true, LONG)?;
    master.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    let spoken = provoke(host, &PORTS, ADDRESS)?;
    ensure!(host.has_address(ADDRESS)?, "it was not put to the test");
    Ok(spoken)
}

fn of(spoken: &Spoken, voice: Voice) -> Vec<&str> {
    let all = spoken.keys().filter(|(_, how)| *how == voice);
    all.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn nothing_that_makes_the_kernel_speak_does_behind_the_fence() -> Result<()> {
    // The packet socket has no kernel program.
    let open = after_a_kill(&host(&lab!())?, "socket", "off")?;
    must_include(&open, Voice::Arp, &QUESTIONS)?;
    must_include(&open, Voice::Arp, &["ARP 40 tags on eth0"])?;
    must_include(&open, Voice::Ip, &PACKETS)?;
    let questions = of(&open, Voice::Arp).len();
    let packets = of(&open, Voice::Ip).len();
    for rung in ["tcx", "xdp-native"] {
        let fenced = after_a_kill(&host(&lab!())?, rung, "arp")?;
        ensure!(of(&fenced, Voice::Arp).is_empty(), "{rung}: {fenced:#?}");

        let fenced = after_a_kill(&host(&lab!())?, rung, "all")?;
        ensure!(fenced.is_empty(), "{rung}: {fenced:#?}");
        note(&format!(
            "{rung}: {questions} forms make the kernel send ARP in the address's name and {packets} make it send \
             packets; behind the fence 0 and, with --fence all, 0"
        ));
    }
    Ok(())
}

/// The deadline causes the silence: a running MASTER is heard on every port, and so is one that was stopped only for
/// a while.
#[test]
fn a_living_master_speaks_on_every_port() -> Result<()> {
    for rung in ["tcx", "xdp-native"] {
        let lab = lab!();
        let host = host(&lab)?;
        // Without a lease: while it is stopped, the address must stay.
        let arguments = format!("{FAST} --lease 0 --fence all");
        let master = Carpd::for_address(ADDRESS, &arguments)?.datapath(rung);
        let master = master.start(&host)?;
        host.wait_for_address(ADDRESS, true, LONG)?;
        let signal = |signal| -> Result<()> {
            let pid = Pid::from_raw(i32::try_from(master.pid())?);
            Ok(nix::sys::signal::kill(pid, signal)?)
        };
        signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_secs(1));
        let stopped = provoke(&host, &PORTS, ADDRESS)?;
        ensure!(stopped.is_empty(), "{rung}: {stopped:#?}");
        signal(Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_secs(1));
        let alive = provoke(&host, &PORTS, ADDRESS)?;
        must_include(&alive, Voice::Arp, &QUESTIONS)?;
        must_include(&alive, Voice::Ip, &PACKETS)?;
    }
    Ok(())
}
