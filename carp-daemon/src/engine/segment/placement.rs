//! The position of an interface's virtual addresses among the host's own.
//!
//! The kernel uses the first address of an interface as the source of what it sends there, unless a route says otherwise. So
//! the virtual addresses must follow the host's own. If one of the host's own is added later, they are deleted and added
//! again behind it, as two orders in one message, which takes microseconds.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::super::context::{Context, Site};
use super::super::effects::Effects;
use super::super::instance::holdings::Holding;
use super::super::instance::lease;
use super::super::pace::AT_ONCE;
use super::super::registry::InstanceId;
use super::Segment;
use crate::api::event::address::Placement;
use crate::io::netlink::{Address, Order};

/// An address that must move behind the host's own: its virtual host, its number there, and the address as carpd adds it.
type Ahead = (InstanceId, usize, Address);

/// Puts the virtual addresses into their places after the host's own have changed.
pub fn place_addresses<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    if !std::mem::take(&mut segment.interface.unplaced) {
        return;
    }
    let ahead = ahead(segment, cx);
    // The others follow in the next turn.
    segment.interface.unplaced = ahead.len() > AT_ONCE;
    cx.busy |= ahead.len() > AT_ONCE;
    put_behind(segment, &ahead[..ahead.len().min(AT_ONCE)], cx);
    let Segment {
        interface,
        instances,
    } = segment;
    for instance in instances.values_mut() {
        let (who, _, rooms) = instance.parts();
        for index in 0..who.config.addresses.len() {
            rooms
                .holdings
                .place(who, index, &mut Site { interface, cx });
        }
    }
}

/// Returns the virtual addresses that precede the host's first own address.
fn ahead<E: Effects>(segment: &Segment, cx: &mut Context<E>) -> Vec<Ahead> {
    let held = held(segment);
    let own = segment.interface.own_addresses(&cx.namespace);
    let Some(ifindex) = segment.interface.ifindex else {
        return Vec::new();
    };
    if held.is_empty() || !own.iter().any(Address::is_primary) {
        return Vec::new();
    }
    // Only the kernel's order counts.
    let Ok(listed) = cx.effects.addresses() else {
        // This works as if notifications had been lost: everything is listed until that succeeds, and then this is done
        // again.
        cx.namespace.doubt();
        return Vec::new();
    };
    let here: Vec<&Address> = listed
        .iter()
        .filter(|listed| listed.ifindex == ifindex)
        .collect();
    let leads = |listed: &&Address| listed.is_primary() && segment.interface.is_own(listed);
    let Some(first) = here.iter().position(leads) else {
        return Vec::new();
    };
    let ahead = here[..first].iter().filter_map(|listed| {
        let (id, index, ours) = held.get(&listed.address)?;
        let is_ours = !cx.namespace.is_theirs(listed) && listed.is_same(ours);
        is_ours.then_some((*id, *index, *ours))
    });
    ahead.collect()
}

fn put_behind<E: Effects>(segment: &mut Segment, ahead: &[Ahead], cx: &mut Context<E>) {
    let mut orders = Vec::with_capacity(2 * ahead.len());
    for (id, _, address) in ahead {
        let lease = lease::of(cx.lease, &segment.instances[id].who.config);
        orders.extend([Order::Delete(*address), Order::Add(*address, lease)]);
    }
    if orders.is_empty() {
        return;
    }
    let outcomes = cx.effects.give(&orders);
    cx.look_back();
    for ((id, index, address), outcome) in ahead.iter().zip(outcomes.chunks(2)) {
        let Some(instance) = segment.instances.get_mut(id) else {
            continue;
        };
        instance.rooms.holdings.routes.doubt(*index);
        let address = address.address;
        let place = &instance.who.place;
        match outcome.last() {
            Some(Err(error)) => {
                instance.rooms.holdings.miss(*index, error);
                if error.kind() != io::ErrorKind::TimedOut {
                    let error = error.to_string();
                    cx.tell(place, Placement::AddAgainFailed { address, error });
                }
                instance.rooms.restore.incomplete(cx.now);
                cx.touched.push(*id);
            }
            Some(Ok(())) | None => cx.tell(place, Placement::PutBehind { address }),
        }
    }
}

/// Returns the virtual addresses that carpd holds.
fn held(segment: &Segment) -> BTreeMap<IpAddr, Ahead> {
    let mut held = BTreeMap::new();
    for (id, instance) in &segment.instances {
        let addresses = instance.who.native_addresses(&segment.interface);
        for (index, address) in addresses.into_iter().enumerate() {
            if instance.rooms.holdings.holding(index) == Holding::Ours {
                held.insert(address.address, (*id, index, address));
            }
        }
    }
    held
}

/// Notes that routes may be missing. The kernel drops the routes of an interface that goes down, and it may be up again
/// before the engine looks.
pub fn doubt_routes(segment: &mut Segment) {
    for instance in segment.instances.values_mut() {
        segment.interface.unplaced |= instance.rooms.holdings.routes.doubt_all();
    }
}
