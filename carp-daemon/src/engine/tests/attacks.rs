//! An attacker who has no password: it records advertisements, resends them, and alters what the digest does not cover.

use std::net::IpAddr;

use carp_common::abi::event::AdvertisementEvent;
use carp_common::units::State;
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};

use super::*;

const DONE: &[&str] = &["add", "delete", "announce", "answer"];

/// Returns a recorded advertisement as it arrives again, from this source.
fn replay(recorded: &AdvertisementEvent, source: IpAddr, at: Instant) -> AdvertisementEvent {
    let mut event = *recorded;
    event.arrival_ns = at.as_nanos();
    if let IpAddr::V4(source) = source {
        event.source[..4].copy_from_slice(&source.octets());
    }
    event
}

/// Returns an advertisement that was made a bow-out on its way. Its digest still matches.
fn altered(event: &AdvertisementEvent) -> AdvertisementEvent {
    let mut advertisement = Advertisement::parse(event.header()).expect("it is valid");
    advertisement.advbase = AdvBase(255);
    advertisement.advskew.0 = 255;
    let mut payload = [0; HEADER_LEN];
    advertisement.emit(&mut payload);
    let mut event = *event;
    event.payload[..HEADER_LEN].copy_from_slice(&payload);
    event
}

/// Lets a peer advertise at its interval for 10 s, and returns what it sent.
fn record(scene: &mut Scene, peer: &mut Peer) -> Vec<AdvertisementEvent> {
    let mut recorded = Vec::new();
    for _ in 0..10 {
        let now = scene.host().now;
        let event = peer.advertise(now);
        recorded.push(event);
        scene.host().arrived.push_back(event);
        scene.turn();
        scene.pass(peer.interval());
    }
    recorded
}

/// Resends recordings to the host for a while, one in 100 ms, from the sender's address and from another one.
fn resend(scene: &mut Scene, recorded: &[AdvertisementEvent], time: Duration) {
    let end = scene.host().now + time;
    for (index, event) in recorded.iter().cycle().enumerate() {
        let now = scene.host().now;
        if now >= end {
            return;
        }
        let source = [10, 0, 0, if index % 2 == 0 { 2 } else { 77 }].into();
        scene.host().arrived.push_back(replay(event, source, now));
        scene.turn();
        scene.pass(ms(100));
    }
}

#[test]
fn recordings_of_a_dead_master_do_not_keep_a_backup_from_taking_over() {
    let mut scene = Scene::backup(vhost(1));
    let recorded = record(&mut scene, &mut Peer::new(2, 0));
    assert_eq!(scene.state(), State::Backup);
    // The last genuine one came an interval ago.
    resend(&mut scene, &recorded, MASTER_DOWN - INTERVAL);
    assert_eq!(scene.state(), State::Master);
    assert!(scene.host().has(VIP));
}

#[test]
fn recordings_of_a_better_host_do_not_depose_a_master() {
    let mut config = vhost(1);
    config.election.advskew.0 = 100;
    let mut scene = Scene::backup(config);
    let recorded = record(&mut scene, &mut Peer::new(2, 0));
    scene.become_master();
    scene.pass(ms(10_000));
    scene.forget();
    resend(&mut scene, &recorded, ms(20_000));
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("state-changed"), 0);
    assert!(scene.host().has(VIP) && scene.host().answers_for(VIP));
}

#[test]
fn a_backup_whose_master_lives_is_not_moved_by_recordings() {
    let mut scene = Scene::backup(vhost(1));
    let mut master = Peer::new(2, 0);
    let recorded = record(&mut scene, &mut master);
    scene.forget();
    for _ in 0..20 {
        scene.hear(&mut master);
        let altered: Vec<_> = recorded.iter().map(altered).collect();
        resend(&mut scene, &altered, ms(500));
        resend(&mut scene, &recorded, ms(500));
    }
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(DONE), Vec::<String>::new());
}

#[test]
fn altered_copies_before_the_genuine_advertisements_mislead_a_backup_twice_a_minute() {
    let mut config = vhost(1);
    config.election.advskew.0 = 100;
    let mut scene = Scene::backup(config);
    let mut master = Peer::new(2, 0);
    record(&mut scene, &mut master);
    scene.forget();
    for _ in 0..30 {
        let now = scene.host().now;
        let last_counter = scene.host().last_counter;
        master.count_beyond(last_counter);
        let genuine = master.advertise(now);
        scene.host().arrived.extend([altered(&genuine), genuine]);
        scene.turn();
        scene.pass(ms(100));
        if scene.state() == State::Master {
            // The MASTER hears of it, and answers.
            scene.hear(&mut master);
            assert_eq!(scene.state(), State::Backup);
        }
        scene.pass(ms(900));
    }
    assert_eq!(scene.state(), State::Backup);
    // Each time, it became MASTER and BACKUP again. The first time, its MASTER may have been started again.
    assert_eq!(scene.told("state-changed"), 4);
    assert_eq!(scene.told("advertisement-tampered"), 3);
}

#[test]
fn an_openbsd_that_repeats_its_counter_keeps_a_backup() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    let now = scene.host().now;
    let only = peer.advertise(now);
    for _ in 0..30 {
        let now = scene.host().now;
        let again = replay(&only, peer.source, now);
        scene.host().arrived.push_back(again);
        scene.turn();
        scene.pass(INTERVAL + ms(1));
    }
    assert_eq!(scene.state(), State::Backup);
    // It is gone.
    scene.pass(ms(20_000));
    assert_eq!(scene.state(), State::Master);
}
