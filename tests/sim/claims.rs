//! ARP claims of a virtual address by another host, and the answers of the MASTER.

use std::time::Duration;

use carp_tests::sim::scenario::mishap::Mishap;
use carp_tests::sim::scenario::{Fault, START, Scenario};

use super::{PROFILES, hosts, ms, run, s};

/// Returns how often host 0 announces in each of these spans, while another host claims its address at each of these
/// times. With `as_carp`, the claims carry the mark of a carpd.
fn announced(
    advskews: &[u8],
    as_carp: bool,
    times: impl Iterator<Item = u64>,
    spans: &[(Duration, Duration)],
) -> Vec<usize> {
    let claim = Fault::Mishap(0, Mishap::Claim(as_carp));
    let faults: Vec<_> = times.map(|at| (ms(at), claim)).collect();
    let outcome = run(&Scenario::staged(
        hosts(PROFILES[0], advskews),
        &faults,
        s(60),
    ));
    let mine = outcome.announcements.iter().filter(|(_, who)| *who == 0);
    let mine: Vec<_> = mine.map(|(at, _)| *at).collect();
    let within = |(from, to): &(Duration, Duration)| {
        let inside = mine
            .iter()
            .filter(|at| (START + *from..START + *to).contains(*at));
        inside.count()
    };
    spans.iter().map(within).collect()
}

#[test]
fn a_master_answers_an_ordinary_host_each_time_and_another_carp_master_once_in_ten_seconds() {
    // The announcements after the takeover at 3 s are over.
    let spans = [(s(20), s(50))];
    let each_second = || (20_000..50_000).step_by(1_100);
    let answers = announced(&[0], false, each_second(), &spans);
    assert_eq!(answers, [each_second().count()]);
    assert_eq!(announced(&[0], true, each_second(), &spans), [3]);
}

#[test]
fn a_claim_does_not_count_right_after_a_takeover_or_for_a_backup() {
    // Alone, it is MASTER from 3 s on, and announces at 3, 5 and 8 s.
    let early = [3_300, 3_400].into_iter();
    let spans = [(ms(3_200), ms(3_500))];
    assert_eq!(announced(&[0], false, early, &spans), [0]);
    let as_backup = (20_000..30_000).step_by(1_100);
    assert_eq!(
        announced(&[100, 0], false, as_backup, &[(s(10), s(60))]),
        [0]
    );
}

#[test]
fn a_master_that_stepped_down_answers_no_claim() {
    // It stays away for 3 s, and then listens for as long again.
    let mut faults = vec![(s(20), Fault::StepDown(0))];
    for at in [21, 23, 25] {
        faults.push((s(at), Fault::Mishap(0, Mishap::Claim(false))));
    }
    let outcome = run(&Scenario::staged(hosts(PROFILES[0], &[0]), &faults, s(40)));
    let mut all = outcome.announcements.iter();
    assert!(!all.any(|(at, _)| (START + ms(20_100)..START + s(26)).contains(at)));
}

#[test]
fn a_claim_is_not_answered_while_another_master_is_heard() {
    // Host 1 is worse and also MASTER; when they meet, its last advertisement counts for 3 s.
    let claim = |at| (ms(at), Fault::Mishap(0, Mishap::Claim(false)));
    let apart = [(ms(1), Fault::Partition(0b01)), (s(20), Fault::Heal)];
    let faults = [&apart[..], &[claim(22_500), claim(40_000)]].concat();
    let outcome = run(&Scenario::staged(
        hosts(PROFILES[0], &[0, 100]),
        &faults,
        s(60),
    ));
    let answers = |from, to| {
        let mut all = outcome.announcements.iter();
        all.any(|(at, who)| *who == 0 && (START + from..START + to).contains(at))
    };
    assert!(!answers(ms(22_500), ms(22_600)));
    assert!(answers(s(40), ms(40_100)));
}
