//! The takeover of a BACKUP, after silence or because of an advertisement.

use core::net::IpAddr;

use super::context::CoreContext;
use super::receive::Received;
use crate::proto::better::BetterMaster;
use crate::proto::doubt::Doubt;
use crate::proto::election::BackupDecision;
use crate::proto::evidence::Evidence;
use crate::proto::patience::{Patience, Silence};
use crate::proto::per_family::PerFamily;
use crate::proto::{FAMILIES, Notice, Origin, Reason};
use crate::time::{Duration, Instant};
use crate::units::{AdvBase, Family, Priority, Profile};

/// The divisor of the advskew in the time that a BACKUP waits after a bow-out.
///
/// Backups with different advskew must not take over together, and the client is to notice nothing: one step is 244 µs,
/// more than an advertisement takes across a switch, and the largest advskew waits 62 ms.
const BOW_OUT_TURN_DIVISOR: u32 = 16;
/// The longest turn after a bow-out: that of the largest advskew and, in the BSD profiles, of the last of 16 addresses. For a
/// minute after an altered advertisement has misled a backup, its turn takes up to 100 ms more.
pub const LONGEST_TURN: Duration = Duration::from_nanos(77_255_859);
/// A BSD rounds its timers up to ticks and adds one: two ticks of 10 ms in OpenBSD and NetBSD at hz 100.
const BSD_TICKS: Duration = Duration::from_millis(20);

/// A takeover that an advertisement calls for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub(super) at: Instant,
    pub(super) reason: Reason,
    /// The source that was heard, and the time.
    pub(super) cause: Origin,
    /// Whether it was heard in two versions.
    pub(super) is_doubtful: bool,
}

/// A takeover that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Takeover {
    /// The advertisement that called for it; `None` after silence.
    pub(super) called_by: Option<Planned>,
    /// Whether its first advertisement is to be a challenge, because a MASTER may be there although nothing proves it.
    pub(super) asks: bool,
}

impl Takeover {
    pub(super) fn reason(self) -> Reason {
        self.called_by
            .map_or(Reason::MasterTimedOut, |planned| planned.reason)
    }
}

/// The deadlines of a BACKUP, and its memory of the MASTERs that it heard.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// The end of the silence that counts, in each family in which we listen.
    master_down_at: PerFamily<Option<Instant>>,
    pub(super) planned: Option<Planned>,
    /// The time before which we do not take over, by order of the operator.
    pub(super) held_until: Instant,
    /// The host that we last heard in an advertisement that counted.
    pub(super) last_heard: Option<Origin>,
    doubt: Doubt,
    patience: Patience,
    /// Time for which a BSD in this family, with advbase 0, may be silent.
    bsd_patience: PerFamily<Duration>,
    pub(super) better: BetterMaster,
    /// The time at which we last yielded.
    yielded_at: Option<Instant>,
}

/// Silence.
impl Listener {
    /// Stops waiting: the host is no longer BACKUP, or begins anew.
    pub(super) fn stop(&mut self) {
        self.master_down_at = PerFamily::default();
        self.planned = None;
    }

    /// Waits for a whole master-down time from `since` in every family, whatever was heard before.
    pub(super) fn listen_afresh(&mut self, cx: &CoreContext, since: Instant) {
        self.stop();
        self.doubt.proven(since);
        for family in cx.active_families() {
            self.listen(cx, family, since);
        }
    }

    /// Restarts the master-down time of the family. A MASTER was heard at `since`, if not later already; the time
    /// that an operator told us to stay away is added.
    pub(super) fn listen(&mut self, cx: &CoreContext, family: Family, since: Instant) {
        let silence = cx.master_down_time().max(self.bsd_patience[family]);
        self.listen_until(cx, family, since.max(self.held_until) + silence);
    }

    /// Restarts the master-down time of the family, unless it ends later already.
    fn listen_until(&mut self, cx: &CoreContext, family: Family, deadline: Instant) {
        if cx.is_active(family) {
            let at = &mut self.master_down_at[family];
            *at = (*at).max(Some(deadline));
        }
    }

    /// Listens no more in a family in which we cannot send.
    pub(super) fn leave(&mut self, family: Family) {
        self.master_down_at[family] = None;
    }

    /// Returns when the first family has been silent for long enough.
    pub(super) fn master_down_at(&self) -> Option<Instant> {
        let deadlines = FAMILIES.map(|family| self.master_down_at[family]);
        deadlines.into_iter().flatten().min()
    }

    /// Returns when it takes over if it hears nothing that counts, and why.
    pub(super) fn next(&self) -> Option<(Instant, Reason)> {
        let called = self.planned.map(|planned| (planned.at, planned.reason));
        let silence = self.master_down_at().map(|at| (at, Reason::MasterTimedOut));
        // An advertisement counts first when both are due together.
        called.into_iter().chain(silence).min_by_key(|(at, _)| *at)
    }

    /// Returns the takeover that is due.
    pub(super) fn timeout(&mut self, cx: &mut CoreContext, looked_at: Instant) -> Option<Takeover> {
        let called_by = self.planned.take_if(|planned| planned.at <= cx.now);
        if called_by.is_some() {
            return Some(Takeover {
                called_by,
                asks: false,
            });
        }
        let due = self.master_down_at().filter(|due| *due <= cx.now)?;
        if self.is_patient(cx, due, looked_at) {
            return None;
        }
        let suspect = self.doubt.asks(cx.now);
        if let Some(source) = suspect {
            cx.notify(
                |limits| &mut limits.unproven,
                |suppressed| Notice::Unproven { source, suppressed },
            );
        }
        // The host that we yielded to is gone, or it never was there and somebody sent a recording that we had not heard.
        // Such a recording must not depose us again.
        let patience = FAMILIES.map(|family| self.bsd_patience[family]);
        let soon = cx.master_down_time().max(patience[0]).max(patience[1]) * 2;
        let has_just_yielded = self.yielded_at.is_some_and(|at| cx.now < at + soon);
        Some(Takeover {
            called_by: None,
            asks: suspect.is_some() || has_just_yielded,
        })
    }

    /// Whether the silence that was due to end at `due` does not count yet. Then it ends later, in every family.
    fn is_patient(&mut self, cx: &CoreContext, due: Instant, looked_at: Instant) -> bool {
        let silence = Silence {
            due,
            looked_at,
            now: cx.now,
        };
        let (interval, master_down) = (cx.interval(), cx.master_down_time());
        let Some(until) = self.patience.reprieve(silence, interval, master_down) else {
            return false;
        };
        for family in FAMILIES {
            if let Some(at) = &mut self.master_down_at[family] {
                *at = (*at).max(until);
            }
        }
        true
    }
}

/// Advertisements.
impl Listener {
    /// Hears a proof, in whatever state: the source lives.
    pub(super) fn believe(&mut self, cx: &CoreContext, received: &Received) {
        let Received {
            family,
            origin,
            theirs,
            ..
        } = *received;
        self.last_heard = Some(origin);
        self.doubt.proven(origin.arrival);
        let (advbase, advskew) = (cx.settings.advbase, cx.settings.advskew);
        let is_bsd = cx.is_bsd(origin.ethernet_source);
        self.bsd_patience[family] = match (is_bsd, theirs.priority.advbase, advbase) {
            (true, AdvBase(0), AdvBase(0)) => {
                BSD_TICKS + Priority { advbase, advskew }.interval() * 3
            }
            _ => Duration::ZERO,
        };
    }

    /// Hears an advertisement as BACKUP. A takeover that it calls for waits for `suspense` longer than usual.
    pub(super) fn hear(&mut self, cx: &CoreContext, received: &Received, suspense: Duration) {
        let Received {
            family,
            origin,
            theirs,
            evidence,
            ..
        } = *received;
        let decision = cx.as_backup(theirs);
        match evidence {
            Evidence::New | Evidence::Constant => {}
            Evidence::OtherVersion { since, .. } => {
                return self.hear_another_version(cx, family, since, suspense);
            }
            Evidence::Duplicate => return,
            Evidence::Heard | Evidence::Unrelated => {
                // Several advertisements come in two versions at a time: the second version of this one came after the
                // first of the next.
                if decision == BackupDecision::Stay {
                    self.call_off(suspense, |planned| planned.cause.source == origin.source);
                }
                return self.hear_without_proof(cx, family, origin, decision);
            }
        }
        if decision != BackupDecision::Stay && self.better.lives(family, origin) {
            return;
        }
        let at = origin.arrival + suspense;
        match decision {
            BackupDecision::Stay => {
                self.better.heard(family, origin, theirs.priority);
                self.keep_listening(cx, family, origin.arrival);
            }
            BackupDecision::PreemptWorse => {
                self.plan(cx, Reason::PreemptingWorseMaster, origin, at);
            }
            BackupDecision::PreemptMoreDemoted => {
                self.plan(cx, Reason::PreemptingMoreDemotedMaster, origin, at);
            }
            // Several backups hear it at the same moment, and the best of them should be the first to take over.
            BackupDecision::MasterWillTimeOut => {
                let rank = cx.advertised().advskew.duration() / BOW_OUT_TURN_DIVISOR;
                let turn = at + rank + turn_by_address(cx.settings.profile, cx.sources[family]);
                self.plan(cx, Reason::MasterWillTimeOut, origin, turn);
            }
        }
    }

    /// Hears that the MASTER is fine, which cancels a takeover that was planned before.
    fn keep_listening(&mut self, cx: &CoreContext, family: Family, arrival: Instant) {
        self.planned
            .take_if(|planned| planned.cause.arrival <= arrival);
        self.listen(cx, family, arrival);
    }

    /// Plans a takeover for the next timeout that is not before `at`: an advertisement that waits in the same queue may
    /// revoke it.
    /// The master-down time goes on as before. An operator's wish to stay away comes first.
    fn plan(&mut self, cx: &CoreContext, reason: Reason, cause: Origin, at: Instant) {
        let is_sooner = self.planned.is_none_or(|planned| at < planned.at);
        if cx.now >= self.held_until && is_sooner {
            self.planned = Some(Planned {
                at,
                reason,
                cause,
                is_doubtful: false,
            });
        }
    }

    /// Hears a host although nothing proves that it lives.
    fn hear_without_proof(
        &mut self,
        cx: &CoreContext,
        family: Family,
        origin: Origin,
        decision: BackupDecision,
    ) {
        self.doubt.heard(origin.source);
        let master_down = cx.master_down_time();
        // This lasts only as long as earlier hosts that were heard without proof turned out to live.
        if decision == BackupDecision::Stay {
            let until = self.doubt.patient_until(cx.now, master_down);
            self.listen_until(cx, family, until.min(origin.arrival + master_down));
        }
    }

    /// Hears the counter that was heard at `since` with another priority: one of the two was altered. Both prove that the
    /// sender lived when the first was heard. The first is the genuine one, unless one like it has misled us lately: or
    /// whoever hears a bow-out could call it back with a copy. Then neither decides anything.
    fn hear_another_version(
        &mut self,
        cx: &CoreContext,
        family: Family,
        since: Instant,
        suspense: Duration,
    ) {
        let is_it = |planned: &Planned| planned.cause.arrival == since;
        if let Some(planned) = self.planned.as_mut().filter(|planned| is_it(planned)) {
            planned.is_doubtful = true;
        }
        self.call_off(suspense, |planned| is_it(planned));
        if self.planned.is_none_or(|planned| !is_it(&planned)) {
            self.listen(cx, family, since);
        }
    }

    /// Forgets a takeover if an advertisement that was altered on its way has misled us lately.
    fn call_off(&mut self, suspense: Duration, caused: impl FnOnce(&mut Planned) -> bool) {
        if suspense > Duration::ZERO {
            self.planned.take_if(caused);
        }
    }

    /// Yields, as MASTER, to a better or equal host that answered us.
    pub(super) fn yields(&mut self, cx: &CoreContext, received: &Received) {
        let Received {
            family,
            origin,
            theirs,
            ..
        } = *received;
        self.better.heard(family, origin, theirs.priority);
        self.doubt.answered(cx.now, cx.interval() * 3 / 2);
        self.yielded_at = Some(cx.now);
    }
}

/// Returns the time that we wait after a bow-out in addition to the time that advskew demands. Two equal BSDs that take over
/// together both yield, and addresses of one link differ in their last bits.
fn turn_by_address(profile: Profile, source: Option<IpAddr>) -> Duration {
    let last = match (profile, source) {
        (Profile::Ucarp, _) | (_, None) => 0,
        (Profile::FreeBsd | Profile::OpenBsd, Some(IpAddr::V4(source))) => source.octets()[3],
        (Profile::FreeBsd | Profile::OpenBsd, Some(IpAddr::V6(source))) => source.octets()[15],
    };
    Duration::from_millis(u64::from(last & 15))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, heard_at, millis, settings};
    use super::*;
    use crate::proto::election::Advertiser;
    use crate::units::{AdvSkew, Demotion};

    const SOON: Duration = Duration::from_millis(10);

    /// Somebody with this priority shows a counter that proves this.
    fn received(cx: &CoreContext, priority: Priority, evidence: Evidence) -> Received {
        Received {
            family: Family::Inet,
            origin: heard_at(cx.now),
            theirs: Advertiser {
                priority,
                demotion: Demotion::NONE,
            },
            counter: 7,
            evidence,
        }
    }

    fn better(cx: &CoreContext) -> Priority {
        Priority {
            advskew: AdvSkew(0),
            ..cx.advertised()
        }
    }

    /// A BACKUP that has just begun to listen.
    fn backup() -> (CoreContext, Listener) {
        let cx = context(settings(Profile::Ucarp));
        let mut listener = Listener::default();
        listener.listen_afresh(&cx, cx.now);
        (cx, listener)
    }

    fn wait(cx: &mut CoreContext, duration: Duration) {
        cx.begin(cx.now + duration);
    }

    #[test]
    fn silence_ends_a_master_down_time_after_the_last_proof() {
        let (mut cx, mut listener) = backup();
        let silence = cx.master_down_time();
        for (evidence, counts) in [
            (Evidence::New, true),
            (Evidence::Constant, true),
            (Evidence::Duplicate, false),
        ] {
            let before = listener.master_down_at();
            wait(&mut cx, SOON);
            let heard = received(&cx, better(&cx), evidence);
            listener.hear(&cx, &heard, Duration::ZERO);
            let restarted = Some(cx.now + silence);
            let expected = if counts { restarted } else { before };
            assert_eq!(listener.master_down_at(), expected, "{evidence:?}");
        }
        let due = listener.master_down_at().unwrap();
        cx.begin(due);
        let takeover = listener.timeout(&mut cx, due).expect("it is due");
        assert_eq!(takeover.reason(), Reason::MasterTimedOut);
        assert!(!takeover.asks, "nobody was heard without proof");
    }

    #[test]
    fn a_master_that_was_heard_without_proof_is_asked() {
        let (mut cx, mut listener) = backup();
        let heard = received(&cx, better(&cx), Evidence::Heard);
        listener.hear(&cx, &heard, Duration::ZERO);
        let due = listener.master_down_at().unwrap();
        cx.begin(due);
        let takeover = listener.timeout(&mut cx, due).expect("it is due");
        assert!(takeover.asks);
        let notice = cx.actions.pop();
        assert!(matches!(
            notice,
            Some(crate::proto::Action::Notify(Notice::Unproven { .. }))
        ));
    }

    #[test]
    fn a_bow_out_calls_for_a_takeover_in_turn_and_a_later_advertisement_settles_it() {
        let (mut cx, mut listener) = backup();
        let bow_out = received(&cx, Priority::BOW_OUT, Evidence::New);
        listener.hear(&cx, &bow_out, Duration::ZERO);
        let turn = cx.advertised().advskew.duration() / BOW_OUT_TURN_DIVISOR;
        let expected = (cx.now + turn, Reason::MasterWillTimeOut);
        assert_eq!(listener.next(), Some(expected));
        wait(&mut cx, SOON);
        let heard = received(&cx, better(&cx), Evidence::New);
        listener.hear(&cx, &heard, Duration::ZERO);
        assert!(listener.planned.is_none());
    }

    #[test]
    fn a_second_version_calls_a_takeover_off_only_while_we_are_wary() {
        for (suspense, is_called_off) in [(Duration::ZERO, false), (millis(100), true)] {
            let (cx, mut listener) = backup();
            let bow_out = received(&cx, Priority::BOW_OUT, Evidence::New);
            listener.hear(&cx, &bow_out, suspense);
            let version = Evidence::OtherVersion {
                since: cx.now,
                same_source: true,
            };
            let heard = received(&cx, better(&cx), version);
            listener.hear(&cx, &heard, suspense);
            assert_eq!(listener.planned.is_none(), is_called_off);
            assert!(listener.planned.is_none_or(|planned| planned.is_doubtful));
        }
    }

    #[test]
    fn the_operators_hold_comes_before_any_takeover() {
        let (cx, mut listener) = backup();
        listener.held_until = cx.now + millis(5000);
        listener.listen_afresh(&cx, cx.now);
        let bow_out = received(&cx, Priority::BOW_OUT, Evidence::New);
        listener.hear(&cx, &bow_out, Duration::ZERO);
        let at = listener.held_until + cx.master_down_time();
        assert_eq!(listener.next(), Some((at, Reason::MasterTimedOut)));
    }

    #[test]
    fn no_turn_is_longer_than_the_longest() {
        let last = turn_by_address(Profile::FreeBsd, Some([10, 0, 0, 15].into()));
        let largest = AdvSkew(255).duration() / BOW_OUT_TURN_DIVISOR;
        assert_eq!(largest + last, LONGEST_TURN);
    }

    #[test]
    fn addresses_of_bsds_shift_their_turns() {
        let source: Option<IpAddr> = Some("10.9.0.5".parse().unwrap());
        assert_eq!(turn_by_address(Profile::OpenBsd, source), millis(5));
        assert_eq!(turn_by_address(Profile::Ucarp, source), Duration::ZERO);
        assert_eq!(turn_by_address(Profile::FreeBsd, None), Duration::ZERO);
    }
}
