//! The others: odd sources, other groups, three of them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::{Attacker, Carpd, Client, Forgery, Host, Injector, Lab, Mac, Mark, lab};

use super::scene::{NOISE, Scene, misses_at_most};
use crate::support::{ADDRESS, FAST, LONG, SLOW, SLOW_MASTER_DOWN, takeover_time};

/// A peer that only sends advertisements, at a steady pace until it is dropped. Its counters continue above what it
/// hears, as those of every living peer except an OpenBSD do.
struct Peer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(host: &Host, mut advertisement: Forgery, interval: Duration) -> Result<Self> {
        let (injector, ears) = (Injector::open(host)?, Attacker::start(host)?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let heard = ears.highest_counter().unwrap_or_default();
                    advertisement.counter = advertisement.counter.max(heard) + 1;
                    // A failed send is a lost packet.
                    let _ = injector.send(&advertisement.frame());
                    thread::sleep(interval);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

const PACE: Duration = Duration::from_millis(50);

/// Acts like a BSD host without an address of its own: the virtual address is the source of its advertisements.
fn nameless_peer(advskew: u8) -> Forgery {
    Forgery::new(ADDRESS, 7, "secret", ADDRESS).with(|peer| {
        peer.ether_source = Mac([0, 0, 0x5e, 0, 1, 7]);
        peer.advbase = 0;
        peer.advskew = advskew;
    })
}

#[test]
fn a_master_that_sends_from_the_virtual_address_is_a_master_like_any_other() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let peer = Peer::start(&scene.c, nameless_peer(20), PACE)?;
    let _b = scene.carpd(&scene.b, SLOW)?;
    let mark = scene.capture.mark();
    scene.capture.advertisements_reach(mark, "c", 30, LONG)?;
    scene.only_master_since(mark, &scene.c)?;
    let mark = scene.capture.mark();
    drop(peer);
    let took = takeover_time(&scene.capture, mark, &scene.c, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    // Now the source is one of this host's own addresses, but the advertisement still counts as the peer's.
    let _peer = Peer::start(&scene.c, nameless_peer(20), PACE)?;
    scene.b.wait_for_address(ADDRESS, false, LONG)?;
    scene.settles_on(&scene.c, Duration::from_secs(1))
}

#[test]
fn a_worse_master_that_sends_from_the_virtual_address_does_not_depose_us() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _a = scene.master(&scene.a, FAST)?;
    let mark = scene.capture.mark();
    let _peer = Peer::start(&scene.c, nameless_peer(60), PACE)?;
    scene.capture.advertisements_reach(mark, "a", 20, LONG)?;
    ensure!(scene.a.has_address(ADDRESS)?);
    // It answers, so that clients come back.
    scene.announcement(mark, &scene.a, LONG)?;
    Ok(())
}

#[test]
fn other_groups_bow_out_and_preempt_without_us() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    let source = scene.c.address();
    let neighbour = |vhid, advbase, advskew| {
        Forgery::new(source, vhid, "secret", ADDRESS).with(|other| {
            other.advbase = advbase;
            other.advskew = advskew;
        })
    };
    let elsewhere = Ipv4Addr::new(239, 192, 0, 7);
    let others = [
        neighbour(8, 0, 0),
        neighbour(6, 255, 255),
        neighbour(7, 0, 0).with(|other| other.password = "theirs".into()),
        neighbour(7, 255, 255).with(|other| other.password = "theirs".into()),
        neighbour(7, 0, 0).with(|other| other.addresses = vec![Ipv4Addr::new(10, 9, 0, 200)]),
        neighbour(7, 0, 0).with(|other| {
            other.destination = elsewhere;
            other.ether_destination = Mac::of_group(elsewhere);
        }),
        neighbour(7, 255, 255).with(|other| {
            other.destination = elsewhere;
            other.ether_destination = Mac::of_group(elsewhere);
        }),
    ];
    let _peers = others
        .into_iter()
        .map(|other| Peer::start(&scene.c, other, PACE))
        .collect::<Result<Vec<_>>>()?;
    scene.capture.advertisements_reach(mark, "a", 20, LONG)?;
    let ours = |host: &str| scene.capture.advertisements(mark, host).len();
    ensure!(ours("b") == 0, "b took over");
    ensure!(ours("c") >= 50, "there were hardly any others");
    scene.never_two_owners_since(mark)
}

/// a, b and c run carpd, so the client is a separate host.
fn three(lab: Lab) -> Result<(Scene, Host)> {
    let user = lab.host("d", "10.9.0.4/16")?;
    Ok((Scene::new(lab)?, user))
}

/// A client on that host that has been answered at least once.
fn client_of(user: &Host) -> Result<Client> {
    let client = Client::start(user, ADDRESS, Duration::from_millis(10))?;
    client.wait_for_answer(LONG)?;
    Ok(client)
}

#[test]
fn of_three_the_better_backup_alone_follows_a_killed_master() -> Result<()> {
    let (pair, user) = three(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    let _c = pair.carpd(&pair.c, "-b 0 -k 120")?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let client = client_of(&user)?;
    let (mark, killed) = (pair.capture.mark(), Instant::now());
    a.kill()?;
    pair.a.unplug()?;
    let took = takeover_time(&pair.capture, mark, &pair.a, &pair.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "{took:?}"
    );
    pair.stays_the_only_master(&pair.b, 15)?;
    ensure!(
        pair.capture.advertisements(mark, "c").is_empty(),
        "the worse backup took over too\n{}",
        pair.capture.summary(mark)
    );
    client.wait_for_answer(LONG)?;
    misses_at_most(&client, killed, SLOW_MASTER_DOWN)?;
    pair.never_two_owners_since(mark)
}

#[test]
fn of_three_the_better_backup_alone_follows_a_bow_out_and_so_on_to_the_last() -> Result<()> {
    let (pair, user) = three(lab!())?;
    let mut a = pair.master(&pair.a, "-b 1 -k 0 -r 1")?;
    // Their turns after a bow-out are 2.4 ms and 61 ms: room for a busy machine.
    let b = pair.carpd(&pair.b, "-b 1 -k 10")?;
    let _c = pair.carpd(&pair.c, "-b 1 -k 250")?;
    pair.stays_the_only_master(&pair.a, 2)?;
    let client = client_of(&user)?;
    let (start, stopped) = (pair.capture.mark(), Instant::now());
    let mark = start;
    ensure!(a.terminate(LONG)? == 0);
    pair.capture.advertisements_reach(mark, "b", 3, LONG)?;
    ensure!(
        pair.capture.advertisements(mark, "c").is_empty(),
        "the worse backup took over too\n{}",
        pair.capture.summary(mark)
    );
    let bowed_out = |mark, host: &str| {
        let all = pair.capture.advertisements(mark, host);
        all.iter()
            .find(|(_, carp)| carp.is_bow_out())
            .map(|(at, _)| *at)
    };
    let first = |mark, host: &str| {
        let all = pair.capture.advertisements(mark, host);
        all.first().map(|(at, _)| *at)
    };
    let (from, to) = (bowed_out(mark, "a"), first(mark, "b"));
    let waited = from.zip(to).map(|(from, to)| to - from);
    // advskew × 1/16 of 1/256 s.
    let turn = Duration::from_nanos(3_906_250) * 10 / 16;
    ensure!(
        waited.is_some_and(|waited| (turn..turn + NOISE).contains(&waited)),
        "{waited:?}"
    );

    let mark = pair.capture.mark();
    drop_orderly(b)?;
    pair.capture.advertisement(mark, "c", LONG)?;
    let waited = bowed_out(mark, "b")
        .zip(first(mark, "c"))
        .map(|(from, to)| to - from);
    let turn = Duration::from_nanos(3_906_250) * 250 / 16;
    ensure!(
        waited.is_some_and(|waited| (turn..turn + NOISE).contains(&waited)),
        "{waited:?}"
    );
    client.wait_for_answer(LONG)?;
    misses_at_most(&client, stopped, turn)?;
    pair.never_two_owners_since(start)
}

fn drop_orderly(mut daemon: carp_tests::Daemon) -> Result<()> {
    ensure!(daemon.terminate(LONG)? == 0);
    Ok(())
}

#[test]
fn three_equal_hosts_agree_on_one_master() -> Result<()> {
    let (pair, user) = three(lab!())?;
    let daemons: Vec<_> = [&pair.a, &pair.b, &pair.c]
        .into_iter()
        .map(|host| Carpd::for_address(ADDRESS, FAST)?.start(host))
        .collect::<Result<_>>()?;
    // The source breaks ties, so one remains, whichever was first.
    let winner = carp_tests::eventually("one master for ten advertisements", LONG, || {
        let mark = pair.capture.mark();
        let (captured, _) = pair.capture.wait_after(mark, "anybody", LONG, |captured| {
            captured.carp_from(&captured.host).map(drop)
        })?;
        let hosts = [&pair.a, &pair.b, &pair.c];
        let host = hosts
            .into_iter()
            .find(|host| *host.name() == *captured.host);
        Ok(host.filter(|host| pair.stays_the_only_master(host, 10).is_ok()))
    })?;
    pair.stays_the_only_master(winner, 10)?;
    let holders = [&pair.a, &pair.b, &pair.c].map(|host| host.has_address(ADDRESS));
    let holders = holders.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(
        holders.iter().filter(|holds| **holds).count() == 1,
        "{holders:?}"
    );
    ensure!(pair.capture.mark() > Mark::default() && daemons.len() == 3);
    pair.is_settled_on(winner)?;
    client_of(&user).map(drop)
}
