//! Behaviour of real BSDs, and attacks in their name.

use carp_tests::sim::scenario::plan::{Disguise, Ploy, Shown};

use super::recordings::{latest_of, plan};
use super::*;

/// A carpd with this profile and a model of an OpenBSD or FreeBSD.
fn with_bsd(profile: Profile, ours: u8, dialect: Dialect, theirs: u8) -> Vec<Member> {
    vec![
        Member::usual(Implementation::Carpd(profile), 2, ours),
        Member::usual(Implementation::Model(dialect), 1, theirs),
    ]
}

#[test]
fn a_tie_with_a_bsd_leaves_one_master_at_once() {
    // carpd is MASTER, hangs, and then hears the counters with which its successor continued.
    let mut members = with_bsd(Profile::Ucarp, 0, Dialect::FreeBsd, 0);
    members[1].start = members[1].start + s(5);
    let faults = [(s(10), Fault::Hang(0)), (s(15), Fault::Resume(0))];
    for seed in 0..10 {
        let mut scenario = Scenario::staged(members.clone(), &faults, s(20));
        scenario.seed = seed;
        let outcome = run(&scenario);
        assert_eq!(outcome.masters(), [1]);
        let reigns = (outcome.reigns(0).count(), outcome.reigns(1).count());
        assert_eq!(reigns, (1, 1), "chance {seed}: both yielded");
    }
}

#[test]
fn a_demoted_openbsd_makes_way_for_every_profile() {
    for profile in PROFILES {
        let mut members = with_bsd(profile, 100, Dialect::OpenBsd, 0);
        members[0].start = members[0].start + s(5);
        let faults = [(s(20), Fault::Demote(1, 1))];
        let outcome = run(&Scenario::staged(members, &faults, s(30)));
        assert_eq!(outcome.reigns(0).count(), 1, "{profile:?}");
    }
}

#[test]
fn an_openbsd_is_recognized_after_three_short_lives() {
    let mut members = with_bsd(Profile::OpenBsd, 100, Dialect::OpenBsd, 0);
    members[1].mortal = true;
    members[0].start = members[0].start + s(1);
    // It becomes MASTER 3 s after each start and disappears after one advertisement; then it stays.
    let mut faults = Vec::new();
    for life in 0..3 {
        faults.extend([
            (ms(3_100 + 3_100 * life), Fault::Crash(1)),
            (ms(3_110 + 3_100 * life), Fault::Start(1)),
        ]);
    }
    faults.push((s(30), Fault::Stop(1)));
    let outcome = run(&Scenario::staged(members, &faults, s(40)));
    let takeover = outcome.reigns(0).last().expect("host 1 is gone");
    assert!((s(30)..ms(30_100)).contains(&takeover), "{takeover:?}");
}

#[test]
fn an_openbsd_is_believed_whatever_is_sent_in_its_name() {
    let mut scenario = Scenario::staged(
        with_bsd(Profile::OpenBsd, 100, Dialect::OpenBsd, 0),
        &[],
        s(75),
    );
    scenario.theme = Theme::Attack;
    // The counter belongs to another host, which leaves; and so on.
    for (shown, after) in [
        (Shown::Priority(0, 0), 0),
        (Shown::Priority(255, 255), 10),
        (Shown::Priority(0, 0), 300),
    ] {
        let mut plan = plan(latest_of(1), shown, Disguise::TieWinner);
        plan.targets = 0b01;
        plan.from = plan.from + ms(after);
        scenario.attack(plan, ms(1_700));
    }
    scenario.faults.sort_by_key(|(at, _)| *at);
    let outcome = run(&scenario);
    assert_eq!(outcome.masters(), [1]);
    let ours = outcome.transitions.iter().filter(|(_, who, _)| *who == 0);
    let times: Vec<_> = ours.skip(1).map(|(at, _, _)| *at).collect();
    assert!(times.len() > 4, "{times:?}");
    for reign in times.chunks(2) {
        let lasted = reign[1].saturating_duration_since(reign[0]);
        assert!(lasted < ms(1_100), "{lasted:?}");
    }
}

#[test]
fn an_openbsd_is_believed_despite_recordings_of_another_life() {
    // Host 0 has not heard that life of it.
    let mut members = with_bsd(Profile::OpenBsd, 100, Dialect::OpenBsd, 0);
    members[1].mortal = true;
    members[0].start = members[0].start + s(30);
    let faults = [(s(10), Fault::Crash(1)), (s(12), Fault::Start(1))];
    let mut scenario = Scenario::staged(members, &faults, s(75));
    scenario.theme = Theme::Attack;
    let past = Ploy::Past { of: 1 };
    scenario.attack(plan(past, Shown::AsHeard, Disguise::Sender), s(20));
    scenario.faults.sort_by_key(|(at, _)| *at);
    assert_eq!(run(&scenario).reigns(0).count(), 0);
}

#[test]
fn an_openbsd_at_the_shortest_interval_is_no_flapping_master() {
    let mut members = with_bsd(Profile::OpenBsd, 1, Dialect::OpenBsd, 0);
    for member in &mut members {
        member.advbase = 0;
    }
    members[0].start = members[0].start + s(2);
    let mut scenario = Scenario::staged(members, &[], s(10));
    scenario.latency = Duration::from_micros(500);
    scenario.demotion_divides = true;
    let outcome = run(&scenario);
    assert!(
        outcome.reigns(0).count() <= 1,
        "{}",
        outcome.reigns(0).count()
    );
}

#[test]
fn one_of_two_equal_bsds_follows_a_bow_out() {
    for profile in [Profile::FreeBsd, Profile::OpenBsd] {
        for seed in 0..10 {
            let mut members = hosts(profile, &[0, 100, 100]);
            members[0].mortal = true;
            let mut scenario = Scenario::staged(members, &[(s(10), Fault::Stop(0))], s(20));
            scenario.seed = seed;
            scenario.weather.delay_max = Duration::from_micros(200);
            scenario.latency = Duration::from_micros(200);
            let outcome = run(&scenario);
            let reigns = outcome.reigns(1).count() + outcome.reigns(2).count();
            assert_eq!(reigns, 1, "{profile:?}, chance {seed}");
        }
    }
}
