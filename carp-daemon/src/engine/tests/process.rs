//! The effects of a daemon that is killed, stopped, late, or started twice.

use carp_common::units::{DeadRatio, State};

use super::*;
use crate::io::datapath::{AddressOwner, Fenced};
use host::FenceState;

/// A fenced address of a virtual host.
fn fenced(address: IpAddr, ifindex: u32, vhid: u8) -> Fenced {
    let vhid = Vhid::new(vhid).unwrap();
    Fenced {
        address,
        owner: Some(AddressOwner { ifindex, vhid }),
    }
}

#[test]
fn a_killed_master_falls_silent_before_a_backup_takes_over_and_its_address_goes_after_that() {
    let mut scene = Scene::master(vhost(1));
    // It advertises every second; the last time half a second ago.
    scene.pass(ms(10_500));
    let mut host = scene.kill();
    let last = host.now;
    host.now = last + ms(1_400);
    assert!(host.answers_for(VIP), "it could still have advertised");
    host.now = last + ms(2_400);
    assert!(!host.answers_for(VIP), "a BACKUP takes over at 2.5 s");
    let end = host.lease_end(VIP).expect("it is lent to us");
    assert!(end > last + ms(1_400) && end <= last + ms(4_000));
    host.now = end;
    host.expire();
    assert!(!host.has(VIP));
}

#[test]
fn with_deadratio_1_a_master_answers_until_a_sixteenth_after_its_next_advertisement() {
    let mut config = vhost(1);
    config.election.deadratio = DeadRatio::new(1).unwrap();
    let mut scene = Scene::master(config);
    let now = scene.host().now;
    assert_eq!(
        scene.host().fence(VIP),
        Some(FenceState::Open(
            now + ms(1_062) + Duration::from_micros(500)
        ))
    );
}

#[test]
fn an_address_of_a_killed_run_is_silent_until_the_election_and_its_heir_adds_nothing_anew() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(500));
    let host = scene.kill();
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    assert_eq!(scene.state(), State::Backup);
    assert!(scene.host().has(VIP) && !scene.host().answers_for(VIP));
    scene.forget();
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
    assert!(scene.host().answers_for(VIP));
    assert_eq!(scene.asked(&["delete"]), Vec::<String>::new());
    assert!(scene.host().has(VIP));
    let lease = scene.host().lease_end(VIP).unwrap();
    assert!(lease > scene.host().now + ms(3_000), "it is renewed");
}

#[test]
fn an_address_of_a_killed_run_goes_when_another_master_is_heard() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(500));
    let host = scene.kill();
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    scene.forget();
    scene.hear(&mut Peer::new(2, 0));
    let asked = scene.asked(&["delete", "silence", "disown"]);
    assert_eq!(asked, ["delete 10.0.0.101/32", "disown 10.0.0.101"]);
    assert!(!scene.host().has(VIP));
}

#[test]
fn an_address_of_a_killed_run_goes_when_a_host_that_was_stopped_waits_for_the_master_anew() {
    let mut host = host();
    host.addresses.push((tagged(101), None));
    host.owners.push(fenced(VIP, ETH0, 1));
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    scene.queue(&mut Peer::new(2, 0));
    scene.sleep(ms(10_000));
    scene.host().lost = 5;
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    assert!(!scene.host().has(VIP));
}

#[test]
fn addresses_of_a_dead_carpd_of_another_vhid_are_removed_and_those_of_a_living_one_are_not() {
    for lives in [false, true] {
        let mut host = host();
        host.addresses.push((tagged(150), None));
        let left = fenced(tagged(150).address, ETH0, 50);
        host.owners.push(left);
        if lives {
            host.living.insert((ETH0, left.owner.unwrap().vhid));
        }
        let mut scene = Scene::start(config(vec![vhost(1)]), host);
        assert_eq!(scene.host().has(left.address), lives);
        assert_eq!(scene.host().fence(left.address).is_some(), lives);
    }
}

#[test]
fn an_address_that_scripts_of_a_dead_carpd_left_stays_and_stays_fenced() {
    let mut host = host();
    host.addresses.push((address(150), None));
    let left = fenced(address(150).address, ETH0, 50);
    host.owners.push(left);
    let scene = Scene::start(config(vec![vhost(1)]), host);
    let mut engine = scene.engine;
    assert_eq!(
        engine.effects().fence(left.address),
        Some(FenceState::Closed)
    );
    engine.shut_down();
    let (_, orphans) = engine.close();
    assert_eq!(orphans, [left], "nobody sees to it once we have ended");
}

#[test]
fn the_end_lifts_the_fence_of_a_dead_carpd_on_an_interface_that_is_not_served_if_the_address_is_gone()
 {
    const RENAMED: u32 = 7;
    for (is_here, lives, is_stale) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let mut host = host();
        host.links.insert(RENAMED, Link::up(RENAMED, "lan0"));
        host.addresses.push((address(150), None));
        let left = fenced(address(150).address, RENAMED, 1);
        host.owners.push(left);
        if lives {
            host.living.insert((RENAMED, left.owner.unwrap().vhid));
        }
        let mut scene = Scene::start(config(vec![vhost(1)]), host);
        if !is_here {
            scene.host().remove(left.address);
        }
        if is_stale {
            scene.host().faults.watch = Some(libc::EBADF);
        }
        scene.turn();
        assert!(scene.host().fence(left.address).is_some());
        scene.engine.shut_down();
        let (host, orphans) = scene.engine.close();
        let stays = is_here || is_stale;
        assert_eq!(host.fence(left.address).is_some(), stays || lives);
        assert_eq!(orphans.contains(&left), stays);
    }
}

#[test]
fn the_fence_of_an_interface_that_is_gone_is_lifted_unless_the_address_is_here() {
    for is_here in [false, true] {
        let mut host = host();
        if is_here {
            host.addresses.push((address(150), None));
        }
        let left = fenced(address(150).address, 9, 50);
        host.owners.push(left);
        let mut scene = Scene::start(config(vec![vhost(1)]), host);
        assert_eq!(scene.host().fence(left.address).is_some(), is_here);
    }
}

#[test]
fn a_start_whose_kernel_program_is_refused_touches_no_address_and_leaves_the_fence_as_it_was() {
    let mut host = host();
    host.addresses.push((tagged(101), None));
    let left = fenced(VIP, ETH0, 1);
    host.owners.push(left);
    host.faults.load = true;
    let failed = Engine::start(config(vec![vhost(1)]), host).unwrap_err();
    assert!(
        failed.error.to_string().contains("cannot receive"),
        "{}",
        failed.error
    );
    assert_eq!(failed.orphans, [left]);
    assert!(failed.effects.has(VIP));
}

#[test]
fn a_second_start_for_one_virtual_host_touches_nothing() {
    let mut host = host();
    host.faults.locked.insert("vhid 2/2".to_owned());
    let failed = Engine::start(config(vec![vhost(1), vhost(2)]), host).unwrap_err();
    assert!(
        matches!(failed.error, super::super::EngineError::Lock(_)),
        "{}",
        failed.error
    );
    assert!(
        failed.effects.locks.is_empty(),
        "those that it had are given back"
    );
    let touched = |it: &&String| {
        !["list", "lock", "unlock", "enlist"].contains(&it.split(' ').next().unwrap())
    };
    let asked: Vec<_> = failed.effects.asked.iter().filter(touched).collect();
    assert_eq!(asked, ["delete 0.0.0.0/32"], "which asks whether it may");
}

#[test]
fn only_a_start_waits_for_an_owner_that_may_be_stopping() {
    let mut scene = Scene::start(config(vec![vhost(1)]), host());
    assert_eq!(scene.asked(&["lock"]), ["lock 1 and wait"]);
    scene.engine.add(vhost(2)).unwrap();
    assert_eq!(scene.asked(&["lock"]), ["lock 2"]);
}

#[test]
fn an_orderly_stop_of_a_master_silences_bows_out_and_removes_in_this_order() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(2_500));
    scene.forget();
    let mut host = scene.stop();
    let words = [
        "silence",
        "withdraw",
        "delete",
        "advertise",
        "disown",
        "answer",
        "add",
    ];
    host.asked
        .retain(|it| words.contains(&it.split(' ').next().unwrap()));
    assert_eq!(
        host.asked,
        [
            "silence 10.0.0.101",
            "withdraw 1",
            "advertise 255/255 from 10.0.0.1",
            "delete 10.0.0.101/32",
            "disown 10.0.0.101",
        ]
    );
    assert_eq!(host.addresses, [(address(1), None)]);
    assert_eq!(host.owners, []);
}

#[test]
fn after_sigusr2_a_master_that_nobody_replaces_comes_back_after_3_s_and_the_master_down_time() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(2_500));
    scene.forget();
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(scene.state(), State::Backup);
    let asked = scene.asked(&["silence", "delete", "advertise"]);
    let expected = [
        "silence 10.0.0.101",
        "advertise 255/255 from 10.0.0.1",
        "delete 10.0.0.101/32",
    ];
    assert_eq!(asked, expected);
    scene.pass(ms(5_999));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
    assert!(scene.host().has(VIP));
}

#[test]
fn a_stopped_master_is_silent_and_yields_to_a_better_successor_before_it_does_anything() {
    let mut scene = Scene::master({
        let mut worse = vhost(1);
        worse.election.advskew.0 = 100;
        worse
    });
    scene.pass(ms(2_500));
    scene.forget();
    let mut better = Peer::new(2, 0);
    for _ in 0..10 {
        scene.sleep(INTERVAL);
        scene.queue(&mut better);
    }
    assert!(!scene.host().answers_for(VIP), "the kernel silenced it");
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    let asked = scene.asked(&["add", "answer", "announce", "renew", "advertise"]);
    assert!(asked.len() <= 1, "at most a last advertisement: {asked:?}");
    assert!(!scene.host().has(VIP));
}

#[test]
fn a_stopped_master_that_is_the_better_one_answers_at_once_and_announces() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(2_500));
    scene.forget();
    let mut worse = Peer::new(2, 100);
    for _ in 0..10 {
        scene.sleep(INTERVAL);
        scene.queue(&mut worse);
    }
    scene.turn();
    assert_eq!(scene.state(), State::Master);
    let asked = scene.asked(&["advertise", "announce"]);
    assert!(
        asked.iter().any(|it| it.starts_with("advertise 1/0")),
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|it| it.starts_with("announce")),
        "{asked:?}"
    );
    assert!(
        scene.host().has(VIP) && scene.host().answers_for(VIP),
        "its lease ran out meanwhile"
    );
}

#[test]
fn a_stopped_backup_hears_everything_that_arrived_before_it_judges_the_silence() {
    for seconds in [1, 3, 10, 600] {
        let mut scene = Scene::backup(vhost(1));
        let mut peer = Peer::new(2, 0);
        scene.hear(&mut peer);
        scene.forget();
        for _ in 0..seconds {
            scene.sleep(INTERVAL);
            scene.queue(&mut peer);
        }
        scene.sleep(ms(900));
        scene.turn();
        assert_eq!(scene.state(), State::Backup, "stopped for {seconds} s");
        assert_eq!(
            scene.asked(&["add", "answer", "advertise"]),
            Vec::<String>::new()
        );
    }
}

#[test]
fn a_backup_that_slept_while_the_master_died_allows_it_one_more_advertisement() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    scene.sleep(ms(10_000));
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1_499));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn a_master_that_resumes_in_time_after_both_stood_still_is_left_alone() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    scene.hear(&mut peer);
    scene.sleep(ms(10_000));
    scene.turn();
    scene.pass(ms(1_400));
    scene.hear(&mut peer);
    scene.pass(MASTER_DOWN - ms(1));
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_late_turn_is_counted_and_a_turn_in_time_is_not() {
    let mut scene = Scene::master(vhost(1));
    let count = |scene: &Scene| scene.engine.instances().next().unwrap().rooms.stalls.count;
    scene.pass(ms(10_000));
    assert_eq!(count(&scene), 0);
    scene.sleep(ms(1_800));
    scene.turn();
    assert_eq!(count(&scene), 1);
}
