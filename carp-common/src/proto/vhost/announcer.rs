//! The times at which a MASTER announces the addresses.

use super::context::CoreContext;
use crate::proto::{Action, FAMILIES};
use crate::time::{Duration, Instant};

/// Time from a takeover to its last announcement. A switch that blocks a port for a moment (spanning tree's proposals, LACP)
/// is done by then, and a client does not wait for its own ARP entry to expire.
const LATE: Duration = Duration::from_secs(5);

/// The announcements that are to come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announcer {
    /// The time of the next announcement of the series.
    again_at: Option<Instant>,
    /// The number of announcements left in the series.
    left: u8,
    /// The time of the late announcement after the takeover, and then of those at the operator's interval.
    pub(super) refresh_at: Option<Instant>,
    /// The time at which an answer to a worse MASTER last announced, or will announce.
    reasserted_at: Option<Instant>,
}

/// Announces every virtual address.
pub(super) fn announce(cx: &mut CoreContext) {
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
    pub(super) fn announce_in_series(&mut self, cx: &mut CoreContext) {
        announce(cx);
        self.left = 1;
        self.again_at = Some(two_advertisements_later(cx));
        self.refresh_at = Some(cx.now + LATE);
    }

    /// Makes the announcements that are due, once for all of them.
    pub(super) fn timeout(&mut self, cx: &mut CoreContext) {
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

    /// Announces with the next timeout, and again two advertisements later, because a worse MASTER advertised. This happens at
    /// most once per interval, because otherwise a replay would cause an ARP storm. An announcement that would come sooner is
    /// postponed to the end of the interval, and not dropped, because the other host may have announced after us.
    pub(super) fn reassert(&mut self, cx: &CoreContext) {
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

fn two_advertisements_later(cx: &CoreContext) -> Instant {
    cx.now + cx.interval() * 2
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, millis, settings};
    use super::*;
    use crate::proto::Settings;
    use crate::units::Profile;

    /// Plays this long and returns the times of the announcements, in milliseconds from now.
    fn announcements(
        announcer: &mut Announcer,
        cx: &mut CoreContext,
        long: u64,
    ) -> std::vec::Vec<u64> {
        let begin = cx.now;
        let mut times = std::vec::Vec::new();
        loop {
            while cx.actions.pop().is_some() {
                let elapsed = cx.now.saturating_duration_since(begin).as_millis();
                times.push(u64::try_from(elapsed).unwrap());
            }
            let next = announcer.next().filter(|at| *at <= begin + millis(long));
            let Some(next) = next else { return times };
            cx.begin(next);
            announcer.timeout(cx);
        }
    }

    #[test]
    fn a_takeover_is_announced_at_once_two_advertisements_later_and_late() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut announcer = Announcer::default();
        announcer.announce_in_series(&mut cx);
        let times = announcements(&mut announcer, &mut cx, 60_000);
        assert_eq!(times, [0, 2781, 5000], "the interval is 1390.625 ms");
        announcer.announce_in_series(&mut cx);
        announcer.stop();
        assert_eq!(announcer.next(), None);
    }

    #[test]
    fn the_operator_can_have_it_repeated() {
        let mut cx = context(Settings {
            announce_refresh: Some(millis(20_000)),
            ..settings(Profile::Ucarp)
        });
        let mut announcer = Announcer::default();
        announcer.announce_in_series(&mut cx);
        let times = announcements(&mut announcer, &mut cx, 50_000);
        assert_eq!(times, [0, 2781, 5000, 25_000, 45_000]);
    }

    #[test]
    fn worse_masters_are_answered_once_in_an_interval_and_once_more() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut announcer = Announcer::default();
        for _ in 0..100 {
            announcer.reassert(&cx);
        }
        assert_eq!(announcer.next(), Some(cx.now));
        announcer.timeout(&mut cx);
        announcer.reassert(&cx);
        let times = announcements(&mut announcer, &mut cx, 60_000);
        assert_eq!(times, [0, 1390, 4171]);
    }
}
