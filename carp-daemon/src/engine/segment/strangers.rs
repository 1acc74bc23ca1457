//! Virtual hosts and addresses that dead processes left and that are not configured now.

use carp_common::units::Vhid;

use super::super::context::Context;
use super::super::effects::Effects;
use super::super::namespace::Namespace;
use super::super::pace::REPORT_INTERVAL;
use super::super::pace::RETRY_INTERVAL;
use super::Segment;
use crate::api::event::address::{Assignment, Predecessor};
use crate::config::ADDRESS_PROTOCOL;
use crate::io::chain::Chain;
use crate::io::datapath::{AddressOwner, Fenced};
use crate::io::netlink::Address;

/// Returns whether a virtual host with this vhid lives here, on the interface with that index. It counts even before the
/// interface could be opened, because its lock is held by then.
pub fn serves(segment: &Segment, ifindex: u32, vhid: Vhid, namespace: &Namespace) -> bool {
    let mut instances = segment.instances.values();
    let named = || Some(namespace.link_called(&segment.interface.name)?.index);
    segment.interface.ifindex.or_else(named) == Some(ifindex)
        && instances.any(|instance| instance.who.config.election.vhid == vhid)
}

fn is_configured(segment: &Segment, fenced: &Fenced) -> bool {
    segment.instances.values().any(|instance| {
        let config = &instance.who.config;
        let mut addresses = config.addresses.iter();
        Some(config.election.vhid) == fenced.owner.map(|owner| owner.vhid)
            && addresses.any(|known| known.address == fenced.address)
    })
}

/// Cleans up the leftovers of dead processes on this interface. carpd's addresses are removed. Those of scripts stay, and stay
/// fenced.
pub fn settle<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    let is_retry = std::mem::take(&mut segment.interface.strangers.are_refused);
    let Some(ifindex) = segment.interface.ifindex else {
        return;
    };
    let mut strangers = cx.effects.fenced();
    strangers.retain(|fenced| {
        let is_here = fenced.owner.is_some_and(|owner| owner.ifindex == ifindex);
        is_here && !is_configured(segment, fenced)
    });
    if strangers.is_empty() {
        return;
    }
    // A process that holds the lock lives, and looks after its addresses.
    let lives = match cx.effects.living() {
        Ok(lives) => lives,
        Err(error) => {
            let error = Chain(&error).to_string();
            cx.tell(&segment.interface.place(), Predecessor::Unknown { error });
            return;
        }
    };
    // An address that belongs to another program by now stays.
    cx.catch_up();
    for fenced in strangers {
        let Some(owner) = fenced.owner else {
            continue;
        };
        if serves(segment, ifindex, owner.vhid, &cx.namespace) || !lives(ifindex, owner.vhid) {
            settle_stranger(segment, owner, fenced, is_retry, cx);
        }
    }
}

/// Tries again to remove the addresses that the kernel refused to remove.
pub fn retry<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    if segment.interface.strangers.are_refused {
        settle(segment, cx);
    }
}

fn settle_stranger<E: Effects>(
    segment: &mut Segment,
    owner: AddressOwner,
    fenced: Fenced,
    is_retry: bool,
    cx: &mut Context<E>,
) {
    let place = segment.interface.place();
    let address = fenced.address;
    let AddressOwner { ifindex, vhid } = owner;
    let here = cx.namespace.on(ifindex).iter();
    let left: Vec<Address> = here
        .filter(|known| known.address == address && known.protocol == ADDRESS_PROTOCOL)
        .copied()
        .collect();
    let mut are_refused = false;
    for known in &left {
        let address = known.cidr();
        if !is_retry {
            cx.tell(&place, Predecessor::OrphanRemoved { address, vhid });
        }
        if let Err(error) = cx.delete(&place, known) {
            are_refused = true;
            if let Some(suppressed) = segment
                .interface
                .strangers
                .limit
                .admit(cx.now, REPORT_INTERVAL)
            {
                let failed = Assignment::RemoveFailed {
                    address,
                    error: error.to_string(),
                    retry: RETRY_INTERVAL,
                };
                cx.tell_after(suppressed, &place, failed);
            }
        }
    }
    if are_refused {
        // It stays fenced until another attempt succeeds.
        segment.interface.strangers.are_refused = true;
        cx.retry_soon();
        return;
    }
    let stays = cx
        .namespace
        .everywhere()
        .any(|known| known.address == address && !left.contains(known));
    if stays {
        cx.tell(&place, Predecessor::OrphanFenced { address, vhid });
    } else {
        // An error here is not fatal. The next start tries again.
        let _ = cx.effects.disown(fenced);
    }
}

/// Removes the leftovers of dead processes on interfaces that are gone, because they were deleted or moved to another
/// network namespace.
pub fn settle_gone<E: Effects>(cx: &mut Context<E>) {
    cx.effects.remove_unowned_but(cx.namespace.links());
    for fenced in cx.effects.fenced() {
        let links = cx.namespace.links();
        let owner = fenced.owner;
        let is_gone = owner.is_none_or(|owner| !links.contains_key(&owner.ifindex));
        if is_gone && !cx.namespace.has(fenced.address) {
            // Objects that cannot be removed go with the last program.
            let _ = cx.effects.disown(fenced);
        }
    }
}
