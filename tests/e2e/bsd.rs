//! carpd with BSD kernels: frames like those of real ones, from a model and from scripted recordings.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::bsd::{Dialect, Settings};
use carp_tests::lab::note;
use carp_tests::{Bsd, Daemon, Forgery, Injector, Lab, Mac, Mark, lab};

use crate::support::{ADDRESS, LONG, Pair, SKEW_STEP};

/// Interval 391 ms, master-down time 1172 ms.
const SLOWER: &str = "-b 0 -k 100";
/// [`SLOWER`]'s master-down time, exactly: 3 × 100/256 s.
const SLOWER_MASTER_DOWN: Duration = SKEW_STEP.saturating_mul(300);
/// [`SLOWER`]'s advertisement interval, exactly.
const SLOWER_INTERVAL: Duration = SKEW_STEP.saturating_mul(100);
/// An allowance for a busy machine.
const NOISE: Duration = Duration::from_millis(300);

/// A counter, of any value.
const COUNTER: u64 = 0xa1b6_226e_d304_becf;

const fn settings(dialect: Dialect, advskew: u8, demotion: u8) -> Settings {
    Settings {
        dialect,
        address: ADDRESS,
        advbase: 0,
        advskew,
        demotion,
        counter: COUNTER,
    }
}

/// An advertisement of a BSD with advbase 0.
fn frame(source: Ipv4Addr, counter: u64, advskew: u8) -> Forgery {
    Forgery::new(source, 7, "secret", ADDRESS).with(|forgery| {
        forgery.advbase = 0;
        forgery.advskew = advskew;
        forgery.counter = counter;
    })
}

fn bow_out(source: Ipv4Addr, counter: u64) -> Forgery {
    frame(source, counter, 255).with(|forgery| forgery.advbase = 255)
}

/// The longest time since `begin` in which neither host of the pair advertised that it is MASTER.
fn longest_silence(pair: &Pair, mark: Mark, begin: Instant) -> Duration {
    let all = pair.capture.after(mark);
    let spoken = all.iter().filter(|captured| {
        let advertised = captured.carp_from("a").or_else(|| captured.carp_from("b"));
        advertised.is_some_and(|carp| !carp.is_bow_out())
    });
    let times: Vec<_> = std::iter::once(begin)
        .chain(spoken.map(|captured| captured.at))
        .chain([Instant::now()])
        .collect();
    let gaps = times
        .windows(2)
        .map(|pair| pair[1].saturating_duration_since(pair[0]));
    gaps.max().unwrap_or_default()
}

fn changes(daemon: &Daemon, line: usize) -> Result<usize> {
    // Its next advertisement comes after earlier ones, which may still be on their way.
    daemon.dump()?;
    Ok(daemon.transitions_since(line))
}

/// Checks two hosts that are both MASTER while separated, then meet: from then on one of them is MASTER all the time.
fn somebody_remains(bsd: Settings, carpd: &str) -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.isolate()?;
    let b = pair.master(&pair.b, carpd)?;
    let model = Bsd::start(&pair.a, bsd, true)?;
    // In the middle of carpd's interval, so that the BSD, which advertises more often or as often, is heard first.
    let mark = pair.capture.mark();
    pair.capture.advertisement(mark, "b", LONG)?;
    let (mark, line) = (pair.capture.mark(), b.mark());
    pair.a.rejoin()?;
    let begin = Instant::now();
    thread::sleep(SLOWER_MASTER_DOWN * 3);
    let silence = longest_silence(&pair, mark, begin);
    let (ours, theirs) = (b.dump()?.state == "MASTER", model.is_master());
    note(&format!(
        "{bsd:?} meets carpd {carpd}: nobody advertised for {silence:?}; {} changes here, {} there; MASTER here {ours}, \
         there {theirs}",
        changes(&b, line)?,
        model.transitions().len() - 1,
    ));
    ensure!(silence < SLOWER_INTERVAL + NOISE, "{silence:?}");
    ensure!(
        changes(&b, line)? + model.transitions().len() - 1 == 1,
        "one of them yields, once"
    );
    ensure!(ours != theirs, "MASTER here {ours}, there {theirs}");
    Ok(())
}

#[test]
fn of_two_equal_masters_one_remains_when_the_bsd_is_heard_first() -> Result<()> {
    for dialect in [Dialect::FreeBsd, Dialect::OpenBsd] {
        somebody_remains(settings(dialect, 100, 0), SLOWER)?;
    }
    Ok(())
}

/// What carpd sends after it has yielded to an equal host with a lower address and a counter just above its own.
fn last_words(lab: Lab, ether_source: Mac) -> Result<usize> {
    let pair = Pair::new(lab)?;
    let b = pair.master(&pair.b, SLOWER)?;
    let (_, carp) = pair.capture.advertisement(pair.capture.mark(), "b", LONG)?;
    let (mark, line) = (pair.capture.mark(), b.mark());
    let equal = frame(pair.a.address(), carp.counter + 1, 100)
        .with(|forgery| forgery.ether_source = ether_source);
    Injector::open(&pair.a)?.send(&equal.frame())?;
    b.wait_for_after(line, "Switching to state: BACKUP", LONG)?;
    thread::sleep(SLOWER_INTERVAL);
    Ok(pair.capture.advertisements(mark, "b").len())
}

#[test]
fn the_loser_of_a_tie_is_silent_for_a_bsd_which_would_yield_too() -> Result<()> {
    let said = last_words(lab!(), Mac([0, 0, 0x5e, 0, 1, 7]))?;
    ensure!(said == 0, "{said} advertisements after it had yielded");
    Ok(())
}

#[test]
fn the_loser_of_a_tie_has_a_last_word_for_a_ucarp() -> Result<()> {
    let said = last_words(lab!(), Mac([0, 0, 0x5e, 0, 0, 7]))?;
    ensure!(said == 1, "{said} advertisements after it had yielded");
    Ok(())
}

#[test]
fn a_master_stays_against_a_demoted_openbsd_in_every_profile() -> Result<()> {
    for profile in ["ucarp", "freebsd", "openbsd"] {
        let carpd = format!("{SLOWER} --profile {profile}");
        somebody_remains(settings(Dialect::OpenBsd, 50, 1), &carpd)?;
    }
    Ok(())
}

#[test]
fn a_backup_takes_over_from_a_demoted_openbsd_in_every_profile() -> Result<()> {
    for options in [
        "--profile ucarp",
        "--profile ucarp -P",
        "--profile freebsd",
        "--profile freebsd -P",
        "--profile openbsd",
    ] {
        let pair = Pair::new(lab!())?;
        let model = Bsd::start(&pair.a, settings(Dialect::OpenBsd, 50, 0), true)?;
        let b = pair.carpd(&pair.b, &format!("{SLOWER} {options}"))?;
        pair.stays_the_only_master(&pair.a, 6)?;
        let begin = Instant::now();
        model.demote(1);
        let found = b.wait_for("Switching to state: MASTER", Duration::from_secs(3));
        let took = begin.elapsed();
        note(&format!(
            "an OpenBSD MASTER is demoted, carpd {options}: MASTER {} after {took:?}",
            found.is_ok()
        ));
        found.with_context(|| options.to_owned())?;
        ensure!(took < SLOWER_INTERVAL + NOISE, "{options}: {took:?}");
        pair.settles_on(&pair.b, SLOWER_INTERVAL * 3)?;
        ensure!(!model.is_master(), "{options}: the OpenBSD yielded");
    }
    Ok(())
}

#[test]
fn a_freebsd_that_repeats_an_openbsds_counters_with_other_priorities_is_heard() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let (openbsd, freebsd) = ([10, 9, 0, 1].into(), [10, 9, 0, 4].into());
    let air = Injector::open(&pair.a)?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    let (mark, line) = (pair.capture.mark(), b.mark());
    let say = |forgery: &Forgery| -> Result<()> {
        air.send(&forgery.frame())?;
        thread::sleep(Duration::from_millis(210));
        Ok(())
    };
    // A FreeBSD that has heard no other host, then the OpenBSD, which preempts.
    for counter in [0x1111, 0x1112, 0x1113] {
        say(&frame(freebsd, counter, 50))?;
    }
    let constant = COUNTER;
    let mut last = Instant::now();
    for advskew in [50, 70] {
        for _ in 0..6 {
            say(&frame(openbsd, constant, 20))?;
        }
        // It leaves, and the FreeBSD continues with its counter at once.
        air.send(&bow_out(openbsd, constant).frame())?;
        for above in 1..=6 {
            last = Instant::now();
            say(&frame(freebsd, constant + above, advskew))?;
        }
    }
    thread::sleep(NOISE / 3);
    let spoken = pair.capture.advertisements(mark, "b");
    let both = spoken.last().map_or(Duration::ZERO, |(at, _)| {
        let (first, _) = spoken[0];
        at.saturating_duration_since(first)
    });
    note(&format!(
        "a FreeBSD repeats an OpenBSD's counters: {} changes, {} advertisements of a second MASTER over {both:?}",
        changes(&b, line)?,
        spoken.len()
    ));
    ensure!(spoken.is_empty(), "carpd advertised {} times", spoken.len());
    // And when it dies, it is replaced in time.
    b.wait_for_after(line, "Switching to state: MASTER", LONG)?;
    let took = last.elapsed();
    ensure!(took < SLOWER_MASTER_DOWN + NOISE, "{took:?}");
    Ok(())
}

#[test]
fn the_bow_out_of_an_openbsd_is_obeyed_after_three_short_lives_of_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let source = pair.a.address();
    let air = Injector::open(&pair.a)?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    let line = b.mark();
    for counter in [
        0x5d1c_be63_43ab_3a35,
        0xcc08_4d42_b3ca_496f,
        0x16fa_42ef_2339_2951,
    ] {
        air.send(&frame(source, counter, 50).frame())?;
        thread::sleep(Duration::from_millis(500));
    }
    let counter = 0x738e_850b_0ded_5ba2;
    for _ in 0..12 {
        air.send(&frame(source, counter, 50).frame())?;
        thread::sleep(Duration::from_millis(210));
    }
    ensure!(changes(&b, line)? == 0, "it was heard all the time");
    let begin = Instant::now();
    air.send(&bow_out(source, counter).frame())?;
    b.wait_for_after(line, "Switching to state: MASTER", LONG)?;
    let took = begin.elapsed();
    note(&format!(
        "the bow-out of an OpenBSD after three short lives: obeyed after {took:?}"
    ));
    ensure!(took < NOISE, "{took:?}");
    Ok(())
}

/// A bow-out may be the first packet that this host, or one of its processors, receives from the OpenBSD.
#[test]
fn every_bow_out_of_an_openbsd_is_obeyed_however_soon_it_comes_again() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let source = pair.a.address();
    let air = Injector::open(&pair.a)?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    // A program that was attached a moment ago may miss the first frame.
    thread::sleep(Duration::from_millis(300));
    for round in 0..4 {
        let (line, begin) = (b.mark(), Instant::now());
        air.send(&bow_out(source, COUNTER).frame())?;
        b.wait_for_after(line, "Switching to state: MASTER", LONG)?;
        let took = begin.elapsed();
        note(&format!(
            "bow-out {round} of an OpenBSD: obeyed after {took:?}"
        ));
        ensure!(took < NOISE, "bow-out {round}: {took:?}");
        // It is back, and better.
        for _ in 0..6 {
            air.send(&frame(source, COUNTER, 50).frame())?;
            thread::sleep(Duration::from_millis(210));
        }
        let state = b.dump()?.state;
        ensure!(
            state == "BACKUP",
            "{state} beside the OpenBSD, round {round}"
        );
    }
    Ok(())
}

/// The successor continued with the OpenBSD's counter, so the others have heard what comes after that counter.
#[test]
fn the_bow_out_of_an_openbsd_is_obeyed_after_others_have_gone_on_with_its_counter() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let (openbsd, other) = (pair.a.address(), [10, 9, 0, 4].into());
    let air = Injector::open(&pair.a)?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    let line = b.mark();
    let say = |source, counter, advskew, times| -> Result<()> {
        for above in 0..times {
            // The OpenBSD's never changes.
            let above = if source == openbsd { 0 } else { above };
            air.send(&frame(source, counter + above, advskew).frame())?;
            thread::sleep(Duration::from_millis(210));
        }
        Ok(())
    };
    say(openbsd, COUNTER, 50, 5)?;
    air.send(&bow_out(openbsd, COUNTER).frame())?;
    for _ in 0..3 {
        say(other, COUNTER + 1, 70, 5)?;
        say(openbsd, COUNTER, 50, 8)?;
        ensure!(changes(&b, line)? == 0, "both were heard all the time");
    }
    let begin = Instant::now();
    air.send(&bow_out(openbsd, COUNTER).frame())?;
    b.wait_for_after(line, "Switching to state: MASTER", LONG)?;
    let took = begin.elapsed();
    note(&format!(
        "the bow-out of an OpenBSD whose counter others went on with: obeyed after {took:?}"
    ));
    ensure!(took < NOISE, "{took:?}");
    Ok(())
}

/// An attacker who heard its counter can advertise anything in its name, from any address. Its next advertisement
/// ends that.
#[test]
fn an_openbsd_is_believed_whatever_a_stranger_sends_in_its_name() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let (openbsd, stranger) = (pair.a.address(), [10, 9, 0, 77].into());
    let air = Injector::open(&pair.a)?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    let line = b.mark();
    let say = |forgery: Forgery, then: u64| -> Result<()> {
        air.send(&forgery.frame())?;
        thread::sleep(Duration::from_millis(then));
        Ok(())
    };
    for _ in 0..5 {
        say(frame(openbsd, COUNTER, 50), 200)?;
    }
    ensure!(changes(&b, line)? == 0, "an OpenBSD is MASTER");
    for round in 0..6 {
        say(frame(stranger, COUNTER, 0), 20)?;
        say(bow_out(stranger, COUNTER), 100)?;
        say(frame(openbsd, COUNTER, 50), 80)?;
        let changed = changes(&b, line)?;
        ensure!(changed.is_multiple_of(2), "round {round}: {changed}");
    }
    let changed = changes(&b, line)?;
    note(&format!(
        "a stranger in the name of an OpenBSD, six times: {changed} changes"
    ));
    ensure!(changed > 0, "nothing was tried");
    for _ in 0..8 {
        say(frame(openbsd, COUNTER, 50), 200)?;
    }
    ensure!(changes(&b, line)? == changed, "it goes on");
    Ok(())
}

#[test]
fn an_openbsd_with_zero_intervals_is_no_reason_to_flap() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let model = Bsd::start(&pair.a, settings(Dialect::OpenBsd, 0, 0), true)?;
    let _b = pair.carpd(&pair.b, "-b 0 -k 1")?;
    // It may not recognise the sender at once.
    thread::sleep(Duration::from_secs(1));
    let mark = pair.capture.mark();
    thread::sleep(Duration::from_secs(5));
    // Judged from the wire, because carpd limits the log lines about changes per minute.
    let spoken = pair.capture.advertisements(mark, "b").len();
    note(&format!(
        "an OpenBSD 0/0 and carpd 0/1: {spoken} advertisements of a second MASTER in 5 s"
    ));
    // Each stall of the model's thread for longer than 31 ms makes one or two.
    ensure!(spoken <= 6, "{spoken} advertisements of a second MASTER");
    ensure!(model.is_master());
    Ok(())
}

#[test]
fn of_two_equal_backups_in_a_bsd_profile_one_follows_a_bow_out() -> Result<()> {
    const ROUNDS: usize = 12;
    let lab = lab!();
    let third = lab.host("t", "10.9.0.4/16")?;
    let pair = Pair::with_addresses(lab, "10.9.0.1/16", "10.9.0.14/16")?;
    let equal = format!("{SLOWER} --profile freebsd");
    let (a, b) = (pair.carpd(&pair.a, &equal)?, pair.carpd(&pair.b, &equal)?);
    let air = Injector::open(&third)?;
    let mut followed = Vec::new();
    for round in 0..ROUNDS as u64 {
        // It was restarted: another test repeats a bow-out.
        let counter = COUNTER + (round << 32);
        // The successor of the last round yields to it again.
        for _ in 0..4 {
            air.send(&frame(third.address(), counter, 50).frame())?;
            thread::sleep(Duration::from_millis(210));
        }
        let mark = pair.capture.mark();
        air.send(&bow_out(third.address(), counter).frame())?;
        thread::sleep(Duration::from_millis(200));
        let spoken = |host| usize::from(!pair.capture.advertisements(mark, host).is_empty());
        followed.push(spoken("a") + spoken("b"));
    }
    note(&format!(
        "two equal carpds after a bow-out: {followed:?} of them followed"
    ));
    ensure!(
        followed.iter().all(|count| *count > 0),
        "nobody followed: {followed:?}; {:?} {:?}",
        a.dump()?.counters,
        b.dump()?.counters
    );
    // If the machine delays one of them for longer than their turns differ, there are sometimes two; without
    // turns it would happen every time.
    let double = followed.iter().filter(|count| **count > 1).count();
    ensure!(double <= ROUNDS / 2, "both followed: {followed:?}");
    Ok(())
}

#[test]
fn an_advertisement_that_is_sent_to_this_host_alone_is_warned_of() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    let unicast = frame(pair.a.address(), 0x0a67_36d6_2083_84b2, 50).with(|forgery| {
        forgery.ether_source = pair.a.mac();
        forgery.ether_destination = pair.b.mac();
        forgery.destination = pair.b.address();
        forgery.tos = 0xe0;
    });
    let air = Injector::open(&pair.a)?;
    for _ in 0..10 {
        air.send(&unicast.frame())?;
    }
    b.says_once("unicast").map(drop)
}

/// The OpenBSD's counter never changes, so an attacker who heard it once can advertise anything in its name, as with
/// another OpenBSD.
#[test]
fn in_the_name_of_an_openbsd_a_backup_is_misled_until_the_next_genuine_one() -> Result<()> {
    const ROUNDS: u32 = 5;
    let pair = Pair::new(lab!())?;
    let air = Injector::open(&pair.a)?;
    // Interval 195 ms.
    let model = Bsd::start(&pair.a, settings(Dialect::OpenBsd, 50, 0), true)?;
    let b = pair.carpd(&pair.b, SLOWER)?;
    thread::sleep(SLOWER_MASTER_DOWN);
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let line = b.mark();
        // Right after a genuine one: another one would revoke it before the BACKUP's turn.
        pair.capture
            .advertisements_reach(pair.capture.mark(), "a", 1, LONG)?;
        air.send(&bow_out(pair.a.address(), COUNTER).frame())?;
        let misled = b.wait_for_after(line, "Switching to state: MASTER", LONG)?;
        let over = b.wait_for_after(line, "Switching to state: BACKUP", LONG)?;
        let two = over.at.saturating_duration_since(misled.at);
        note(&format!(
            "a forged bow-out of an OpenBSD, {round}: two MASTERs for {two:?}"
        ));
        longest = longest.max(two);
        thread::sleep(SLOWER_INTERVAL);
    }
    ensure!(longest < SKEW_STEP * 50 * 3 + NOISE, "{longest:?}");
    ensure!(model.is_master());
    Ok(())
}
