//! Lines of events about virtual addresses.

use std::time::Duration;

use super::*;
use crate::api::event::address::{Assignment, Placement, Predecessor, Restore};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = claim();
    rows.extend(restore());
    rows.extend(placement());
    rows.extend(predecessor());
    rows
}

fn claim() -> Vec<Row> {
    let address = cidr("10.9.0.100/32");
    vec![
        of_vhost(
            Assignment::Added { address },
            "[DEBUG] eth0 id 7: added 10.9.0.100/32",
        ),
        of_vhost(
            Assignment::TakenOver { address },
            "[INFO] eth0 id 7: took over 10.9.0.100/32, left by an earlier run",
        ),
        of_vhost(
            Assignment::AddSlow { address },
            "[WARNING] eth0 id 7: the kernel takes long to add 10.9.0.100/32: going on meanwhile",
        ),
        of_vhost(
            Assignment::RemoveSlow { address },
            "[WARNING] eth0 id 7: the kernel takes long to remove 10.9.0.100/32: going on meanwhile",
        ),
        of_vhost(
            Assignment::AddFailed {
                address,
                error: error(),
            },
            "[ERROR] eth0 id 7: failed to add 10.9.0.100/32: No such device",
        ),
        of_vhost(
            Assignment::Foreign { address },
            "[WARNING] eth0 id 7: 10.9.0.100/32 is there already, added by someone else: it will be left there",
        ),
        of_vhost(
            Assignment::ForeignAsBackup { address },
            "[WARNING] eth0 id 7: 10.9.0.100/32 is there already, added by someone else: it will be left there, so this host \
             answers for it as BACKUP too",
        ),
        of_process(
            Assignment::LeftToOther { address },
            "[INFO] another program added 10.9.0.100/32 at the same moment: it stays there",
        ),
        of_process(
            Assignment::LeaveFailed {
                address,
                error: error(),
                retry: Duration::from_secs(1),
            },
            "[ERROR] another program added 10.9.0.100/32 at the same moment, and leaving it to that program failed, \
             trying again every 1 s: No such device",
        ),
        of_vhost(
            Assignment::RenewalFailed {
                address,
                error: error(),
            },
            "[ERROR] eth0 id 7: failed to renew the lease of 10.9.0.100/32: No such device",
        ),
        of_vhost(
            Assignment::RenewalsFailed { error: error() },
            "[ERROR] eth0 id 7: failed to renew the lease of its address: No such device",
        ),
        of_vhost(
            Assignment::Removed { address },
            "[DEBUG] eth0 id 7: removed 10.9.0.100/32",
        ),
        // An address that no carpd serves any more belongs to no virtual host.
        of_interface(
            Assignment::Removed { address },
            "[DEBUG] eth0: removed 10.9.0.100/32",
        ),
        of_vhost(
            Assignment::RemoveFailed {
                address,
                error: error(),
                retry: Duration::from_secs(1),
            },
            "[ERROR] eth0 id 7: failed to remove 10.9.0.100/32, trying again every 1 s: No such device",
        ),
    ]
}

fn restore() -> Vec<Row> {
    let address = cidr("10.9.0.100/32");
    vec![
        of_vhost(
            Restore::LeaseExpired { address },
            "[WARNING] eth0 id 7: the lease of 10.9.0.100/32 ran out while carpd was stopped",
        ),
        of_vhost(
            Restore::RemovedByOther { address },
            "[WARNING] eth0 id 7: 10.9.0.100/32 was removed by someone else: adding it again",
        ),
        of_vhost(
            Restore::RemovedTooOften {
                address,
                times: 4,
                within: Duration::from_secs(10),
                quiet: Duration::from_secs(60),
                retry: Duration::from_secs(11),
            },
            "[ERROR] eth0 id 7: 10.9.0.100/32 was removed by someone else 4 times within 10 s: advertising a worse priority \
             until it is left alone for 60 s, and adding it again every 11 s",
        ),
        of_vhost(
            Restore::ScriptedRemoved {
                address: ip("10.9.0.100"),
            },
            "[WARNING] eth0 id 7: 10.9.0.100 was removed while MASTER; the scripts own it, so it is not added again",
        ),
        of_vhost(
            Restore::LeftAlone {
                quiet: Duration::from_secs(60),
            },
            "[INFO] eth0 id 7: nobody removed its addresses for 60 s: the configured priority again",
        ),
        of_vhost(
            Restore::CannotAdd {
                retry: Duration::from_secs(1),
            },
            "[ERROR] eth0 id 7: advertising a worse priority until its addresses can be added, trying again every 1 s",
        ),
    ]
}

fn placement() -> Vec<Row> {
    let address = ip("10.9.0.100");
    let subnet = cidr("10.9.0.0/24");
    vec![
        of_vhost(
            Placement::PutBehind { address },
            "[DEBUG] eth0 id 7: put 10.9.0.100 behind the host's own addresses",
        ),
        of_vhost(
            Placement::AddAgainFailed {
                address,
                error: error(),
            },
            "[ERROR] eth0 id 7: failed to add 10.9.0.100 again: No such device",
        ),
        of_vhost(
            Placement::RouteChanged {
                subnet,
                wanted: true,
            },
            "[DEBUG] eth0 id 7: added the route to 10.9.0.0/24",
        ),
        of_vhost(
            Placement::RouteFailed {
                subnet,
                error: error(),
            },
            "[ERROR] eth0 id 7: failed to change the route to 10.9.0.0/24: No such device",
        ),
        of_vhost(
            Placement::PrefixesDiffer {
                subnet,
                own: cidr("10.9.0.5/25"),
            },
            "[WARNING] eth0 id 7: no route to 10.9.0.0/24 is added, because 10.9.0.5/25 of this host is in that subnet: the \
             two prefix lengths should be the same",
        ),
        of_vhost(
            Placement::SubnetWithoutOwn {
                address,
                subnet,
                own: vec![],
            },
            "[WARNING] eth0 id 7: this host has no address of its own in 10.9.0.0/24: as MASTER it uses 10.9.0.100 as \
             the source of what it sends there; add an address of that subnet to eth0, or correct --addr",
        ),
        of_vhost(
            Placement::SubnetWithoutOwn {
                address,
                subnet,
                // Each subnet is named once, in the order of the text.
                own: vec![cidr("9.0.0.0/8"), cidr("10.1.0.0/16"), cidr("9.0.0.0/8")],
            },
            "[WARNING] eth0 id 7: this host has no address of its own in 10.9.0.0/24, only in 10.1.0.0/16 and 9.0.0.0/8: as \
             MASTER it uses 10.9.0.100 as the source of what it sends there; add an address of that subnet to eth0, or \
             correct --addr",
        ),
        of_vhost(
            Placement::InterfaceWithoutOwn { address },
            "[WARNING] eth0 id 7: this host has no address of its own on eth0: as MASTER it uses 10.9.0.100 as the source of \
             what it sends there; add an address to eth0",
        ),
        of_vhost(
            Placement::OutsideSubnets {
                address,
                own: vec![cidr("10.1.0.0/16")],
            },
            "[WARNING] eth0 id 7: this host has no address of its own in the subnet of 10.9.0.100, only in 10.1.0.0/16: hosts \
             on eth0 do not ask for 10.9.0.100, unless they have a route to it; add an address of that subnet to eth0, or \
             correct --addr",
        ),
    ]
}

fn predecessor() -> Vec<Row> {
    let address = cidr("10.9.0.100/32");
    vec![
        of_vhost(
            Predecessor::LeftoverKept { address },
            "[INFO] eth0 id 7: 10.9.0.100/32 was left by an earlier run: kept until another MASTER is heard",
        ),
        of_vhost(
            Predecessor::LeftoverRemoved { address },
            "[INFO] eth0 id 7: removing 10.9.0.100/32, left by an earlier run",
        ),
        of_interface(
            Predecessor::OrphanRemoved {
                address,
                vhid: vhid(9),
            },
            "[INFO] eth0: removing 10.9.0.100/32, left by a carpd for vhid 9 that died",
        ),
        of_interface(
            Predecessor::OrphanFenced {
                address: ip("10.9.0.100"),
                vhid: vhid(9),
            },
            "[WARNING] eth0: 10.9.0.100 was left by a carpd for vhid 9 that died: this host does not answer for it until that \
             one runs again, the address is removed, or `carpd --detach eth0` is run after all carpd there have stopped",
        ),
        of_interface(
            Predecessor::Unknown { error: error() },
            "[WARNING] eth0: cannot tell which other carpd are alive, so what dead ones left stays: No such device",
        ),
    ]
}
