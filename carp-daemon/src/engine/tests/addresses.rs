//! The virtual addresses in native mode: loss and restoration, addresses of other programs, positions, and leases.

use carp_common::units::State;

use super::*;

/// Returns whether the address comes back within a time in which nothing else can bring it.
fn comes_back_within(scene: &mut Scene, time: Duration) -> bool {
    scene.turn();
    assert!(!scene.host().has(VIP));
    scene.pass(time);
    scene.host().has(VIP)
}

/// Removes the virtual address as often as it is restored at once, and once more.
fn remove_too_often(scene: &mut Scene) {
    for _ in 0..3 {
        scene.host().remove(VIP);
        assert!(comes_back_within(scene, ms(100)));
    }
    scene.host().remove(VIP);
    scene.forget();
    assert!(!comes_back_within(scene, ms(100)));
}

#[test]
fn a_removed_address_is_restored_and_announced_within_100_ms_up_to_three_times() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(10_000));
    for count in 1..=3 {
        scene.forget();
        scene.host().remove(VIP);
        assert!(comes_back_within(&mut scene, ms(100)), "time {count}");
        assert_eq!(scene.told("address-removed-by-other"), 1);
        let asked = scene.asked(&["add", "announce"]);
        assert_eq!(asked, ["add 10.0.0.101/32 for 4 s", "announce 10.0.0.101"]);
        assert_eq!(
            scene
                .engine
                .instances()
                .next()
                .unwrap()
                .rooms
                .restore
                .count(),
            count
        );
    }
}

#[test]
fn an_address_that_a_late_renewal_brought_back_is_held_and_restored_again() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(10_000));
    let (ours, _) = scene
        .host()
        .addresses
        .iter()
        .find(|(it, _)| it.address == VIP)
        .copied()
        .unwrap();
    scene.host().remove(VIP);
    scene.turn();
    // The order was given before the removal, and is carried out after it.
    let ends = scene.host().now + ms(4_000);
    scene.host().put(ours, Some(ends));
    scene.pass(ms(100));
    scene.pass(ms(20_000));
    assert!(scene.host().has(VIP), "it is renewed");
    scene.host().remove(VIP);
    assert!(comes_back_within(&mut scene, ms(100)));
}

#[test]
fn an_address_that_is_removed_a_fourth_time_makes_the_host_give_way_until_it_is_left_alone() {
    let mut scene = Scene::master(vhost(1));
    remove_too_often(&mut scene);
    assert_eq!(scene.told("address-removed-too-often"), 1);
    scene.pass(INTERVAL);
    assert_eq!(
        scene.asked(&["advertise"])[0],
        "advertise 1/240 from 10.0.0.1"
    );
    // There is one attempt after ten seconds.
    scene.pass(ms(10_000));
    assert!(scene.host().has(VIP));
    scene.pass(ms(45_000));
    scene.forget();
    scene.pass(ms(2_000));
    assert_eq!(
        scene.asked(&["advertise"])[0],
        "advertise 1/240 from 10.0.0.1"
    );
    scene.pass(ms(5_000));
    assert_eq!(scene.told("addresses-left-alone"), 1);
    scene.forget();
    scene.pass(INTERVAL);
    assert_eq!(
        scene.asked(&["advertise"])[0],
        "advertise 1/0 from 10.0.0.1"
    );
}

#[test]
fn a_host_that_gave_way_and_is_backup_becomes_eligible_again_after_a_minute() {
    let mut scene = Scene::master(vhost(1));
    remove_too_often(&mut scene);
    let mut peer = Peer::new(2, 100);
    scene.hear(&mut peer);
    assert_eq!(scene.state(), State::Backup);
    scene.forget();
    scene.hear_for(&mut peer, ms(61_000));
    assert_eq!(scene.told("addresses-left-alone"), 1);
    assert_eq!(scene.asked(&["add"]), Vec::<String>::new());
    let advertised = scene
        .engine
        .instances()
        .next()
        .unwrap()
        .machine()
        .advertised();
    assert_eq!(advertised.advskew.0, 0);
}

#[test]
fn an_address_that_cannot_be_added_makes_the_host_give_way_and_is_tried_every_second() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().faults.add = Some(libc::EACCES);
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
    scene.pass(ms(100));
    assert_eq!(scene.told("addresses-cannot-be-added"), 1);
    scene.forget();
    scene.pass(ms(10_000));
    let asked = scene.asked(&["add", "advertise"]);
    let count = |begin| asked.iter().filter(|it| it.starts_with(begin)).count();
    assert_eq!(count("add"), 10);
    assert_eq!(count("advertise 1/0 "), 0);
    assert_eq!(scene.told("addresses-cannot-be-added"), 0);
    scene.host().faults.add = None;
    scene.pass(ms(1_100));
    assert!(scene.host().has(VIP));
    assert!(
        scene
            .asked(&["announce"])
            .contains(&"announce 10.0.0.101".to_owned())
    );
    scene.pass(ms(61_000));
    assert_eq!(scene.told("addresses-left-alone"), 1);
}

#[test]
fn a_lease_that_ran_out_while_the_process_was_stopped_counts_as_no_removal() {
    let mut scene = Scene::master(vhost(1));
    for _ in 0..6 {
        scene.sleep(ms(10_000));
        scene.turn();
        assert_eq!(scene.state(), State::Master);
        assert!(scene.host().has(VIP), "added in the same turn");
        assert_eq!(scene.told("lease-expired"), 1);
    }
    assert_eq!(scene.told("address-removed-too-often"), 0);
}

#[test]
fn an_address_that_another_program_replaces_is_left_alone() {
    let mut scene = Scene::master(vhost(1));
    let replaced = foreign();
    scene.host().assign(replaced);
    scene.turn();
    assert_eq!(scene.told("address-foreign"), 1);
    scene.pass(ms(20_000));
    assert_eq!(
        scene.asked(&["renew", "delete", "add"]),
        Vec::<String>::new()
    );
    let host = scene.stop();
    assert!(host.addresses.contains(&(replaced, None)));
}

/// Starts a MASTER whose address another program replaced, and that lost the notifications about it.
fn replaced_unheard() -> Scene {
    let mut scene = Scene::master(vhost(1));
    let host = scene.host();
    host.addresses.retain(|(it, _)| it.address != VIP);
    host.addresses.push((foreign(), None));
    host.overrun = true;
    scene
}

/// Lets a MASTER yield, which must leave the address of another program there.
fn yields_and_leaves_it_there(scene: &mut Scene) {
    scene.hear(&mut Peer::new(0, 0));
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(&["delete"]), Vec::<String>::new());
    assert!(scene.host().addresses.contains(&(foreign(), None)));
}

#[test]
fn an_address_that_somebody_replaced_while_notifications_were_lost_is_left_there() {
    let mut scene = replaced_unheard();
    // It yields in the turn in which it finds that out.
    yields_and_leaves_it_there(&mut scene);
}

#[test]
fn addresses_are_listed_before_one_is_removed_until_that_has_worked_after_a_loss() {
    let mut scene = replaced_unheard();
    scene.host().faults.list = Some(libc::ENOBUFS);
    scene.turn();
    scene.host().faults.list = None;
    // The next attempt would be a second after the first.
    yields_and_leaves_it_there(&mut scene);
}

/// Lets a better MASTER be heard, and returns the orders to delete the virtual address that this host gives as BACKUP.
fn deletes_after_yielding(scene: &mut Scene) -> Vec<String> {
    scene.forget();
    let mut better = Peer::new(2, 0);
    better.source = IpAddr::from([10, 0, 0, 0]);
    scene.hear(&mut better);
    assert_eq!(scene.state(), State::Backup);
    scene.hear_for(&mut better, ms(5_000));
    assert_eq!(scene.host().fence(VIP), None, "nothing is left");
    scene.asked(&["delete"])
}

/// Starts a virtual host whose addresses have no lease, so that only carpd removes them.
pub(super) fn without_lease() -> Scene {
    let mut config = config(vec![vhost(1)]);
    config.lease = Lease::Off;
    Scene::start(config, host())
}

#[test]
fn an_address_that_the_kernel_refused_to_move_is_removed_later() {
    let mut scene = without_lease();
    scene.become_master();
    scene.host().faults.delete = Some(libc::EBUSY);
    scene.host().assign(address(3));
    scene.host().addresses.remove(0);
    scene.turn();
    assert_eq!(scene.told("address-add-again-failed"), 1);
    scene.host().faults.delete = None;
    let deletes = deletes_after_yielding(&mut scene);
    assert_eq!(deletes, ["delete 10.0.0.101/32"]);
    assert!(!scene.host().has(VIP));
}

#[test]
fn an_address_whose_addition_was_not_answered_is_held_or_removed() {
    let mut scene = without_lease();
    scene.host().faults.unanswered = true;
    scene.become_master();
    let deletes = deletes_after_yielding(&mut scene);
    assert_eq!(deletes, ["delete 10.0.0.101/32"]);
    assert!(!scene.host().has(VIP));
    scene.become_master();
    scene.host().faults.unanswered = false;
    scene.pass(ms(1_100));
    assert_eq!(scene.told("address-taken-over"), 0);
    let announced = "announce 10.0.0.101".to_owned();
    assert!(scene.asked(&["announce"]).contains(&announced));
}

#[test]
fn an_address_with_our_number_goes_whatever_is_believed_about_it() {
    let mut scene = without_lease();
    scene.host().faults.add = Some(libc::EACCES);
    scene.become_master();
    scene.host().put(tagged(101), None);
    let deletes = deletes_after_yielding(&mut scene);
    assert_eq!(deletes, ["delete 10.0.0.101/32"]);
}

#[test]
fn an_address_that_somebody_replaces_as_the_host_leaves_is_left_there() {
    let mut scene = Scene::master(vhost(1));
    let replaced = foreign();
    // Netlink has not told us yet.
    scene.host().assign(replaced);
    let host = scene.stop();
    assert!(host.addresses.contains(&(replaced, None)));
    let deleted = |it: &String| it.starts_with("delete 10.0.0.101");
    assert!(!host.asked.iter().any(deleted), "not even for a moment");
}

#[test]
fn an_address_that_is_there_at_the_start_is_left_alone_and_told() {
    let theirs = foreign();
    let mut host = host();
    host.addresses.push((theirs, None));
    // Another address shows that the kernel tells numbers.
    host.addresses.push((tagged(200), None));
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    assert_eq!(scene.told("address-foreign-as-backup"), 1);
    scene.pass(ms(20_000));
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.asked(&["renew"]), Vec::<String>::new());
    let host = scene.stop();
    assert!(host.addresses.contains(&(theirs, None)));
    assert!(host.addresses.contains(&(tagged(200), None)));
}

#[test]
fn an_address_that_an_earlier_run_left_with_another_prefix_goes_once_the_new_address_is_held() {
    let older = Address {
        protocol: ADDRESS_PROTOCOL,
        ..address(101)
    };
    let mut host = host();
    host.addresses.push((older, None));
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    scene.forget();
    scene.become_master();
    let asked = scene.asked(&["add", "delete"]);
    assert_eq!(asked, ["add 10.0.0.101/32 for 4 s", "delete 10.0.0.101/24"]);
    assert_eq!(scene.host().addresses.len(), 2);
}

#[test]
fn a_lease_is_renewed_at_half_of_it_and_only_while_master() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(20_500));
    let asked = scene.asked(&["renew"]);
    assert_eq!(asked.len(), 10);
    assert_eq!(asked[0], "renew 10.0.0.101/32 for 4 s as 112");
    let mut better = Peer::new(2, 0);
    better.source = IpAddr::from([10, 0, 0, 0]);
    scene.hear(&mut better);
    assert_eq!(scene.state(), State::Backup);
    scene.forget();
    scene.hear_for(&mut better, ms(20_000));
    assert_eq!(scene.asked(&["renew"]), Vec::<String>::new());
}

#[test]
fn a_renewal_that_fails_is_tried_again_in_time() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.add = Some(libc::ENOBUFS);
    scene.pass(ms(2_100));
    assert_eq!(scene.told("lease-renewals-failed"), 1);
    scene.host().faults.add = None;
    scene.pass(ms(600));
    assert!(scene.host().lease_end(VIP).unwrap() > scene.host().now + ms(3_000));
    scene.pass(ms(10_000));
    assert_eq!(scene.told("address-removed-by-other"), 0);
}

#[test]
fn a_renewal_does_not_bring_back_what_somebody_removed() {
    let mut scene = Scene::master(vhost(1));
    remove_too_often(&mut scene);
    scene.pass(ms(5_000));
    assert!(
        !scene.host().has(VIP),
        "it comes back after ten seconds and not before"
    );
    assert_eq!(scene.asked(&["renew"]), Vec::<String>::new());
}

#[test]
fn an_address_that_a_renewal_may_bring_back_is_removed_by_a_former_master() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.slow = true;
    scene.pass(ms(2_000));
    assert!(scene.host().delayed_bunch.is_some());
    scene.host().remove(VIP);
    scene.turn();
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(scene.state(), State::Backup);
    assert!(!scene.host().owners.is_empty(), "it may come back");
    scene.host().catch_up();
    scene.turn();
    assert!(!scene.host().has(VIP));
    assert!(scene.host().owners.is_empty(), "{:?}", scene.host().owners);
}

#[test]
fn without_a_lease_an_address_is_added_for_good() {
    let mut config = config(vec![vhost(1)]);
    config.lease = Lease::Off;
    let mut scene = Scene::start(config, host());
    scene.pass(ms(20_000));
    assert_eq!(
        scene.asked(&["add", "renew"]),
        ["add 10.0.0.101/32 for good"]
    );
}

#[test]
fn a_fixed_lease_is_the_one_that_is_given() {
    let mut config = config(vec![vhost(1)]);
    config.lease = Lease::Fixed(Duration::from_secs(60));
    let mut scene = Scene::start(config, host());
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.asked(&["add"]), ["add 10.0.0.101/32 for 60 s"]);
    scene.pass(ms(31_000));
    assert_eq!(
        scene.asked(&["renew"]),
        ["renew 10.0.0.101/32 for 60 s as 112"]
    );
}

#[test]
fn a_virtual_address_is_moved_behind_an_own_address_that_comes_later() {
    let mut scene = Scene::master(vhost(1));
    scene.host().assign(address(3));
    scene.host().remove(OWN);
    scene.turn();
    let asked = scene.asked(&["add", "delete"]);
    assert_eq!(asked, ["delete 10.0.0.101/32", "add 10.0.0.101/32 for 4 s"]);
    let order: Vec<_> = scene
        .host()
        .addresses
        .iter()
        .map(|(it, _)| it.address)
        .collect();
    assert_eq!(order, [[10, 0, 0, 3].into(), VIP]);
    assert_eq!(scene.told("address-removed-by-other"), 0);
    scene.forget();
    scene.pass(ms(5_000));
    assert_eq!(scene.asked(&["add", "delete"]), Vec::<String>::new());
}

#[test]
fn an_address_taken_over_from_an_earlier_run_is_put_behind_the_hosts_own() {
    let mut host = host();
    host.addresses.insert(0, (tagged(101), None));
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    scene.become_master();
    let order: Vec<_> = scene
        .host()
        .addresses
        .iter()
        .map(|(it, _)| it.address)
        .collect();
    assert_eq!(order, [OWN, VIP]);
}

#[test]
fn own_addresses_that_come_and_go_leave_the_virtual_one_alone() {
    let mut scene = Scene::master(vhost(1));
    for last in 10..20 {
        scene.host().assign(address(last));
        scene.turn();
    }
    for last in 10..20 {
        scene.host().remove(address(last).address);
        scene.turn();
    }
    assert_eq!(scene.asked(&["add", "delete"]), Vec::<String>::new());
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn without_an_own_address_in_its_subnet_a_route_comes_and_goes_with_the_address() {
    let mut host = host();
    host.addresses = vec![(
        Address {
            address: [192, 0, 2, 1].into(),
            ..address(1)
        },
        None,
    )];
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    assert_eq!(
        scene.told("subnet-without-own-address"),
        1,
        "also as BACKUP"
    );
    scene.become_master();
    assert_eq!(scene.host().routes.len(), 1);
    scene.pass(ms(10_000));
    assert_eq!(scene.told("subnet-without-own-address"), 0, "once");
    // With an address of the host's own there is a route already.
    scene.host().assign(address(1));
    scene.turn();
    assert_eq!(scene.host().routes.len(), 0);
    scene.host().remove(OWN);
    scene.turn();
    assert_eq!(scene.host().routes.len(), 1);
    let host = scene.stop();
    assert_eq!((host.routes.len(), host.addresses.len()), (0, 1));
}

#[test]
fn a_route_that_the_kernel_dropped_with_the_link_is_added_again() {
    let mut config = vhost(1);
    config.ignore_carrier = true;
    let mut host = host();
    host.addresses[0].0.address = [192, 0, 2, 1].into();
    let mut scene = Scene::start(super::config(vec![config]), host);
    scene.become_master();
    scene.host().routes.clear();
    scene.host().change(ETH0, |link| link.running = false);
    scene.turn();
    assert_eq!(scene.host().routes.len(), 1);
}

#[test]
fn while_the_kernel_takes_long_a_master_advertises_and_announces_once_the_address_is_there() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().faults.slow = true;
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("address-add-slow"), 1);
    scene.pass(ms(5_000));
    assert!(scene.asked(&["advertise"]).len() >= 5);
    assert_eq!(
        scene.told("addresses-cannot-be-added"),
        0,
        "that is no fault of the host's"
    );
    scene.forget();
    scene.host().catch_up();
    scene.pass(ms(100));
    assert!(
        scene
            .asked(&["announce"])
            .contains(&"announce 10.0.0.101".to_owned())
    );
    let host = scene.stop();
    assert!(!host.has(VIP), "it is ours to remove");
}

#[test]
fn an_address_that_was_ordered_and_is_not_wanted_any_more_is_removed_when_it_comes() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().faults.slow = true;
    scene.pass(MASTER_DOWN);
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(scene.state(), State::Backup);
    scene.host().catch_up();
    scene.turn();
    assert!(!scene.host().has(VIP));
    assert!(scene.host().owners.is_empty(), "{:?}", scene.host().owners);
}
