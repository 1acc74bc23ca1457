//! Lines of events about interfaces.

use carp_common::units::Family;
use carp_common::wire::ether::MacAddress;

use super::*;
use crate::api::event::interface::{Datapath, Link, Loss, Source, Upper};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = datapath();
    rows.extend(link());
    rows.extend(source());
    rows
}

fn datapath() -> Vec<Row> {
    let summary = || "receiving on eth0 through datapath tcx".to_owned();
    let receive = || Loss::Receive(error());
    vec![
        of_interface(
            Datapath::Attached { summary: summary() },
            "[INFO] receiving on eth0 through datapath tcx",
        ),
        of_interface(
            Datapath::FellBack { summary: summary() },
            "[WARNING] receiving on eth0 through datapath tcx",
        ),
        of_vhost(
            Datapath::Refused {
                rung: Some("tcx".to_owned()),
                error: error(),
            },
            "[ERROR] eth0 id 7: datapath tcx: No such device",
        ),
        of_vhost(
            Datapath::Refused {
                rung: None,
                error: error(),
            },
            "[ERROR] eth0 id 7: datapath none: No such device",
        ),
        of_vhost(
            Datapath::Left,
            "[ERROR] eth0 id 7: stopping, although the kernel still refuses to update the fence around its addresses: this \
             host may be silent about them until a carpd starts again",
        ),
        of_vhost(
            Datapath::EntryChanged,
            "[WARNING] eth0 id 7: another process removed or changed its entry in the kernel's map: writing it again",
        ),
        of_interface(
            Datapath::Lost { loss: receive() },
            "[WARNING] eth0: failed to receive advertisements (No such device): attaching again",
        ),
        of_interface(
            Datapath::Lost {
                loss: Loss::Detached,
            },
            "[WARNING] eth0: another process detached carpd's program from the interface: attaching again",
        ),
        of_interface(
            Datapath::LostAgain {
                loss: Loss::Replaced,
            },
            "[ERROR] eth0: another process replaced carpd's program again: in INIT for a moment",
        ),
        of_interface(
            Datapath::ReattachFailed { error: error() },
            "[ERROR] eth0: in INIT until advertisements can be received, trying again: No such device",
        ),
        of_interface(
            Datapath::VrrpSameVhid { shares_mac: false },
            "[WARNING] eth0: a VRRP router uses a VRID that is also a vhid here: carpd's advertisements delay \
             those of keepalived; give one of them another id, or carpd another multicast group (--mcast)",
        ),
        of_process(
            Datapath::VrrpSameVhid { shares_mac: true },
            "[WARNING] a VRRP router uses a VRID that is also a vhid here: carpd's advertisements delay \
             those of keepalived, and both use the virtual MAC address 00:00:5e:00:01:VRID; give one of them another \
             id, or carpd another multicast group (--mcast)",
        ),
        of_interface(
            Datapath::UnicastPeer,
            "[WARNING] eth0: a peer sends its advertisements for a vhid of this host by unicast, which carpd does not hear \
             yet: both would be MASTER; remove the peer's unicast setting (`peer` of FreeBSD and pfSense, `carppeer` of \
             OpenBSD)",
        ),
    ]
}

fn link() -> Vec<Row> {
    let upper = |kind: &str, name: &str| Upper::Known {
        kind: kind.to_owned(),
        name: name.to_owned(),
    };
    vec![
        of_interface(
            Link::OtherName {
                configured: "enp3s0".to_owned(),
            },
            "[INFO] enp3s0 is another name of eth0",
        ),
        of_interface(
            Link::Awaited,
            "[WARNING] interface eth0 does not exist: waiting for it",
        ),
        of_interface(
            Link::Gone {
                awaited: "lan0".to_owned(),
            },
            "[WARNING] interface eth0 is gone: waiting for lan0",
        ),
        of_interface(
            Link::Unservable { error: error() },
            "[ERROR] cannot serve eth0 yet, trying again: No such device",
        ),
        of_interface(
            Link::Down,
            "[WARNING] eth0 is down: in INIT until it comes up",
        ),
        of_interface(
            Link::MacChanged {
                mac: MacAddress([2, 0, 0, 0, 0, 9]),
            },
            "[INFO] eth0 has another MAC address: 02:00:00:00:00:09",
        ),
        of_interface(
            Link::Renamed {
                name: "lan0".to_owned(),
            },
            "[WARNING] interface eth0 was renamed to lan0: still served",
        ),
        of_interface(
            Link::Enslaved {
                upper: upper("bridge", "br0"),
            },
            "[WARNING] eth0 is a port of bridge br0, which takes all that arrives there: in INIT until it leaves; run carpd \
             on br0 instead",
        ),
        of_interface(
            Link::Enslaved {
                upper: upper("openvswitch", "ovs-system"),
            },
            "[WARNING] eth0 is a port of openvswitch ovs-system, which takes all that arrives there: in INIT until it leaves; \
             run carpd on an internal port of the switch instead",
        ),
        of_interface(
            Link::Enslaved {
                upper: Upper::Unknown(4),
            },
            "[WARNING] eth0 is a port of interface number 4, which takes all that arrives there: in INIT until it leaves; \
             run carpd on number 4 instead",
        ),
        of_interface(
            Link::Released,
            "[INFO] eth0 is no longer a port of another interface: served again",
        ),
    ]
}

fn source() -> Vec<Row> {
    let source = [10, 9, 0, 5].into();
    vec![
        of_interface(
            Source::Missing {
                family: Family::Inet,
            },
            "[WARNING] eth0 has no IPv4 address to send from (virtual ones do not count): in INIT until it has one; or give \
             --srcip",
        ),
        of_interface(
            Source::Missing {
                family: Family::Inet6,
            },
            "[WARNING] eth0 has no IPv6 address to send from (virtual ones do not count): no advertisements over IPv6 until \
             it has one",
        ),
        of_vhost(
            Source::FixedAbsent { source },
            "[WARNING] eth0 id 7: --srcip 10.9.0.5 is on no interface of this host: advertisements carry it all the same; \
             leave --srcip out to send from the first address of eth0",
        ),
        of_vhost(
            Source::FixedGone { source },
            "[WARNING] eth0 id 7: 10.9.0.5, given with --srcip, is no longer on this host: in INIT until it is back",
        ),
        of_vhost(
            Source::FixedBack { source },
            "[INFO] eth0 id 7: 10.9.0.5, given with --srcip, is back",
        ),
    ]
}
