//! The context that every part of a virtual host sees and acts through.

use core::net::IpAddr;

use crate::proto::auth::Authenticator;
use crate::proto::counters::Counters;
use crate::proto::demotion::{self, Demotions};
use crate::proto::election::{self, Advertiser, BackupDecision, MasterDecision, Tie};
use crate::proto::per_family::PerFamily;
use crate::proto::queue::ActionQueue;
use crate::proto::rate_limit::RateLimit;
use crate::proto::tenure::Lasting;
use crate::proto::{Action, FAMILIES, Notice, Settings};
use crate::time::{Duration, Instant};
use crate::units::{Family, Priority};

/// Least time between two notices of one kind.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// The settings, the present time, and where actions, counts and notices go.
#[derive(Debug)]
pub(super) struct CoreContext {
    pub(super) settings: Settings,
    /// The state derived from the key, which is wiped.
    pub(super) authenticator: Authenticator,
    /// The latest time that a caller has passed.
    pub(super) now: Instant,
    /// The addresses that we send from.
    pub(super) sources: PerFamily<Option<IpAddr>>,
    pub(super) demotions: Demotions,
    pub(super) counters: Counters,
    pub(super) limits: Limits,
    pub(super) actions: ActionQueue,
}

/// One rate limit per kind of notice.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) bad_digest: RateLimit,
    pub(super) own_echo: RateLimit,
    pub(super) equal_settings: RateLimit,
    pub(super) worse_master: RateLimit,
    pub(super) tampered: RateLimit,
    pub(super) unproven: RateLimit,
    pub(super) unanswered: RateLimit,
    pub(super) stale_counter: RateLimit,
}

impl CoreContext {
    /// Creates the context of a host without a source address.
    pub(super) fn new(settings: Settings, authenticator: Authenticator, now: Instant) -> Self {
        Self {
            settings,
            authenticator,
            now,
            sources: PerFamily::default(),
            demotions: Demotions::default(),
            counters: Counters::default(),
            limits: Limits::default(),
            actions: ActionQueue::new(),
        }
    }

    /// Begins with the next input or timeout.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.actions.begin();
    }

    /// Orders the next action.
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Reports something, at most once per [`NOTICE_INTERVAL`].
    pub(super) fn notify(
        &mut self,
        limit: impl FnOnce(&mut Limits) -> &mut RateLimit,
        notice: impl FnOnce(u64) -> Notice,
    ) {
        if let Some(suppressed) = limit(&mut self.limits).admit(self.now, NOTICE_INTERVAL) {
            self.act(Action::Notify(notice(suppressed)));
        }
    }
}

/// Values that follow from the settings and the demotion.
impl CoreContext {
    /// Returns the priority that we advertise, or would advertise.
    pub(super) fn advertised(&self) -> Priority {
        let Settings {
            advbase,
            advskew,
            profile,
            ..
        } = self.settings;
        let advskew = demotion::advertised_advskew(advskew, self.demotions.sum(), profile);
        Priority { advbase, advskew }
    }

    /// Returns our side of a comparison.
    pub(super) fn ours(&self) -> Advertiser {
        let demotion = demotion::advertised_demotion(self.demotions.sum(), self.settings.profile);
        Advertiser {
            priority: self.advertised(),
            demotion,
        }
    }

    /// Returns the time between two advertisements of ours.
    pub(super) fn interval(&self) -> Duration {
        self.advertised().interval()
    }

    /// Returns the silence after which we take over. Demotion does not enter.
    pub(super) fn master_down_time(&self) -> Duration {
        let Settings {
            advbase,
            advskew,
            deadratio,
            ..
        } = self.settings;
        Priority { advbase, advskew }.master_down_time(deadratio)
    }

    /// Returns how long the deadlines of the kernel side are that begin now.
    pub(super) fn lasting(&self) -> Lasting {
        let deadratio = self.settings.deadratio;
        Lasting::new(self.advertised(), deadratio, self.master_down_time())
    }

    /// Whether we take part in this family: it has a virtual address, and we can send in it.
    pub(super) fn is_active(&self, family: Family) -> bool {
        self.settings.uses(family) && self.sources[family].is_some()
    }

    /// Returns the families that we take part in, in the order in which they are advertised.
    pub(super) fn active_families(&self) -> impl Iterator<Item = Family> + use<> {
        let active = FAMILIES.map(|family| (family, self.is_active(family)));
        active
            .into_iter()
            .filter_map(|(family, active)| active.then_some(family))
    }

    /// Whether an Ethernet source is the virtual MAC address that the BSDs send from.
    pub(super) fn is_bsd(&self, ethernet_source: [u8; 6]) -> bool {
        ethernet_source == [0, 0, 0x5e, 0, 1, self.settings.vhid.get()]
    }

    /// Returns the values that decide between us and an equal host with this source.
    pub(super) fn tie(&self, theirs: IpAddr) -> Tie {
        let family = Family::of(theirs);
        Tie {
            ours: self.sources[family],
            theirs,
            inet_decides: family == Family::Inet6 && self.settings.uses(Family::Inet),
            inet_works: self.is_active(Family::Inet),
        }
    }

    /// Returns the decision of a BACKUP about an advertisement with these fields, if it counts.
    pub(super) fn as_backup(&self, theirs: Advertiser) -> BackupDecision {
        let Settings {
            preempt, deadratio, ..
        } = self.settings;
        election::as_backup(self.ours(), theirs, preempt, deadratio)
    }

    /// Returns the decision of a MASTER about an advertisement with these fields, if it counts.
    pub(super) fn as_master(&self, source: IpAddr, theirs: Advertiser) -> MasterDecision {
        election::as_master(self.ours(), theirs, self.tie(source), self.settings.profile)
    }
}
