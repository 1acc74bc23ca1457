//! Follows the changes that netlink reported, once per turn, and looks after the attachments.

use std::collections::BTreeSet;
use std::net::IpAddr;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::context::Context;
use super::effects::Effects;
use super::instance::Instance;
use super::instance::restore::Suspects;
use super::namespace::Changes;
use super::pace::{REPORT_INTERVAL, RETRY_INTERVAL};
use super::segment::{Segment, hearing, placement};
use super::served::Served;
use crate::api::Place;
use crate::api::event::interface::Loss;
use crate::api::event::process::{Netlink, NetlinkRequest};

/// Follows links and addresses, and lists them again when that is needed.
#[derive(Debug, Default)]
pub struct Follower {
    /// The time to list them again, because they could not be listed or watched.
    resync_at: Option<Instant>,
    /// Limits the log lines about lost notifications.
    overrun_limit: RateLimit,
}

impl Follower {
    /// Returns when to list everything again.
    pub const fn due(&self) -> Option<Instant> {
        self.resync_at
    }

    /// Returns the changes. If notifications were lost, everything is listed first.
    fn changes<E: Effects>(&mut self, cx: &mut Context<E>) -> Changes {
        cx.look_back();
        let mut changes = cx.namespace.take_changes();
        if changes.overrun
            && let Some(suppressed) = self.overrun_limit.admit(cx.now, REPORT_INTERVAL)
        {
            cx.tell_after(suppressed, &Place::Process, Netlink::Overrun);
        }
        if changes.overrun || self.resync_at.is_some_and(|at| at <= cx.now) {
            changes.listed = self.list_again(cx);
        }
        changes
    }

    /// Lists everything, and again a little later if that fails. Returns whether the tables are complete.
    fn list_again<E: Effects>(&mut self, cx: &mut Context<E>) -> bool {
        self.resync_at = None;
        let listed = cx.namespace.list(&mut cx.effects);
        if let Err(error) = &listed {
            cx.complain_about_netlink(NetlinkRequest::List, error);
            self.resync_at = Some(cx.now + RETRY_INTERVAL);
        }
        listed.is_ok()
    }

    /// Follows the changes that netlink reported since the last turn.
    pub fn follow<E: Effects>(&mut self, served: &mut Served, cx: &mut Context<E>) {
        let changes = self.changes(cx);
        if !changes.listed && changes.interfaces.is_empty() {
            return;
        }
        served.each_segment(cx, |segment, cx| follow_changes(segment, &changes, cx));
        cx.effects.cover(cx.namespace.links());
        let suspects = match changes.listed {
            false if changes.lost.is_empty() => None,
            false => Some(Suspects::Lost(changes.lost)),
            true => Some(Suspects::Any),
        };
        if let Some(suspects) = suspects {
            served.each(cx, |instance, site| {
                instance.keep_addresses(&suspects, site);
            });
        }
        let changed = (!changes.listed).then_some(&changes.addresses);
        if changed.is_none_or(|changed| !changed.is_empty()) {
            served.each(cx, |instance, site| {
                let (who, machine, rooms) = instance.parts();
                rooms.follow_addresses(who, machine, changed, site);
            });
        }
    }
}

/// Checks the interfaces if something seems to be gone, and those whose sockets failed in this turn.
pub fn look_after_datapath<E: Effects>(served: &mut Served, cx: &mut Context<E>) {
    for (ifindex, error) in cx.effects.take_failures() {
        served.each_segment(cx, |segment, cx| {
            if segment.interface.ifindex == Some(ifindex) {
                hearing::mend(segment, Loss::Receive(error.to_string()), cx);
            }
        });
    }
    if cx.effects.tend(cx.namespace.links(), cx.now) {
        served.each_segment(cx, |segment, cx| {
            hearing::look(segment, cx);
        });
        cx.effects.look_at_cover(cx.namespace.links(), cx.now);
    }
}

/// Follows those changes that concern an interface.
fn follow_changes<E: Effects>(segment: &mut Segment, changes: &Changes, cx: &mut Context<E>) {
    let index = segment.interface.ifindex;
    let among = |set: &BTreeSet<u32>| index.is_some_and(|index| set.contains(&index));
    segment.interface.unplaced |= changes.listed || among(&changes.own);
    if changes.listed || among(&changes.links) {
        placement::doubt_routes(segment);
    }
    let concerned = match index {
        _ if changes.listed => true,
        Some(index) => changes.interfaces.contains(&index),
        None => changes.interfaces.iter().any(|index| {
            let link = cx.namespace.links().get(index);
            link.is_some_and(|link| link.is_called(&segment.interface.name))
        }),
    };
    if concerned || sends_from_any(segment, &changes.addresses) {
        segment.follow(cx);
    }
}

/// Returns whether a virtual host sends from one of these addresses because of `--srcip`.
fn sends_from_any(segment: &Segment, addresses: &BTreeSet<IpAddr>) -> bool {
    let sends_from_one = |instance: &Instance| {
        let source = instance.who.config.source;
        source.is_some_and(|source| addresses.contains(&source.into()))
    };
    !addresses.is_empty() && segment.instances.values().any(sends_from_one)
}
