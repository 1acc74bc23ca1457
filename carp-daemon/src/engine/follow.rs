//! What netlink told, followed once a turn; and the look after what is attached.

use std::collections::BTreeSet;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::context::{Context, REPORT_INTERVAL};
use super::effects::Effects;
use super::instance::Instance;
use super::instance::restore::Suspects;
use super::namespace::Changes;
use super::segment::{Segment, hearing, placement};
use super::{Engine, RETRY_INTERVAL};
use crate::api::Place;
use crate::api::event::interface::Loss;
use crate::api::event::process::{Netlink, Request};

/// When links and addresses are to be listed again.
#[derive(Debug, Default)]
pub struct Follower {
    /// They could not be listed, or not be watched: when to try again.
    resync_at: Option<Instant>,
    /// Of lines about notifications that were lost.
    overrun_limit: RateLimit,
}

impl Follower {
    /// When to try again.
    pub const fn due(&self) -> Option<Instant> {
        self.resync_at
    }

    /// What changed. When notifications are missing, everything is listed again first.
    fn changes<E: Effects>(&mut self, cx: &mut Context<E>) -> Changes {
        cx.look_back();
        let mut changes = cx.namespace.take_changes();
        if changes.overrun
            && let Some(suppressed) = self.overrun_limit.admit(cx.now, REPORT_INTERVAL)
        {
            cx.tell_after(suppressed, &Place::Process, Netlink::Overrun);
        }
        if changes.overrun || self.resync_at.is_some_and(|at| at <= cx.now) {
            changes.overrun = self.list_again(cx);
        }
        changes
    }

    /// Lists everything; when that fails, again a little later. Returns whether everything is known anew.
    fn list_again<E: Effects>(&mut self, cx: &mut Context<E>) -> bool {
        self.resync_at = None;
        let listed = cx.namespace.list(&mut cx.effects);
        if let Err(error) = &listed {
            cx.complain_about_netlink(Request::List, error);
            self.resync_at = Some(cx.now + RETRY_INTERVAL);
        }
        listed.is_ok()
    }
}

impl<E: Effects> Engine<E> {
    /// Follows what netlink told since the last turn.
    pub(super) fn follow_links(&mut self) {
        let Self {
            follower,
            served,
            cx,
            ..
        } = self;
        let changes = follower.changes(cx);
        if !changes.overrun && changes.interfaces.is_empty() {
            return;
        }
        served.each_segment(cx, |segment, cx| segment.follow_changes(&changes, cx));
        cx.effects.cover(cx.namespace.links());
        let suspects = match changes.overrun {
            false if changes.lost.is_empty() => None,
            false => Some(Suspects::Lost(changes.lost)),
            true => Some(Suspects::Any),
        };
        if let Some(suspects) = suspects {
            served.each_segment(cx, |segment, cx| segment.keep_addresses(&suspects, cx));
            served.each(cx, Instance::settle_fence);
        }
    }

    /// Looks at the interfaces, when something seems to be gone, and at the sockets that failed in this turn.
    pub(super) fn look_after_datapath(&mut self) {
        let Self { served, cx, .. } = self;
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
}

impl Segment {
    /// Follows those changes that concern it.
    fn follow_changes<E: Effects>(&mut self, changes: &Changes, cx: &mut Context<E>) {
        let index = self.interface.ifindex;
        let among = |set: &BTreeSet<u32>| index.is_some_and(|index| set.contains(&index));
        self.interface.unplaced |= changes.overrun || among(&changes.own);
        if changes.overrun || among(&changes.links) {
            placement::doubt_routes(self);
        }
        let concerned = match index {
            _ if changes.overrun => true,
            Some(index) => changes.interfaces.contains(&index),
            None => changes.interfaces.iter().any(|index| {
                let link = cx.namespace.links().get(index);
                link.is_some_and(|link| link.is_called(&self.interface.name))
            }),
        };
        if concerned || self.sends_from_any(&changes.addresses) {
            self.follow(cx);
        }
    }
}
