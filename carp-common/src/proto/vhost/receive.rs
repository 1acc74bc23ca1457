//! From a payload to the election, check by check in OpenBSD's order.

use super::{
    Demotion, Family, Instant, IpAddr, Notice, Origin, Profile, RateLimit, Reason, State, Timer,
    VirtualHost,
};
use super::{Limits, NOTICE_INTERVAL};
use crate::proto::demotion;
use crate::proto::election::{self, Advertiser, BackupDecision, MasterDecision, Tie};
use crate::proto::replay::Judgement;
use crate::units::Priority;
use crate::wire::advertisement::{Advertisement, DropReason};

/// How much shorter than its advskew a backup's turn after a bow-out is.
///
/// Backups with different advskew must not take over together, and the client is to notice nothing: one step is 244 µs,
/// more than an advertisement takes across a switch, and the largest advskew waits 62 ms.
const BOW_OUT_TURN_DIVISOR: u32 = 16;

impl VirtualHost {
    pub(super) fn receive(&mut self, family: Family, origin: Origin, payload: &[u8]) {
        match family {
            Family::Inet => self.counters.received_inet_packets += 1,
            Family::Inet6 => self.counters.received_inet6_packets += 1,
        }
        if self.state == State::Init {
            self.counters.dropped_not_running += 1;
            return;
        }
        let origin = Origin {
            arrival: origin.arrival.min(self.now),
            ..origin
        };
        let Some(advertisement) = self.parse(payload) else {
            return;
        };
        if !self.is_authentic(origin.source, &advertisement)
            || self.is_own_echo(origin.source, &advertisement)
            || !self.is_fresh(family, origin, &advertisement)
        {
            return;
        }
        self.sequence.observe(family, advertisement.counter);
        self.last_heard = Some(origin);
        let Advertisement {
            advbase,
            advskew,
            demotion,
            ..
        } = advertisement;
        let theirs = Advertiser {
            priority: Priority { advbase, advskew },
            demotion,
        };
        self.warn_of_equal_settings(origin.source, theirs.priority);
        match self.state {
            State::Init => {}
            State::Backup => self.judge_as_backup(family, origin, theirs),
            State::Master => self.judge_as_master(family, origin, theirs),
        }
    }

    /// Length, checksum, vhid, version.
    fn parse(&mut self, payload: &[u8]) -> Option<Advertisement> {
        let counters = &mut self.counters;
        let counter = match Advertisement::parse(payload) {
            Ok(advertisement) if advertisement.vhid == self.settings.vhid => {
                return Some(advertisement);
            }
            Ok(_) | Err(DropReason::BadVhid) => &mut counters.dropped_bad_vhid,
            Err(DropReason::ShortPacket) => &mut counters.dropped_short_packet,
            Err(DropReason::BadChecksum) => &mut counters.dropped_bad_checksum,
            Err(DropReason::BadVersion) => &mut counters.dropped_bad_version,
            Err(DropReason::BadAuthLen) => &mut counters.dropped_bad_auth_length,
        };
        *counter += 1;
        None
    }

    fn is_authentic(&mut self, source: IpAddr, advertisement: &Advertisement) -> bool {
        let authentic = self
            .authenticator
            .verify(advertisement.counter, &advertisement.digest);
        if !authentic {
            self.counters.dropped_bad_authentication += 1;
            self.notify_limited(
                |limits| &mut limits.bad_digest,
                |suppressed| Notice::BadDigest { source, suppressed },
            );
        }
        authentic
    }

    fn is_own_echo(&mut self, source: IpAddr, advertisement: &Advertisement) -> bool {
        let echo = self
            .sent
            .contains(source, advertisement.counter, advertisement.digest);
        if echo {
            self.counters.dropped_own_echo += 1;
            self.notify_limited(
                |limits| &mut limits.own_echo,
                |suppressed| Notice::OwnEcho { source, suppressed },
            );
        }
        echo
    }

    /// Neither replayed nor rewritten, as far as that can be told.
    fn is_fresh(&mut self, family: Family, origin: Origin, advertisement: &Advertisement) -> bool {
        let source = origin.source;
        let (counter, arrival) = (advertisement.counter, origin.arrival);
        if self.settings.strict_counter && !self.sequence.rises(family, counter, arrival) {
            self.counters.dropped_stale_counter += 1;
            self.notify_limited(
                |limits| &mut limits.stale_counter,
                |suppressed| Notice::StaleCounter { source, suppressed },
            );
            return false;
        }
        match self.peers.judge(source, origin.arrival, advertisement) {
            Judgement::Believed => true,
            Judgement::Duplicate => {
                self.counters.dropped_duplicate += 1;
                false
            }
            Judgement::Tampered => {
                self.counters.dropped_tampered += 1;
                self.notify_limited(
                    |limits| &mut limits.tampered,
                    |suppressed| Notice::Tampered { source, suppressed },
                );
                false
            }
        }
    }

    fn warn_of_equal_settings(&mut self, source: IpAddr, theirs: Priority) {
        if theirs != self.advertised() || self.peers.was_warned(source) {
            return;
        }
        let limit = &mut self.limits.equal_settings;
        if limit.admit(self.now, NOTICE_INTERVAL).is_some() {
            self.peers.set_warned(source);
            self.notify(Notice::EqualSettings { source });
        }
    }

    fn ours(&self) -> Advertiser {
        let demotion = demotion::advertised_demotion(self.demotions.sum(), self.settings.profile);
        Advertiser {
            priority: self.advertised(),
            demotion,
        }
    }

    fn judge_as_backup(&mut self, family: Family, origin: Origin, theirs: Advertiser) {
        let ours = self.ours();
        let settings = &self.settings;
        let decision = election::as_backup(
            ours,
            theirs,
            settings.preempt,
            settings.deadratio,
            settings.profile,
        );
        let arrival = origin.arrival;
        if decision != BackupDecision::Stay && self.better.lives(family, origin) {
            return;
        }
        match decision {
            BackupDecision::Stay => {
                self.better.heard(family, origin, theirs.priority);
                self.keep_listening(family, arrival);
            }
            BackupDecision::PreemptWorse => {
                self.plan_take_over(Reason::PreemptingWorseMaster, arrival, arrival)
            }
            BackupDecision::PreemptMoreDemoted => {
                self.plan_take_over(Reason::PreemptingMoreDemotedMaster, arrival, arrival);
            }
            // Several backups hear it at the same moment; the best should be the first.
            BackupDecision::MasterWillTimeOut => {
                let turn = arrival + ours.priority.advskew.duration() / BOW_OUT_TURN_DIVISOR;
                self.plan_take_over(Reason::MasterWillTimeOut, arrival, turn);
            }
        }
    }

    /// The MASTER is fine. Whatever made us want to take over before it was heard is settled.
    fn keep_listening(&mut self, family: Family, arrival: Instant) {
        if self
            .take_over
            .take_if(|(_, heard)| *heard <= arrival)
            .is_some()
        {
            self.timers.clear(Timer::TakeOver);
        }
        self.listen(family, arrival);
    }

    /// Takes over `at`, with the next timeout that is not before it: what is waiting in the same queue may revoke it.
    /// The master-down timer goes on as before. An operator's wish to stay away comes first.
    fn plan_take_over(&mut self, reason: Reason, heard: Instant, at: Instant) {
        if self.now < self.held_until
            || self
                .timers
                .get(Timer::TakeOver)
                .is_some_and(|planned| planned <= at)
        {
            return;
        }
        self.take_over = Some((reason, heard));
        self.timers.set(Timer::TakeOver, at);
    }

    fn judge_as_master(&mut self, family: Family, origin: Origin, theirs: Advertiser) {
        self.counters.conflicting_masters += 1;
        let (ours, tie) = (self.ours(), self.tie(family, origin.source));
        match election::as_master(ours, theirs, tie, self.settings.profile) {
            // An equal in IPv6, where IPv4 is going to decide: nothing to answer yet.
            MasterDecision::Stay if tie.inet_decides && ours == theirs => {}
            MasterDecision::Stay => {
                self.reassert();
                let source = origin.source;
                self.notify_limited(
                    |limits| &mut limits.worse_master,
                    |suppressed| Notice::WorseMasterAdvertised { source, suppressed },
                );
            }
            MasterDecision::YieldToBetter => {
                self.better.heard(family, origin, theirs.priority);
                self.give_way(Reason::BetterMasterAdvertised, origin.arrival);
            }
            MasterDecision::YieldOnTie => {
                self.better.heard(family, origin, theirs.priority);
                self.give_way(
                    Reason::TieLost,
                    origin.arrival + self.tie_delay(family, origin.source),
                );
            }
        }
    }

    fn tie(&self, family: Family, theirs: IpAddr) -> Tie {
        Tie {
            ours: self.sources[family],
            theirs,
            inet_decides: family == Family::Inet6 && self.settings.uses(Family::Inet),
            inet_works: self.is_active(Family::Inet),
        }
    }

    /// Two BSDs whose equal advertisements cross both yield, and would both be back at the same moment, for ever. The
    /// one with the higher address waits longer.
    fn tie_delay(&self, family: Family, theirs: IpAddr) -> crate::time::Duration {
        if self.sources[family] > Some(theirs) {
            self.interval()
        } else {
            crate::time::Duration::ZERO
        }
    }

    /// MASTER to BACKUP, for somebody else who was heard at `since`.
    fn give_way(&mut self, reason: Reason, since: Instant) {
        self.enter(State::Backup, reason);
        self.release();
        // The winner may have been heard before it heard us: without a word from us it would not know that it has to
        // announce the addresses again. A BSD yields to an equal, so there a tie must end in silence, or both would.
        // And every OpenBSD takes over from whoever says that it is more demoted, whether a better one lives or not.
        let tempts = self.ours().demotion > Demotion::NONE;
        if self.settings.profile == Profile::Ucarp
            || (reason == Reason::BetterMasterAdvertised && !tempts)
        {
            self.last_advertisement();
        }
        self.program_datapath();
        for family in self.active_families() {
            self.listen(family, since);
        }
    }

    fn notify_limited(
        &mut self,
        limit: impl FnOnce(&mut Limits) -> &mut RateLimit,
        notice: impl FnOnce(u64) -> Notice,
    ) {
        if let Some(suppressed) = limit(&mut self.limits).admit(self.now, NOTICE_INTERVAL) {
            self.notify(notice(suppressed));
        }
    }
}
