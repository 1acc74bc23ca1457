//! Groups of three hosts.

use carp_common::units::State;

use super::*;

const DONE: &[&str] = &["add", "delete", "advertise", "announce", "answer"];

/// Returns a BACKUP with this advskew that hears a MASTER with advskew 0, at 10.0.0.2.
fn third(advskew: u8) -> (Scene, Peer) {
    let mut config = vhost(1);
    config.election.advskew.0 = advskew;
    let mut scene = Scene::backup(config);
    let mut master = Peer::new(2, 0);
    scene.hear_for(&mut master, ms(5_000));
    scene.hear(&mut master);
    scene.forget();
    (scene, master)
}

#[test]
fn the_worse_of_two_backups_stays_backup_when_the_better_one_follows_a_killed_master() {
    let (mut scene, _) = third(100);
    let mut better = Peer::new(3, 50);
    // The better one's master-down time is 3 s and 50/256 s.
    scene.pass(MASTER_DOWN + ms(195));
    scene.hear_for(&mut better, ms(10_000));
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(DONE), Vec::<String>::new());
}

#[test]
fn the_better_of_two_backups_follows_a_killed_master_and_stays_beside_the_worse_one() {
    let (mut scene, _) = third(50);
    scene.pass(MASTER_DOWN + ms(196));
    assert_eq!(scene.state(), State::Master);
    // The worse one has timed out before it heard of that.
    scene.hear(&mut Peer::new(3, 100));
    assert_eq!(scene.state(), State::Master);
    assert!(scene.host().has(VIP) && scene.host().answers_for(VIP));
}

#[test]
fn of_two_backups_the_better_one_follows_a_bow_out_and_the_other_one_is_last() {
    let (mut scene, mut master) = third(100);
    master.bow_out();
    scene.hear(&mut master);
    // Its turn is 50 × 244 µs, ours 100 × 244 µs.
    scene.pass(ms(13));
    let mut better = Peer::new(3, 50);
    scene.hear_for(&mut better, ms(10_000));
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(DONE), Vec::<String>::new());
    better.bow_out();
    scene.hear(&mut better);
    scene.pass(ms(24));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn of_equal_masters_the_one_that_ucarps_rule_chooses_stays() {
    // Addresses are compared from their last byte on: 10.0.0.1 wins over 10.0.0.2 and 10.0.0.3.
    for (own, stays) in [(1, true), (9, false)] {
        let mut host = host();
        host.addresses = vec![(address(own), None)];
        let mut scene = Scene::start(config(vec![vhost(1)]), host);
        scene.become_master();
        for last in [2, 3] {
            scene.hear(&mut Peer::new(last, 0));
        }
        assert_eq!(scene.state() == State::Master, stays, "10.0.0.{own}");
        assert_eq!(scene.host().has(VIP), stays, "10.0.0.{own}");
    }
}
