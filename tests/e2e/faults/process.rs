//! The daemon killed, stopped, continued, starved.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::datapath;
use carp_tests::lab::note;
use carp_tests::witness::PACE;
use carp_tests::{Carpd, Mark, lab};
use nix::sys::signal::Signal;

use super::scene::{FAST_INTERVAL, NOISE, Scene, misses_at_most};
use crate::support::{
    ADDRESS, FAST, LONG, SECOND, SECOND_WORSE, SLOW, SLOW_MASTER_DOWN, takeover_time,
};

/// Whether the kernel stops answering ARP for a MASTER whose daemon is dead or stopped. Without a kernel program
/// nothing stops it; this pins a known limit of the socket datapath.
fn fenced() -> bool {
    datapath() != "socket"
}

/// A process that is stopped for `duration`, unless something fails meanwhile.
pub fn stopped_for(daemon: &carp_tests::Daemon, duration: Duration) -> Result<()> {
    daemon.signal(Signal::SIGSTOP)?;
    thread::sleep(duration);
    daemon.signal(Signal::SIGCONT)
}

#[test]
fn ucarp_takes_over_from_a_killed_carpd_and_the_client_reaches_it() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = crate::support::Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let mut a = scene.master(&scene.a, SECOND)?;
    let arguments = format!("{SECOND_WORSE} -u {}", up.display());
    let _b = carp_tests::Ucarp::new(&scene.b, ADDRESS, &arguments).start(&scene.b)?;
    scene.stays_the_only_master(&scene.a, 2)?;
    let client = scene.client()?;
    let (mark, killed) = (scene.capture.mark(), Instant::now());
    a.kill()?;
    scene.a.unplug()?;
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    scene.comes_to_be_owned_by(&scene.b, LONG)?;
    client.wait_for_answer(LONG)?;
    note(&format!(
        "carpd crashed under ucarp: takeover {took:?}, the client's outage {:?}",
        client.longest_outage(killed)
    ));
    // ucarp's master-down time, and the second for which it may leave packets unread.
    let bound = Duration::from_millis(3_391 + 1_000);
    ensure!(took < bound + NOISE, "{took:?}");
    misses_at_most(&client, killed, bound)
}

/// The MASTER is stopped for longer than the BACKUP waits. When it continues it is still the better one, and stays.
fn better_master_stopped_for(duration: Duration) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (a, _b) = scene.master_and_backup()?;
    let client = scene.client()?;
    let mark = scene.capture.mark();
    let stopped = Instant::now();
    stopped_for(&a, duration)?;
    let continued = Instant::now();
    let took = takeover_time(&scene.capture, mark, &scene.a, &scene.b)?;
    ensure!(
        (SLOW_MASTER_DOWN..SLOW_MASTER_DOWN + NOISE).contains(&took),
        "b took over {took:?} after the last advertisement"
    );

    // One of two masters remains within one advertisement interval of the better one.
    scene.is_settled_on(&scene.a)?;
    let last = scene
        .last_word(mark, &scene.b)
        .context("b was MASTER meanwhile")?;
    let both = last.saturating_duration_since(continued);
    ensure!(
        both < FAST_INTERVAL + NOISE,
        "b was MASTER for {both:?} after a was back"
    );
    scene.announcement(mark, &scene.a, Duration::ZERO)?;
    client.wait_for_answer(LONG)?;
    let doubles = scene.double_sightings(mark);
    if fenced() {
        // While it was stopped, it did not answer. When it is back, both may answer for as long as both are MASTER.
        let begin = continued.checked_sub(PACE).context("it was stopped")?;
        let end = last + PACE;
        ensure!(
            doubles.iter().all(|asked| (begin..end).contains(asked)),
            "two hosts answered, and not only between {begin:?} and {end:?}: {doubles:?}"
        );
    } else {
        // Without a kernel program, it answers beside its successor for as long as it is stopped.
        let first = doubles.first().context("a stopped kernel is silent")?;
        ensure!(*first < continued, "only when it continued");
    }
    note(&format!(
        "MASTER stopped for {duration:?}: takeover {took:?}, then two masters for {both:?}, the client's longest \
         outage {:?}",
        client.longest_outage(stopped)
    ));
    // Its kernel keeps answering hosts that know its MAC address already.
    misses_at_most(&client, stopped, Duration::ZERO)
}

#[test]
fn a_better_master_stopped_for_1_s_is_replaced_and_takes_the_address_back() -> Result<()> {
    better_master_stopped_for(Duration::from_secs(1) + NOISE / 2)
}

#[test]
fn a_better_master_stopped_for_3_s_is_replaced_and_takes_the_address_back() -> Result<()> {
    better_master_stopped_for(Duration::from_secs(3))
}

#[test]
fn a_better_master_stopped_for_10_s_is_replaced_and_takes_the_address_back() -> Result<()> {
    better_master_stopped_for(Duration::from_secs(10))
}

#[test]
fn a_carpd_stopped_for_10_s_comes_back_and_the_ucarp_that_replaced_it_yields() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let scripts = crate::support::Scripts::new()?;
    let up = scripts.script("up", &format!("ip address add {ADDRESS}/32 dev $1"))?;
    let down = scripts.script("down", &format!("ip address del {ADDRESS}/32 dev $1"))?;
    let a = scene.master(&scene.a, SECOND)?;
    let arguments = format!("{SECOND_WORSE} -u {} -d {}", up.display(), down.display());
    let _b = carp_tests::Ucarp::new(&scene.b, ADDRESS, &arguments).start(&scene.b)?;
    scene.stays_the_only_master(&scene.a, 2)?;
    let client = scene.client()?;
    let (mark, stopped) = (scene.capture.mark(), Instant::now());
    stopped_for(&a, Duration::from_secs(10))?;
    let continued = Instant::now();
    scene.settles_on(&scene.a, Duration::from_secs(4))?;
    let last = scene.last_word(mark, &scene.b).context("ucarp took over")?;
    let both = last.saturating_duration_since(continued);
    scene.comes_to_be_owned_by(&scene.a, LONG)?;
    client.wait_for_answer(LONG)?;
    let outage = client.longest_outage(stopped);
    let doubles = scene.double_sightings(mark);
    note(&format!(
        "carpd stopped for 10 s under ucarp: then two masters for {both:?}, the client's longest outage {outage:?}"
    ));
    // It answers what it hears at once; ucarp may leave the answer unread for a second.
    let looks = Duration::from_secs(2) + NOISE;
    ensure!(both < looks, "{both:?}");
    if fenced() {
        let begin = continued.checked_sub(PACE).context("it was stopped")?;
        ensure!(
            doubles
                .iter()
                .all(|asked| (begin..continued + looks).contains(asked)),
            "two hosts answered while one was stopped, or for too long: {doubles:?}"
        );
    }
    // ucarp's master-down time, and the second for which it may leave packets unread.
    misses_at_most(&client, stopped, Duration::from_millis(3_391 + 1_000))
}

/// The BACKUP that takes over is better but does not preempt. The old MASTER processes its advertisements before it acts.
fn worse_master_stopped_for(duration: Duration) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let a = scene.master(&scene.a, SLOW)?;
    let _b = scene.carpd(&scene.b, "-b 0 -k 25 -r 9")?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let mark = scene.capture.mark();
    a.signal(Signal::SIGSTOP)?;
    scene.capture.advertisement(mark, "b", LONG)?;
    thread::sleep(duration);
    let mark = scene.capture.mark();
    a.signal(Signal::SIGCONT)?;
    scene.a.wait_for_address(ADDRESS, false, LONG)?;
    scene.capture.advertisements_reach(mark, "b", 10, LONG)?;
    // Only ucarp's last advertisement, which makes the winner announce again.
    let said = scene.capture.advertisements(mark, "a").len();
    ensure!(said <= 1, "{said} advertisements after it continued");
    scene.announcement(mark, &scene.b, LONG)?;
    scene.is_settled_on(&scene.b)
}

#[test]
fn a_master_that_was_replaced_by_a_better_one_while_stopped_yields_before_anything_else()
-> Result<()> {
    worse_master_stopped_for(Duration::from_secs(1))?;
    worse_master_stopped_for(Duration::from_secs(3))
}

/// The BACKUP is stopped while the MASTER is alive, and must not declare it dead.
fn backup_stopped_for(duration: Duration, datapath: &str) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _a = scene.master(&scene.a, FAST)?;
    let carpd = Carpd::for_address(ADDRESS, SLOW)?.datapath(datapath);
    let b = carpd.start(&scene.b)?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let client = scene.client()?;
    let (mark, stopped) = (scene.capture.mark(), Instant::now());
    stopped_for(&b, duration)?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 15, LONG)?;
    scene.only_master_since(mark, &scene.a)?;
    misses_at_most(&client, stopped, Duration::ZERO)?;
    scene.never_two_owners_since(mark)
}

#[test]
fn a_backup_stopped_for_1_s_does_not_think_the_living_master_dead() -> Result<()> {
    for datapath in ["xdp-native", "socket"] {
        backup_stopped_for(Duration::from_secs(1), datapath)?;
    }
    Ok(())
}

#[test]
fn a_backup_stopped_for_3_s_does_not_think_the_living_master_dead() -> Result<()> {
    for datapath in ["xdp-native", "socket"] {
        backup_stopped_for(Duration::from_secs(3), datapath)?;
    }
    Ok(())
}

#[test]
fn a_backup_stopped_for_10_s_does_not_think_the_living_master_dead() -> Result<()> {
    thread::scope(|scope| {
        let others = scope.spawn(|| backup_stopped_for(Duration::from_secs(10), "socket"));
        backup_stopped_for(Duration::from_secs(10), "xdp-native")?;
        others.join().expect("it returns its failures")
    })
}

#[test]
fn a_backup_that_slept_through_the_masters_end_listens_once_more_and_takes_over() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let mut a = scene.master(&scene.a, FAST)?;
    // Slow enough that noise does not look like a whole master-down time.
    let (interval, master_down) = (Duration::from_secs(1), Duration::from_secs(3));
    let b = scene.carpd(&scene.b, "-b 1 -k 0")?;
    scene.stays_the_only_master(&scene.a, 5)?;
    b.signal(Signal::SIGSTOP)?;
    a.kill()?;
    scene.a.unplug()?;
    // Longer than the master-down time. The time when the MASTER was last heard counts, not the time of waking up.
    // But the whole machine may have been paused, so the MASTER gets time for one more advertisement.
    thread::sleep(master_down + interval);
    let mark = scene.capture.mark();
    let continued = Instant::now();
    b.signal(Signal::SIGCONT)?;
    let (first, _) = scene.capture.advertisement(mark, "b", LONG)?;
    let took = first.at.saturating_duration_since(continued);
    let listens = interval * 3 / 2;
    ensure!((listens..listens + NOISE).contains(&took), "{took:?}");
    scene.is_settled_on(&scene.b)
}

/// Both stop and then resume, the BACKUP first, as two hosts of one hypervisor may.
fn both_stopped_for(duration: Duration, datapath: &str) -> Result<()> {
    let scene = Scene::new(lab!())?;
    let start = |host, arguments| {
        let carpd = Carpd::for_address(ADDRESS, arguments)?.datapath(datapath);
        carpd.start(host)
    };
    let a = start(&scene.a, FAST)?;
    scene.capture.advertisement(Mark::default(), "a", LONG)?;
    // With an interval of a second, the MASTER resumes within one and a half intervals even on a busy machine.
    let b = start(&scene.b, "-b 1 -k 0")?;
    scene.stays_the_only_master(&scene.a, 5)?;
    let mark = scene.capture.mark();
    for daemon in [&a, &b] {
        daemon.signal(Signal::SIGSTOP)?;
    }
    thread::sleep(duration);
    b.signal(Signal::SIGCONT)?;
    thread::sleep(Duration::from_millis(50));
    a.signal(Signal::SIGCONT)?;
    scene
        .capture
        .advertisements_reach(scene.capture.mark(), "a", 40, LONG)?;
    scene.only_master_since(mark, &scene.a)
}

#[test]
fn when_both_stand_still_the_backup_does_not_take_over() -> Result<()> {
    // Beyond the BACKUP's master-down time of 3 s.
    both_stopped_for(Duration::from_secs(5), "xdp-native")?;
    both_stopped_for(Duration::from_secs(5), "socket")
}

/// Processes in busy loops.
struct BusyLoops(Vec<Child>);

impl BusyLoops {
    /// Two on every core, at normal priority.
    fn on_every_core() -> Result<Self> {
        let mut loops = Self(Vec::new());
        for _ in 0..thread::available_parallelism()?.get() * 2 {
            let mut command = Command::new("sh");
            command
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null());
            loops.0.push(command.spawn()?);
        }
        Ok(loops)
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // This fails only if the process has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn busy_loops_on_every_core_change_nothing() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let _daemons = scene.master_and_backup()?;
    let client = scene.client()?;
    let (mark, started) = (scene.capture.mark(), Instant::now());
    let loops = BusyLoops::on_every_core()?;
    // As long as it takes: 5 s of advertisements.
    scene.capture.advertisements_reach(mark, "a", 51, LONG)?;
    drop(loops);
    scene.only_master_since(mark, &scene.a)?;
    scene.never_two_owners_since(mark)?;
    let sent = scene.capture.advertisements(mark, "a");
    let longest = sent
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
        .context("there are 51")?;
    note(&format!(
        "busy loops for {:?}: longest time between two advertisements {longest:?}, interval {FAST_INTERVAL:?}",
        started.elapsed()
    ));
    client.wait_for_answer(LONG)?;
    misses_at_most(&client, started, Duration::ZERO)
}

#[test]
fn a_stopped_master_is_silent_before_another_takes_over() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (a, _b) = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    a.signal(Signal::SIGSTOP)?;
    scene.capture.advertisements_reach(mark, "b", 10, LONG)?;
    let two_owners = scene.two_owners_since(mark);
    note(&format!(
        "stopped MASTER: two hosts answer for {two_owners:?}"
    ));
    ensure!(two_owners.is_none() == fenced(), "{two_owners:?}");
    a.signal(Signal::SIGCONT)?;
    scene.is_settled_on(&scene.a)
}

#[test]
fn a_killed_master_is_silent_before_another_takes_over() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let (mut a, _b) = scene.master_and_backup()?;
    let mark = scene.capture.mark();
    a.kill()?;
    scene.capture.advertisements_reach(mark, "b", 10, LONG)?;
    let two_owners = scene.two_owners_since(mark);
    note(&format!(
        "killed MASTER: two hosts answer for {two_owners:?}"
    ));
    ensure!(two_owners.is_none() == fenced(), "{two_owners:?}");
    scene.only_master_since(mark, &scene.b)
}
