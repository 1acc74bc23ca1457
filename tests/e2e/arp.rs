//! Other hosts that claim the address by ARP, in every form that a client believes, and ARP that no host believes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::flood::Flood;
use carp_tests::lab::note;
use carp_tests::{Cable, Host, Injector, Mac, Mark, Quality, eventually, lab, usage};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

const THIEF: Mac = Mac([2, 0, 0, 0, 0x66, 0x66]);

/// A claim of the address, with something about it changed.
fn claim(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = carp_tests::client::arp_request(THIEF, ADDRESS, ADDRESS);
    change(&mut frame[14..]);
    frame
}

/// How often `host` announced the address after `mark`.
fn announcements(pair: &Pair, mark: Mark, host: &Host) -> usize {
    let all = pair.capture.after(mark);
    let announced = all.iter().filter(|captured| {
        let arp = captured.arp_from(host.name());
        arp.is_some_and(|arp| arp.is_gratuitous_for(ADDRESS))
    });
    announced.count()
}

#[test]
fn another_host_that_claims_the_address_is_named_once_and_answered_once_a_second() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let injector = Injector::open(&pair.c)?;
    // Both announcements of the takeover have passed, and so has the time in which an earlier MASTER might still answer.
    pair.capture
        .advertisements_reach(Mark::default(), "a", 12, LONG)?;
    let (mark, start) = (pair.capture.mark(), Instant::now());
    eventually("it is named", LONG, || {
        injector.send(&claim(|_| ()))?;
        let named = a.lines_with(&format!("{ADDRESS} is also at {THIEF}"));
        Ok((!named.is_empty()).then_some(()))
    })?;
    let flood_until = Instant::now() + Duration::from_millis(2500);
    let mut sent = 0_u64;
    while Instant::now() < flood_until {
        injector.send(&claim(|_| ()))?;
        sent += 1;
        // The interval of the attacker, which does not overload the capture.
        std::thread::sleep(Duration::from_millis(1));
    }
    eventually("most of it is counted", LONG, || {
        let counted = a.dump()?.counter("arp-conflicts")?;
        Ok((counted > sent / 2).then_some(()))
    })?;
    let announcements = announcements(&pair, mark, &pair.a);
    // One each second, at both ends, and the late one of the takeover.
    let most = usize::try_from(start.elapsed().as_secs())? + 3;
    ensure!(
        (2..=most).contains(&announcements),
        "{announcements} announcements, {most} at most"
    );
    a.says_once("is also at")?;
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn another_host_that_only_answers_for_the_address_is_found() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // Only its answers to other hosts reveal it.
    pair.c.ip("address add 10.9.0.100/32 dev eth0")?;
    let a = pair.master(&pair.a, FAST)?;
    a.wait_for(&format!("{ADDRESS} is also at {}", pair.c.mac()), LONG)?;
    ensure!(a.dump()?.counter("arp-conflicts")? >= 1);
    Ok(())
}

#[test]
fn a_backup_and_a_takeover_see_no_conflict() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    let injector = Injector::open(&pair.c)?;
    for _ in 0..20 {
        injector.send(&claim(|_| ()))?;
    }
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.dump()?.counter("arp-conflicts")? == 0);
    let mark = pair.capture.mark();
    ensure!(a.terminate(LONG)? == 0);
    pair.capture.advertisements_reach(mark, "b", 10, LONG)?;
    let dump = b.dump()?;
    ensure!(dump.state == "MASTER" && dump.counter("arp-conflicts")? == 0);
    Ok(())
}

#[test]
fn a_claim_with_hardware_type_6_is_seen_named_and_answered() -> Result<()> {
    const CLAIMS: u64 = 4;
    let pair = Pair::new(lab!())?;
    // Slow timers, because the fence of a late MASTER drops ARP requests for the address, and these claims are such
    // requests too.
    let a = pair.master(&pair.a, "-b 1 -k 0 -r 2")?;
    pair.capture
        .advertisements_reach(Mark::default(), "a", 3, LONG)?;
    let client = pair.client()?;
    let (start, injector) = (Instant::now(), Injector::open(&pair.b)?);
    for _ in 0..CLAIMS {
        injector.send(&claim(|arp| arp[1] = 6))?;
        std::thread::sleep(Duration::from_millis(2500));
    }
    let lost: Duration = client.outages(start).iter().map(|it| it.duration()).sum();
    note(&format!(
        "{CLAIMS} claims with hardware type 6 in {:?}: the client missed {lost:?}",
        start.elapsed()
    ));
    a.wait_for(&format!("{ADDRESS} is also at {THIEF}"), LONG)?;
    ensure!(a.dump()?.counter("arp-conflicts")? >= CLAIMS);
    ensure!(lost < Duration::from_secs(3), "{lost:?}");
    Ok(())
}

#[test]
fn a_flood_of_arp_that_nobody_believes_costs_nothing() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    pair.capture
        .advertisements_reach(Mark::default(), "a", 12, LONG)?;
    let frames = vec![
        claim(|arp| arp[1] = 7),
        claim(|arp| arp[2] = 0x86),
        claim(|arp| arp[4] = 8),
        claim(|arp| arp[5] = 16),
        claim(|arp| arp[7] = 9),
    ];
    let pids = pair.a.pids()?;
    let (before, start) = (usage::cpu_time(&pids)?, Instant::now());
    let flood = Flood::towards(&pair.a, frames, Some(1), None)?;
    // There is nothing to wait for: the test is about endurance.
    std::thread::sleep(Duration::from_secs(5));
    let offered = flood.finish();
    let spent = usage::cpu_time(&pids)? - before;
    let permille = spent.as_nanos() * 1000 / start.elapsed().as_nanos();
    note(&format!(
        "ARP that nobody believes, {} packets/s: {}.{} % of a core",
        offered.rate(),
        permille / 10,
        permille % 10
    ));
    ensure!(
        offered.rate() >= 20_000,
        "{} packets/s are no flood",
        offered.rate()
    );
    ensure!(permille < 50, "{permille} ‰ of a core");
    ensure!(a.dump()?.state == "MASTER");
    Ok(())
}

#[test]
fn two_carp_masters_that_do_not_hear_each_other_defend_once_in_10_s() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let cable = Cable::splice(&pair.b)?;
    cable.from_host(Quality::WithoutCarp);
    cable.to_host(Quality::WithoutCarp);
    let a = pair.master(&pair.a, FAST)?;
    let b = pair.master(&pair.b, SLOW)?;
    // b announces its takeover, which identifies it; before that, a may answer its ARP request, as any host would.
    a.wait_for("another CARP MASTER answers ARP for it", LONG)?;
    b.wait_for(&format!("{ADDRESS} is also at {}", pair.a.mac()), LONG)?;
    // The announcements of the takeovers have passed.
    std::thread::sleep(Duration::from_secs(6));
    // Each asks every 10 s, and an answer may come just before the other one defends again: two rounds.
    let (mark, window) = (pair.capture.mark(), Duration::from_secs(22));
    std::thread::sleep(window);
    let defences = [&pair.a, &pair.b].map(|host| announcements(&pair, mark, host));
    note(&format!(
        "two MASTERs that do not hear each other announced {defences:?} times in {window:?}"
    ));
    ensure!(
        defences.iter().all(|count| (1..=3).contains(count)),
        "{defences:?} announcements in {window:?}"
    );
    ensure!(a.dump()?.state == "MASTER" && b.dump()?.state == "MASTER");
    Ok(())
}

#[test]
fn an_ordinary_host_that_claims_beside_a_carp_master_is_answered_every_second() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    pair.capture
        .advertisements_reach(Mark::default(), "a", 12, LONG)?;
    // The mark of a carpd, from another station.
    let mut marked = claim(|arp| arp[13] = 0x77);
    marked[11] = 0x77;
    marked.extend(*b"CARP");
    marked.resize(60, 0);
    let injector = Injector::open(&pair.c)?;
    let (mark, start) = (pair.capture.mark(), Instant::now());
    eventually("four answers", LONG, || {
        injector.send(&marked)?;
        injector.send(&claim(|_| {}))?;
        Ok((announcements(&pair, mark, &pair.a) >= 4).then_some(()))
    })?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(7), "four answers took {took:?}");
    a.wait_for(&format!("{ADDRESS} is also at {THIEF}"), LONG)?;
    Ok(())
}
