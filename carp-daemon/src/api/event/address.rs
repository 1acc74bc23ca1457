//! Events about virtual addresses: claim, restoration, placement, and what a dead carpd left.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::units::Vhid;

use super::{Cidr, events};

events! {
    /// The virtual addresses in native mode.
    Assignment
    /// carpd added an address.
    Added {
        /// The virtual address.
        address: Cidr,
    } => Debug "address-added",
    /// carpd took over an address that an earlier run had added.
    TakenOver {
        /// The virtual address.
        address: Cidr,
    } => Info "address-taken-over",
    /// The kernel takes long to add an address, and the engine continues meanwhile.
    AddSlow {
        /// The virtual address.
        address: Cidr,
    } => Warning "address-add-slow",
    /// An address could not be added.
    AddFailed {
        /// The virtual address.
        address: Cidr,
        /// The error.
        error: String,
    } => Error "address-add-failed",
    /// Another program had added an address of a MASTER. It stays, and carpd does not touch it.
    Foreign {
        /// The virtual address.
        address: Cidr,
    } => Warning "address-foreign",
    /// Another program had added an address before the election began. This host answers for it as BACKUP too.
    ForeignAsBackup {
        /// The virtual address.
        address: Cidr,
    } => Warning "address-foreign-as-backup",
    /// Another program added an address at the same moment as carpd, and the address was left to that program.
    LeftToOther {
        /// The virtual address.
        address: Cidr,
    } => Info "address-left",
    /// Another program added an address at the same moment as carpd, and it could not be left to that program yet.
    LeaveFailed {
        /// The virtual address.
        address: Cidr,
        /// The error.
        error: String,
        /// The time between two attempts.
        retry: Duration,
    } => Error "address-leave-failed",
    /// The lease of an address that was taken over could not be renewed.
    RenewalFailed {
        /// The virtual address.
        address: Cidr,
        /// The error.
        error: String,
    } => Error "lease-renewal-failed",
    /// The lease of a MASTER's addresses could not be renewed.
    RenewalsFailed {
        /// The error.
        error: String,
    } => Error "lease-renewals-failed",
    /// carpd removed an address.
    Removed {
        /// The virtual address.
        address: Cidr,
    } => Debug "address-removed",
    /// The kernel takes long to remove an address, and the engine continues meanwhile.
    RemoveSlow {
        /// The virtual address.
        address: Cidr,
    } => Warning "address-remove-slow",
    /// The kernel refused to remove an address.
    RemoveFailed {
        /// The virtual address.
        address: Cidr,
        /// The error.
        error: String,
        /// Time between two attempts.
        retry: Duration,
    } => Error "address-remove-failed",
}

events! {
    /// Virtual addresses that disappeared although carpd did not remove them.
    Restore
    /// The lease ran out while carpd was stopped.
    LeaseExpired {
        /// The virtual address.
        address: Cidr,
    } => Warning "lease-expired",
    /// Another program removed an address, and carpd puts it back.
    RemovedByOther {
        /// The virtual address.
        address: Cidr,
    } => Warning "address-removed-by-other",
    /// Another program removes an address again and again. The virtual host is demoted.
    RemovedTooOften {
        /// The virtual address.
        address: Cidr,
        /// How often it was removed.
        times: usize,
        /// The time in which it was.
        within: Duration,
        /// The time for which it must not be removed before the demotion ends.
        quiet: Duration,
        /// Time between two attempts to put it back.
        retry: Duration,
    } => Error "address-removed-too-often",
    /// An address that scripts own was removed.
    ScriptedRemoved {
        /// The virtual address.
        address: IpAddr,
    } => Warning "scripted-address-removed",
    /// No address was removed for long enough, and the demotion ends.
    LeftAlone {
        /// How long that was.
        quiet: Duration,
    } => Info "addresses-left-alone",
    /// An address cannot be restored. The virtual host is demoted.
    CannotAdd {
        /// Time between two attempts.
        retry: Duration,
    } => Error "addresses-cannot-be-added",
}

events! {
    /// The position of virtual addresses among the host's own, and the routes to their subnets.
    Placement
    /// An address was moved behind the host's own.
    PutBehind {
        /// The virtual address.
        address: IpAddr,
    } => Debug "address-put-behind",
    /// An address was removed in order to be moved, and could not be added again.
    AddAgainFailed {
        /// The virtual address.
        address: IpAddr,
        /// The error.
        error: String,
    } => Error "address-add-again-failed",
    /// The route to a virtual address's subnet was added or removed.
    RouteChanged {
        /// The subnet.
        subnet: Cidr,
        /// Whether the route was added rather than removed.
        wanted: bool,
    } => Debug "route-changed",
    /// The route to a virtual address's subnet could not be added or removed.
    RouteFailed {
        /// The subnet.
        subnet: Cidr,
        /// The error.
        error: String,
    } => Error "route-failed",
    /// The host's own address in the subnet has a longer prefix than the virtual one, so no route is added.
    PrefixesDiffer {
        /// The virtual address's subnet.
        subnet: Cidr,
        /// The host's own address.
        own: Cidr,
    } => Warning "prefixes-differ",
    /// The host has no address of its own in the subnet of a virtual one.
    SubnetWithoutOwn {
        /// The virtual address.
        address: IpAddr,
        /// Its subnet.
        subnet: Cidr,
        /// The subnets of the host's own addresses on the interface.
        own: Vec<Cidr>,
    } => Warning "subnet-without-own-address",
    /// The host has no address of its own on the interface of a virtual one that was given without a prefix.
    InterfaceWithoutOwn {
        /// The virtual address.
        address: IpAddr,
    } => Warning "interface-without-own-address",
    /// A virtual address that was given without a prefix is in no subnet of the host.
    OutsideSubnets {
        /// The virtual address.
        address: IpAddr,
        /// The subnets of the host's own addresses on the interface.
        own: Vec<Cidr>,
    } => Warning "address-outside-subnets",
}

events! {
    /// The leftovers of a dead carpd.
    Predecessor
    /// An address of a virtual host that is served again. It is kept until the election is settled.
    LeftoverKept {
        /// The virtual address.
        address: Cidr,
    } => Info "leftover-kept",
    /// An address of a virtual host that is served again. It is removed.
    LeftoverRemoved {
        /// The virtual address.
        address: Cidr,
    } => Info "leftover-removed",
    /// An address that no carpd serves any more. It is removed.
    OrphanRemoved {
        /// The virtual address.
        address: Cidr,
        /// The vhid that it belonged to.
        vhid: Vhid,
    } => Info "orphan-removed",
    /// An address that no carpd serves any more and that scripts added. It stays, behind its fence.
    OrphanFenced {
        /// The virtual address.
        address: IpAddr,
        /// The vhid that it belonged to.
        vhid: Vhid,
    } => Warning "orphan-fenced",
    /// carpd cannot tell which other carpd are alive.
    Unknown {
        /// The error.
        error: String,
    } => Warning "orphans-unknown",
}
