//! When a MASTER announces its address, and for how long a client cannot reach it until then.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carp_tests::lab::note;
use carp_tests::{Host, Mark, eventually, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// The last announcement comes five seconds after a takeover.
const LATE: Duration = Duration::from_secs(5);
/// An allowance for a busy machine.
const NOISE: Duration = Duration::from_secs(1);

/// When `host` announced the address, after `mark`.
fn announcements(pair: &Pair, mark: Mark, host: &Host) -> Vec<Instant> {
    let all = pair.capture.after(mark);
    let announced = all.iter().filter(|captured| {
        let arp = captured.arp_from(host.name());
        arp.is_some_and(|arp| arp.is_gratuitous_for(ADDRESS))
    });
    announced.map(|captured| captured.at).collect()
}

/// Waits until `host` has announced once more [`LATE`] after `since`, with an allowance for a busy machine: the event at
/// `since` may have delayed the host, and the other announcements come in the first half second.
fn late_announcement(pair: &Pair, mark: Mark, host: &Host, since: Instant) -> Result<Instant> {
    eventually("the late announcement", LONG, || {
        let all = announcements(pair, mark, host);
        let late = since + LATE - NOISE;
        Ok(all.into_iter().find(|at| *at >= late))
    })
}

#[test]
fn a_change_of_the_mac_address_is_announced_at_once_and_again() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let client = pair.client()?;
    // The announcements of the takeover have passed.
    late_announcement(&pair, Mark::default(), &pair.a, first_word(&pair, &pair.a)?)?;
    let (mark, start) = (pair.capture.mark(), Instant::now());
    pair.a.ip("link set eth0 address 02:00:00:00:00:aa")?;
    client.wait_for_answer(LONG)?;
    let late = late_announcement(&pair, mark, &pair.a, start)?;
    let outage = client.longest_outage(start);
    let all = announcements(&pair, mark, &pair.a);
    note(&format!(
        "after a change of the MAC address the client missed {outage:?}; {} announcements, the last after {:?}",
        all.len(),
        late.duration_since(start)
    ));
    ensure!(outage < Duration::from_secs(2), "{outage:?}");
    ensure!(all.len() == 3, "{} announcements", all.len());
    a.says_once("02:00:00:00:00:aa")?;
    pair.only_master_since(mark, &pair.a)
}

/// When `host` first advertised.
fn first_word(pair: &Pair, host: &Host) -> Result<Instant> {
    let (first, _) = pair
        .capture
        .advertisement(Mark::default(), host.name(), LONG)?;
    Ok(first.at)
}

#[test]
fn a_client_whose_port_was_blocked_during_the_takeover_hears_the_announcement_of_5_s_later()
-> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut a = pair.master(&pair.a, FAST)?;
    let b = pair.carpd(&pair.b, SLOW)?;
    let client = pair.client()?;
    let mark = pair.capture.mark();
    // As spanning tree or LACP blocks a port that has just come up.
    pair.c.isolate()?;
    let blocked = Instant::now();
    ensure!(a.terminate(LONG)? == 0);
    let (takeover, _) = pair.capture.advertisement(mark, "b", LONG)?;
    std::thread::sleep(Duration::from_millis(3500).saturating_sub(blocked.elapsed()));
    pair.c.rejoin()?;
    let late = late_announcement(&pair, mark, &pair.b, takeover.at)?;
    let after = late.duration_since(takeover.at);
    ensure!(after < LATE + NOISE, "{after:?} after the takeover");
    client.wait_for_answer(LONG)?;
    let outage = client.longest_outage(blocked);
    note(&format!(
        "a client whose port was blocked for 3.5 s at a takeover missed {outage:?}"
    ));
    ensure!(outage < LATE + 2 * NOISE, "{outage:?}");
    // Without --announce-refresh there are three: now, two intervals later, and late.
    std::thread::sleep(2 * NOISE);
    let all = announcements(&pair, mark, &pair.b);
    ensure!(
        all.iter().filter(|at| **at > late).count() == 0,
        "{} more",
        all.len()
    );
    ensure!(b.dump()?.state == "MASTER");
    Ok(())
}

#[test]
fn with_a_refresh_a_master_goes_on_announcing() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, &format!("{FAST} --announce-refresh 1"))?;
    let since = first_word(&pair, &pair.a)?;
    let late = late_announcement(&pair, Mark::default(), &pair.a, since)?;
    eventually("four more announcements", LONG, || {
        let all = announcements(&pair, Mark::default(), &pair.a);
        let more: Vec<_> = all.into_iter().filter(|at| *at > late).collect();
        Ok((more.len() >= 4).then_some(more))
    })
    .and_then(|more| {
        let took = more[3].duration_since(late);
        ensure!(took > 4 * NOISE - NOISE / 4, "four in {took:?}");
        Ok(())
    })
}
