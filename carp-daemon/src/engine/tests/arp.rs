//! Other hosts that have our address, as ARP and neighbour discovery show it.

use carp_common::wire::ether::MacAddress;

use super::*;
use crate::api::What;
use crate::api::event::election::{Conflict, Unheard};
use crate::io::neighbour_watch::NeighbourClaim;

const THEIRS: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

/// Returns an announcement of an address by a station, of a carpd if it is marked.
const fn claim(station: MacAddress, address: IpAddr, is_marked: bool) -> NeighbourClaim {
    NeighbourClaim {
        address,
        station,
        is_marked,
    }
}

impl Scene {
    /// Lets a station claim an address, and returns the number of answers.
    fn claimed(&mut self, station: MacAddress, is_marked: bool) -> usize {
        let claim = claim(station, VIP, is_marked);
        self.host().claims.push(claim);
        self.forget();
        self.turn();
        self.asked(&["announce"]).len()
    }

    /// A MASTER whose announcements after the takeover are over.
    fn watching() -> Self {
        let mut scene = Self::master(vhost(1));
        scene.pass(ms(10_000));
        scene
    }
}

#[test]
fn a_master_watches_half_a_second_after_the_takeover_and_asks_every_ten_seconds() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(499));
    assert_eq!(
        scene.claimed(THEIRS, false),
        0,
        "the MASTER before may still answer"
    );
    assert_eq!(scene.told("address-conflict"), 0);
    scene.pass(ms(1));
    assert_eq!(scene.asked(&["probe"]), ["probe 10.0.0.101"]);
    assert_eq!(scene.claimed(THEIRS, false), 1);
    assert_eq!(scene.told("address-conflict"), 1);
    scene.pass(ms(30_000));
    assert_eq!(scene.asked(&["probe"]).len(), 3);
}

#[test]
fn a_backup_asks_nothing_and_answers_no_claim() {
    let mut scene = Scene::watching();
    scene.turn_with([Arrival::StepDown]);
    scene.turn();
    assert_eq!(scene.host().watched[&ETH0], Vec::<IpAddr>::new());
    scene.forget();
    assert_eq!(scene.claimed(THEIRS, false), 0);
    scene.pass(ms(5_000));
    assert_eq!(scene.asked(&["probe"]), Vec::<String>::new());
}

#[test]
fn another_host_that_claims_the_address_is_named_and_answered_each_time() {
    let mut scene = Scene::watching();
    for second in 0..25 {
        assert_eq!(scene.claimed(THEIRS, false), 1, "at {second} s");
        let told = scene.told("address-conflict");
        assert_eq!(told, usize::from(second % 10 == 0), "at {second} s");
        scene.pass(INTERVAL);
    }
    assert_eq!(
        scene
            .engine
            .instances()
            .next()
            .unwrap()
            .rooms
            .conflict
            .count(),
        25
    );
}

#[test]
fn another_carp_master_is_answered_once_in_ten_seconds() {
    let mut scene = Scene::watching();
    let mut answered = 0;
    for _ in 0..30 {
        answered += scene.claimed(THEIRS, true);
        scene.pass(INTERVAL);
    }
    assert_eq!(answered, 3);
}

#[test]
fn the_line_about_a_carp_master_does_not_hide_another_host() {
    let mut scene = Scene::watching();
    let other = MacAddress([2, 0, 0, 0, 0, 10]);
    for (station, is_marked, expected) in [
        (THEIRS, true, 1),
        (other, false, 1),
        (THEIRS, true, 0),
        (other, false, 0),
    ] {
        scene.claimed(station, is_marked);
        assert_eq!(scene.told("address-conflict"), expected, "{station}");
    }
}

#[test]
fn where_no_advertisement_was_ever_heard_the_cause_is_named() {
    for (own_mac, expected) in [
        (false, Unheard::PortSecurity),
        (true, Unheard::PeerWithoutOwnMac),
    ] {
        let mut config = vhost(1);
        config.own_mac = own_mac;
        let mut scene = Scene::master(config);
        scene.pass(ms(1_000));
        scene.claimed(THEIRS, true);
        let told = scene.host().told.iter().any(|event| {
            let What::Conflict(Conflict::Claimed { unheard, .. }) = &event.what else {
                return false;
            };
            *unheard == Some(expected)
        });
        assert!(told);
    }
}

#[test]
fn claims_while_another_master_is_heard_are_counted_and_not_answered() {
    let mut scene = Scene::watching();
    let mut worse = Peer::new(2, 100);
    scene.hear(&mut worse);
    scene.pass(ms(200));
    assert_eq!(scene.claimed(THEIRS, false), 0, "the election is about it");
    assert_eq!(
        scene
            .engine
            .instances()
            .next()
            .unwrap()
            .rooms
            .conflict
            .count(),
        1
    );
    scene.pass(ms(4_000));
    assert_eq!(scene.claimed(THEIRS, false), 1);
}

#[test]
fn a_frame_of_this_host_itself_is_no_claim() {
    let mut scene = Scene::watching();
    let ours = MacAddress(scene.host().links[&ETH0].mac);
    assert_eq!(scene.claimed(ours, false), 0);
    assert_eq!(scene.told("address-conflict"), 0);
}

#[test]
fn of_two_virtual_hosts_the_one_whose_address_it_is_answers() {
    let mut scene = Scene::start(config(vec![vhost(1), vhost(2)]), host());
    scene.pass(ms(20_000));
    let [one, two] = [VIP, IpAddr::from([10, 0, 0, 102])];
    assert_eq!(scene.host().watched[&ETH0], [one, two]);
    scene.forget();
    scene.host().claims.push(claim(THEIRS, two, false));
    scene.turn();
    assert_eq!(scene.asked(&["announce"]), ["announce 10.0.0.102"]);
    let counts: Vec<_> = scene
        .engine
        .instances()
        .map(|it| it.rooms.conflict.count())
        .collect();
    assert_eq!(counts, [0, 1]);
}
