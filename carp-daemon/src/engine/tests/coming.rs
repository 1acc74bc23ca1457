//! Virtual hosts that are added and removed while others are served.

use carp_common::units::State;

use super::*;

/// The address of vhid 2.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 102));

/// Everything that concerns a virtual host.
const TOUCHED: &[&str] = &[
    "add",
    "delete",
    "advertise",
    "announce",
    "answer",
    "silence",
    "disown",
    "configure",
    "withdraw",
    "run",
];

/// Two virtual hosts that are MASTER, the second of which was added later.
fn two_masters() -> (Scene, InstanceId) {
    let mut scene = Scene::master(vhost(1));
    let second = scene.engine.add(vhost(2)).expect("it is added");
    scene.pass(ms(10_000));
    assert_eq!(scene.states(), [State::Master; 2]);
    scene.forget();
    (scene, second)
}

#[test]
fn an_added_virtual_host_takes_part_from_then_on_and_the_others_notice_nothing() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(10_000));
    scene.forget();
    scene.engine.add(vhost(2)).expect("it is added");
    assert_eq!(
        scene.asked(&["enlist", "lock", "join"]),
        ["enlist eth0 id 2", "lock 2", "join 224.0.0.18"]
    );
    scene.turn();
    assert_eq!(scene.states(), [State::Master, State::Backup]);
    scene.forget();
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.states(), [State::Master; 2]);
    assert!(scene.host().has(SECOND) && scene.host().answers_for(SECOND));
    let asked = scene.asked(&["add", "delete", "announce"]);
    assert!(
        asked.iter().all(|it| it.contains("10.0.0.102")),
        "{asked:?}"
    );
    assert_eq!(scene.host().entries.len(), 2);
}

#[test]
fn an_added_virtual_host_hears_its_own_peers() {
    let mut scene = Scene::master(vhost(1));
    scene.engine.add(vhost(2)).expect("it is added");
    let mut peer = Peer::of(vhost(2), 2, 0);
    scene.hear_for(&mut peer, ms(10_000));
    assert_eq!(scene.states(), [State::Master, State::Backup]);
}

#[test]
fn a_removed_master_bows_out_and_nothing_of_it_is_left_and_the_other_notices_nothing() {
    let (mut scene, second) = two_masters();
    scene.engine.remove(second);
    let asked = scene.asked(TOUCHED);
    // Without its entry the host is silent about the addresses that it owns.
    let expected = [
        "withdraw 2",
        "advertise 255/255 from 10.0.0.1",
        "delete 10.0.0.102/32",
        "disown 10.0.0.102",
    ];
    let places = expected.map(|it| asked.iter().position(|asked| asked == it));
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{asked:?}"
    );
    assert!(
        asked.iter().all(|it| !it.contains("10.0.0.101")),
        "{asked:?}"
    );
    let host = scene.host();
    assert!(!host.has(SECOND) && host.has(VIP));
    assert_eq!(host.fence(SECOND), None);
    assert_eq!(host.entries.len(), 1);
    assert!(!host.locks.contains_key("vhid 2/2") && !host.locks.contains_key("10.0.0.102"));
    assert!(host.locks.contains_key("vhid 2/1") && host.locks.contains_key("10.0.0.101"));
    assert_eq!(host.enlisted.len(), 1);
    assert!(host.open[&ETH0].contains(&IpAddr::from(DEFAULT_GROUP)));
    scene.turn();
    assert_eq!(scene.host().watched[&ETH0], [VIP]);
    scene.forget();
    scene.pass(ms(20_000));
    assert_eq!(scene.states(), [State::Master]);
    let asked = scene.asked(TOUCHED);
    assert!(
        asked.iter().all(|it| !it.contains("10.0.0.102")),
        "{asked:?}"
    );
}

#[test]
fn a_removed_backup_sends_nothing() {
    let mut scene = Scene::master(vhost(1));
    let second = scene.engine.add(vhost(2)).expect("it is added");
    scene.forget();
    scene.engine.remove(second);
    let asked = scene.asked(&["advertise", "delete", "silence"]);
    assert_eq!(asked, Vec::<String>::new());
    assert_eq!(scene.host().entries.len(), 1);
}

#[test]
fn the_last_virtual_host_takes_its_interface_along() {
    let mut scene = Scene::master(vhost(1));
    let id = scene.id();
    scene.engine.remove(id);
    let host = scene.host();
    assert!(host.open.is_empty() && host.attached.is_empty());
    assert!(host.locks.is_empty() && host.enlisted.is_empty());
    assert!(host.entries.is_empty() && host.owners.is_empty());
    assert_eq!(host.addresses, [(address(1), None)]);
    scene.pass(ms(60_000));
    assert_eq!(scene.engine.next_wake(), None, "nobody is left to wake for");
    scene.engine.add(vhost(1)).expect("it is added");
    scene.become_master();
}

#[test]
fn a_group_is_joined_with_its_first_virtual_host_and_left_with_its_last() {
    let group = Ipv4Addr::new(224, 0, 0, 99);
    let other = |vhid| {
        let mut config = vhost(vhid);
        config.group = group;
        config
    };
    let mut scene = Scene::master(vhost(1));
    let second = scene.engine.add(other(2)).expect("it is added");
    let third = scene.engine.add(other(3)).expect("it is added");
    assert!(scene.host().open[&ETH0].contains(&IpAddr::from(group)));
    scene.engine.remove(second);
    assert!(scene.host().open[&ETH0].contains(&IpAddr::from(group)));
    scene.engine.remove(third);
    assert_eq!(
        scene.host().open[&ETH0],
        [IpAddr::from(DEFAULT_GROUP)].into()
    );
}

#[test]
fn a_virtual_host_that_is_served_already_is_not_added_again() {
    let mut scene = Scene::master(vhost(1));
    let error = scene.engine.add(vhost(1)).unwrap_err();
    assert!(error.to_string().contains("served already"), "{error}");
    assert_eq!(scene.asked(&["enlist", "lock"]), Vec::<String>::new());
}

#[test]
fn an_addition_that_another_process_stands_in_the_way_of_leaves_everything_as_it_was() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.locked.insert("10.0.0.102".to_owned());
    scene.engine.add(vhost(2)).unwrap_err();
    let host = scene.host();
    assert_eq!(host.enlisted.len(), 1);
    assert!(
        !host.locks.contains_key("vhid 2/2"),
        "it can be served by another one"
    );
    assert_eq!(host.entries.len(), 1);
    assert!(host.open[&ETH0].contains(&IpAddr::from(DEFAULT_GROUP)));
    scene.pass(ms(10_000));
    assert_eq!(scene.states(), [State::Master]);
}

#[test]
fn an_addition_with_the_address_of_another_virtual_host_takes_nothing_from_it() {
    let mut scene = Scene::master(vhost(1));
    let mut config = vhost(2);
    config.addresses = vhost(1).addresses;
    scene.engine.add(config).unwrap_err();
    let host = scene.host();
    assert_eq!(
        host.locks.keys().collect::<Vec<_>>(),
        ["10.0.0.101", "vhid 2/1"]
    );
    assert!(host.has(VIP) && host.answers_for(VIP));
    assert_eq!(
        scene.asked(&["disown", "silence", "withdraw", "delete"]),
        Vec::<String>::new()
    );
}

#[test]
fn a_virtual_host_of_another_interface_opens_and_closes_that_interface_alone() {
    let mut scene = Scene::master(vhost(1));
    scene.host().plug(Link::up(3, "eth1"));
    let own = Address {
        ifindex: 3,
        ..address(3)
    };
    scene.host().assign(own);
    let mut config = vhost(1);
    config.interface = "eth1".to_owned();
    config.addresses = vhost(9).addresses;
    let id = scene.engine.add(config).expect("it is added");
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.states(), [State::Master; 2]);
    scene.engine.remove(id);
    assert_eq!(scene.host().open.keys().collect::<Vec<_>>(), [&ETH0]);
    assert_eq!(scene.host().attached, [ETH0].into());
    assert_eq!(scene.states(), [State::Master]);
}

#[test]
fn an_absent_interface_is_refused_or_waited_for_as_at_the_start() {
    for waits in [false, true] {
        let mut config = config(vec![vhost(1)]);
        config.wait_interface = waits;
        let mut scene = Scene::start(config, host());
        let mut other = vhost(2);
        other.interface = "eth1".to_owned();
        assert_eq!(scene.engine.add(other).is_ok(), waits);
        assert_eq!(scene.states().len(), 1 + usize::from(waits));
        assert_eq!(scene.host().enlisted.len(), 1 + usize::from(waits));
    }
}

#[test]
fn an_address_that_an_earlier_run_left_is_silent_until_the_election_of_an_added_virtual_host() {
    let mut scene = Scene::master(vhost(1));
    scene.host().assign(tagged(102));
    scene.turn();
    scene.engine.add(vhost(2)).expect("it is added");
    scene.turn();
    assert!(scene.host().has(SECOND) && !scene.host().answers_for(SECOND));
    scene.pass(MASTER_DOWN);
    assert!(scene.host().has(SECOND) && scene.host().answers_for(SECOND));
}

#[test]
fn input_for_a_removed_virtual_host_is_ignored() {
    let (mut scene, second) = two_masters();
    scene.queue(&mut Peer::of(vhost(2), 2, 0));
    scene.engine.remove(second);
    let completion = Completion {
        which: Which::Up,
        outcome: Outcome::Failed,
    };
    scene.turn_with([Arrival::Script(second, completion)]);
    assert_eq!(scene.states(), [State::Master]);
}

#[test]
fn a_virtual_host_that_comes_back_has_another_identity() {
    let (mut scene, second) = two_masters();
    scene.engine.remove(second);
    let again = scene.engine.add(vhost(2)).expect("it is added");
    assert_ne!(again, second);
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.states(), [State::Master; 2]);
    assert!(scene.host().has(SECOND));
}

#[test]
fn the_memory_of_an_added_virtual_host_is_recalled_and_that_of_a_removed_one_is_kept() {
    let mut host = host();
    host.keeps = true;
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    let second = scene.engine.add(vhost(2)).expect("it is added");
    let mut peer = Peer::of(vhost(2), 2, 0);
    scene.hear_for(&mut peer, ms(5_000));
    let now = scene.host().now;
    let recorded = peer.advertise(now);
    scene.host().arrived.push_back(recorded);
    scene.turn();
    scene.engine.remove(second);
    assert_eq!(scene.host().memories.len(), 1);
    scene.engine.add(vhost(2)).expect("it is added");
    // A recording does not delay the takeover.
    for _ in 0..30 {
        let mut again = recorded;
        again.arrival_ns = scene.host().now.as_nanos();
        scene.host().arrived.push_back(again);
        scene.pass(ms(100));
    }
    assert_eq!(scene.states(), [State::Master; 2]);
}

#[test]
fn an_address_that_the_kernel_had_no_time_to_remove_stays_silent_until_it_is_gone() {
    let (mut scene, second) = two_masters();
    scene.host().faults.slow = true;
    scene.engine.remove(second);
    scene.turn();
    assert!(scene.host().has(SECOND));
    assert!(
        !scene.host().answers_for(SECOND),
        "another host is MASTER by now"
    );
    scene.host().catch_up();
    scene.turn();
    assert!(!scene.host().has(SECOND));
    assert_eq!(scene.host().fence(SECOND), None);
}

/// The second interface, with an address of the host's own.
fn plug_second(scene: &mut Scene) {
    scene.host().plug(Link::up(3, "eth1"));
    let own = Address {
        ifindex: 3,
        ..address(3)
    };
    scene.host().assign(own);
    scene.turn();
}

fn on(interface: &str, vhid: u8) -> VhostConfig {
    let mut config = vhost(vhid);
    config.interface = interface.to_owned();
    config
}

#[test]
fn an_interface_that_was_renamed_is_the_same_one_by_its_present_name() {
    let mut scene = Scene::master(vhost(1));
    scene
        .host()
        .change(ETH0, |link| link.name = "lan0".to_owned());
    scene.turn();
    let error = scene.engine.add(on("lan0", 1)).unwrap_err();
    assert!(error.to_string().contains("served already"), "{error}");
    let second = scene.engine.add(on("lan0", 2)).expect("it is added");
    scene.pass(ms(10_000));
    assert_eq!(scene.states(), [State::Master; 2]);
    assert_eq!(scene.host().locks.len(), 4);
    scene.forget();
    scene.engine.remove(second);
    assert_eq!(
        scene.asked(&["detach", "close", "unlock"]),
        ["unlock 2"],
        "the first one still needs the rest"
    );
    scene.pass(ms(10_000));
    assert_eq!(scene.states(), [State::Master]);
    assert!(!scene.asked(&["advertise"]).is_empty());
}

#[test]
fn a_new_interface_is_not_taken_for_the_one_that_had_its_name() {
    let mut scene = Scene::master(vhost(1));
    scene
        .host()
        .change(ETH0, |link| link.name = "lan0".to_owned());
    scene.host().plug(Link::up(3, "eth0"));
    scene.turn();
    let error = scene.engine.add(vhost(2)).unwrap_err();
    assert!(error.to_string().contains("lan0"), "{error}");
    assert_eq!(scene.states(), [State::Master]);
}

#[test]
fn an_interface_that_gets_the_name_of_an_awaited_one_is_opened_once() {
    let mut config = config(vec![vhost(1), on("lan0", 2)]);
    config.wait_interface = true;
    let mut scene = Scene::start(config, host());
    scene.pass(ms(10_000));
    scene.forget();
    scene
        .host()
        .change(ETH0, |link| link.name = "lan0".to_owned());
    scene.pass(ms(10_000));
    assert_eq!(scene.states(), [State::Master, State::Init]);
    assert_eq!(scene.asked(&["open", "lock"]), Vec::<String>::new());
}

#[test]
fn an_addition_that_fails_holds_no_locks_and_the_next_one_takes_its_own() {
    let mut scene = Scene::master(vhost(1));
    plug_second(&mut scene);
    let before = scene.host().locks.clone();
    scene.host().faults.open = Some(libc::EMFILE);
    scene.engine.add(on("eth1", 7)).unwrap_err();
    assert_eq!(scene.host().locks, before);
    scene.host().faults.open = None;
    scene.engine.add(on("eth1", 8)).expect("it is added");
    assert!(scene.host().locks.contains_key("vhid 3/8"));
    assert!(scene.host().locks.contains_key("10.0.0.108"));
}

#[test]
fn a_virtual_host_added_to_an_interface_that_could_not_be_opened_takes_its_own_locks() {
    let mut config = config(vec![vhost(1), on("eth1", 7)]);
    config.wait_interface = true;
    let mut scene = Scene::start(config, host());
    scene.host().faults.open = Some(libc::EMFILE);
    plug_second(&mut scene);
    assert!(scene.host().locks.contains_key("vhid 3/7"));
    scene.engine.add(on("eth1", 8)).unwrap_err();
    assert!(scene.host().locks.contains_key("vhid 3/7"));
    assert!(!scene.host().locks.contains_key("vhid 3/8"));
    scene.host().faults.open = None;
    scene.engine.add(on("eth1", 9)).expect("it is added");
    assert!(scene.host().locks.contains_key("vhid 3/9"));
}

#[test]
fn an_interface_that_could_not_be_opened_and_is_replaced_is_locked_anew() {
    let mut config = config(vec![vhost(1), on("eth1", 7)]);
    config.wait_interface = true;
    let mut scene = Scene::start(config, host());
    scene.host().faults.open = Some(libc::EMFILE);
    plug_second(&mut scene);
    scene.host().unplug(3);
    scene.host().plug(Link::up(4, "eth1"));
    scene.host().faults.open = None;
    scene.pass(ms(3_000));
    assert!(scene.host().open.contains_key(&4));
    assert!(scene.host().locks.contains_key("vhid 4/7"));
    assert!(!scene.host().locks.contains_key("vhid 3/7"));
}
