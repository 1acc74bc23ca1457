//! The MASTER's daemon is killed or stopped, and the fence silences its kernel before another host takes over.

mod egress;
mod holes;
mod layouts;
mod leftovers;
mod oracle;
mod sandbox;
mod units;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::lab::note;
use carp_tests::process::signal_each;
use carp_tests::{
    Captured, Carpd, Client, Daemon, Host, Keepalived, Lab, Mark, Packet, Ucarp, Witness,
    eventually, lab,
};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SECOND_WORSE, SLOW, Scripts};

/// Better than [`SLOW`], and patient.
const FAST_PATIENT: &str = "-b 0 -k 25 -r 9";

/// A pair, and a neighbour that continuously asks for the address.
struct Scene {
    pair: Pair,
    _witness: Witness,
}

impl Scene {
    fn new(lab: Lab) -> Result<Self> {
        let neighbour = lab.host("n", "10.9.0.9/16")?;
        let witness = Witness::start(&neighbour, ADDRESS)?;
        Ok(Self {
            pair: Pair::new(lab)?,
            _witness: witness,
        })
    }

    /// When `host` answered ARP for the address, since `mark`.
    fn answers(&self, mark: Mark, host: &Host) -> Vec<Instant> {
        let all = self.pair.capture.after(mark).into_iter();
        let of_host = all.filter(|captured| {
            captured
                .arp_from(host.name())
                .is_some_and(|arp| arp.reply && arp.sender_address == ADDRESS)
        });
        of_host.map(|captured| captured.at).collect()
    }

    /// Whether it answers within half a second.
    fn waits_briefly(&self, host: &Host) -> bool {
        let mark = self.pair.capture.mark();
        let within = Duration::from_millis(500);
        let answered = eventually("an answer", within, || {
            Ok((!self.answers(mark, host).is_empty()).then_some(()))
        });
        answered.is_ok()
    }

    fn waits_for_answer(&self, host: &Host) -> Result<()> {
        let mark = self.pair.capture.mark();
        let what = format!("{} answers", host.name());
        eventually(&what, LONG, || {
            Ok((!self.answers(mark, host).is_empty()).then_some(()))
        })
    }

    /// Sends a signal to every process on a, waits until b has announced itself `count` times, and returns the time of the
    /// first.
    fn replace_a(&self, signal: Signal, count: usize) -> Result<(Mark, Instant)> {
        self.waits_for_answer(&self.pair.a)?;
        let mark = self.pair.capture.mark();
        self.signal_a(signal)?;
        let mut left = count;
        let mut first = None;
        let from_b = |captured: &Captured| {
            *captured.host == *"b"
                && match &captured.packet {
                    Packet::Carp(_) => true,
                    Packet::Vrrp(vrrp) => vrrp.priority > 0,
                    Packet::Arp(_) => false,
                }
        };
        let what = format!("{count} advertisements of b");
        self.pair
            .capture
            .wait_after(mark, &what, LONG, |captured| {
                if from_b(captured) {
                    first.get_or_insert(captured.at);
                    left -= 1;
                }
                (left == 0).then_some(())
            })?;
        Ok((mark, first.context("there was one")?))
    }

    fn signal_a(&self, signal: Signal) -> Result<()> {
        let pids = self.pair.a.pids()?;
        if signal == Signal::SIGKILL {
            // keepalived's child would notice that its parent died, and clean up.
            signal_each(&pids, Signal::SIGSTOP)?;
        }
        signal_each(&pids, signal)
    }

    /// How often a answered after `since`.
    fn stale_answers(&self, mark: Mark, since: Instant) -> usize {
        let answers = self.answers(mark, &self.pair.a);
        answers.iter().filter(|at| **at > since).count()
    }
}

/// Two carpd whose MASTER gets the signal: how often it answered after it was replaced.
fn carpd(lab: Lab, rung: &str, a: &str, b: &str, signal: Signal) -> Result<usize> {
    let scene = Scene::new(lab)?;
    let pair = &scene.pair;
    let mark = pair.capture.mark();
    let on = |arguments: &str| {
        Ok::<_, anyhow::Error>(Carpd::for_address(ADDRESS, arguments)?.datapath(rung))
    };
    // Without a lease the address stays, so the fence causes the silence.
    let _a = on(&format!("{a} --lease 0"))?.start(&pair.a)?;
    pair.capture.advertisement(mark, "a", LONG)?;
    let _b = on(b)?.start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let (mark, replaced) = scene.replace_a(signal, 10)?;
    ensure!(
        pair.a.has_address(ADDRESS)?,
        "the address is still there: it is the fence that keeps it silent"
    );
    if signal == Signal::SIGSTOP {
        // It processes the other's advertisements before it does anything else.
        scene.signal_a(Signal::SIGCONT)?;
        pair.a.wait_for_address(ADDRESS, false, LONG)?;
        pair.capture
            .advertisements_reach(pair.capture.mark(), "b", 5, LONG)?;
    }
    scene.waits_for_answer(&pair.b)?;
    Ok(scene.stale_answers(mark, replaced))
}

fn ucarp(lab: Lab, signal: Signal) -> Result<usize> {
    let scene = Scene::new(lab)?;
    let pair = &scene.pair;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let start = |host: &Host, speed: &str| -> Result<Daemon> {
        let arguments = format!("{speed} -u {}", up.display());
        Ucarp::new(host, ADDRESS, &arguments).start(host)
    };
    let _a = start(&pair.a, SECOND)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let _b = start(&pair.b, SECOND_WORSE)?;
    let (mark, replaced) = scene.replace_a(signal, 3)?;
    Ok(scene.stale_answers(mark, replaced))
}

fn keepalived(lab: Lab, signal: Signal) -> Result<usize> {
    let scene = Scene::new(lab)?;
    let pair = &scene.pair;
    let directory = tempfile::tempdir()?;
    let keepalived = Keepalived::new(directory.path(), 7, ADDRESS)?;
    let _a = keepalived.start(&pair.a)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let _b = keepalived.start(&pair.b)?;
    let (mark, replaced) = scene.replace_a(signal, 3)?;
    Ok(scene.stale_answers(mark, replaced))
}

fn no_stale_answer_but_from_others(labs: [Lab; 3], signal: Signal) -> Result<()> {
    let [first, second, third] = labs;
    let rung = match carp_tests::daemons::datapath().as_str() {
        // It has no fence.
        "socket" => "tcx".to_owned(),
        rung => rung.to_owned(),
    };
    let (ours, ucarps, keepaliveds) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| carpd(first, &rung, SLOW, FAST_PATIENT, signal));
        let ucarps = scope.spawn(|| ucarp(second, signal));
        let keepaliveds = scope.spawn(|| keepalived(third, signal));
        let failed = "it returns its failures";
        (
            ours.join().expect(failed),
            ucarps.join().expect(failed),
            keepaliveds.join().expect(failed),
        )
    });
    let (ours, ucarps, keepaliveds) = (ours?, ucarps?, keepaliveds?);
    note(&format!(
        "{signal}: ARP answers of the replaced MASTER: carpd {ours}, ucarp {ucarps}, keepalived {keepaliveds}"
    ));
    ensure!(ours == 0, "carpd answered {ours} times");
    ensure!(ucarps > 0 && keepaliveds > 0, "{ucarps} {keepaliveds}");
    Ok(())
}

#[test]
fn a_killed_carpd_is_silent_once_replaced_and_ucarp_and_keepalived_are_not() -> Result<()> {
    no_stale_answer_but_from_others([lab!(), lab!(), lab!()], Signal::SIGKILL)
}

#[test]
fn a_stopped_carpd_is_silent_once_replaced_and_ucarp_and_keepalived_are_not() -> Result<()> {
    no_stale_answer_but_from_others([lab!(), lab!(), lab!()], Signal::SIGSTOP)
}

/// A stopped MASTER without peers stops answering after some time, and answers again once it resumes.
#[test]
fn a_stopped_master_falls_silent_and_speaks_again_when_it_continues() -> Result<()> {
    for rung in ["xdp-native", "tcx"] {
        let scene = Scene::new(lab!())?;
        let a = Carpd::for_address(ADDRESS, FAST)?.datapath(rung);
        let _a = a.start(&scene.pair.a)?;
        scene.waits_for_answer(&scene.pair.a)?;
        scene.signal_a(Signal::SIGSTOP)?;
        let interval = Duration::from_millis(98);
        eventually("it falls silent", LONG, || {
            let mark = scene.pair.capture.mark();
            std::thread::sleep(interval * 3);
            Ok(scene.answers(mark, &scene.pair.a).is_empty().then_some(()))
        })?;
        scene.signal_a(Signal::SIGCONT)?;
        scene.waits_for_answer(&scene.pair.a)?;
    }
    Ok(())
}

/// With `--fence off`, and with the packet socket, which logs that it has no fence.
#[test]
fn without_a_fence_a_killed_master_goes_on_answering() -> Result<()> {
    for (rung, more) in [("tcx", "--fence off"), ("socket", "")] {
        let scene = Scene::new(lab!())?;
        let pair = &scene.pair;
        let on = |arguments: &str| {
            Ok::<_, anyhow::Error>(Carpd::for_address(ADDRESS, arguments)?.datapath(rung))
        };
        let a = on(&format!("{FAST} --lease 30 {more}"))?.start(&pair.a)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        let _b = on(SLOW)?.start(&pair.b)?;
        let (mark, replaced) = scene.replace_a(Signal::SIGKILL, 5)?;
        ensure!(scene.stale_answers(mark, replaced) > 0, "{rung}");
        if rung == "socket" {
            a.says_once("cannot fence")?;
        } else {
            ensure!(a.lines_with("cannot fence").is_empty(), "{rung}");
        }
    }
    Ok(())
}

/// With `--fence all`, the address does not even answer hosts that know its MAC address.
#[test]
fn fence_all_silences_the_address_even_for_hosts_that_know_its_mac() -> Result<()> {
    for (fence, answers) in [("arp", true), ("all", false)] {
        let scene = Scene::new(lab!())?;
        let pair = &scene.pair;
        let a = Carpd::for_address(ADDRESS, &format!("{FAST} --lease 30 --fence {fence}"))?
            .datapath("tcx");
        let _a = a.start(&pair.a)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        let neighbour = format!(
            "neigh replace {ADDRESS} lladdr {} dev eth0 nud permanent",
            pair.a.mac()
        );
        pair.c.ip(&neighbour)?;
        let reaches = |within| {
            let client = Client::start(&pair.c, ADDRESS, Duration::from_millis(10))?;
            client.wait_for_answer(within)
        };
        reaches(LONG)?;
        scene.signal_a(Signal::SIGSTOP)?;
        eventually("it falls silent", LONG, || {
            let mark = pair.capture.mark();
            std::thread::sleep(Duration::from_millis(300));
            Ok(scene.answers(mark, &pair.a).is_empty().then_some(()))
        })?;
        ensure!(
            reaches(Duration::from_secs(1)).is_ok() == answers,
            "--fence {fence}"
        );
    }
    Ok(())
}

/// The address that a killed MASTER's up script added does not answer while the next start's down script removes it.
#[test]
fn an_address_that_scripts_left_is_silent_until_the_down_script_has_run() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let pair = &scene.pair;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let down = scripts.script(
        "down",
        &format!("sleep 1; ip address delete {ADDRESS}/32 dev $1"),
    )?;
    let a = |speed: &str| {
        let arguments = format!("{speed} -u {} -d {}", up.display(), down.display());
        Carpd::for_address(ADDRESS, &arguments)?
            .datapath("tcx")
            .start(&pair.a)
    };
    let _killed = a(FAST)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let mut b = Carpd::for_address(ADDRESS, SLOW)?.start(&pair.b)?;
    let (mark, replaced) = scene.replace_a(Signal::SIGKILL, 5)?;
    let _again = a(SECOND_WORSE)?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    let stale = scene.stale_answers(mark, replaced);
    ensure!(stale == 0, "a answered {stale} times");
    b.terminate(LONG)?;
    scene.waits_for_answer(&pair.a)
}
