//! Entering and leaving the state MASTER, as the host sees it.

use carp_common::units::State;

use super::*;

/// The requests that a takeover makes of the host.
const ALL: &[&str] = &[
    "answer",
    "silence",
    "disown",
    "run",
    "add",
    "delete",
    "advertise",
    "announce",
];

#[test]
fn a_backup_that_hears_nobody_answers_adds_advertises_and_announces_in_this_order() {
    let mut scene = Scene::backup(vhost(1));
    scene.pass(MASTER_DOWN - ms(1));
    assert_eq!(scene.asked(ALL), Vec::<String>::new());
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
    let lines = [
        "answer 10.0.0.101 until 5000",
        "run up on eth0 as MASTER",
        "add 10.0.0.101/32 for 4 s",
        "advertise 1/0 from 10.0.0.1",
    ];
    let asked = scene.asked(ALL);
    assert_eq!(asked[..4], lines, "{asked:?}");
    assert_eq!(asked.last().unwrap(), "announce 10.0.0.101");
}

#[test]
fn an_advertisement_is_one_write_however_many_addresses_there_are() {
    let mut config = vhost(1);
    let first = config.addresses[0].clone();
    for last in 201..216 {
        let mut more = first.clone();
        more.address = address(last).address;
        config.addresses.push(more);
    }
    let mut scene = Scene::master(config);
    // The chores that becoming MASTER leaves to be done.
    scene.pass(ms(5_500));
    let addresses = scene.host().owners.len();
    assert_eq!(addresses, 16);
    scene.forget();
    let before = scene.host().writes;
    scene.pass(ms(10_000));
    let sent = scene.asked(&["advertise"]).len();
    assert_eq!((sent, scene.host().writes - before), (10, 10));
}
