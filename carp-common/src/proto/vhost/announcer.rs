//! When a MASTER announces the addresses.

use super::context::Context;
use crate::proto::{Action, FAMILIES};
use crate::time::{Duration, Instant};

/// When the last announcement of a takeover comes. A switch that blocks a port for a moment (spanning tree's proposals, LACP)
/// is done by then, and a client does not wait for its own ARP entry to expire.
const LATE: Duration = Duration::from_secs(5);

/// The announcements that are to come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announcer {
    /// The next of a series.
    again_at: Option<Instant>,
    /// How many are left of the series.
    left: u8,
    /// The late one after the takeover, and then those at the operator's pace.
    pub(super) refresh_at: Option<Instant>,
    /// When an answer to a worse MASTER last announced, or will.
    reasserted_at: Option<Instant>,
}

/// Announces every virtual address.
pub(super) fn announce(cx: &mut Context) {
    for family in FAMILIES {
        if cx.settings.uses(family) {
            cx.act(Action::Announce(family));
        }
    }
}

impl Announcer {
    /// Returns when the next announcement is due.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.again_at, self.refresh_at].into_iter().flatten().min()
    }

    /// Plans no more announcements: the host enters another state.
    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }

    /// Announces at once, two advertisements later, and late: the port of a client or of ours may be blocked at first.
    pub(super) fn announce_in_series(&mut self, cx: &mut Context) {
        announce(cx);
        self.left = 1;
        self.again_at = Some(two_advertisements_later(cx));
        self.refresh_at = Some(cx.now + LATE);
    }

    /// Makes the announcements that are due, once for all of them.
    pub(super) fn timeout(&mut self, cx: &mut Context) {
        let is_due = |at: &mut Instant| *at <= cx.now;
        let again = self.again_at.take_if(is_due).is_some();
        let refresh = self.refresh_at.take_if(is_due).is_some();
        if again || refresh {
            announce(cx);
        }
        if again {
            self.left = self.left.saturating_sub(1);
            if self.left > 0 {
                self.again_at = Some(two_advertisements_later(cx));
            }
        }
        if refresh && let Some(pace) = cx.settings.announce_refresh {
            self.refresh_at = Some(cx.now + pace);
        }
    }

    /// A worse MASTER advertised: announces with the next timeout, and again two advertisements later. That happens at most
    /// once per interval, or a replay becomes an ARP storm. What would come sooner comes when the interval is over: the
    /// other host may have announced after us.
    pub(super) fn reassert(&mut self, cx: &Context) {
        let soonest = match self.reasserted_at {
            Some(at) => cx.now.max(at + cx.interval()),
            None => cx.now,
        };
        let due = self.again_at.map_or(soonest, |again| again.min(soonest));
        self.reasserted_at = Some(due);
        self.left = 2;
        self.again_at = Some(due);
    }
}

fn two_advertisements_later(cx: &Context) -> Instant {
    cx.now + cx.interval() * 2
}
