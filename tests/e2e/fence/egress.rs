//! The egress programs that all carpd of a host share: interference by others, and the cost of many interfaces.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::oracle::{Voice, provoke};
use carp_tests::{Carpd, Daemon, Host, Mac, eventually, lab};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::holes::{egress, egress_pins, index, network, on};
use super::sandbox::{UNPINNED, sandboxed};
use crate::health::{bpftool, ids};
use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

const SAID: &str = "detached carpd's program from the egress of the interface";

/// The number of pairs of interfaces on a host with many.
const PAIRS: usize = 100;

fn pin(host: &Host, interface: &str) -> Result<String> {
    let name = format!("{}-arp", index(host, interface)?);
    Ok(network(host)?
        .pin(&egress())
        .join(name)
        .display()
        .to_string())
}

/// One of the numbers that `bpftool` prints for an object.
fn number(shown: &str, name: &str) -> Result<String> {
    let (_, rest) = shown
        .split_once(&format!("\"{name}\":"))
        .with_context(|| shown.to_owned())?;
    Ok(rest.chars().take_while(char::is_ascii_digit).collect())
}

/// The id of the link that is pinned for an interface.
fn pinned_link(host: &Host, interface: &str) -> Result<String> {
    let shown = bpftool(&["-j", "link", "show", "pinned", &pin(host, interface)?])?;
    number(&shown, "id")
}

/// Detaches a program, as another tool could, and waits until it is attached again.
fn take_off(daemon: &Daemon, host: &Host, interface: &str) -> Result<Duration> {
    let id = pinned_link(host, interface)?;
    let (lines, taken) = (daemon.mark(), Instant::now());
    bpftool(&["link", "detach", "id", &id])?;
    let again = eventually("it is attached again", LONG, || {
        let link = pinned_link(host, interface).ok();
        Ok(link.filter(|link| *link != id).map(|_| Instant::now()))
    })?;
    let said = daemon.wait_for_after(lines, SAID, LONG)?;
    ensure!(said.text.contains(interface), "{}", said.text);
    Ok(again.saturating_duration_since(taken))
}

fn is_silent(host: &Host) -> Result<()> {
    let spoken = provoke(host, &["eth0", "eth1"], ADDRESS)?;
    ensure!(host.has_address(ADDRESS)?, "it was not put to the test");
    let mut ways = spoken.keys().filter(|(_, voice)| *voice == Voice::Arp);
    ensure!(ways.next().is_none(), "{spoken:#?}");
    Ok(())
}

#[test]
fn a_program_that_is_taken_off_is_noticed_within_a_second_and_attached_again() -> Result<()> {
    for (interface, other) in [("eth0", "eth1"), ("eth1", "eth0")] {
        let lab = lab!();
        let host = lab.host("a", "10.9.0.1/16")?;
        host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
        let mut carpd = on("tcx", &format!("{FAST} --lease 0"))?.start(&host)?;
        host.wait_for_address(ADDRESS, true, LONG)?;
        let before = eventually("both are covered", LONG, || {
            Ok(pinned_link(&host, other).ok())
        })?;
        let took = take_off(&carpd, &host, interface)?;
        note(&format!("{interface}: attached again after {took:?}"));
        // A second, and an allowance for a busy machine.
        ensure!(took < Duration::from_millis(2000), "{took:?}");
        ensure!(pinned_link(&host, other)? == before, "left alone");
        ensure!(egress_pins(&host)?.len() == 2);
        carpd.says_once(SAID)?;
        carpd.kill()?;
        std::thread::sleep(Duration::from_secs(1));
        is_silent(&host)?;
    }
    Ok(())
}

/// Without a bpffs, each carpd has its own links.
#[test]
fn an_unpinned_program_that_is_taken_off_is_noticed_too() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    let carpd = sandboxed(&host, &UNPINNED)?;
    let at_egress = || -> Result<Vec<String>> {
        let mut found = Vec::new();
        for id in ids(&carpd, "link_id")? {
            let program = number(&bpftool(&["-j", "link", "show", "id", &id])?, "prog_id")?;
            if bpftool(&["prog", "show", "id", &program])?.contains("name carpd_egress ") {
                found.push(id);
            }
        }
        Ok(found)
    };
    let before = eventually("the program at egress", LONG, || {
        Ok(Some(at_egress()?).filter(|links| links.len() == 1))
    })?;
    bpftool(&["link", "detach", "id", &before[0]])?;
    carpd.wait_for(SAID, LONG)?;
    eventually("another link", LONG, || {
        Ok(Some(at_egress()?).filter(|links| links.len() == 1 && *links != before))
    })?;
    Ok(())
}

/// The interface of one of two carpd is deleted, and with it that carpd's only ingress program.
#[test]
fn another_carpd_keeps_its_cover_when_the_interface_of_one_goes() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
    host.add_link("eth2", Mac([2, 0, 0, 0, 1, 2]))?;
    host.ip("address add 10.8.0.1/24 dev eth2")?;
    let mut first = on("tcx", &format!("{FAST} --lease 0"))?.start(&host)?;
    let second = format!("-i eth2 -f none -v 8 -p secret -a 10.8.0.100 {SLOW}");
    let second = Carpd::bare()?.args(&second).datapath("tcx").start(&host)?;
    host.wait_for_address(ADDRESS, true, LONG)?;
    let links = || -> Result<[String; 2]> {
        Ok([pinned_link(&host, "eth0")?, pinned_link(&host, "eth1")?])
    };
    let before = eventually("all are covered", LONG, || {
        Ok((egress_pins(&host)?.len() == 3).then_some(()))
    })
    .and_then(|()| links())?;
    // Both links are in use, and the carpd that attached them cannot repair anything.
    host.ip("link delete eth2")?;
    second.wait_for("interface eth2 is gone", LONG)?;
    first.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(links()? == before, "{before:?}");
    is_silent(&host)
}

/// Acts like a carpd that was stopped while it took over the set.
#[test]
fn a_start_goes_on_unpinned_where_another_hangs_over_the_set() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    // The bpffs exists once a carpd has run.
    ensure!(on("tcx", SLOW)?.start(&host)?.terminate(LONG)? == 0);
    let directory = network(&host)?.pin(&egress());
    fs::create_dir(&directory)?;
    let lock = Flock::lock(File::open(&directory)?, FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, errno)| errno)?;
    let carpd = on("tcx", SLOW)?.start(&host)?;
    carpd.says_once(&format!("{}, going on unpinned", egress()))?;
    ensure!(carpd.dump()?.status["fence-survives-kill"] == "no");
    drop(lock);
    fs::remove_dir(&directory)?;
    Ok(())
}

/// The link moves with the interface, and keeps fencing the first namespace's addresses there.
#[test]
fn an_interface_that_moves_to_another_namespace_is_let_go() -> Result<()> {
    for dies in [false, true] {
        let lab = lab!();
        let host = lab.host("a", "10.9.0.1/16")?;
        host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
        let other = lab.host("b", "10.9.0.2/16")?;
        let mut carpd = on("tcx", &format!("{FAST} --lease 0"))?.start(&host)?;
        host.wait_for_address(ADDRESS, true, LONG)?;
        let both = eventually("both are covered", LONG, || {
            Ok(Some(egress_pins(&host)?).filter(|pins| pins.len() == 2))
        })?;
        let mut holder = other.spawn(Command::new("sleep").arg("60"))?;
        if dies {
            carpd.kill()?;
        }
        host.ip(&format!("link set eth1 netns {}", holder.id()))?;
        holder.kill()?;
        holder.wait()?;
        // The next carpd, where the first one is dead.
        let next = match dies {
            true => Some(on("tcx", SLOW)?.start(&host)?),
            false => None,
        };
        eventually("it is let go", LONG, || {
            let pins = egress_pins(&host)?;
            Ok((pins.len() == 1 && both.contains(&pins[0])).then_some(()))
        })?;
        drop(next);
    }
    Ok(())
}

/// They are killed while they start, serve or stop, when the set may be incomplete.
#[test]
fn carpd_that_start_stop_and_die_together_leave_nothing_in_the_end() -> Result<()> {
    let lab = lab!();
    let host = lab.host("a", "10.9.0.1/16")?;
    host.add_link("eth1", Mac([2, 0, 0, 0, 1, 1]))?;
    let carpd = |vhid: u64| -> Result<Carpd> {
        // Never MASTER, so that there is nothing to fence.
        let arguments = format!("-v {vhid} -p secret -a 10.9.0.10{vhid} -b 2 -k 240");
        Ok(Carpd::new(&arguments)?.datapath("tcx"))
    };
    for round in 0..8 {
        let mut all = (1..=6)
            .map(|vhid| carpd(vhid)?.spawn(&host))
            .collect::<Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(70 * round));
        // Every second one is killed while the others stop.
        let (killed, stopped): (Vec<_>, Vec<_>) = all
            .iter()
            .enumerate()
            .partition(|(number, _)| number % 2 == 0);
        for ((_, stopped), (_, killed)) in stopped.iter().zip(&killed) {
            for (daemon, signal) in [(stopped, Signal::SIGTERM), (killed, Signal::SIGKILL)] {
                daemon.signal(signal)?;
            }
        }
        for daemon in &mut all {
            eventually("it has ended", LONG, || {
                Ok((!daemon.is_running()?).then_some(()))
            })?;
        }
        // It starts, whatever they left.
        let mut last = carpd(7)?.start(&host)?;
        eventually("both are covered", LONG, || {
            let both = [pinned_link(&host, "eth0"), pinned_link(&host, "eth1")];
            Ok(both.iter().all(Result::is_ok).then_some(()))
        })?;
        ensure!(!last.transcript().contains("going on unpinned"));
        ensure!(last.terminate(LONG)? == 0);
        ensure!(!network(&host)?.pin(&egress()).exists(), "round {round}");
        // Addresses of killed carpd stay fenced at ingress until another one starts, or until `--detach`.
        ensure!(Carpd::bare()?.args("--detach eth0").run(&host)?.status == 0);
        ensure!(network(&host)?.residue().len() <= 2, "but the empty tables");
    }
    Ok(())
}

/// A host with hundreds of interfaces, such as one with containers: covering them takes seconds, and nothing waits
/// for that.
#[test]
fn many_interfaces_delay_neither_start_nor_advertisements_nor_stop() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let add = |name: &str| {
        let batch = format!(
            "for i in $(seq {PAIRS}); do echo link add {name}$i type veth peer name {name}x$i; done | ip -batch -"
        );
        pair.a.run("sh", &["-c", &batch])
    };
    let all = 2 * PAIRS + 1;
    add("v")?;
    let started = Instant::now();
    let mut a = on("tcx", FAST)?.spawn(&pair.a)?;
    a.wait_for("Switching to state: BACKUP", LONG)?;
    let covered = egress_pins(&pair.a)?.len();
    note(&format!(
        "BACKUP {:?} after the start, with {covered} of {all} interfaces covered",
        started.elapsed()
    ));
    ensure!(covered < all / 2, "{covered} before it serves");
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let _b = on("tcx", SLOW)?.start(&pair.b)?;
    let mark = pair.capture.mark();
    // As many again appear while it is MASTER.
    add("w")?;
    let all = all + 2 * PAIRS;
    eventually("all are covered", Duration::from_secs(120), || {
        Ok((egress_pins(&pair.a)?.len() == all).then_some(()))
    })?;
    note(&format!("all {all} after {:?}", started.elapsed()));
    pair.only_master_since(mark, &pair.a)?;
    let stopped = Instant::now();
    ensure!(a.terminate(LONG)? == 0);
    let took = stopped.elapsed();
    note(&format!("stopped in {took:?}"));
    // As long as the next start waits.
    ensure!(took < Duration::from_secs(2), "{took:?}");
    ensure!(egress_pins(&pair.a)?.is_empty());
    Ok(())
}
