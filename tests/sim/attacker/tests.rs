//! Checks which recordings the attacker may use, and how.

use super::super::packet::{Ad, Group};
use super::super::scenario::{Implementation, Member, START};
use super::*;
use carp_common::units::Profile;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn plan(ploy: Ploy) -> Plan {
    Plan {
        ploy,
        shown: Shown::AsHeard,
        disguise: Disguise::Sender,
        other_mac: false,
        spares_answers: false,
        targets: 0b11,
        from: START,
        until: START + ms(60_000),
    }
}

/// Two hosts; the second sends these counters, one per second.
fn listening(plan: Plan, counters: &[u64]) -> Attacker {
    let members = [1, 2].map(|n| Member::usual(Implementation::Carpd(Profile::Ucarp), n, 0));
    let mut scenario = Scenario::staged(members.to_vec(), &[], ms(60_000));
    scenario.attack(plan, ms(1_000));
    let mut attacker = Attacker::new(&scenario);
    for (number, counter) in counters.iter().enumerate() {
        let at = START + ms(1_000) * u32::try_from(number).unwrap();
        attacker.overhears(at, 1, &packet(&scenario.group, *counter));
    }
    attacker
}

fn packet(group: &Group, counter: u64) -> Packet {
    Packet {
        family: Family::Inet,
        source: Ipv4Addr::new(10, 9, 0, 2).into(),
        ethernet_source: [0, 0, 0x5e, 0, 0, 1],
        payload: group.seal(Ad {
            advbase: 1,
            advskew: 0,
            demotion: 0,
            counter,
        }),
    }
}

/// Returns the counters of the plan's first strokes.
fn strokes(attacker: &mut Attacker, count: usize) -> Vec<u64> {
    let late = START + ms(50_000);
    let sent = (0..count).map_while(|_| attacker.carries_on(late, 0));
    sent.map(|(packet, _)| read(&packet.payload).unwrap().counter)
        .collect()
}

#[test]
fn the_attacker_remembers_each_advertisement_once() {
    let counters: Vec<u64> = (0..5_000).chain([7, 7]).collect();
    let attacker = listening(
        plan(Ploy::Repeat {
            of: None,
            age: 0,
            same: false,
        }),
        &counters,
    );
    assert_eq!(attacker.heard.len(), 5_000);
}

#[test]
fn recordings_are_repeated_at_the_age_of_the_plan() {
    for (age, same, counter) in [(0, false, 50), (3, true, 20), (1_000, true, 10)] {
        let ploy = Ploy::Repeat {
            of: Some(1),
            age,
            same,
        };
        let mut attacker = listening(plan(ploy), &[10, 20, 30, 40, 50]);
        assert_eq!(strokes(&mut attacker, 2), [counter; 2]);
    }
    let nobody = Ploy::Repeat {
        of: Some(0),
        age: 0,
        same: false,
    };
    assert!(strokes(&mut listening(plan(nobody), &[10]), 1).is_empty());
}

#[test]
fn a_run_rises_to_its_end() {
    let mut attacker = listening(plan(Ploy::Rising { of: 1, tail: 3 }), &[40, 10, 30, 20]);
    assert_eq!(strokes(&mut attacker, 9), [20, 30, 40]);
}

#[test]
fn the_past_is_what_an_earlier_process_sent() {
    let mut past = plan(Ploy::Past { of: 1 });
    past.from = START + ms(1_500);
    let mut attacker = listening(past, &[10, 20, 30, 40]);
    assert_eq!(strokes(&mut attacker, 3), [10, 20, 10]);
}

#[test]
fn an_advertisement_is_overtaken_only_during_the_plan_and_altered() {
    let mut overtake = plan(Ploy::Overtake(ms(5)));
    overtake.shown = Shown::Priority(255, 255);
    overtake.disguise = Disguise::TieWinner;
    overtake.other_mac = true;
    let mut attacker = listening(overtake, &[]);
    let members = vec![Member::usual(Implementation::Carpd(Profile::Ucarp), 1, 0)];
    let genuine = packet(&Scenario::staged(members, &[], ms(1)).group, 5);
    let late = attacker.overtakes(START + ms(60_000), 1, &genuine);
    assert!(late.is_none());
    let ahead = attacker.overtakes(START, 1, &genuine).expect("in his time");
    let ad = read(&ahead.packet.payload).unwrap();
    assert_eq!((ad.advbase, ad.advskew, ad.counter), (255, 255, 5));
    assert_eq!(ahead.packet.source, IpAddr::from([10, 9, 0, 0]));
    assert_eq!(ahead.packet.ethernet_source[4], 1);
    assert_eq!((ahead.targets, ahead.by), (0b11, ms(5)));
}

#[test]
fn answers_are_spared_where_he_wants() {
    let mut overtake = plan(Ploy::Overtake(ms(5)));
    overtake.spares_answers = true;
    let mut attacker = listening(overtake, &[5]);
    let members = vec![Member::usual(Implementation::Carpd(Profile::Ucarp), 1, 0)];
    let genuine = packet(&Scenario::staged(members, &[], ms(1)).group, 6);
    assert!(attacker.overtakes(START + ms(99), 0, &genuine).is_none());
    assert!(attacker.overtakes(START + ms(99), 1, &genuine).is_some());
    assert!(attacker.overtakes(START + ms(100), 0, &genuine).is_some());
}
