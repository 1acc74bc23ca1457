//! The simulation as a test: some thousand seeds, and single situations whose names say what must happen in them.
//!
//! A change of the core in one of the ways listed in `tests/mutants/list.rs` breaks the test that is named there.

mod bsds;
mod claims;
mod recordings;
mod reigns;
mod seeds;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use carp_common::units::{Family, Profile};
use carp_tests::sim::check;
use carp_tests::sim::model::Dialect;
use carp_tests::sim::scenario::{Fault, Implementation, Member, Scenario, Theme};
use carp_tests::sim::world::Outcome;

const UCARP: Implementation = Implementation::Carpd(Profile::Ucarp);
const PROFILES: [Profile; 3] = [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd];

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// carpd with these values of advskew and this profile; host 0 has the first value.
fn hosts(profile: Profile, advskews: &[u8]) -> Vec<Member> {
    let numbered = advskews.iter().zip(1..);
    numbered
        .map(|(advskew, number)| Member::usual(Implementation::Carpd(profile), number, *advskew))
        .collect()
}

fn preempting(members: Vec<Member>) -> Vec<Member> {
    members
        .into_iter()
        .map(|member| Member {
            preempt: true,
            ..member
        })
        .collect()
}

#[track_caller]
fn run(scenario: &Scenario) -> Outcome {
    check(scenario).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in [1, 2, 3] {
        let scenario = Scenario::from_seed(seed);
        assert_eq!(
            run(&scenario).transitions,
            run(&scenario).transitions,
            "seed {seed}"
        );
    }
}

#[test]
fn the_best_of_three_is_master_and_the_next_follows_a_crash() {
    for profile in PROFILES {
        let mut members = hosts(profile, &[0, 50, 100]);
        members[0].mortal = true;
        let outcome = run(&Scenario::staged(
            members,
            &[(s(10), Fault::Crash(0))],
            s(20),
        ));
        assert_eq!(outcome.masters(), [1]);
        // The last advertisement was at most an interval before; host 1 waits 3 s and 50/256.
        let takeover = outcome.reigns(1).next().unwrap();
        assert!((ms(12_195)..ms(13_200)).contains(&takeover), "{takeover:?}");
    }
}

#[test]
fn a_healed_partition_leaves_exactly_one_master_whom_the_clients_know() {
    for advskews in [[0, 100, 200], [200, 100, 0], [100, 0, 200]] {
        for away in 0..3 {
            let partition = Fault::Partition(1 << away);
            let faults = [(s(10), partition), (s(30), Fault::Heal)];
            let outcome = run(&Scenario::staged(
                hosts(Profile::Ucarp, &advskews),
                &faults,
                s(40),
            ));
            let best = advskews.iter().position(|advskew| *advskew == 0).unwrap();
            assert_eq!(outcome.masters(), [best]);
        }
    }
}

#[test]
fn a_hung_backup_never_mistakes_its_own_pause_for_a_dead_master() {
    for hang in [1, 3, 10] {
        let faults = [(s(10), Fault::Hang(1)), (s(10 + hang), Fault::Resume(1))];
        let outcome = run(&Scenario::staged(
            hosts(Profile::Ucarp, &[0, 100]),
            &faults,
            s(30),
        ));
        assert_eq!(outcome.reigns(1).count(), 0);
    }
}

#[test]
fn a_backup_whose_ring_overflowed_while_it_hung_listens_again() {
    // Hangs that end before, and long after, the master-down time of 3.4 s, counted from the last packet for which
    // the ring had room.
    for hang in [4, 5, 10] {
        let faults = [(s(10), Fault::Hang(1)), (s(10 + hang), Fault::Resume(1))];
        let mut scenario = Scenario::staged(hosts(Profile::Ucarp, &[0, 100]), &faults, s(30));
        scenario.ring = 1;
        assert_eq!(run(&scenario).reigns(1).count(), 0, "{hang} s");
    }
    // A master that died meanwhile is replaced a whole master-down time after the hang.
    let mut members = hosts(Profile::Ucarp, &[0, 100]);
    members[0].mortal = true;
    let faults = [
        (s(10), Fault::Hang(1)),
        (s(14), Fault::Crash(0)),
        (s(20), Fault::Resume(1)),
    ];
    let mut scenario = Scenario::staged(members, &faults, s(30));
    scenario.ring = 1;
    let takeover = run(&scenario).reigns(1).next().unwrap();
    assert!((ms(23_390)..ms(23_400)).contains(&takeover), "{takeover:?}");
}

#[test]
fn a_hung_backup_counts_the_silence_from_the_last_arrival() {
    let mut members = hosts(Profile::Ucarp, &[0, 100]);
    members[0].mortal = true;
    let faults = [
        (s(10), Fault::Hang(1)),
        (ms(12_500), Fault::Crash(0)),
        (ms(15_900), Fault::Resume(1)),
    ];
    let outcome = run(&Scenario::staged(members, &faults, s(30)));
    // The master has been silent for longer than the master-down time of 3.39 s when host 1 comes back, half a second
    // late.
    let takeover = outcome.reigns(1).next().unwrap();
    assert!(takeover < ms(15_910), "{takeover:?}");
}

#[test]
fn a_backup_that_slept_through_the_master_down_time_waits_for_one_more_advertisement() {
    let mut members = hosts(Profile::Ucarp, &[0, 100]);
    members[0].mortal = true;
    let faults = [
        (s(10), Fault::Hang(1)),
        (ms(12_500), Fault::Crash(0)),
        (s(20), Fault::Resume(1)),
    ];
    let outcome = run(&Scenario::staged(members, &faults, s(30)));
    // One and a half of its own intervals of 1.39 s.
    let takeover = outcome.reigns(1).next().unwrap();
    assert!((ms(22_085)..ms(22_100)).contains(&takeover), "{takeover:?}");
}

#[test]
fn a_backup_whose_machine_was_paused_does_not_depose_a_living_master() {
    for pause in [1, 4, 10] {
        let faults = [(s(10), Fault::Pause(1)), (s(10 + pause), Fault::Resume(1))];
        for inet6 in [&[][..], &[Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)]] {
            let mut scenario = Scenario::staged(hosts(Profile::Ucarp, &[0, 100]), &faults, s(30));
            scenario.group.inet6 = inet6.to_vec();
            assert_eq!(run(&scenario).reigns(1).count(), 0, "{pause} s");
        }
    }
}

#[test]
fn a_backup_whose_machine_is_paused_again_and_again_still_takes_over() {
    let mut members = hosts(Profile::Ucarp, &[0, 100]);
    members[0].mortal = true;
    let mut faults = vec![(s(10), Fault::Crash(0))];
    for second in (11..29).step_by(3) {
        faults.push((s(second), Fault::Pause(1)));
        faults.push((ms(second * 1000 + 2500), Fault::Resume(1)));
    }
    let outcome = run(&Scenario::staged(members, &faults, s(30)));
    let takeover = outcome.reigns(1).next().unwrap();
    // The first pause ends at 13.5 s, and the resulting wait at 15.6 s, within the second pause.
    assert!((ms(16_500)..ms(16_510)).contains(&takeover), "{takeover:?}");
}

#[test]
fn a_hung_master_yields_when_it_comes_back() {
    for profile in PROFILES {
        let faults = [(s(10), Fault::Hang(0)), (s(20), Fault::Resume(0))];
        let outcome = run(&Scenario::staged(hosts(profile, &[0, 100]), &faults, s(30)));
        assert_eq!(outcome.reigns(1).count(), 1, "took over while host 0 hung");
        assert_eq!(outcome.masters().len(), 1);
    }
}

#[test]
fn a_strict_master_that_hung_hears_more_than_the_first_of_its_successors_advertisements() {
    // Its last advertisement, which it sends when it has heard the first of them, may have a counter above the
    // second: the number of counters that a host skips depends on its address.
    for number in 2..12 {
        let mut members = hosts(Profile::Ucarp, &[100, 50]);
        members[1] = Member::usual(UCARP, number, 50);
        // The successor's second advertisement came 1.2 s after its first, at 12.93 s; counted from that, 1.39 s are
        // over.
        members[0].deadratio = 1;
        let faults = [(s(10), Fault::Hang(0)), (ms(14_500), Fault::Resume(0))];
        let mut scenario = Scenario::staged(members, &faults, s(30));
        scenario.theme = Theme::Strict;
        let outcome = run(&scenario);
        assert_eq!(outcome.masters(), [1]);
        assert_eq!(outcome.reigns(0).count(), 1, "host {number}");
    }
}

#[test]
fn equal_hosts_settle_on_the_lowest_address_as_ucarp_reads_it() {
    for preempt in [false, true] {
        for foreign in 0..4 {
            let mut members = hosts(Profile::Ucarp, &[100, 100, 100]);
            // Numerically 0 < 1 < 2; by the raw word, whose last octet counts most, 1 < 2 < 0.
            members[0].sources[0] = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 9));
            members[1].sources[0] = IpAddr::V4(Ipv4Addr::new(10, 9, 1, 1));
            members[2].sources[0] = IpAddr::V4(Ipv4Addr::new(10, 9, 2, 2));
            for (number, member) in members.iter_mut().enumerate() {
                member.preempt = preempt;
                if number == foreign {
                    member.program = Implementation::Model(Dialect::Ucarp);
                }
            }
            // Each becomes MASTER on its own; then they meet.
            let alone = [
                (ms(1), Fault::Partition(0b001)),
                (ms(1), Fault::Partition(0b010)),
            ];
            let faults = [&alone[..], &[(s(10), Fault::Heal)]].concat();
            let outcome = run(&Scenario::staged(members, &faults, s(20)));
            assert_eq!(
                outcome.masters(),
                [1],
                "preempt {preempt}, host {foreign} is a ucarp"
            );
        }
    }
}

#[test]
fn equal_hosts_with_strict_counters_settle_on_one_master() {
    for profile in PROFILES {
        let mut scenario = Scenario::staged(hosts(profile, &[100, 100]), &[], s(20));
        scenario.theme = Theme::Strict;
        scenario.latency = Duration::ZERO;
        assert_eq!(run(&scenario).masters().len(), 1);
    }
}

#[test]
fn a_host_that_yielded_does_not_take_over_from_a_worse_ucarp_that_yields() {
    // All three are MASTER. After the partition heals, the best one is heard first; the worst one yields and sends
    // its last advertisement, which the middle one hears. The order is random.
    let mut members = hosts(Profile::Ucarp, &[50, 100, 200]);
    members[2].program = Implementation::Model(Dialect::Ucarp);
    let alone = [
        (ms(1), Fault::Partition(0b001)),
        (ms(1), Fault::Partition(0b010)),
    ];
    let faults = [&alone[..], &[(ms(10_350), Fault::Heal)]].concat();
    for seed in 0..100 {
        if seed == 50 {
            members[0].program = Implementation::Model(Dialect::Ucarp);
        }
        let mut scenario = Scenario::staged(preempting(members.clone()), &faults, s(20));
        scenario.seed = seed;
        let outcome = run(&scenario);
        assert_eq!(outcome.masters(), [0]);
        assert_eq!(outcome.reigns(1).count(), 1, "chance {seed}");
    }
}

#[test]
fn equal_hosts_with_the_bsd_rule_settle_on_one_master() {
    // From the start, when both may become MASTER at once; and after both have been MASTER for a while.
    let split = [(ms(1), Fault::Partition(0b01)), (s(10), Fault::Heal)];
    for profile in [Profile::FreeBsd, Profile::OpenBsd] {
        for faults in [&[][..], &split[..]] {
            for seed in 0..20 {
                let mut scenario = Scenario::staged(hosts(profile, &[100, 100]), faults, s(20));
                scenario.seed = seed;
                assert_eq!(run(&scenario).masters().len(), 1);
            }
        }
    }
}

#[test]
fn an_ordered_stop_hands_over_at_once() {
    for profile in PROFILES {
        for preempt in [false, true] {
            let mut members = hosts(profile, &[0, 50, 200]);
            members[0].mortal = true;
            if preempt {
                members = preempting(members);
            }
            let outcome = run(&Scenario::staged(
                members,
                &[(s(10), Fault::Stop(0))],
                s(20),
            ));
            assert_eq!(outcome.masters(), [1]);
            assert_eq!(
                outcome.reigns(2).count(),
                0,
                "the best backup takes over, and no other"
            );
            let takeover = outcome.reigns(1).next().unwrap();
            assert!(takeover < ms(10_000 + 200), "{takeover:?}");
        }
    }
}

#[test]
fn foreign_backups_honour_our_bow_out() {
    for (profile, dialect) in [
        (Profile::Ucarp, Dialect::Ucarp),
        (Profile::FreeBsd, Dialect::FreeBsd),
        (Profile::OpenBsd, Dialect::OpenBsd),
    ] {
        let mut ours = Member::usual(Implementation::Carpd(profile), 1, 0);
        ours.mortal = true;
        let members = vec![ours, Member::usual(Implementation::Model(dialect), 2, 100)];
        let outcome = run(&Scenario::staged(
            members,
            &[(s(10), Fault::Stop(0))],
            s(20),
        ));
        let takeover = outcome.reigns(1).next().unwrap();
        assert!(takeover < ms(10_010), "{takeover:?}");
    }
}

#[test]
fn stepping_down_keeps_away_for_the_hold_and_a_master_down_time() {
    let alone = hosts(Profile::Ucarp, &[0]);
    let outcome = run(&Scenario::staged(
        alone,
        &[(s(10), Fault::StepDown(0))],
        s(20),
    ));
    let again = outcome.reigns(0).nth(1).unwrap();
    assert!((s(16)..ms(16_010)).contains(&again), "{again:?}");
}

#[test]
fn silence_in_one_family_is_silence() {
    for family in [Family::Inet, Family::Inet6] {
        let faults = [
            (s(10), Fault::Cut(Some(family), 0, 1)),
            (s(15), Fault::Heal),
        ];
        let mut scenario = Scenario::staged(hosts(Profile::Ucarp, &[0, 100]), &faults, s(30));
        scenario.group.inet6 = vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)];
        let outcome = run(&scenario);
        let takeover = outcome
            .reigns(1)
            .next()
            .expect("host 1 hears nothing in one family");
        assert!((s(12)..s(15)).contains(&takeover), "{takeover:?}");
        assert_eq!(outcome.masters(), [0]);
    }
}

#[test]
fn both_families_elect_one_master_even_where_their_addresses_disagree() {
    let mut members = hosts(Profile::Ucarp, &[100, 100]);
    members[0].sources[1] = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9));
    let mut scenario = Scenario::staged(members, &[], s(20));
    scenario.group.inet6 = vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)];
    scenario.undecided_ties = false;
    assert_eq!(run(&scenario).masters(), [0]);
}

#[test]
fn reflections_and_duplicates_depose_nobody() {
    for profile in PROFILES {
        let mut scenario = Scenario::staged(hosts(profile, &[0, 100]), &[], s(30));
        scenario.weather.reflections = 1000;
        scenario.weather.duplicates = 1000;
        let outcome = run(&scenario);
        assert_eq!(
            (outcome.reigns(0).count(), outcome.reigns(1).count()),
            (1, 0)
        );
    }
}

#[test]
fn the_better_host_takes_over_only_if_it_preempts() {
    for profile in PROFILES {
        for preempt in [false, true] {
            let mut members = hosts(profile, &[100, 0]);
            members[1].start = members[0].start + s(10);
            members[1].preempt = preempt;
            let outcome = run(&Scenario::staged(members, &[], s(20)));
            assert_eq!(
                outcome.masters(),
                [usize::from(preempt)],
                "{profile:?}, preempt {preempt}"
            );
        }
    }
}

#[test]
fn a_demoted_master_gives_way_and_comes_back() {
    for profile in PROFILES {
        // Half an interval before its next advertisement.
        let faults = [
            (ms(10_500), Fault::Demote(0, 150)),
            (s(20), Fault::Demote(0, 0)),
        ];
        let outcome = run(&Scenario::staged(
            preempting(hosts(profile, &[0, 100])),
            &faults,
            s(30),
        ));
        let takeover = outcome.reigns(1).next().expect("host 0 is demoted");
        assert!(
            takeover < ms(10_510),
            "a rise is told at once: {takeover:?}"
        );
        assert_eq!(outcome.masters(), [0]);
    }
}

#[test]
fn send_errors_demote_and_successes_undo() {
    // One-way: host 0 receives, but nothing that it sends leaves.
    let faults = [(s(10), Fault::SendErrors(0)), (s(20), Fault::SendsAgain(0))];
    let outcome = run(&Scenario::staged(
        preempting(hosts(Profile::Ucarp, &[0, 100])),
        &faults,
        s(30),
    ));
    // It is demoted when host 1 is heard, so it yields, and then stays the worse one until it is MASTER again.
    assert_eq!(outcome.masters(), [1]);
    assert_eq!(outcome.reigns(0).count(), 1);
}

#[test]
fn a_master_without_a_link_releases_and_comes_back() {
    for profile in PROFILES {
        let faults = [(s(10), Fault::LinkDown(0)), (s(20), Fault::LinkUp(0))];
        let outcome = run(&Scenario::staged(
            preempting(hosts(profile, &[0, 100])),
            &faults,
            s(30),
        ));
        assert_eq!(outcome.reigns(1).count(), 1);
        assert_eq!(outcome.masters(), [0]);
    }
}

#[test]
fn a_replayed_worse_master_makes_no_storm() {
    // Host 1 was MASTER once, so the attacker has advertisements of both, and then sends a thousand a second.
    let split = [(s(5), Fault::Partition(0b01)), (s(10), Fault::Heal)];
    let replays = (0..3_000).map(|number| (s(15) + ms(1) * number, Fault::Inject(number.into())));
    let faults: Vec<_> = split.into_iter().chain(replays).collect();
    for profile in PROFILES {
        let mut scenario = Scenario::staged(hosts(profile, &[0, 100]), &faults, s(20));
        scenario.theme = Theme::Attack;
        assert_eq!(run(&scenario).masters().len(), 1);
    }
}

#[test]
fn slow_scripts_follow_a_flapping_state() {
    for script in [ms(10), s(1), s(7)] {
        let mut members = hosts(Profile::Ucarp, &[0, 100]);
        members[1].script = script;
        let flap = |at| [(s(at), Fault::Partition(0b01)), (s(at + 5), Fault::Heal)];
        let faults = [flap(10), flap(20), flap(30)].concat();
        let outcome = run(&Scenario::staged(members, &faults, s(40)));
        assert_eq!(outcome.reigns(1).count(), 3);
    }
}

#[test]
fn a_restarted_host_goes_on_with_higher_counters() {
    let faults = [
        (s(10), Fault::Crash(0)),
        (ms(10_100), Fault::Start(0)),
        (s(20), Fault::Stop(0)),
        (s(21), Fault::Start(0)),
    ];
    for strict in [false, true] {
        let mut scenario = Scenario::staged(hosts(Profile::Ucarp, &[0, 100]), &faults, s(30));
        if strict {
            scenario.theme = Theme::Strict;
        }
        run(&scenario);
    }
}

#[test]
fn with_strict_counters_a_replay_changes_nothing() {
    let faults: Vec<_> = (0..400)
        .map(|number| (s(10) + ms(50) * number, Fault::Inject(number.into())))
        .collect();
    for profile in PROFILES {
        let mut scenario = Scenario::staged(hosts(profile, &[0, 100]), &faults, s(30));
        scenario.theme = Theme::Strict;
        scenario.latency = Duration::ZERO;
        let outcome = run(&scenario);
        assert_eq!(
            (outcome.reigns(0).count(), outcome.reigns(1).count()),
            (1, 0)
        );
    }
}

#[test]
fn a_peer_may_use_the_virtual_address_as_its_source() {
    let mut bsd = Member::usual(Implementation::Model(Dialect::FreeBsd), 1, 0);
    bsd.sources[0] = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
    for profile in PROFILES {
        let members = vec![
            bsd.clone(),
            Member::usual(Implementation::Carpd(profile), 2, 100),
        ];
        let outcome = run(&Scenario::staged(members, &[], s(20)));
        assert_eq!(outcome.masters(), [0]);
    }
}

#[test]
fn a_rebooted_openbsd_is_believed_when_its_demotion_falls() {
    for profile in PROFILES {
        // It comes back demoted while no other host is there, and recovers.
        let members = vec![
            Member {
                preempt: true,
                ..Member::usual(Implementation::Model(Dialect::OpenBsd), 1, 0)
            },
            Member::usual(Implementation::Carpd(profile), 2, 100),
        ];
        let faults = [
            (s(10), Fault::Crash(0)),
            (s(11), Fault::LinkDown(1)),
            (s(12), Fault::Start(0)),
            (s(12), Fault::Demote(0, 128)),
            (s(20), Fault::LinkUp(1)),
            (s(22), Fault::Demote(0, 0)),
        ];
        let outcome = run(&Scenario::staged(members, &faults, s(40)));
        assert_eq!(outcome.masters().len(), 1, "{profile:?}");
    }
}

#[test]
fn ucarp_and_carpd_are_one_group() {
    for advskews in [[0, 100, 200], [100, 200, 0], [200, 0, 100]] {
        let mut members = hosts(Profile::Ucarp, &advskews);
        members[1].program = Implementation::Model(Dialect::Ucarp);
        let faults = [
            (s(10), Fault::Crash(0)),
            (s(20), Fault::Start(0)),
            (s(30), Fault::Crash(1)),
            (s(40), Fault::Start(1)),
        ];
        let outcome = run(&Scenario::staged(preempting(members), &faults, s(50)));
        let best = advskews.iter().position(|advskew| *advskew == 0).unwrap();
        assert_eq!(outcome.masters(), [best]);
    }
}

#[test]
fn a_single_host_becomes_master() {
    let outcome = run(&Scenario::staged(
        vec![Member::usual(UCARP, 1, 0)],
        &[],
        s(10),
    ));
    assert_eq!(outcome.masters(), [0]);
}
