//! carpd and the real ucarp on one link.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Carp, Carpd, Lab, Mac, Mark, Ucarp, lab};

use crate::support::{ADDRESS, LONG, Pair, SECOND, SECOND_WORSE};

#[test]
fn ucarp_is_backup_under_a_better_carpd_and_takes_over_when_it_crashes() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, SECOND)?;
    let b = Ucarp::new(&pair.b, ADDRESS, SECOND_WORSE).start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 4)?;
    ensure!(b.lines_with("Bad digest").is_empty());
    a.kill()?;
    b.wait_for("Switching to state: MASTER", LONG)?;
    pair.capture.advertisement(pair.capture.mark(), "b", LONG)?;
    Ok(())
}

#[test]
fn carpd_is_backup_under_a_better_ucarp_and_takes_over_when_it_crashes() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = Ucarp::new(&pair.a, ADDRESS, SECOND).start(&pair.a)?;
    a.wait_for("Switching to state: MASTER", LONG)?;
    let b = pair.carpd(&pair.b, SECOND_WORSE)?;
    pair.stays_the_only_master(&pair.a, 4)?;
    ensure!(b.dump()?.state == "BACKUP");
    let mark = pair.capture.mark();
    a.kill()?;
    pair.capture.advertisement(mark, "b", LONG)?;
    let _client = pair.client()?;
    pair.is_owned_by(&pair.b)
}

#[test]
fn a_better_carpd_with_preempt_takes_over_from_ucarp() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let b = Ucarp::new(&pair.b, ADDRESS, SECOND_WORSE).start(&pair.b)?;
    b.wait_for("Switching to state: MASTER", LONG)?;
    let _a = pair.carpd(&pair.a, "-b 1 -k 0 -r 3 -P")?;
    pair.settles_on(&pair.a, Duration::from_secs(3))?;
    let _client = pair.client()?;
    pair.is_owned_by(&pair.a)
}

#[test]
fn a_better_carpd_without_preempt_lets_ucarp_be() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let b = Ucarp::new(&pair.b, ADDRESS, "-b 1 -k 50 -r 3").start(&pair.b)?;
    b.wait_for("Switching to state: MASTER", LONG)?;
    let _a = pair.carpd(&pair.a, "-b 1 -k 0 -r 3")?;
    pair.stays_the_only_master(&pair.b, 4)
}

#[test]
fn a_better_ucarp_with_preempt_takes_over_from_carpd() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, SECOND_WORSE)?;
    let a = Ucarp::new(&pair.a, ADDRESS, "-b 1 -k 0 -r 3 -P").start(&pair.a)?;
    a.wait_for("Switching to state: MASTER", LONG)?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    pair.settles_on(&pair.a, Duration::from_secs(3))
}

#[test]
fn a_better_ucarp_without_preempt_lets_carpd_be() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, "-b 1 -k 50 -r 1")?;
    let a = Ucarp::new(&pair.a, ADDRESS, "-b 1 -k 0 -r 3").start(&pair.a)?;
    pair.stays_the_only_master(&pair.b, 4)?;
    ensure!(a.lines_with("Switching to state: MASTER").is_empty());
    Ok(())
}

#[test]
fn ucarp_follows_carpd_that_bows_out_at_once() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, SECOND)?;
    // ucarp's own master-down time would be 10 s.
    let _b = Ucarp::new(&pair.b, ADDRESS, "-b 1 -k 0 -r 10").start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 2)?;
    let mark = pair.capture.mark();
    let start = Instant::now();
    ensure!(a.terminate(LONG)? == 0);
    let (first, _) = pair.capture.advertisement(mark, "b", LONG)?;
    // ucarp looks at its buffer once a second.
    let took = first.at.duration_since(start);
    ensure!(took < Duration::from_secs(4), "{took:?}");
    Ok(())
}

#[test]
fn a_returning_carpd_and_the_ucarp_master_it_meets_settle_on_the_better_one() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, SECOND)?;
    pair.b.isolate()?;
    let b = Ucarp::new(&pair.b, ADDRESS, SECOND_WORSE).start(&pair.b)?;
    b.wait_for("Switching to state: MASTER", LONG)?;
    pair.b.rejoin()?;
    pair.settles_on(&pair.a, Duration::from_secs(3))
}

/// carpd as MASTER, ucarp as BACKUP with the same settings: for longer than ucarp's master-down time ucarp believes
/// every packet. Returns one of carpd's packets.
fn ucarp_believes_carpd(lab: Lab, carpd: Carpd, ucarp: &str, expected: Expected) -> Result<Carp> {
    let pair = Pair::new(lab)?;
    // ucarp joins the group on the interface that has its source address.
    pair.b.ip("address add 10.9.8.8/16 dev eth0")?;
    let mark = pair.capture.mark();
    let a = carpd.start(&pair.a)?;
    let (_, carp) = pair
        .capture
        .advertisement(mark, "a", LONG)
        .with_context(|| a.transcript())?;
    let arguments = format!("-i eth0 -f none {ucarp}")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let b = Ucarp::with_arguments(arguments).start(&pair.b)?;
    let (mark, start) = (pair.capture.mark(), Instant::now());
    // ucarp is up to a second late.
    while start.elapsed() < expected.master_down + Duration::from_millis(1500) {
        pair.capture.advertisement(pair.capture.mark(), "a", LONG)?;
    }
    pair.only_master_since(mark, &pair.a)?;
    ensure!(
        b.lines_with("Switching to state: MASTER").is_empty(),
        "ucarp did not hear carpd"
    );
    ensure!(
        b.lines_with("Bad digest").is_empty(),
        "ucarp did not believe carpd"
    );

    // Conversely, carpd believes ucarp.
    drop(a);
    b.wait_for("Switching to state: MASTER", LONG)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    let a = carpd.start(&pair.a)?;
    pair.stays_the_only_master(&pair.b, expected.advertisements)?;
    ensure!(
        a.dump()?.counter("dropped-bad-authentication")? == 0,
        "carpd did not believe ucarp"
    );
    Ok(carp)
}

/// How long ucarp's silence may last, and how many of its advertisements carpd must believe.
struct Expected {
    master_down: Duration,
    advertisements: usize,
}

const QUICK: Expected = Expected {
    master_down: Duration::from_millis(3400),
    advertisements: 4,
};

#[test]
fn ucarp_and_carpd_agree_about_another_group() -> Result<()> {
    let group = Ipv4Addr::new(239, 192, 0, 7);
    let carpd = Carpd::for_address(ADDRESS, "-b 1 -k 0 -r 3 -m 239.192.0.7")?;
    // ucarp documents -m and --mcast but accepts neither; its parser knows --mcastip.
    let ucarp =
        format!("-v 7 -p secret -a {ADDRESS} -s 10.9.0.2 -b 1 -k 50 -r 3 --mcastip=239.192.0.7");
    let carp = ucarp_believes_carpd(lab!(), carpd, &ucarp, QUICK)?;
    ensure!(
        (carp.destination, carp.ether_destination) == (group, Mac::of_group(group)),
        "{carp:?}"
    );
    Ok(())
}

#[test]
fn ucarp_and_carpd_agree_about_broadcast() -> Result<()> {
    let carpd = Carpd::for_address(ADDRESS, "-b 1 -k 0 -r 3 -M")?;
    let ucarp = format!("-v 7 -p secret -a {ADDRESS} -s 10.9.0.2 -b 1 -k 50 -r 3 -M");
    let carp = ucarp_believes_carpd(lab!(), carpd, &ucarp, QUICK)?;
    ensure!(
        carp.destination == carp_tests::packet::GROUP,
        "the IP destination stays the group: {carp:?}"
    );
    ensure!(carp.ether_destination == Mac::BROADCAST, "{carp:?}");
    Ok(())
}

#[test]
fn ucarp_and_carpd_agree_about_advskew_and_source() -> Result<()> {
    let carpd = Carpd::for_address(ADDRESS, "-b 1 -k 40 -r 3 -s 10.9.7.7")?;
    let ucarp = format!("-v 7 -p secret -a {ADDRESS} -s 10.9.8.8 -b 1 -k 100 -r 3");
    let carp = ucarp_believes_carpd(lab!(), carpd, &ucarp, QUICK)?;
    ensure!((carp.advbase, carp.advskew) == (1, 40), "{carp:?}");
    ensure!(carp.source == Ipv4Addr::new(10, 9, 7, 7), "{carp:?}");
    Ok(())
}

#[test]
fn ucarp_and_carpd_agree_about_advbase_2() -> Result<()> {
    let carpd = Carpd::for_address(ADDRESS, "-b 2 -k 0 -r 2")?;
    let ucarp = format!("-v 7 -p secret -a {ADDRESS} -s 10.9.0.2 -b 2 -k 50 -r 2");
    let expected = Expected {
        master_down: Duration::from_millis(4200),
        advertisements: 3,
    };
    let carp = ucarp_believes_carpd(lab!(), carpd, &ucarp, expected)?;
    ensure!((carp.advbase, carp.advskew) == (2, 0), "{carp:?}");
    Ok(())
}

#[test]
fn ucarp_and_carpd_agree_about_vhid_255_and_a_password_of_19_characters() -> Result<()> {
    let common = format!("-v 255 -p 1234567890123456789 -a {ADDRESS}");
    let carpd = Carpd::new(&format!("{common} -b 1 -k 0 -r 3"))?;
    let ucarp = format!("{common} -s 10.9.0.2 -b 1 -k 50 -r 3");
    let carp = ucarp_believes_carpd(lab!(), carpd, &ucarp, QUICK)?;
    ensure!(
        carp.vhid == 255 && carp.is_authentic("1234567890123456789", &[ADDRESS]),
        "{carp:?}"
    );
    Ok(())
}

#[test]
fn our_packet_looks_like_ucarps() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, "-b 1 -k 0 -r 1")?;
    let (_, ours) = pair.capture.advertisement(Mark::default(), "a", LONG)?;
    // Separated: with equal settings, neither must hear the other.
    pair.b.isolate()?;
    let _b = Ucarp::new(&pair.b, ADDRESS, "-b 1 -k 0 -r 1").start(&pair.b)?;
    let (_, theirs) = pair.capture.advertisement(Mark::default(), "b", LONG)?;
    let same_but = |ours: &Carp| Carp {
        source: theirs.source,
        counter: theirs.counter,
        digest: theirs.digest,
        ..ours.clone()
    };
    ensure!(
        same_but(&ours) == theirs,
        "\nours:   {ours:?}\ntheirs: {theirs:?}"
    );
    ensure!(ours.source == pair.a.address());
    Ok(())
}

#[test]
fn each_profile_sends_what_its_model_sends() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for (profile, ether_source, tos) in [
        ("ucarp", [0, 0, 0x5e, 0, 0, 7], 0x10),
        ("freebsd", [0, 0, 0x5e, 0, 1, 7], 0xe0),
        ("openbsd", [0, 0, 0x5e, 0, 1, 7], 0x10),
    ] {
        let mark = pair.capture.mark();
        let _a = pair.master(&pair.a, &format!("-b 0 -k 10 --profile {profile}"))?;
        let (_, carp) = pair.capture.advertisement(mark, "a", LONG)?;
        ensure!(
            (carp.ether_source, carp.tos) == (Mac(ether_source), tos),
            "{profile}: {carp:?}"
        );
        ensure!(
            carp.ttl == 255 && carp.checksums_valid && carp.dont_fragment,
            "{profile}: {carp:?}"
        );
    }
    Ok(())
}
