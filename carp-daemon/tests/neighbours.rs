//! Tests what is sent to neighbours and heard from them against the real kernel, each test in a network namespace of its
//! own.
//!
//! This needs root. Without root, the tests print that they are skipped, or fail if `CARP_REQUIRE_ROOT` or `CI` is
//! set.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(
    clippy::print_stderr,
    reason = "what was skipped is part of the result"
)]

mod namespace;

use std::fs;
use std::future::poll_fn;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::wire::ether::MacAddress;
use carp_daemon::io::neighbour_watch::{NeighbourClaim, NeighbourWatch};
use carp_daemon::io::netlink::Link;
use carp_daemon::io::port::Port;
use nix::net::if_::if_nametoindex;
use tokio::time::{sleep, timeout};

use namespace::ip;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// The addresses that are watched.
const VIP: &str = "10.0.0.100";
const VIP6: &str = "2001:db8::100";

/// Moves the calling thread to a new network namespace with the two ends of a cable, `v0` and `v1`, which have no addresses.
fn is_isolated() -> bool {
    let is_isolated = namespace::is_isolated();
    if is_isolated {
        ip(
            "link add v0 address 02:00:00:00:00:10 type veth peer name v1 address 02:00:00:00:00:11",
        );
        ip("link set v0 up");
        ip("link set v1 up");
    }
    is_isolated
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const fn mac(end: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, 0x10 + end]
}

/// Returns one end of the cable.
fn end(end: u8) -> Link {
    let name = format!("v{end}");
    Link {
        index: if_nametoindex(name.as_str()).unwrap(),
        name,
        other_names: Vec::new(),
        ethernet: true,
        mac: mac(end),
        admin_up: true,
        running: true,
        upper: None,
        xdp_program: 0,
        kind: "veth".to_owned(),
    }
}

/// Returns the claims that arrive after a pause, without waiting for the first.
async fn claims_at(watch: &mut NeighbourWatch, seconds: u64) -> Vec<NeighbourClaim> {
    sleep(Duration::from_millis(200)).await;
    let now = Instant::ZERO + Duration::from_secs(seconds);
    watch.take(now).unwrap().claims
}

fn claim(address: &str, end: u8, is_marked: bool) -> NeighbourClaim {
    NeighbourClaim {
        address: address.parse().unwrap(),
        station: MacAddress(mac(end)),
        is_marked,
    }
}

#[tokio::test(flavor = "current_thread")]
async fn announcements_in_both_families_are_heard_as_claims_of_what_is_watched() {
    if !is_isolated() {
        return;
    }
    let port = Port::open(&end(0)).unwrap();
    let mut watch = NeighbourWatch::open(&end(1)).unwrap();
    let announce = |texts: &[&str]| {
        for address in addresses(texts) {
            port.announce(address).unwrap();
        }
    };
    announce(&[VIP, VIP6]);
    watch.choose(&addresses(&[VIP, VIP6])).unwrap();
    announce(&["10.0.0.99", "2001:db8::99", VIP6]);
    // Neighbour discovery alone wakes the daemon as well.
    let readable = poll_fn(|context| watch.poll_readable(context));
    timeout(LONG, readable).await.unwrap().unwrap();
    let found = claims_at(&mut watch, 10).await;
    assert_eq!(found, [claim(VIP6, 0, true)]);
    // The next read is a second later, in both families.
    announce(&[VIP, VIP6]);
    assert_eq!(claims_at(&mut watch, 10).await, []);
    let both = [claim(VIP, 0, true), claim(VIP6, 0, true)];
    assert_eq!(claims_at(&mut watch, 11).await, both);
    // Each family can be watched alone, and again.
    for (watched, second) in [(VIP6, 12), (VIP, 13), (VIP6, 14)] {
        watch.choose(&addresses(&[watched])).unwrap();
        announce(&[VIP, VIP6]);
        let found = claims_at(&mut watch, second).await;
        assert_eq!(found, [claim(watched, 0, true)]);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_neighbour_that_has_an_address_answers_the_question_for_it() {
    if !is_isolated() {
        return;
    }
    ip("address add 10.0.0.100/24 dev v1");
    ip("address add 2001:db8::100/64 dev v1 nodad");
    let port = Port::open(&end(0)).unwrap();
    let mut watch = NeighbourWatch::open(&end(0)).unwrap();
    let vips = addresses(&[VIP, VIP6]);
    watch.choose(&vips).unwrap();
    for (second, address) in (10..).zip([VIP, VIP6]) {
        port.probe(address.parse().unwrap()).unwrap();
        if second == 10 {
            let readable = poll_fn(|context| watch.poll_readable(context));
            timeout(LONG, readable).await.unwrap().unwrap();
        }
        let found = claims_at(&mut watch, second).await;
        assert_eq!(found, [claim(address, 1, false)]);
    }
    let table = ip("neighbour show dev v1");
    assert!(!table.contains("02:00:00:00:00:10"), "{table}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_neighbour_believes_the_announcement_of_an_ipv6_address() {
    if !is_isolated() {
        return;
    }
    ip("address add 2001:db8::1/64 dev v1 nodad");
    let port = Port::open(&end(0)).unwrap();
    for (forwarding, is_router) in [("0", false), ("1", true), ("0", false)] {
        fs::write("/proc/sys/net/ipv6/conf/v0/forwarding", forwarding).unwrap();
        ip("neighbour replace 2001:db8::100 lladdr 02:00:00:00:00:99 dev v1 nud stale");
        port.announce(VIP6.parse().unwrap()).unwrap();
        sleep(Duration::from_millis(200)).await;
        let known = ip("-6 neighbour show 2001:db8::100 dev v1");
        assert!(known.contains("lladdr 02:00:00:00:00:10"), "{known}");
        assert_eq!(known.contains("router"), is_router, "{known}");
    }
}

#[test]
fn groups_of_both_families_are_joined_once_and_left() {
    if !is_isolated() {
        return;
    }
    let mut port = Port::open(&end(0)).unwrap();
    let groups = addresses(&["224.0.0.99", "ff02::99"]);
    // The group as the kernel writes it in hexadecimal digits: of IGMP, of MLD, and in the filter of the interface.
    let joined = || {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
        [
            read("igmp").contains("630000E0"),
            read("igmp6").contains("ff020000000000000000000000000099"),
            read("dev_mcast").contains("01005e000063"),
            read("dev_mcast").contains("333300000099"),
        ]
    };
    assert_eq!(joined(), [false; 4]);
    for _ in 0..2 {
        for group in &groups {
            port.join(*group).unwrap();
        }
    }
    assert_eq!(joined(), [true; 4]);
    port.leave(groups[1]);
    port.leave(groups[1]);
    assert_eq!(joined(), [true, false, true, false]);
    port.leave(groups[0]);
    assert_eq!(joined(), [false; 4]);
}
