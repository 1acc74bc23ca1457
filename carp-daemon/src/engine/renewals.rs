//! Renews the leases of all virtual hosts, in bunches.
//!
//! The orders are given without waiting for them, because the kernel may serve other processes first, and advertisements must
//! not wait.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use carp_common::time::Instant;

use super::context::Context;
use super::deadlines::Deadlines;
use super::effects::Effects;
use super::instance::lease;
use super::pace::AT_ONCE;
use super::registry::{InstanceId, Registry, SegmentId};
use super::segment::Segment;
use crate::api::event::address::Assignment;
use crate::io::netlink::Order;

/// The time by which leases are renewed earlier than necessary when others are due, to make one bunch instead of many.
const AHEAD: Duration = Duration::from_millis(200);

/// The times at which leases must be renewed, and the bunch that is under way.
#[derive(Debug, Default)]
pub struct Renewals {
    queue: Deadlines,
    under_way: Option<Bunch>,
}

/// A bunch of renewals under way.
#[derive(Debug)]
struct Bunch {
    begun: Instant,
    members: Vec<Member>,
}

/// The part of one virtual host in a bunch.
#[derive(Debug)]
struct Member {
    id: InstanceId,
    orders: usize,
    /// The orders are for all of its addresses.
    complete: bool,
}

impl Renewals {
    /// Replaces the time at which a virtual host's lease must be renewed.
    pub fn set(&mut self, id: InstanceId, at: Option<Instant>) {
        self.queue.set(id, at);
    }

    /// Returns when to renew next. `None` while a bunch is under way.
    pub fn due(&self) -> Option<Instant> {
        let idle = self.under_way.is_none();
        idle.then(|| self.queue.earliest()).flatten()
    }

    /// Notes the outcomes of the latest bunch, and begins to renew, in one bunch, the leases that are due or will be soon.
    pub fn renew<E: Effects>(
        &mut self,
        registry: &Registry,
        segments: &mut BTreeMap<SegmentId, Segment>,
        cx: &mut Context<E>,
    ) {
        let mut find = |id: InstanceId, visit: &mut dyn FnMut(&mut Segment)| {
            if let Some(segment) = registry
                .place(id)
                .and_then(|place| segments.get_mut(&place))
            {
                visit(segment);
            }
        };
        if self.under_way.is_some()
            && let Some(outcomes) = cx.effects.take_outcomes()
            && let Some(bunch) = self.under_way.take()
        {
            end(bunch, outcomes, &mut find, cx);
        }
        if self.due().is_none_or(|due| due > cx.now) {
            return;
        }
        // An address that belongs to another program by now must not become ours.
        cx.listen();
        let mut orders = Vec::with_capacity(AT_ONCE);
        let mut members = Vec::with_capacity(AT_ONCE);
        while orders.len() < AT_ONCE
            && let Some((id, _)) = self.queue.pop_due(cx.now + AHEAD)
        {
            let before = orders.len();
            let mut complete = true;
            find(id, &mut |segment| {
                complete = ask(id, segment, &mut orders, cx)
            });
            let orders = orders.len() - before;
            members.push(Member {
                id,
                orders,
                complete,
            });
        }
        self.under_way = Some(Bunch {
            begun: cx.now,
            members,
        });
        cx.effects.give_later(orders);
    }
}

/// Adds the orders that renew the addresses of one virtual host. Returns whether these are all of them.
fn ask<E: Effects>(
    id: InstanceId,
    segment: &mut Segment,
    orders: &mut Vec<Order>,
    cx: &Context<E>,
) -> bool {
    let Some(instance) = segment.instances.get_mut(&id) else {
        return true;
    };
    let holdings = &mut instance.rooms.holdings;
    holdings.term.renewing();
    let lease = lease::of(cx.lease, &instance.who.config);
    let mut complete = true;
    let addresses = instance.who.native_addresses(&segment.interface);
    for (index, address) in addresses.into_iter().enumerate() {
        if !holdings.is_ours(index, &address, &cx.namespace) {
            continue;
        }
        // A renewal would add an address that is gone. Whether and when to add it again is for `restore` to decide.
        match cx.namespace.known(&address) {
            Some(_) => orders.push(Order::Renew(address, lease)),
            None => complete = false,
        }
    }
    complete
}

fn end<E: Effects>(
    bunch: Bunch,
    outcomes: Vec<io::Result<()>>,
    find: &mut impl FnMut(InstanceId, &mut dyn FnMut(&mut Segment)),
    cx: &mut Context<E>,
) {
    cx.look_back();
    let mut outcomes = outcomes.into_iter();
    let mut complaint = None;
    for Member {
        id,
        orders,
        mut complete,
    } in bunch.members
    {
        for _ in 0..orders {
            let outcome = outcomes
                .next()
                .unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()));
            if let Err(error) = outcome {
                complete = false;
                complaint.get_or_insert((id, error));
            }
        }
        find(id, &mut |segment| {
            if let Some(instance) = segment.instances.get_mut(&id) {
                let lease = lease::of(cx.lease, &instance.who.config);
                // Otherwise the virtual host is no longer MASTER.
                if instance.rooms.holdings.term.runs() {
                    let term = &mut instance.rooms.holdings.term;
                    term.begin(lease, complete, bunch.begun);
                }
                cx.touched.push(id);
            }
        });
    }
    if let Some((id, error)) = complaint {
        find(id, &mut |segment| {
            if let Some(instance) = segment.instances.get(&id) {
                let error = error.to_string();
                cx.tell(&instance.who.place, Assignment::RenewalsFailed { error });
            }
        });
    }
}
