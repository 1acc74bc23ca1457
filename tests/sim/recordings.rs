//! Attacks without the password that resend recordings.

use carp_tests::sim::scenario::START;
use carp_tests::sim::scenario::plan::{Disguise, Plan, Ploy, Shown};

use super::*;

/// Returns a plan from 60 s to 70 s that reaches every host.
pub(super) fn plan(ploy: Ploy, shown: Shown, disguise: Disguise) -> Plan {
    Plan {
        ploy,
        shown,
        disguise,
        other_mac: false,
        spares_answers: false,
        targets: 0b11,
        from: START + s(60),
        until: START + s(70),
    }
}

/// Two carpd, 1/0 and 1/60, and an attack with one stroke per this time.
fn attacked(profile: Profile, plan: Plan, every: Duration) -> Scenario {
    let members = preempting(hosts(profile, &[0, 60]));
    let mut scenario = Scenario::staged(members, &[], s(71));
    scenario.theme = Theme::Attack;
    scenario.weather.delay_min = ms(15);
    scenario.weather.delay_max = ms(16);
    scenario.attack(plan, every);
    scenario
}

/// Host 0 is the only MASTER of the run, and becomes MASTER only once.
#[track_caller]
fn changes_nothing(profile: Profile, plan: Plan, every: Duration) {
    let outcome = run(&attacked(profile, plan.clone(), every));
    let reigns = (outcome.reigns(0).count(), outcome.reigns(1).count());
    assert_eq!(reigns, (1, 0), "{profile:?} {plan:?}");
}

/// At each stroke, the latest recording of this host.
pub(super) const fn latest_of(host: usize) -> Ploy {
    Ploy::Repeat {
        of: Some(host),
        age: 0,
        same: false,
    }
}

/// Repeats the latest advertisement that host 0 had sent when the attack began.
const ONE: Ploy = Ploy::Repeat {
    of: Some(0),
    age: 0,
    same: true,
};
const OLD: Ploy = Ploy::Repeat {
    of: Some(0),
    age: 40,
    same: false,
};
const SHOWN: [Shown; 4] = [
    Shown::Priority(0, 0),
    Shown::Priority(255, 255),
    Shown::Byte4(9),
    Shown::AsHeard,
];

#[test]
fn a_recording_under_its_own_source_changes_nothing() {
    for profile in PROFILES {
        for shown in SHOWN {
            changes_nothing(profile, plan(OLD, shown, Disguise::Sender), ms(333));
        }
    }
}

#[test]
fn a_recording_under_another_source_changes_nothing() {
    for profile in PROFILES {
        for shown in SHOWN {
            for disguise in [Disguise::TieWinner, Disguise::Host(1)] {
                changes_nothing(profile, plan(OLD, shown, disguise), s(1));
            }
        }
    }
}

#[test]
fn altered_bow_outs_mislead_a_backup_once() {
    let disguises = [Disguise::Sender, Disguise::TieWinner, Disguise::Host(1)];
    for (profile, disguise) in PROFILES
        .into_iter()
        .flat_map(|profile| disguises.map(|disguise| (profile, disguise)))
    {
        for theme in [Theme::Attack, Theme::Strict] {
            let ploy = Ploy::Overtake(ms(5));
            let plan = plan(ploy, Shown::Priority(255, 255), disguise);
            let mut scenario = attacked(profile, plan, s(1));
            scenario.theme = theme;
            let outcome = run(&scenario);
            let what = (profile, disguise, theme);
            assert_eq!(outcome.masters(), [0]);
            assert_eq!(outcome.reigns(0).count(), 1, "{what:?}");
            assert!(outcome.reigns(1).count() <= 1, "{what:?}");
            let (last, _, _) = outcome.transitions.last().expect("host 0 is MASTER");
            assert!(*last < START + s(62), "{what:?}: {last:?}");
            // A misled host may announce last, but within an interval the clients learn which host is MASTER.
            let by = |host| {
                let all = outcome.announcements.iter();
                all.filter(move |(_, who)| *who == host).map(|(at, _)| *at)
            };
            for misled in by(1) {
                let mut heals = by(0).filter(|at| *at > misled);
                let heal = heals.next().expect("the clients were left with host 1");
                assert!(heal < misled + ms(1_050), "{what:?}: {misled:?} {heal:?}");
            }
        }
    }
}

#[test]
fn altered_bow_outs_mislead_a_backup_twice_when_answers_stay_genuine() {
    for profile in PROFILES {
        for theme in [Theme::Attack, Theme::Strict] {
            let mut plan = plan(
                Ploy::Overtake(ms(5)),
                Shown::Priority(255, 255),
                Disguise::Sender,
            );
            plan.spares_answers = true;
            let mut scenario = attacked(profile, plan, s(1));
            scenario.theme = theme;
            let outcome = run(&scenario);
            assert_eq!(outcome.masters(), [0]);
            assert_eq!(outcome.reigns(1).count(), 2, "{profile:?} {theme:?}");
        }
    }
}

#[test]
fn recordings_of_a_dead_host_with_higher_counters_depose_a_master_once() {
    for profile in PROFILES {
        let mut members = preempting(hosts(profile, &[10, 60]));
        for member in &mut members {
            member.advbase = 0;
        }
        members[0].mortal = true;
        let faults = [
            (s(5), Fault::Partition(0b01)),
            (s(205), Fault::Crash(0)),
            (ms(205_050), Fault::Heal),
        ];
        let mut scenario = Scenario::staged(members, &faults, s(215));
        scenario.theme = Theme::Attack;
        // Host 1 did not hear 5 000 of the counters. Once per time that host 1 is MASTER, the attacker plays one of
        // them, each further ahead than a last advertisement skips.
        for number in 0..4 {
            let ploy = Ploy::Repeat {
                of: Some(0),
                age: 3_000 - 1_000 * number,
                same: true,
            };
            let mut plan = plan(ploy, Shown::AsHeard, Disguise::Sender);
            plan.from = START + s(206) + s(2) * u32::try_from(number).unwrap();
            plan.until = plan.from + ms(1);
            scenario.attack(plan, s(1));
        }
        scenario.faults.sort_by_key(|(at, _)| *at);
        let outcome = run(&scenario);
        assert_eq!(outcome.reigns(1).count(), 2, "{profile:?}");
    }
}

#[test]
fn a_counter_that_a_last_advertisement_skipped_proves_the_life_of_a_host_that_missed_it() {
    let cut = |from, to| Fault::Cut(None, from, to);
    let faults = [
        (s(10), Fault::Partition(0b100)),
        // Host 2 hears host 0 and yields; no host hears that.
        (s(30), Fault::Heal),
        (s(30), cut(2, 0)),
        (s(30), cut(2, 1)),
        // Host 0 is MASTER once more, unheard.
        (s(45), Fault::Partition(0b100)),
        // It yields to host 1, which hears it and does not hear host 0; host 0 hears no host.
        (s(100), Fault::Heal),
        (s(100), cut(2, 0)),
        (s(100), cut(1, 0)),
        (s(100), cut(0, 1)),
        // From then on it hears only host 0, whose counters lie in the range that its own last advertisement skipped.
        (s(110), cut(1, 2)),
    ];
    let members = preempting(hosts(Profile::Ucarp, &[0, 20, 60]));
    let outcome = run(&Scenario::staged(members, &faults, s(130)));
    let reigns: Vec<_> = outcome.reigns(2).collect();
    assert_eq!(reigns.len(), 2, "{reigns:?}");
}

#[test]
fn a_copy_does_not_cancel_a_bow_out() {
    // Host 0 stops; at once a copy of its bow-out claims that it continues.
    for profile in PROFILES {
        for theme in [Theme::Attack, Theme::Strict] {
            let mut plan = plan(latest_of(0), Shown::Priority(1, 0), Disguise::Sender);
            plan.targets = 0b10;
            plan.from = START + s(65);
            let mut scenario = attacked(profile, plan, ms(3));
            scenario.theme = theme;
            scenario.latency = Duration::ZERO;
            scenario.weather.delay_min = ms(1);
            scenario.weather.delay_max = ms(1) + Duration::from_micros(1);
            scenario.members[0].mortal = true;
            scenario.faults.push((START + s(65), Fault::Stop(0)));
            scenario.faults.sort_by_key(|(at, _)| *at);
            let outcome = run(&scenario);
            let takeover = outcome.reigns(1).next().expect("host 0 is gone");
            assert!(takeover < ms(65_050), "{profile:?} {theme:?}: {takeover:?}");
        }
    }
}

#[test]
fn an_altered_last_advertisement_deposes_nobody() {
    // Host 1 was MASTER of its part. When it hears host 0 again, it advertises once more and yields; the attacker
    // resends that as 0/0.
    let carpds = PROFILES.map(|profile| (profile, Implementation::Carpd(profile)));
    let ucarp = (Profile::Ucarp, Implementation::Model(Dialect::Ucarp));
    for (profile, loser) in carpds.into_iter().chain([ucarp]) {
        let mut plan = plan(latest_of(1), Shown::Priority(0, 0), Disguise::Sender);
        plan.targets = 0b01;
        plan.from = START + s(65);
        let mut scenario = attacked(profile, plan, ms(5));
        scenario.members[1].program = loser;
        scenario.weather.delay_min = ms(1);
        scenario.weather.delay_max = ms(2);
        for (at, fault) in [(50, Fault::Partition(0b01)), (65, Fault::Heal)] {
            scenario.faults.push((START + s(at), fault));
        }
        scenario.faults.sort_by_key(|(at, _)| *at);
        let outcome = run(&scenario);
        assert_eq!(outcome.reigns(0).count(), 1, "{loser:?}: it yielded");
        assert_eq!(outcome.masters(), [0]);
    }
}

#[test]
fn a_bow_out_that_is_sent_again_as_something_better_deposes_nobody() {
    for profile in PROFILES {
        let mut plan = plan(latest_of(0), Shown::Priority(0, 0), Disguise::Sender);
        plan.targets = 0b10;
        // After the delay of the backup, which is 15 ms.
        plan.from = START + ms(65_030);
        let mut scenario = attacked(profile, plan, ms(10));
        scenario.weather.delay_min = ms(1);
        scenario.weather.delay_max = ms(2);
        scenario.members[0].mortal = true;
        scenario.faults.push((START + s(65), Fault::Stop(0)));
        scenario.faults.sort_by_key(|(at, _)| *at);
        let outcome = run(&scenario);
        assert_eq!(outcome.reigns(1).count(), 1, "{profile:?}: it yielded");
        assert_eq!(outcome.masters(), [1]);
    }
}

#[test]
fn recordings_from_the_hosts_own_address_do_not_count() {
    // Host 1 is cut off and MASTER of its part. The advertisements of host 0 reach it, new as they are, under its own
    // address.
    for profile in PROFILES {
        let newest = Ploy::Rising { of: 0, tail: 1 };
        let plan = plan(newest, Shown::Priority(0, 0), Disguise::Host(1));
        let mut scenario = attacked(profile, plan, s(1));
        scenario
            .faults
            .push((START + s(50), Fault::Partition(0b01)));
        scenario.faults.push((START + s(71), Fault::Heal));
        scenario.faults.sort_by_key(|(at, _)| *at);
        let outcome = run(&scenario);
        let changes = outcome
            .transitions
            .iter()
            .filter(|(at, who, _)| *who == 1 && (START + s(60)..START + s(71)).contains(at));
        assert_eq!(changes.count(), 0, "{profile:?}");
        assert_eq!(outcome.masters(), [0]);
    }
}

#[test]
fn recordings_do_not_keep_a_dead_master_alive() {
    for profile in PROFILES {
        for ploy in [OLD, Ploy::Rising { of: 0, tail: 20 }, ONE] {
            for disguise in [Disguise::Sender, Disguise::TieWinner] {
                let plan = plan(ploy, Shown::AsHeard, disguise);
                let mut scenario = attacked(profile, plan, ms(500));
                scenario.members[0].mortal = true;
                scenario.faults.push((START + ms(59_900), Fault::Crash(0)));
                scenario.faults.sort_by_key(|(at, _)| *at);
                let outcome = run(&scenario);
                let takeover = outcome.reigns(1).next().expect("host 0 is dead");
                let what = (profile, ploy, disguise);
                assert!(takeover < ms(63_300), "{what:?}: {takeover:?}");
            }
        }
    }
}

#[test]
fn recordings_from_before_its_start_change_nothing() {
    for (profile, theme) in PROFILES
        .into_iter()
        .flat_map(|profile| [Theme::Attack, Theme::Strict].map(|theme| (profile, theme)))
    {
        let plan = plan(
            Ploy::Past { of: 0 },
            Shown::Priority(255, 255),
            Disguise::Sender,
        );
        // Two recordings arrive between two genuine advertisements.
        let mut scenario = attacked(profile, plan, ms(333));
        scenario.theme = theme;
        scenario.latency = Duration::ZERO;
        scenario.members[1].start = START + s(30);
        if theme == Theme::Strict {
            // Even if that was in an earlier life, with far lower counters.
            scenario.members[0].mortal = true;
            for (at, fault) in [(10, Fault::Crash(0)), (20, Fault::Start(0))] {
                scenario.faults.push((START + s(at), fault));
            }
            scenario.faults.sort_by_key(|(at, _)| *at);
        }
        let outcome = run(&scenario);
        assert_eq!(outcome.reigns(1).count(), 0, "{profile:?} {theme:?}");
    }
}

#[test]
fn the_first_counter_heard_from_a_master_is_not_taken_for_an_openbsds() {
    for profile in PROFILES {
        for phase in 0..10 {
            // Host 1 has heard host 0 once. That advertisement is repeated, at first at once; later host 0 dies.
            let mut plan = plan(ONE, Shown::Priority(0, 0), Disguise::TieWinner);
            plan.targets = 0b10;
            plan.from = plan.from + ms(50 + 100 * phase);
            let mut scenario = attacked(profile, plan.clone(), ms(200));
            scenario.members[1].start = START + ms(58_900 + 100 * phase);
            scenario.members[0].mortal = true;
            scenario.faults.push((START + s(65), Fault::Crash(0)));
            scenario.faults.sort_by_key(|(at, _)| *at);
            let takeover = run(&scenario).reigns(1).next().expect("host 0 is dead");
            let bounds = s(65)..ms(68_400);
            assert!(
                bounds.contains(&takeover),
                "{profile:?} {phase}: {takeover:?}"
            );
        }
    }
}

#[test]
fn each_answer_of_a_ucarp_doubles_the_time_until_it_is_asked_again() {
    let mut members = preempting(hosts(Profile::Ucarp, &[0, 100]));
    members[0].program = Implementation::Model(Dialect::Ucarp);
    // It hears host 1 first, and continues from that counter.
    members[0].start = members[0].start + s(10);
    let mut scenario = Scenario::staged(members, &[], s(150));
    scenario.theme = Theme::Attack;
    // The worse one leads the ucarp to lower counters; host 1 hears a stranger after each of the ucarp's
    // advertisements.
    for (targets, shown, every) in [
        (0b01, Shown::Priority(1, 254), s(1)),
        (0b10, Shown::AsHeard, ms(100)),
    ] {
        let mut plan = plan(OLD, shown, Disguise::TieWinner);
        plan.targets = targets;
        plan.until = START + s(150);
        scenario.attack(plan, every);
    }
    scenario.faults.sort_by_key(|(at, _)| *at);
    let asked = run(&scenario).reigns(1).skip(1).count();
    assert!((2..8).contains(&asked), "{asked} times in 90 s");
}

#[test]
fn masters_with_distant_counters_recognize_each_other_at_once() {
    for profile in PROFILES {
        for seed in 0..10 {
            let mut members = hosts(profile, &[0, 100]);
            members[1].start = members[1].start + s(5);
            let faults = [
                (ms(1), Fault::Partition(0b01)),
                (ms(20_950 + 7 * seed), Fault::Heal),
            ];
            let mut scenario = Scenario::staged(members, &faults, s(30));
            scenario.seed = seed;
            assert_eq!(run(&scenario).masters(), [0]);
        }
    }
}

#[test]
fn a_worse_master_asks_a_far_faster_one_at_once() {
    // Host 1 hears host 0 five times in each of its own intervals, and is not heard until the path is restored.
    for seed in 0..30 {
        let mut members = hosts(Profile::Ucarp, &[20, 100]);
        for member in &mut members {
            member.advbase = 0;
        }
        // Host 1 has the higher counters.
        members[1].start = members[1].start + s(5);
        let mended = ms(20_000 + 37 * seed);
        let faults = [
            (ms(1), Fault::Partition(0b01)),
            (s(15), Fault::Heal),
            (s(15), Fault::Cut(None, 1, 0)),
            (mended, Fault::Heal),
        ];
        let mut scenario = Scenario::staged(members, &faults, s(30));
        scenario.seed = seed;
        let outcome = run(&scenario);
        let (yielded, who, _) = outcome.transitions.last().expect("host 1 yields");
        let within = yielded.saturating_duration_since(START + mended);
        assert_eq!(*who, 1);
        assert!(
            ms(1) < within && within < ms(100),
            "chance {seed}: {within:?}"
        );
    }
}

#[test]
fn the_loser_of_a_tie_with_ucarp_yields_even_if_advertisements_cross() {
    for seed in 0..40 {
        let mut members = hosts(Profile::Ucarp, &[100, 100]);
        members[0].program = Implementation::Model(Dialect::Ucarp);
        // Host 0 has the lower address as a raw word, host 1 has the lower address as a number.
        members[0].sources[0] = IpAddr::V4(Ipv4Addr::new(10, 9, 1, 1));
        members[1].sources[0] = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 9));
        let faults = [
            (ms(1), Fault::Partition(0b01)),
            (ms(20_000 + 31 * seed), Fault::Heal),
        ];
        let mut scenario = Scenario::staged(members, &faults, s(40));
        scenario.seed = seed;
        scenario.weather.delay_max = ms(20);
        let outcome = run(&scenario);
        assert_eq!(outcome.masters(), [0]);
        let (yielded, _, _) = outcome.transitions.last().expect("host 1 yields");
        // The advertisement that asks; an answer to what was sent before the question and overtaken by it; and the
        // answer to the question.
        let within = yielded.saturating_duration_since(START + ms(20_000 + 31 * seed));
        assert!(within < ms(3 * 1391 + 100), "chance {seed}: {within:?}");
    }
}

#[test]
fn a_master_that_was_stopped_makes_way_for_a_successor_that_never_heard_it() {
    for profile in PROFILES {
        let mut members = hosts(profile, &[60, 0]);
        members[1].start = members[1].start + s(11);
        let faults = [(s(10), Fault::Hang(0)), (s(20), Fault::Resume(0))];
        let mut scenario = Scenario::staged(members, &faults, s(30));
        scenario.weather.delay_min = ms(15);
        scenario.weather.delay_max = ms(16);
        let outcome = run(&scenario);
        let (yielded, _, _) = outcome.transitions.last().expect("host 0 yields");
        assert!(*yielded < START + ms(20_005), "{profile:?}: {yielded:?}");
        assert_eq!(outcome.masters(), [1]);
    }
}
