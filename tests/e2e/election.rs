//! Two carpd: which one is MASTER, and which one becomes MASTER again.

use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::{Mark, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SKEW_STEP, SLOW};

#[test]
fn the_first_carpd_becomes_master_and_the_client_reaches_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let _client = pair.client()?;
    pair.is_owned_by(&pair.a)
}

#[test]
fn a_new_master_advertises_and_announces_its_address() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let announced = |mark| {
        pair.capture
            .wait_after(mark, "a gratuitous ARP", LONG, |captured| {
                captured
                    .arp_from("a")
                    .filter(|arp| arp.is_gratuitous_for(ADDRESS))
                    .cloned()
            })
    };
    let (first, arp) = announced(Mark::default())?;
    ensure!(
        arp.sender == pair.a.mac(),
        "the address must be announced at the interface's MAC: {arp:?}"
    );
    let (advertised, carp) = pair.capture.advertisement(Mark::default(), "a", LONG)?;
    ensure!(
        advertised.at <= first.at,
        "the advertisement comes before the announcement"
    );
    ensure!(
        carp.checksums_valid && carp.is_authentic("secret", &[ADDRESS]),
        "{carp:?}"
    );
    // A second announcement follows two advertisements later, for the client that missed the first.
    pair.capture
        .advertisements_reach(Mark::default(), "a", 4, LONG)?;
    let all = pair.capture.after(Mark::default());
    let announcements = all.iter().filter_map(|captured| captured.arp_from("a"));
    let announcements = announcements
        .filter(|arp| arp.is_gratuitous_for(ADDRESS))
        .count();
    ensure!(announcements >= 2, "{announcements} announcements");
    Ok(())
}

#[test]
fn a_master_advertises_at_its_interval_and_does_not_drift() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    pair.capture
        .advertisements_reach(Mark::default(), "a", 31, LONG)?;
    let sent = pair.capture.advertisements(Mark::default(), "a");
    let took = sent[30].0.duration_since(sent[0].0);
    let exact = 30 * 25 * SKEW_STEP;
    ensure!(
        took.abs_diff(exact) < exact / 10,
        "30 intervals took {took:?}, exactly they are {exact:?}"
    );
    Ok(())
}

#[test]
fn of_two_carpd_exactly_one_is_master_and_holds_the_address() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 20)?;
    pair.is_owned_by(&pair.a)?;
    ensure!(pair.a.has_address(ADDRESS)? && !pair.b.has_address(ADDRESS)?);
    Ok(())
}

#[test]
fn after_a_crash_the_backup_takes_over_and_the_client_reaches_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    let client = pair.client()?;
    let mark = pair.capture.mark();
    a.kill()?;
    pair.a.unplug()?;
    pair.capture.advertisement(mark, "b", LONG)?;
    client.wait_for_answer(LONG)?;
    pair.is_owned_by(&pair.b)
}

#[test]
fn a_better_carpd_that_returns_with_preempt_takes_the_address_back() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, SLOW)?;
    let _a = pair.carpd(&pair.a, &format!("{FAST} --preempt"))?;
    pair.settles_on(&pair.a, Duration::from_secs(1))?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    pair.is_owned_by(&pair.a)
}

#[test]
fn a_better_carpd_that_returns_without_preempt_stays_backup() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, FAST)?;
    let _a = pair.carpd(&pair.a, "-b 0 -k 24 -r 8")?;
    pair.stays_the_only_master(&pair.b, 20)?;
    pair.is_owned_by(&pair.b)
}

#[test]
fn a_worse_carpd_with_preempt_does_not_disturb_a_better_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, &format!("{SLOW} -P"))?;
    pair.stays_the_only_master(&pair.a, 20)
}

#[test]
fn a_master_that_meets_a_better_one_yields_and_the_winner_announces_again() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, SLOW)?;
    pair.a.isolate()?;
    let _a = pair.master(&pair.a, FAST)?;
    let mark = pair.capture.mark();
    pair.a.rejoin()?;
    pair.settles_on(&pair.a, Duration::from_secs(1))?;
    pair.capture
        .wait_after(mark, "the winner announces again", LONG, |captured| {
            captured
                .arp_from("a")
                .filter(|arp| arp.is_gratuitous_for(ADDRESS))
                .map(drop)
        })?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    let _client = pair.client()?;
    pair.is_owned_by(&pair.a)
}

#[test]
fn a_master_without_carrier_leaves_the_address_and_returns_as_backup() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    let mark = pair.capture.mark();
    pair.a.unplug()?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.a.plug_in()?;
    pair.stays_the_only_master(&pair.b, 10)?;
    pair.is_owned_by(&pair.b)
}

#[test]
fn the_address_is_added_alone_whatever_its_prefix_and_removed_when_the_master_yields() -> Result<()>
{
    let pair = Pair::new(lab!())?;
    let mark = pair.capture.mark();
    let carpd = carp_tests::Carpd::new(&format!("-v 7 -p secret --addr {ADDRESS}/24 {SLOW}"))?;
    let _b = carpd.start(&pair.b)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.b.wait_for_address(ADDRESS, true, LONG)?;
    let line = pair.b.address_line(ADDRESS)?.unwrap_or_default();
    ensure!(line.contains("10.9.0.100/32"), "{line}");
    // The prefix concerns only the interface: advertisements of a peer without one are authentic all the same.
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P"))?;
    pair.settles_on(&pair.a, Duration::from_secs(1))?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    let line = pair.a.address_line(ADDRESS)?.unwrap_or_default();
    ensure!(line.contains("10.9.0.100/32"), "{line}");
    Ok(())
}
