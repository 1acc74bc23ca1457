//! Tests the netlink client and monitor against the real kernel, each test in a network namespace of its own.
//!
//! This needs root. Without root, the tests print that they are skipped, or fail if `CARP_REQUIRE_ROOT` or `CI` is
//! set.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was skipped, and how often something happened, is part of the result"
)]

mod namespace;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use carp_daemon::io::netlink::{
    Address, AddressFlags, AddressScope, Client, Monitor, MonitorDrained, NetlinkEvent, Order,
    Route,
};
use tokio::time::timeout;

use namespace::ip;

const PROTOCOL: u8 = 112;
const LEASE: Option<Duration> = Some(Duration::from_secs(60));

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Moves the calling thread to a new network namespace with the two ends of a cable, `v0` and `v1`.
fn is_isolated() -> bool {
    let is_isolated = namespace::is_isolated();
    if is_isolated {
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
    }
    is_isolated
}

/// Creates a client as the engine has it at the start (`false`), or while it serves.
fn client(serves: bool) -> Client {
    let mut client = Client::new().unwrap();
    if serves {
        client.limit_waits();
    }
    client
}

fn index(client: &mut Client, name: &str) -> u32 {
    let links = client.links().unwrap();
    links.iter().find(|it| it.is_called(name)).unwrap().index
}

fn found(client: &mut Client, wanted: &Address) -> Option<Address> {
    let addresses = client.addresses().unwrap();
    addresses.into_iter().find(|it| it.is_same(wanted))
}

/// Waits for the link-local address, which the kernel adds a moment after the link is up.
fn link_local(client: &mut Client) -> Address {
    for _ in 0..100 {
        let mut addresses = client.addresses().unwrap().into_iter();
        if let Some(own) = addresses.find(|it| it.scope == AddressScope::Link) {
            return own;
        }
        thread::sleep(LONG / 100);
    }
    panic!("no address of link scope");
}

fn errno(outcome: io::Result<()>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

#[test]
fn an_ipv4_address_is_added_renewed_and_deleted() {
    if !is_isolated() {
        return;
    }
    for serves in [false, true] {
        let mut client = client(serves);
        let v0 = index(&mut client, "v0");
        let ours = Address::new(v0, [10, 0, 0, 1].into(), 32, PROTOCOL);
        client.give(Order::Add(ours, LEASE)).unwrap();
        let here = found(&mut client, &ours).unwrap();
        assert_eq!(
            (here.protocol, here.scope),
            (PROTOCOL, AddressScope::Universe)
        );
        assert!(
            here.is_primary() && here.is_usable() && !here.flags.contains(AddressFlags::Permanent)
        );
        assert_eq!(
            errno(client.give(Order::Add(ours, LEASE))),
            Some(libc::EEXIST)
        );
        client.give(Order::Renew(ours, None)).unwrap();
        assert!(
            found(&mut client, &ours)
                .unwrap()
                .flags
                .contains(AddressFlags::Permanent)
        );
        // The same address with another prefix length is a different one.
        let other = Address { prefix: 24, ..ours };
        assert_eq!(
            errno(client.give(Order::Delete(other))),
            Some(libc::EADDRNOTAVAIL)
        );
        client.give(Order::Delete(ours)).unwrap();
        assert_eq!(found(&mut client, &ours), None);
        assert_eq!(
            errno(client.give(Order::Delete(ours))),
            Some(libc::EADDRNOTAVAIL)
        );
    }
}

#[test]
fn an_ipv6_address_is_used_at_once_where_the_order_says_so() {
    if !is_isolated() {
        return;
    }
    let mut client = client(true);
    let v0 = index(&mut client, "v0");
    let plain = Address::new(v0, "2001:db8::1".parse().unwrap(), 128, PROTOCOL);
    let ours = Address::new(v0, "2001:db8::2".parse().unwrap(), 128, PROTOCOL)
        .with_flags(AddressFlags::Nodad | AddressFlags::Noprefixroute);
    client.give(Order::Add(plain, LEASE)).unwrap();
    client.give(Order::Add(ours, LEASE)).unwrap();
    let (plain, here) = (
        found(&mut client, &plain).unwrap(),
        found(&mut client, &ours).unwrap(),
    );
    assert!(
        plain.is_tentative() && !plain.is_usable() && !plain.flags.contains(AddressFlags::Nodad)
    );
    assert!(here.flags.contains(AddressFlags::Nodad) && !here.is_tentative() && here.is_usable());
    assert!(here.flags.contains(AddressFlags::Noprefixroute));
    assert_eq!(here.protocol, PROTOCOL);
    let own = link_local(&mut client);
    assert!(own.address.to_string().starts_with("fe80:") && !own.is_primary());
    client.give(Order::Delete(ours)).unwrap();
    assert_eq!(found(&mut client, &ours), None);
}

#[test]
fn a_route_goes_with_the_address_that_it_sends_from() {
    if !is_isolated() {
        return;
    }
    let mut client = client(true);
    let v0 = index(&mut client, "v0");
    let source = Ipv4Addr::new(10, 1, 0, 7);
    let ours = Address::new(v0, source.into(), 32, PROTOCOL);
    let route = Route {
        ifindex: v0,
        subnet: [10, 1, 0, 0].into(),
        prefix: 24,
        source: Some(source.into()),
        protocol: PROTOCOL,
    };
    let to_ipv6 = Route {
        subnet: "2001:db8:1::".parse().unwrap(),
        prefix: 64,
        source: None,
        ..route
    };
    let orders = [
        Order::Add(ours, LEASE),
        Order::AddRoute(route),
        Order::AddRoute(to_ipv6),
    ];
    for outcome in client.give_all(&orders) {
        outcome.unwrap();
    }
    let routes = client.routes().unwrap();
    assert!(
        routes.contains(&route) && routes.contains(&to_ipv6),
        "{routes:?}"
    );
    assert_eq!(
        errno(client.give(Order::AddRoute(route))),
        Some(libc::EEXIST)
    );
    client.give(Order::DeleteRoute(to_ipv6)).unwrap();
    client.give(Order::Delete(ours)).unwrap();
    let routes = client.routes().unwrap();
    assert!(
        !routes.contains(&route) && !routes.contains(&to_ipv6),
        "{routes:?}"
    );
    assert_eq!(
        errno(client.give(Order::DeleteRoute(route))),
        Some(libc::ESRCH)
    );
}

#[test]
fn a_list_is_whole_while_others_change_what_it_lists() {
    /// Some links disappear while a list is made, so the kernel, which counts, leaves out others.
    const GO: u32 = 1200;
    const ALL: u32 = 2 * GO;
    if !is_isolated() {
        return;
    }
    let mut lists = client(false);
    let v0 = index(&mut lists, "v0");
    let address = |number| {
        let ip = Ipv4Addr::from(0x0a00_0000 + number);
        Address::new(v0, ip.into(), 32, PROTOCOL)
    };
    let all: Vec<Order> = (0..ALL).map(|it| Order::Add(address(it), None)).collect();
    for outcome in lists.give_all(&all) {
        outcome.unwrap();
    }
    let expected: BTreeSet<IpAddr> = (GO..ALL).map(|it| address(it).address).collect();
    let mut changes = client(false);
    let (mut whole, mut torn) = (0, 0);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            for number in 0..GO {
                changes.give(Order::Delete(address(number))).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
        while !others.is_finished() {
            match lists.addresses() {
                Ok(listed) => {
                    let listed: BTreeSet<IpAddr> = listed.iter().map(|it| it.address).collect();
                    let missing: Vec<_> = expected.difference(&listed).collect();
                    assert!(missing.is_empty(), "{missing:?} after {whole}, {torn}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("not whole"), "{error}");
                    torn += 1;
                }
            }
        }
    });
    println!("{whole} lists were whole, {torn} never");
    assert!(lists.addresses().is_ok());
}

#[tokio::test(flavor = "current_thread")]
async fn notifications_of_both_families_name_whose_order_it_was() {
    if !is_isolated() {
        return;
    }
    let mut client = client(true);
    let v0 = index(&mut client, "v0");
    let mut monitor = Monitor::new().unwrap();
    let both = ["10.0.0.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    for ip in both {
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        let ours = Address::new(v0, ip, prefix, PROTOCOL).with_flags(AddressFlags::Nodad);
        client.give(Order::Add(ours, LEASE)).unwrap();
        // The kernel reports an IPv6 address a moment later, and not at all if it is gone by then.
        let added =
            |event: &NetlinkEvent| matches!(event, NetlinkEvent::Address(it) if it.is_same(&ours));
        hear(&mut monitor, added).await;
        client.give(Order::Delete(ours)).unwrap();
        let gone = |event: &NetlinkEvent| matches!(event, NetlinkEvent::AddressGone { address, .. } if address.is_same(&ours));
        let NetlinkEvent::AddressGone { by, address } = hear(&mut monitor, gone).await else {
            unreachable!();
        };
        assert_eq!(address.protocol, PROTOCOL);
        // For an IPv6 address, the kernel does not report whose order it was.
        assert_eq!(by, if ip.is_ipv4() { client.port() } else { 0 });
    }
    ip("address add 10.0.0.2/24 dev v0");
    ip("address del 10.0.0.2/24 dev v0");
    let stranger = |event: &NetlinkEvent| matches!(event, NetlinkEvent::AddressGone { .. });
    let NetlinkEvent::AddressGone { by, .. } = hear(&mut monitor, stranger).await else {
        unreachable!();
    };
    assert!(by != 0 && by != client.port());
}

/// Waits for a notification, and discards those that are read with it.
async fn hear(monitor: &mut Monitor, wanted: impl Fn(&NetlinkEvent) -> bool) -> NetlinkEvent {
    let listen = async {
        loop {
            poll_fn(|context| monitor.poll_readable(context))
                .await
                .unwrap();
            let mut found = None;
            let heard = monitor.drain(|event| {
                if wanted(&event) {
                    found.get_or_insert(event);
                }
            });
            assert_ne!(heard.unwrap(), MonitorDrained::Overrun);
            if let Some(found) = found {
                return found;
            }
        }
    };
    timeout(LONG, listen).await.unwrap()
}
