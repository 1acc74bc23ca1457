//! Texts of events about virtual addresses.

use std::collections::BTreeSet;
use std::fmt::{Formatter, Result};

use super::Lead;
use crate::api::event::address::{Assignment, Placement, Predecessor, Restore};
use crate::api::event::{Cidr, Place};

pub(super) fn assignment(f: &mut Formatter<'_>, place: &Place, it: &Assignment) -> Result {
    let lead = Lead(place);
    match it {
        Assignment::Added { address } => write!(f, "{lead}added {address}"),
        Assignment::TakenOver { address } => {
            write!(f, "{lead}took over {address}, left by an earlier run")
        }
        Assignment::AddSlow { address } => write!(
            f,
            "{lead}the kernel takes long to add {address}: going on meanwhile"
        ),
        Assignment::AddFailed { address, error } => {
            write!(f, "{lead}failed to add {address}: {error}")
        }
        Assignment::Foreign { address } => write!(
            f,
            "{lead}{address} is there already, added by someone else: it will be left there"
        ),
        Assignment::ForeignAsBackup { address } => write!(
            f,
            "{lead}{address} is there already, added by someone else: it will be left there, so this host answers for it as \
             BACKUP too"
        ),
        Assignment::LeftToOther { address } => write!(
            f,
            "{lead}another program added {address} at the same moment: it stays there"
        ),
        Assignment::LeaveFailed {
            address,
            error,
            retry,
        } => write!(
            f,
            "{lead}another program added {address} at the same moment, and leaving it to that program failed, trying again \
             every {} s: {error}",
            retry.as_secs()
        ),
        Assignment::RenewalFailed { address, error } => {
            write!(f, "{lead}failed to renew the lease of {address}: {error}")
        }
        Assignment::RenewalsFailed { error } => {
            write!(f, "{lead}failed to renew the lease of its address: {error}")
        }
        Assignment::Removed { address } => write!(f, "{lead}removed {address}"),
        Assignment::RemoveSlow { address } => write!(
            f,
            "{lead}the kernel takes long to remove {address}: going on meanwhile"
        ),
        Assignment::RemoveFailed {
            address,
            error,
            retry,
        } => write!(
            f,
            "{lead}failed to remove {address}, trying again every {} s: {error}",
            retry.as_secs()
        ),
    }
}

pub(super) fn restore(f: &mut Formatter<'_>, place: &Place, it: &Restore) -> Result {
    let lead = Lead(place);
    match it {
        Restore::LeaseExpired { address } => write!(
            f,
            "{lead}the lease of {address} ran out while carpd was stopped"
        ),
        Restore::RemovedByOther { address } => write!(
            f,
            "{lead}{address} was removed by someone else: adding it again"
        ),
        Restore::RemovedTooOften {
            address,
            times,
            within,
            quiet,
            retry,
        } => write!(
            f,
            "{lead}{address} was removed by someone else {times} times within {} s: advertising a worse priority until it \
             is left alone for {} s, and adding it again every {} s",
            within.as_secs(),
            quiet.as_secs(),
            retry.as_secs()
        ),
        Restore::ScriptedRemoved { address } => write!(
            f,
            "{lead}{address} was removed while MASTER; the scripts own it, so it is not added again"
        ),
        Restore::LeftAlone { quiet } => write!(
            f,
            "{lead}nobody removed its addresses for {} s: the configured priority again",
            quiet.as_secs()
        ),
        Restore::CannotAdd { retry } => write!(
            f,
            "{lead}advertising a worse priority until its addresses can be added, trying again every {} s",
            retry.as_secs()
        ),
    }
}

pub(super) fn placement(f: &mut Formatter<'_>, place: &Place, it: &Placement) -> Result {
    let lead = Lead(place);
    let interface = place.interface().unwrap_or_default();
    match it {
        Placement::PutBehind { address } => {
            write!(f, "{lead}put {address} behind the host's own addresses")
        }
        Placement::AddAgainFailed { address, error } => {
            write!(f, "{lead}failed to add {address} again: {error}")
        }
        Placement::RouteChanged { subnet, wanted } => {
            let action = if *wanted { "added" } else { "removed" };
            write!(f, "{lead}{action} the route to {subnet}")
        }
        Placement::RouteFailed { subnet, error } => {
            write!(f, "{lead}failed to change the route to {subnet}: {error}")
        }
        Placement::PrefixesDiffer { subnet, own } => write!(
            f,
            "{lead}no route to {subnet} is added, because {own} of this host is in that subnet: the two prefix lengths \
             should be the same"
        ),
        Placement::SubnetWithoutOwn {
            address,
            subnet,
            own,
        } => write!(
            f,
            "{lead}this host has no address of its own in {subnet}{}: as MASTER it uses {address} as the source of what it \
             sends there; add an address of that subnet to {interface}, or correct --addr",
            only_in(own)
        ),
        Placement::InterfaceWithoutOwn { address } => write!(
            f,
            "{lead}this host has no address of its own on {interface}: as MASTER it uses {address} as the source of what it \
             sends there; add an address to {interface}"
        ),
        Placement::OutsideSubnets { address, own } => write!(
            f,
            "{lead}this host has no address of its own in the subnet of {address}{}: hosts on {interface} do not ask for \
             {address}, unless they have a route to it; add an address of that subnet to {interface}, or correct --addr",
            only_in(own)
        ),
    }
}

/// Returns the end of a sentence about the subnets of the host's own addresses.
fn only_in(own: &[Cidr]) -> String {
    let subnets: BTreeSet<String> = own.iter().map(Cidr::to_string).collect();
    match subnets.is_empty() {
        true => String::new(),
        false => format!(", only in {}", Vec::from_iter(subnets).join(" and ")),
    }
}

pub(super) fn predecessor(f: &mut Formatter<'_>, place: &Place, it: &Predecessor) -> Result {
    let lead = Lead(place);
    match it {
        Predecessor::LeftoverKept { address } => write!(
            f,
            "{lead}{address} was left by an earlier run: kept until another MASTER is heard"
        ),
        Predecessor::LeftoverRemoved { address } => {
            write!(f, "{lead}removing {address}, left by an earlier run")
        }
        Predecessor::OrphanRemoved { address, vhid } => write!(
            f,
            "{lead}removing {address}, left by a carpd for vhid {vhid} that died"
        ),
        Predecessor::OrphanFenced { address, vhid } => write!(
            f,
            "{lead}{address} was left by a carpd for vhid {vhid} that died: this host does not answer for it until that one \
             runs again, the address is removed, or `carpd --detach {}` is run after all carpd there have stopped",
            place.interface().unwrap_or_default()
        ),
        Predecessor::Unknown { error } => {
            write!(
                f,
                "{lead}cannot tell which other carpd are alive, so what dead ones left stays: {error}"
            )
        }
    }
}
