//! Virtual hosts with IPv6 addresses, alone and beside IPv4 ones.

use carp_common::wire::advertisement::GROUP_INET6;
use carp_common::wire::ether::MacAddress;

use super::*;
use crate::io::neighbour_watch::NeighbourClaim;
use crate::io::netlink::{AddressFlags, AddressScope};

/// The virtual IPv6 address of vhid 1.
const VIP6: &str = "2001:db8::101";
/// The host's own IPv6 address.
const OWN6: &str = "fe80::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns the host's own IPv6 address as the kernel has it.
fn own6() -> Address {
    Address {
        scope: AddressScope::Link,
        ..Address::new(ETH0, ip(OWN6), 64, 0)
    }
}

/// Returns the virtual host of [`vhost`] with these addresses instead.
fn with_addresses<const N: usize>(vhid: u8, addresses: [IpAddr; N]) -> VhostConfig {
    let mut config = vhost(vhid);
    config.election.addresses = AddressSet::new(addresses);
    config.addresses = addresses
        .map(|address| VirtualAddress {
            address,
            prefix: if address.is_ipv4() { 24 } else { 64 },
        })
        .to_vec();
    config
}

/// Returns a virtual host with an address of each family.
fn dual() -> VhostConfig {
    with_addresses(1, [VIP, ip(VIP6)])
}

/// Returns a virtual host with an IPv6 address alone.
fn inet6() -> VhostConfig {
    with_addresses(1, [ip(VIP6)])
}

/// Returns a host with an own address in each family.
fn dual_host() -> Recorder {
    let mut host = host();
    host.addresses.push((own6(), None));
    host
}

/// Starts one virtual host on a host with both families, which is BACKUP then.
fn backup(vhost: VhostConfig) -> Scene {
    let mut scene = Scene::start(config(vec![vhost]), dual_host());
    assert_eq!(scene.state(), State::Backup);
    scene.forget();
    scene
}

/// Starts one virtual host on a host with both families, which has just become MASTER then.
fn master(vhost: VhostConfig) -> Scene {
    let mut scene = backup(vhost);
    scene.become_master();
    scene
}

/// Returns a peer that sends over IPv6.
fn peer6(config: VhostConfig, advskew: u8) -> Peer {
    let mut peer = Peer::of(config, 2, advskew);
    peer.source = ip("fe80::2");
    peer
}

#[test]
fn each_family_in_use_is_listened_to_and_no_other() {
    for (config, families) in [
        (dual(), &[Family::Inet, Family::Inet6][..]),
        (vhost(1), &[Family::Inet]),
        (inet6(), &[Family::Inet6]),
    ] {
        let mut scene = backup(config);
        let found = |family| match family {
            Family::Inet => Endpoints {
                group: DEFAULT_GROUP.into(),
                own: Some(OWN),
            },
            Family::Inet6 => Endpoints {
                group: GROUP_INET6.into(),
                own: Some(ip(OWN6)),
            },
        };
        let entries = &scene.host().entries;
        let entry = *entries.values().next().expect("there is an entry");
        for family in [Family::Inet, Family::Inet6] {
            let expected = families.contains(&family).then(|| found(family));
            assert_eq!(entry.endpoints[family], expected, "{family}");
        }
        let groups = families.iter().map(|family| found(*family).group);
        assert_eq!(scene.host().open[&ETH0], groups.collect());
    }
}

#[test]
fn a_takeover_adds_fences_advertises_and_announces_in_both_families() {
    let mut scene = master(dual());
    let asked = scene.asked(&["add", "advertise", "announce"]);
    let place = |wanted: &str| {
        let found = asked.iter().position(|it| it.starts_with(wanted));
        found.unwrap_or_else(|| panic!("{wanted}: {asked:?}"))
    };
    let added = [place("add 10.0.0.101/32"), place("add 2001:db8::101/128")];
    let advertised = [
        place("advertise 1/0 from 10.0.0.1"),
        place("advertise 1/0 from fe80::1"),
    ];
    let announced = [
        place("announce 10.0.0.101"),
        place("announce 2001:db8::101"),
    ];
    assert!(added < advertised && advertised < announced, "{asked:?}");
    let fenced = scene.host().owners.iter().map(|it| it.address);
    assert_eq!(fenced.collect::<Vec<_>>(), [VIP, ip(VIP6)]);
    scene.pass(INTERVAL);
    assert_eq!(
        scene.asked(&["advertise"]),
        ["advertise 1/0 from 10.0.0.1", "advertise 1/0 from fe80::1"]
    );
}

#[test]
fn a_planned_stop_says_so_in_both_families_and_leaves_nothing() {
    let mut scene = master(dual());
    scene.forget();
    let mut host = scene.stop();
    let said: Vec<_> = host.asked.drain(..).collect();
    for source in ["10.0.0.1", "fe80::1"] {
        let bow_out = format!("advertise 255/255 from {source}");
        assert!(said.contains(&bow_out), "{said:?}");
    }
    assert_eq!(host.addresses, [(address(1), None), (own6(), None)]);
    assert!(host.owners.is_empty());
}

#[test]
fn an_ipv6_source_is_used_once_duplicate_address_detection_has_ended() {
    let mut scene = Scene::start(config(vec![dual()]), host());
    scene.become_master();
    assert_eq!(scene.told("source-missing"), 1);
    assert_eq!(scene.endpoints(Family::Inet6).own, None);
    scene
        .host()
        .assign(own6().with_flags(AddressFlags::Tentative));
    scene.turn();
    scene.forget();
    scene.pass(INTERVAL);
    assert_eq!(scene.asked(&["advertise"]), ["advertise 1/0 from 10.0.0.1"]);
    scene.host().assign(own6());
    scene.turn();
    assert_eq!(scene.endpoints(Family::Inet6).own, Some(ip(OWN6)));
    scene.forget();
    scene.pass(INTERVAL);
    assert_eq!(
        scene.asked(&["advertise"]),
        ["advertise 1/0 from 10.0.0.1", "advertise 1/0 from fe80::1"]
    );
    assert_eq!(scene.told("source-missing"), 0);
}

#[test]
fn a_master_that_loses_one_source_goes_on_in_the_other_family() {
    for (gone, left) in [(OWN, OWN6), (ip(OWN6), "10.0.0.1")] {
        let mut scene = master(dual());
        scene.host().remove(gone);
        scene.turn();
        assert_eq!(scene.told("source-missing"), 1);
        scene.forget();
        scene.pass(INTERVAL);
        assert_eq!(scene.state(), State::Master);
        let expected = format!("advertise 1/0 from {left}");
        assert_eq!(scene.asked(&["advertise"]), [expected]);
    }
}

#[test]
fn with_ipv6_addresses_alone_only_an_ipv6_source_counts() {
    let mut scene = Scene::start(config(vec![inet6()]), host());
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.told("source-missing"), 1);
    scene.host().assign(own6());
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    // It has no use for an IPv4 source.
    scene.host().remove(OWN);
    scene.turn();
    assert_eq!(scene.told("source-missing"), 0);
    scene.become_master();
    scene.forget();
    scene.pass(INTERVAL);
    assert_eq!(scene.asked(&["advertise"]), ["advertise 1/0 from fe80::1"]);
    scene.host().remove(ip(OWN6));
    scene.turn();
    assert_eq!(scene.state(), State::Init);
}

#[test]
fn a_srcip_is_the_source_of_one_family_only() {
    let mut config = dual();
    config.source = Some(Ipv4Addr::new(10, 0, 0, 9));
    let mut scene = backup(config);
    scene.pass(MASTER_DOWN);
    assert_eq!(
        scene.asked(&["advertise"]),
        ["advertise 1/0 from 10.0.0.9", "advertise 1/0 from fe80::1"]
    );
}

#[test]
fn a_better_peer_is_heard_over_ipv6() {
    let mut config = inet6();
    config.election.advskew = AdvSkew(100);
    let mut scene = backup(config.clone());
    let mut peer = peer6(config, 0);
    scene.hear_for(&mut peer, ms(20_000));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(MASTER_DOWN + INTERVAL);
    assert_eq!(scene.state(), State::Master);
    scene.hear_for(&mut peer, ms(5_000));
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn own_ipv6_advertisements_that_come_back_change_nothing_and_are_told() {
    let mut scene = master(inet6());
    scene.pass(ms(10_000));
    let mut echo = peer6(inet6(), 0);
    echo.source = ip(OWN6);
    scene.forget();
    scene.hear(&mut echo);
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("own-echo"), 1);
}

#[test]
fn both_families_are_watched_asked_for_and_defended() {
    let mut scene = master(dual());
    scene.pass(ms(500));
    assert_eq!(
        scene.asked(&["probe"]),
        ["probe 10.0.0.101", "probe 2001:db8::101"]
    );
    assert_eq!(scene.host().watched[&ETH0], [VIP, ip(VIP6)]);
    scene.pass(ms(10_000));
    for address in [VIP, ip(VIP6)] {
        scene.forget();
        scene.host().claims.push(NeighbourClaim {
            address,
            station: MacAddress([2, 0, 0, 0, 0, 9]),
            is_marked: false,
        });
        scene.turn();
        let announced = format!("announce {address}");
        assert_eq!(scene.asked(&["announce"]), [announced]);
        scene.pass(ms(10_000));
    }
    let mut instances = scene.engine.instances();
    assert_eq!(instances.next().unwrap().rooms.conflict.count(), 2);
}

#[test]
fn an_ipv6_address_that_is_removed_comes_back() {
    let mut scene = master(dual());
    scene.pass(ms(10_000));
    scene.host().remove(ip(VIP6));
    scene.pass(ms(1_000));
    assert!(scene.host().has(ip(VIP6)) && scene.host().has(VIP));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn the_ipv6_group_is_joined_with_its_first_virtual_host_and_left_with_its_last() {
    let mut scene = Scene::start(config(vec![vhost(1)]), dual_host());
    let groups = |scene: &mut Scene| scene.host().open[&ETH0].clone();
    let [inet, inet6] = [IpAddr::from(DEFAULT_GROUP), GROUP_INET6.into()];
    assert_eq!(groups(&mut scene), [inet].into());
    let second = with_addresses(2, [ip("2001:db8::102")]);
    let second = scene.engine.add(second).expect("it is added");
    let mut third = with_addresses(3, [ip("2001:db8::103")]);
    third.broadcast = true;
    scene.engine.add(third).expect("it is added");
    assert_eq!(groups(&mut scene), [inet, inet6].into());
    scene.engine.remove(second);
    assert_eq!(
        groups(&mut scene),
        [inet].into(),
        "broadcasts need no group"
    );
}

#[test]
fn the_status_names_the_sources_of_the_families_in_use() {
    for (config, expected) in [
        (dual(), [Some(OWN), Some(ip(OWN6))]),
        (vhost(1), [Some(OWN), None]),
        (inet6(), [None, Some(ip(OWN6))]),
    ] {
        let mut scene = backup(config);
        scene.turn_with([Arrival::Report]);
        let status = scene.host().statuses.pop().expect("it was shown");
        let sources = status.virtual_hosts[0].sources;
        assert_eq!([sources.inet, sources.inet6], expected);
    }
}
