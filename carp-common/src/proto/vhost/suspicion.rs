//! Takeovers because of an advertisement that was altered on its way.

use super::context::CoreContext;
use super::listener::Planned;
use crate::proto::Reason;
use crate::proto::evidence::Evidence;
use crate::time::{Duration, Instant};

/// Time for which takeovers wait after an altered advertisement has misled us.
const SUSPICION: Duration = Duration::from_secs(60);
/// The longest wait of such a takeover.
const SUSPENSE: Duration = Duration::from_millis(100);

/// The time at which we last became MASTER, and the advertisement that called for it; `None` after silence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reign {
    pub(super) since: Instant,
    pub(super) called_by: Option<Planned>,
}

impl Reign {
    /// Whether it began because the MASTER before us bowed out.
    pub(super) fn follows_bow_out(&self) -> bool {
        self.called_by
            .is_some_and(|called| called.reason == Reason::MasterWillTimeOut)
    }

    /// Takes note that another version was heard of the advertisement that arrived at `since`.
    pub(super) fn hear_another_version(&mut self, since: Instant) {
        if let Some(called) = &mut self.called_by
            && called.cause.arrival == since
        {
            called.is_doubtful = true;
        }
    }
}

/// The effects of altered advertisements on this host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Suspicion {
    /// The time at which we last found out that such an advertisement had made us MASTER.
    misled_at: Option<Instant>,
    /// The time at which it last seemed so.
    seemed_at: Option<Instant>,
}

impl Suspicion {
    /// Yields to a better host. That may show that the advertisement that made us MASTER was altered on its way: two
    /// versions of it were heard, and the host that sent it is still there. Or that host was started again, and the second
    /// version was an attacker's copy; that does not happen twice in a minute.
    pub(super) fn yields(&mut self, cx: &CoreContext, reign: &Reign, evidence: Evidence) {
        let is_sure = matches!(evidence, Evidence::OtherVersion { .. });
        // A ucarp answers with its next advertisement.
        let soon = reign.since + cx.interval() * 3 / 2;
        let seems = cx.now < soon && reign.called_by.is_some_and(|called| called.is_doubtful);
        if !(is_sure || seems) {
            return;
        }
        let before = self.seemed_at.replace(cx.now);
        if is_sure || before.is_some_and(|at| cx.now < at + SUSPICION) {
            self.misled_at = Some(cx.now);
        }
    }

    /// Returns the additional time that a takeover because of an advertisement waits for its other version, after such an
    /// advertisement has misled us.
    pub(super) fn suspense(&self, cx: &CoreContext) -> Duration {
        match self.misled_at {
            Some(at) if cx.now < at + SUSPICION => (cx.interval() / 4).min(SUSPENSE),
            Some(_) | None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, heard_at, millis, settings};
    use super::*;
    use crate::units::Profile;

    const VERSION: Evidence = Evidence::OtherVersion {
        since: Instant::ZERO,
        same_source: true,
    };

    /// A reign that a bow-out called for which was heard in two versions.
    fn doubtful_reign(cx: &CoreContext) -> Reign {
        let cause = heard_at(cx.now);
        let called_by = Some(Planned {
            at: cx.now,
            reason: Reason::MasterWillTimeOut,
            cause,
            is_doubtful: false,
        });
        let mut reign = Reign {
            since: cx.now,
            called_by,
        };
        reign.hear_another_version(cx.now + millis(1));
        assert!(!reign.called_by.unwrap().is_doubtful, "of something else");
        reign.hear_another_version(cx.now);
        reign
    }

    #[test]
    fn a_host_that_yields_to_another_version_was_misled_and_is_wary_for_a_minute() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut suspicion = Suspicion::default();
        let reign = doubtful_reign(&cx);
        suspicion.yields(&cx, &reign, VERSION);
        assert_eq!(suspicion.suspense(&cx), SUSPENSE);
        cx.begin(cx.now + SUSPICION);
        assert_eq!(suspicion.suspense(&cx), Duration::ZERO);
    }

    #[test]
    fn a_genuine_answer_soon_after_a_doubtful_takeover_counts_the_second_time() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut suspicion = Suspicion::default();
        for misled in [false, true] {
            let reign = doubtful_reign(&cx);
            cx.begin(cx.now + millis(500));
            suspicion.yields(&cx, &reign, Evidence::New);
            assert_eq!(suspicion.suspense(&cx) > Duration::ZERO, misled);
        }
    }

    #[test]
    fn a_host_that_yields_late_or_after_silence_was_not_misled() {
        let mut cx = context(settings(Profile::Ucarp));
        let mut suspicion = Suspicion::default();
        for _ in 0..3 {
            let (doubtful, since) = (doubtful_reign(&cx), cx.now);
            let silent = Reign {
                since,
                called_by: None,
            };
            suspicion.yields(&cx, &silent, Evidence::New);
            cx.begin(cx.now + cx.interval() * 2);
            suspicion.yields(&cx, &doubtful, Evidence::New);
            assert_eq!(suspicion.suspense(&cx), Duration::ZERO);
        }
    }
}
