//! Takeovers that an advertisement called for which was altered on its way.

use super::context::CoreContext;
use super::listener::Planned;
use crate::proto::Reason;
use crate::proto::evidence::Evidence;
use crate::time::{Duration, Instant};

/// How long takeovers take their time after an advertisement that was altered on its way has misled us.
const SUSPICION: Duration = Duration::from_secs(60);
/// Most that they wait then.
const SUSPENSE: Duration = Duration::from_millis(100);

/// When we last became MASTER, and which advertisement called for it; `None` after silence.
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

    /// Another version was heard of what arrived at `since`.
    pub(super) fn hear_another_version(&mut self, since: Instant) {
        if let Some(called) = &mut self.called_by
            && called.cause.arrival == since
        {
            called.is_doubtful = true;
        }
    }
}

/// What happened to us with advertisements that were altered on their way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Suspicion {
    /// When we last found out that one had made us MASTER.
    misled_at: Option<Instant>,
    /// When it last seemed so.
    seemed_at: Option<Instant>,
}

impl Suspicion {
    /// We yield to somebody better. That may show that what made us MASTER was altered on its way: two versions of it were
    /// heard, and the host that sent it is still there. Or it was started again, and the second version was somebody's copy;
    /// that does not happen twice in a minute.
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

    /// Returns how much longer a takeover waits that an advertisement calls for, after one has misled us: for the other
    /// version of it.
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
