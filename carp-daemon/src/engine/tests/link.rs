//! The link goes down, goes away, gets another name, another address or another MAC address.

use carp_common::units::State;

use super::*;

/// The requests of a virtual host about its addresses and its frames.
const DONE: &[&str] = &["add", "delete", "advertise", "announce"];

/// Returns whether none of these is requested while time passes.
fn is_idle(scene: &mut Scene, time: Duration) -> bool {
    scene.forget();
    scene.pass(time);
    scene.asked(DONE).is_empty()
}

#[test]
fn a_master_whose_carrier_goes_releases_and_comes_back_as_a_backup() {
    for by_admin in [false, true] {
        let mut scene = Scene::master(vhost(1));
        scene.host().change(ETH0, |link| {
            link.running = false;
            link.admin_up = !by_admin;
        });
        scene.turn();
        assert_eq!(scene.state(), State::Init);
        assert!(!scene.host().has(VIP));
        let asked = scene.asked(DONE);
        assert_eq!(asked[0], "delete 10.0.0.101/32", "{asked:?}");
        assert!(is_idle(&mut scene, ms(10_000)));
        let back = Link::up(ETH0, "eth0");
        scene.host().plug(back);
        scene.turn();
        assert_eq!(scene.state(), State::Backup);
        assert!(is_idle(&mut scene, MASTER_DOWN - ms(1)));
        scene.pass(ms(1));
        assert_eq!(scene.state(), State::Master);
    }
}

#[test]
fn an_interface_that_goes_while_its_addresses_are_removed_is_missed_at_once() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.vanishing = true;
    scene.host().change(ETH0, |link| link.running = false);
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    let mut told = scene.host().told.iter().map(|event| event.what.name());
    assert!(told.any(|name| name == "interface-gone"));
}

#[test]
fn a_backup_whose_carrier_goes_listens_for_a_whole_master_down_time_when_it_is_back() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    scene.host().change(ETH0, |link| link.running = false);
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert!(is_idle(&mut scene, ms(10_000)));
    scene.host().change(ETH0, |link| link.running = true);
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    scene.pass(MASTER_DOWN - ms(1));
    assert_eq!(scene.state(), State::Backup);
    scene.hear(&mut Peer::new(2, 0));
    assert!(is_idle(&mut scene, MASTER_DOWN - ms(1)));
}

#[test]
fn with_ignore_carrier_only_an_interface_that_is_set_down_counts() {
    let mut config = vhost(1);
    config.ignore_carrier = true;
    let mut scene = Scene::master(config);
    scene.host().change(ETH0, |link| link.running = false);
    scene.turn();
    assert_eq!(scene.state(), State::Master);
    scene.host().change(ETH0, |link| link.admin_up = false);
    scene.turn();
    assert_eq!(scene.state(), State::Init);
}

#[test]
fn a_flapping_link_makes_no_master_and_advertises_nothing() {
    let mut scene = Scene::master(vhost(1));
    scene.host().change(ETH0, |link| link.running = false);
    scene.turn();
    scene.forget();
    for _ in 0..500 {
        scene
            .host()
            .change(ETH0, |link| link.running = !link.running);
        scene.pass(ms(10));
    }
    assert_eq!(
        scene.asked(&["add", "advertise", "announce"]),
        Vec::<String>::new()
    );
}

#[test]
fn a_link_that_went_and_came_between_two_turns_leaves_a_master_as_it_is() {
    let mut scene = Scene::master(vhost(1));
    scene.host().change(ETH0, |link| link.running = false);
    scene.host().change(ETH0, |link| link.running = true);
    scene.turn();
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn an_interface_that_is_deleted_and_created_again_is_served_again() {
    let mut scene = Scene::master(vhost(1));
    scene.host().unplug(ETH0);
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert!(scene.host().open.is_empty() && scene.host().locks.is_empty());
    assert!(scene.host().owners.is_empty(), "{:?}", scene.host().owners);
    assert!(is_idle(&mut scene, ms(5_000)));
    // A new interface of that name appears.
    let new = Address {
        ifindex: 7,
        ..address(1)
    };
    scene.host().plug(Link::up(7, "eth0"));
    scene.host().assign(new);
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(
        scene.asked(&["lock", "open", "attach"]),
        ["lock 1", "open eth0", "attach eth0"]
    );
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
    let tagged = scene
        .host()
        .addresses
        .iter()
        .find(|(it, _)| it.address == VIP);
    assert_eq!(tagged.unwrap().0.ifindex, 7);
}

#[test]
fn an_interface_that_was_replaced_between_two_turns_is_served_from_that_turn_on() {
    let mut scene = Scene::master(vhost(1));
    let new = Address {
        ifindex: 7,
        ..address(1)
    };
    scene.host().unplug(ETH0);
    scene.host().plug(Link::up(7, "eth0"));
    scene.host().assign(new);
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    assert!(scene.host().open.contains_key(&7));
    assert_eq!(scene.host().entries.keys().next().unwrap().ifindex, 7);
}

#[test]
fn a_renamed_interface_is_served_under_its_new_name() {
    let mut scene = Scene::master(scripted(1));
    scene
        .host()
        .change(ETH0, |link| link.name = "wan0".to_owned());
    scene.turn();
    assert_eq!(scene.state(), State::Master);
    scene.forget();
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(scene.asked(&["run"]), ["run down on wan0 as BACKUP"]);
}

#[test]
fn a_change_that_does_not_concern_us_changes_nothing() {
    let mut scene = Scene::master(vhost(1));
    // The same link is reported again, as when its MTU changes.
    scene.host().change(ETH0, |_| {});
    scene.turn();
    assert_eq!(scene.asked(DONE), Vec::<String>::new());
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn a_master_that_loses_its_source_address_leaves_and_comes_back_as_a_backup() {
    let mut scene = Scene::master(vhost(1));
    scene.host().remove(OWN);
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert!(!scene.host().has(VIP));
    assert!(is_idle(&mut scene, ms(5_000)));
    scene.host().assign(address(1));
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_master_whose_source_address_is_replaced_goes_on_from_the_new_one() {
    let mut scene = Scene::master(vhost(1));
    scene.host().assign(address(3));
    scene.host().remove(OWN);
    scene.turn();
    assert_eq!(scene.state(), State::Master);
    let own = scene.endpoints(Family::Inet).own;
    assert_eq!(
        own,
        Some([10, 0, 0, 3].into()),
        "what comes back from there is ours"
    );
    scene.forget();
    scene.pass(INTERVAL);
    assert_eq!(
        scene.asked(&["advertise"])[0],
        "advertise 1/0 from 10.0.0.3"
    );
}

#[test]
fn a_virtual_address_is_never_the_source() {
    let mut scene = Scene::master(vhost(1));
    scene.host().remove(OWN);
    scene.host().assign(address(101));
    scene.turn();
    assert_eq!(scene.state(), State::Init);
}

#[test]
fn the_address_of_srcip_takes_a_master_along_when_it_goes_and_back_when_it_returns() {
    let mut config = vhost(1);
    config.source = Some(Ipv4Addr::new(10, 0, 0, 9));
    let mut host = host();
    host.addresses.push((address(9), None));
    let mut scene = Scene::start(super::config(vec![config]), host);
    scene.become_master();
    scene.host().remove([10, 0, 0, 9].into());
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    scene.host().assign(address(9));
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_srcip_that_never_was_on_this_host_is_used_all_the_same() {
    let mut config = vhost(1);
    config.source = Some(Ipv4Addr::new(10, 0, 0, 9));
    let mut scene = Scene::backup(config);
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.asked(&["advertise"]), ["advertise 1/0 from 10.0.0.9"]);
}

#[test]
fn another_mac_address_is_announced_at_once_two_intervals_later_and_after_5_s() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(20_000));
    scene
        .host()
        .change(ETH0, |link| link.mac = [2, 0, 0, 0, 0, 7]);
    scene.forget();
    scene.turn();
    assert_eq!(scene.asked(&["announce"]), ["announce 10.0.0.101"]);
    scene.pass(2 * INTERVAL + ms(10));
    assert_eq!(scene.asked(&["announce"]), ["announce 10.0.0.101"]);
    scene.pass(ms(3_000));
    assert_eq!(scene.asked(&["announce"]), ["announce 10.0.0.101"]);
    scene.pass(ms(60_000));
    assert_eq!(scene.asked(&["announce"]), Vec::<String>::new());
}

#[test]
fn a_port_of_a_bridge_is_not_served_until_it_leaves() {
    let mut scene = Scene::master(vhost(1));
    scene.host().plug(Link::up(9, "br0"));
    scene.host().change(ETH0, |link| link.upper = Some(9));
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert!(!scene.host().has(VIP));
    scene.host().change(ETH0, |link| link.upper = None);
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_client_behind_a_port_that_opens_later_hears_the_announcement_5_s_after_the_takeover() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(4_900));
    scene.forget();
    scene.pass(ms(200));
    assert_eq!(scene.asked(&["announce"]), ["announce 10.0.0.101"]);
}

#[test]
fn with_a_refresh_the_address_is_announced_again_and_again() {
    let mut config = vhost(1);
    config.election.announce_refresh = Some(Duration::from_secs(60));
    let mut scene = Scene::master(config);
    scene.pass(ms(10_000));
    scene.forget();
    scene.pass(Duration::from_secs(300));
    assert_eq!(scene.asked(&["announce"]).len(), 5);
}

#[test]
fn an_absent_interface_is_waited_for_only_if_that_was_asked_for() {
    let mut host = host();
    host.unplug(ETH0);
    host.notifications.clear();
    let mut config = config(vec![vhost(1)]);
    config.wait_interface = true;
    let mut scene = Scene::start(config.clone(), host);
    assert_eq!(scene.state(), State::Init);
    scene.host().plug(Link::up(ETH0, "eth0"));
    scene.host().assign(address(1));
    scene.turn();
    assert_eq!(scene.state(), State::Backup);

    config.wait_interface = false;
    let mut host = super::host();
    host.unplug(ETH0);
    let failed = Engine::start(config, host).unwrap_err();
    assert!(
        failed.error.to_string().contains("does not exist"),
        "{}",
        failed.error
    );
}
