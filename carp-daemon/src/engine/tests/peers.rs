//! The behaviour of the other hosts of the group, and its limits.

use carp_common::abi::counters::Counter;
use carp_common::proto::Key;
use carp_common::units::State;

use super::*;

const DONE: &[&str] = &[
    "add",
    "delete",
    "advertise",
    "announce",
    "answer",
    "silence",
];

/// A host with an advskew.
fn skewed(advskew: u8) -> VhostConfig {
    let mut config = vhost(1);
    config.election.advskew.0 = advskew;
    config
}

#[test]
fn after_a_partition_the_worse_master_falls_silent_before_anything_else_and_removes_the_address() {
    let mut scene = Scene::master(skewed(100));
    scene.pass(ms(5_000));
    scene.forget();
    scene.hear(&mut Peer::new(2, 0));
    assert_eq!(scene.state(), State::Backup);
    let asked = scene.asked(DONE);
    assert_eq!(asked[0], "silence 10.0.0.101");
    assert!(
        asked.contains(&"delete 10.0.0.101/32".to_owned()),
        "{asked:?}"
    );
    assert!(
        !asked.iter().any(|it| it.starts_with("announce")),
        "{asked:?}"
    );
    assert!(scene.host().owners.is_empty(), "the address is gone");
}

#[test]
fn after_a_partition_the_better_master_stays_and_announces_at_most_once_per_interval() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(10_000));
    scene.forget();
    let mut worse = Peer::new(2, 100);
    for _ in 0..50 {
        scene.hear(&mut worse);
        scene.pass(ms(100));
    }
    assert_eq!(scene.state(), State::Master);
    let announced = scene.asked(&["announce"]).len();
    assert!((4..=7).contains(&announced), "{announced} in 5 s");
    assert_eq!(scene.told("worse-master"), 1);
}

#[test]
fn a_backup_that_preempts_takes_over_from_a_worse_master_at_once_and_others_do_not() {
    for preempt in [false, true] {
        let mut config = vhost(1);
        config.election.preempt = preempt;
        let mut scene = Scene::backup(config);
        scene.hear(&mut Peer::new(2, 100));
        assert_eq!(scene.state() == State::Master, preempt);
        assert_eq!(scene.host().has(VIP), preempt);
    }
}

#[test]
fn two_of_three_advertisements_may_be_lost() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    for _ in 0..5 {
        scene.hear(&mut peer);
        scene.pass(MASTER_DOWN - ms(1));
        assert_eq!(scene.state(), State::Backup);
    }
    assert_eq!(scene.asked(DONE), Vec::<String>::new());
}

#[test]
fn doubled_and_late_advertisements_change_nothing() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    for _ in 0..20 {
        let now = scene.host().now;
        let event = peer.advertise(now);
        // It arrives twice, and is read a quarter of a second later.
        scene.host().arrived.extend([event, event]);
        scene.sleep(ms(250));
        scene.turn();
        scene.pass(ms(750));
    }
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(DONE), Vec::<String>::new());
    // The silence counts from the arrival, not from when it was read.
    scene.hear(&mut peer);
    let now = scene.host().now;
    let event = peer.advertise(now);
    scene.host().arrived.push_back(event);
    scene.sleep(ms(400));
    scene.turn();
    scene.pass(ms(2_599));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn own_advertisements_that_come_back_change_nothing_and_are_told() {
    let mut scene = Scene::master(vhost(1));
    let own = scene.endpoints(Family::Inet).own;
    assert_eq!(own, Some(OWN), "the datapath drops most of them");
    scene.pass(ms(10_000));
    let mut echo = Peer::new(1, 0);
    scene.forget();
    scene.hear(&mut echo);
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("own-echo"), 1);
}

#[test]
fn a_peer_that_sends_from_the_virtual_address_counts_like_any_other() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(101, 0);
    scene.hear_for(&mut peer, ms(20_000));
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn echoes_of_a_host_that_sends_from_the_virtual_address_are_not_dropped_by_source() {
    let mut config = vhost(1);
    config.source = Some(Ipv4Addr::new(10, 0, 0, 101));
    let mut scene = Scene::backup(config);
    let own = scene.endpoints(Family::Inet).own;
    assert_eq!(own, None, "a peer may send from it as well");
}

#[test]
fn another_password_proves_nothing_and_is_told() {
    let mut scene = Scene::backup(vhost(1));
    let mut config = vhost(1);
    config.election.key = Key::new(b"hate").unwrap();
    let mut stranger = Peer::of(config, 2, 0);
    scene.hear_for(&mut stranger, ms(4_000));
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("bad-digest"), 1);
    stranger.bow_out();
    scene.hear(&mut stranger);
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn another_vhid_is_nobodys_business() {
    let mut scene = Scene::backup(vhost(1));
    let mut other = Peer::of(vhost(9), 2, 0);
    scene.hear_for(&mut other, ms(3_000));
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("bad-digest"), 0);
}

#[test]
fn after_a_bow_out_a_backup_takes_over_within_a_sixteenth_of_its_advskew() {
    let mut scene = Scene::backup(skewed(64));
    let mut peer = Peer::new(2, 0);
    scene.hear_for(&mut peer, ms(5_000));
    peer.bow_out();
    scene.hear(&mut peer);
    assert_eq!(scene.state(), State::Backup, "a better BACKUP may be there");
    // 64 × 244 µs.
    scene.pass(ms(16));
    assert_eq!(scene.state(), State::Master);
    assert!(scene.host().has(VIP));
}

#[test]
fn a_flood_is_read_to_its_end_before_the_silence_is_judged() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    scene.hear(&mut peer);
    scene.sleep(MASTER_DOWN);
    let now = scene.host().now;
    let mut noise = peer.advertise(now);
    noise.payload[20] ^= 1;
    scene
        .host()
        .arrived
        .extend(std::iter::repeat_n(noise, 5_000));
    scene.queue(&mut peer);
    scene.turn();
    assert!(scene.host().arrived.is_empty());
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn an_advertisement_that_arrives_during_a_turn_has_another_turn() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    let soon = scene.host().now + ms(1);
    let event = peer.advertise(soon);
    scene.host().arrived.push_back(event);
    scene.engine.turn([]);
    assert!(scene.engine.is_busy());
    assert_eq!(scene.host().arrived.len(), 1);
}

#[test]
fn a_peer_that_sends_by_unicast_is_told_within_a_second_and_every_ten_minutes() {
    let mut scene = Scene::master(vhost(1));
    scene.host().count_one(Counter::PassedUnicast);
    scene.pass(ms(1_100));
    assert_eq!(scene.told("unicast-peer"), 1);
    for _ in 0..599 {
        scene.host().count_one(Counter::PassedUnicast);
        scene.pass(INTERVAL);
    }
    assert_eq!(scene.told("unicast-peer"), 0);
    for _ in 0..3 {
        scene.host().count_one(Counter::PassedUnicast);
        scene.pass(INTERVAL);
    }
    assert_eq!(scene.told("unicast-peer"), 1);
}

#[test]
fn vrrp_with_a_vhid_of_ours_is_told_once() {
    let mut scene = Scene::master(vhost(1));
    for _ in 0..20 {
        scene.host().count_one(Counter::PassedVrrpSameVhid);
        scene.pass(INTERVAL);
    }
    assert_eq!(scene.told("vrrp-same-vhid"), 1);
}
