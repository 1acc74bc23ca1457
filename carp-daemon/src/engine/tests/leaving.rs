//! The remains of a virtual host that ends: its scripts, and addresses that cannot be removed.

use carp_common::units::State;

use super::host::FenceState;
use super::*;

/// A virtual host whose down script runs at the end too.
fn released(vhid: u8) -> VhostConfig {
    let mut config = scripted(vhid);
    config.release_at_exit = true;
    config
}

/// A MASTER whose up script has added the address.
fn serving(config: VhostConfig) -> Scene {
    let mut scene = Scene::master(config);
    scene.host().assign(address(101));
    scene.end_script(Which::Up, Outcome::Succeeded);
    scene.forget();
    scene
}

/// A MASTER that was just removed, and whose down script runs.
fn removed() -> (Scene, InstanceId) {
    let mut scene = serving(released(1));
    let id = scene.id();
    scene.engine.remove(id);
    assert_eq!(scene.asked(&["run"]), ["run down on eth0 as INIT"]);
    (scene, id)
}

/// A MASTER whose address stays for good unless carpd removes it, and that the kernel does not let it remove.
fn refused() -> Scene {
    let mut config = config(vec![vhost(1)]);
    config.lease = Lease::Off;
    let mut scene = Scene::start(config, host());
    scene.become_master();
    scene.forget();
    scene.host().faults.delete = Some(libc::EPERM);
    scene
}

#[test]
fn a_removed_virtual_host_is_silent_until_its_down_script_has_removed_the_address() {
    let (mut scene, id) = removed();
    for _ in 0..5 {
        scene.pass(ms(1_000));
        assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    }
    assert!(scene.host().locks.contains_key("10.0.0.101"));
    scene.host().remove(VIP);
    scene.end_script_of(id, Which::Down, Outcome::Succeeded);
    assert_eq!(scene.host().fence(VIP), None);
    let host = scene.host();
    assert!(host.enlisted.is_empty() && host.locks.is_empty() && host.open.is_empty());
    assert_eq!(scene.states(), []);
}

#[test]
fn a_removed_virtual_host_whose_down_script_fails_is_silent_until_the_address_is_gone() {
    let (mut scene, id) = removed();
    scene.end_script_of(id, Which::Down, Outcome::Failed);
    scene.pass(ms(60_000));
    assert!(scene.host().has(VIP) && !scene.host().answers_for(VIP));
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None);
    assert!(scene.host().enlisted.is_empty());
}

#[test]
fn a_removed_virtual_host_is_silent_for_addresses_that_its_running_up_script_adds() {
    let mut scene = Scene::master(released(1));
    let id = scene.id();
    scene.engine.remove(id);
    scene.turn();
    assert_eq!(
        scene.host().fence(VIP),
        Some(FenceState::Closed),
        "it may come"
    );
    scene.host().assign(address(101));
    scene.end_script_of(id, Which::Up, Outcome::Succeeded);
    assert_eq!(
        scene.host().fence(VIP),
        Some(FenceState::Closed),
        "it is there"
    );
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.host().enlisted.len(), 1, "the down script runs");
    scene.end_script_of(id, Which::Down, Outcome::Succeeded);
    assert_eq!(scene.host().fence(VIP), None);
    assert!(scene.host().enlisted.is_empty());
}

#[test]
fn a_virtual_host_that_is_added_again_begins_when_the_scripts_of_the_old_one_have_ended() {
    let (mut scene, id) = removed();
    scene.forget();
    let again = scene.engine.add(scripted(1)).expect("it is added");
    scene
        .engine
        .add(scripted(1))
        .expect_err("it is there already");
    scene.pass(ms(30_000));
    assert_eq!(scene.asked(&["run", "enlist"]), Vec::<String>::new());
    assert_eq!(scene.states(), [State::Init]);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().remove(VIP);
    scene.end_script_of(id, Which::Down, Outcome::Succeeded);
    assert_eq!(scene.id(), again);
    assert_eq!(scene.states(), [State::Backup]);
    scene.become_master();
    let expected = ["run down on eth0 as BACKUP", "run up on eth0 as MASTER"];
    assert_eq!(scene.asked(&["run"]), expected);
}

#[test]
fn a_virtual_host_that_is_added_again_inherits_the_fence_around_leftover_addresses() {
    let mut scene = serving(scripted(1));
    let id = scene.id();
    scene.engine.remove(id);
    assert_eq!(scene.told("address-stays"), 1);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.forget();
    let again = scene.engine.add(scripted(1)).expect("it is added");
    assert_eq!((scene.id(), scene.states().len()), (again, 1));
    assert_eq!(scene.asked(&["disown", "detach"]), Vec::<String>::new());
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.become_master();
    assert!(scene.host().answers_for(VIP));
}

#[test]
fn a_virtual_host_that_waits_for_another_to_end_can_be_removed_and_obstacles_are_reported() {
    let (mut scene, id) = removed();
    let again = scene.engine.add(scripted(1)).expect("it is added");
    scene.engine.remove(again);
    scene.engine.add(scripted(1)).expect("it is added");
    scene.host().faults.locked.insert("vhid 2/1".to_owned());
    scene.end_script_of(id, Which::Down, Outcome::Succeeded);
    assert_eq!(scene.told("not-served"), 1);
    // The old virtual host stays because of its address.
    scene.pass(ms(10_000));
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None);
    assert_eq!(scene.states(), []);
}

#[test]
fn the_down_script_of_a_removed_virtual_host_is_not_requested_again_when_everything_ends() {
    let (mut scene, _) = removed();
    scene.engine.shut_down();
    assert_eq!(scene.asked(&["run"]), Vec::<String>::new());
}

#[test]
fn an_address_that_cannot_be_removed_is_silent_and_tried_again_every_second() {
    let mut scene = refused();
    let mut peer = Peer::new(0, 0);
    scene.hear(&mut peer);
    assert_eq!(scene.state(), State::Backup);
    scene.hear_for(&mut peer, ms(30_000));
    assert!(scene.host().has(VIP) && !scene.host().answers_for(VIP));
    let attempts = scene.asked(&["delete"]).len();
    assert!((29..=31).contains(&attempts), "{attempts}");
    let told = scene.told("address-remove-failed");
    assert!((3..=4).contains(&told), "{told}");
    scene.host().faults.delete = None;
    scene.hear_for(&mut peer, ms(2_000));
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), None);
    scene.forget();
    scene.hear_for(&mut peer, ms(5_000));
    assert_eq!(scene.asked(&["delete"]), Vec::<String>::new());
}

#[test]
fn an_address_is_silent_until_it_is_known_to_be_gone() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.watch = Some(libc::EBADF);
    scene.hear(&mut Peer::new(0, 0));
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().faults.watch = None;
    scene.pass(ms(1_100));
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn a_host_stays_silent_while_another_address_with_its_number_is_there() {
    let mut scene = refused();
    scene.hear(&mut Peer::new(0, 0));
    // Another program adds it with another prefix length, as an administrator may who repeats our protocol number.
    scene.host().assign(Address {
        prefix: 24,
        ..tagged(101)
    });
    scene.host().faults.delete = None;
    scene.pass(ms(1_100));
    assert!(scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
}

#[test]
fn an_address_that_could_not_be_removed_is_kept_by_a_host_that_is_master_again() {
    let mut scene = refused();
    scene.turn_with([Arrival::StepDown]);
    assert!(!scene.host().answers_for(VIP));
    scene.become_master();
    scene.host().faults.delete = None;
    scene.forget();
    scene.pass(ms(10_000));
    assert_eq!(scene.asked(&["delete"]), Vec::<String>::new());
    assert!(scene.host().has(VIP) && scene.host().answers_for(VIP));
}

#[test]
fn an_address_that_could_not_be_removed_and_is_somebody_elses_by_now_is_left_there() {
    let mut scene = refused();
    scene.hear(&mut Peer::new(0, 0));
    let theirs = Address {
        protocol: 0,
        ..tagged(101)
    };
    scene.host().assign(theirs);
    scene.host().faults.delete = None;
    scene.forget();
    scene.pass(ms(1_500));
    // An address that is removed by mistake is given back, so it is there in both cases.
    assert_eq!(scene.asked(&["delete"]), Vec::<String>::new());
    assert!(scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn a_removed_virtual_host_whose_address_cannot_be_removed_is_let_go_when_it_is_gone() {
    let mut scene = refused();
    let id = scene.id();
    scene.engine.remove(id);
    scene.pass(ms(5_000));
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    assert!(scene.host().locks.contains_key("10.0.0.101"));
    scene.host().faults.delete = None;
    scene.pass(ms(1_100));
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), None);
    assert!(scene.host().locks.is_empty());
}

/// The virtual host of [`refused`] with another address.
fn other_address() -> VhostConfig {
    let mut config = vhost(1);
    config.addresses = vhost(50).addresses;
    config
}

#[test]
fn one_whose_heir_cannot_begin_goes_on_removing_its_address() {
    let mut scene = refused();
    let id = scene.id();
    scene.engine.remove(id);
    scene.host().faults.locked.insert("10.0.0.150".to_owned());
    scene.engine.add(other_address()).unwrap_err();
    let locks = ["10.0.0.101", "vhid 2/1"];
    assert_eq!(scene.host().locks.keys().collect::<Vec<_>>(), locks);
    scene.pass(ms(5_000));
    assert_eq!(scene.id(), id);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().faults.delete = None;
    scene.pass(ms(1_100));
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), None);
    assert!(scene.host().locks.is_empty());
}

#[test]
fn the_locks_that_an_heir_needs_are_never_free() {
    let mut scene = refused();
    let id = scene.id();
    scene.engine.remove(id);
    scene.forget();
    scene.engine.add(vhost(1)).expect("it is added");
    assert_eq!(scene.asked(&["lock", "unlock"]), ["lock 1"]);
    let locks = ["10.0.0.101", "vhid 2/1"];
    assert_eq!(scene.host().locks.keys().collect::<Vec<_>>(), locks);
}

#[test]
fn an_heir_with_another_address_goes_on_removing_the_old_one_without_a_fence() {
    let mut scene = refused();
    let id = scene.id();
    scene.engine.remove(id);
    // There is no program, as with packet sockets.
    scene.host().owners.clear();
    let heir = scene.engine.add(other_address()).expect("it is added");
    let locks = ["10.0.0.150", "vhid 2/1"];
    assert_eq!(scene.host().locks.keys().collect::<Vec<_>>(), locks);
    scene.pass(ms(10_000));
    assert_eq!((scene.id(), scene.state()), (heir, State::Master));
    assert!(scene.host().has(VIP));
    scene.host().faults.delete = None;
    scene.pass(ms(1_100));
    assert!(!scene.host().has(VIP));
}

#[test]
fn a_removed_virtual_host_stays_fenced_while_addresses_cannot_be_listed() {
    let mut scene = refused();
    let id = scene.id();
    scene.host().overrun = true;
    scene.host().faults.list = Some(libc::ENOBUFS);
    scene.engine.remove(id);
    scene.pass(ms(5_000));
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    assert!(scene.host().locks.contains_key("10.0.0.101"));
    scene.host().faults.list = None;
    scene.host().faults.delete = None;
    scene.pass(ms(2_100));
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.host().fence(VIP), None);
    assert!(scene.host().locks.is_empty());
}

#[test]
fn an_address_of_a_dead_carpd_that_cannot_be_removed_stays_fenced_and_is_tried_again() {
    let mut host = host();
    host.addresses.push((tagged(150), None));
    let (address, ip) = (tagged(150), tagged(150).address);
    let owner = crate::io::datapath::AddressOwner {
        ifindex: ETH0,
        vhid: Vhid::new(50).unwrap(),
    };
    host.owners.push(crate::io::datapath::Fenced {
        address: ip,
        owner: Some(owner),
    });
    host.faults.delete = Some(libc::EBUSY);
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    scene.pass(ms(30_000));
    assert_eq!(scene.host().fence(ip), Some(FenceState::Closed));
    assert_eq!(scene.told("orphan-removed"), 1);
    let told = scene.told("address-remove-failed");
    assert!((3..=4).contains(&told), "{told}");
    scene.host().faults.delete = None;
    scene.pass(ms(1_100));
    assert!(!scene.host().has(address.address));
    assert_eq!(scene.host().fence(ip), None);
}

#[test]
fn an_orderly_stop_follows_what_its_scripts_do() {
    let mut scene = serving(released(1));
    scene.engine.shut_down();
    scene.turn();
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None);
    scene.end_script(Which::Down, Outcome::Succeeded);
}

#[test]
fn an_orderly_stop_follows_an_interface_that_goes_and_opens_none_that_comes() {
    let mut scene = serving(released(1));
    scene.engine.shut_down();
    scene.host().unplug(ETH0);
    scene.turn();
    assert!(scene.host().open.is_empty() && scene.host().locks.is_empty());
    scene.host().plug(Link::up(3, "eth0"));
    scene.pass(ms(5_000));
    assert!(scene.host().open.is_empty() && scene.host().attached.is_empty());
    scene.stop();
}

#[test]
fn an_orderly_stop_tries_again_to_remove_an_address_and_leaves_it_fenced_if_it_cannot() {
    for is_refused in [false, true] {
        let mut scene = refused();
        scene.engine.shut_down();
        scene.pass(ms(1_100));
        assert_eq!(scene.asked(&["delete"]).len(), 2);
        scene.host().faults.delete = is_refused.then_some(libc::EPERM);
        let (host, orphans) = scene.engine.close();
        assert_eq!(host.has(VIP), is_refused);
        assert_eq!(orphans.len(), usize::from(is_refused));
        assert_eq!(
            host.fence(VIP),
            is_refused.then_some(FenceState::Closed),
            "another host is MASTER by now"
        );
    }
}

#[test]
fn an_orderly_stop_ends_although_the_kernel_does_not_and_names_what_stays() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.slow = true;
    scene.host().faults.stuck = true;
    scene.engine.shut_down();
    let (host, orphans) = scene.engine.close();
    assert_eq!(orphans.len(), 1);
    assert!(host.has(VIP) && !host.answers_for(VIP));
    let last = host.told.last().expect("something is told");
    assert_eq!(last.what.name(), "netlink-unfinished");
}

#[test]
fn an_orderly_stop_tries_again_to_remove_what_the_datapath_knows_and_says_what_it_leaves() {
    for is_refused in [false, true] {
        let mut scene = Scene::master(vhost(1));
        scene.host().faults.disown = true;
        scene.host().faults.withdraw = true;
        scene.engine.shut_down();
        scene.turn();
        assert!(!scene.host().has(VIP) && !scene.host().answers_for(VIP));
        assert!(!scene.engine.finish());
        scene.pass(ms(9_999));
        assert!(!scene.engine.finish(), "there is time left");
        scene.host().faults.disown = is_refused;
        scene.host().faults.withdraw = is_refused;
        scene.pass(ms(1));
        assert!(scene.engine.finish());
        let (host, orphans) = scene.engine.close();
        assert_eq!(orphans, [], "the address is gone");
        assert_eq!(host.fence(VIP), is_refused.then_some(FenceState::Closed));
        assert_eq!(host.entries.is_empty(), !is_refused);
        let said = host.told.last().map(|it| it.what.name()) == Some("datapath-left");
        assert_eq!(said, is_refused);
    }
}

#[test]
fn a_stop_during_which_a_fence_can_be_lifted_again_ends_a_second_later() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.disown = true;
    scene.engine.shut_down();
    assert!(!scene.engine.finish());
    scene.host().faults.disown = false;
    scene.pass(ms(1_000));
    assert!(scene.engine.finish());
    assert_eq!(scene.stop().owners, []);
}

#[test]
fn a_removed_virtual_host_whose_entry_the_datapath_keeps_is_silent_until_the_entry_is_gone() {
    let mut scene = refused();
    scene.host().faults.withdraw = true;
    let id = scene.id();
    scene.engine.remove(id);
    assert!(scene.host().has(VIP) && !scene.host().answers_for(VIP));
    scene.host().faults.delete = None;
    scene.pass(ms(5_000));
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.host().entries.len(), 1);
    scene.host().faults.withdraw = false;
    scene.pass(ms(1_000));
    assert!(scene.host().entries.is_empty() && scene.host().locks.is_empty());
}

#[test]
fn an_address_that_the_down_script_left_at_the_end_stays_silent() {
    for is_removed in [false, true] {
        let mut scene = serving(released(1));
        scene.engine.shut_down();
        if is_removed {
            scene.host().remove(VIP);
        }
        scene.end_script(Which::Down, Outcome::Failed);
        assert!(scene.engine.finish());
        let (host, orphans) = scene.engine.close();
        assert_eq!(orphans.is_empty(), is_removed);
        let fence = (!is_removed).then_some(FenceState::Closed);
        assert_eq!(host.fence(VIP), fence, "another host is MASTER by now");
    }
}

#[test]
fn a_master_whose_down_script_does_not_run_at_the_end_leaves_its_address_and_answers_like_ucarp() {
    let mut scene = serving(scripted(1));
    scene.engine.shut_down();
    assert_eq!(scene.asked(&["run"]), Vec::<String>::new());
    assert_eq!(scene.told("address-stays"), 1);
    let host = scene.stop();
    assert!(host.has(VIP) && host.answers_for(VIP));
}

#[test]
fn an_address_of_ours_that_comes_while_this_host_is_not_master_is_silent() {
    for was_master in [false, true] {
        let mut scene = match was_master {
            false => Scene::backup(vhost(1)),
            true => Scene::master(vhost(1)),
        };
        scene.hear(&mut Peer::new(0, 0));
        assert_eq!(scene.state(), State::Backup);
        assert_eq!(scene.host().fence(VIP), None);
        // As an administrator who repeats our protocol number may, or an order that is carried out late.
        scene.host().assign(tagged(101));
        scene.turn();
        assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
        scene.host().remove(VIP);
        scene.turn();
        assert_eq!(scene.host().fence(VIP), None);
        scene.host().assign(address(101));
        scene.turn();
        assert_eq!(scene.host().fence(VIP), None, "it is another program's");
    }
}

#[test]
fn an_address_that_comes_back_after_the_down_script_is_not_silent() {
    let mut config = scripted(1);
    config.neutral = true;
    let mut scene = serving(config);
    scene.hear(&mut Peer::new(0, 0));
    assert_eq!(scene.state(), State::Backup);
    scene.host().remove(VIP);
    scene.end_script(Which::Down, Outcome::Succeeded);
    assert_eq!(scene.host().fence(VIP), None);
    scene.host().assign(address(101));
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None, "an administrator added it");
}

#[test]
fn an_orderly_stop_knows_what_is_there_although_notifications_were_lost() {
    let mut scene = refused();
    scene.engine.shut_down();
    let host = scene.host();
    host.addresses.retain(|(it, _)| it.address != VIP);
    host.overrun = true;
    scene.stop();
}
