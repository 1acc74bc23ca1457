//! From a payload to the election, check by check in OpenBSD's order.

use super::{
    Advertiser, Demotion, Evidence, Family, Instant, IpAddr, NOTICE_INTERVAL, Notice, Origin,
    Planned, Profile, Reason, State, Timer, VirtualHost,
};
use crate::proto::demotion;
use crate::proto::election::{self, BackupDecision, MasterDecision, Tie};
use crate::proto::evidence::Listener;
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
        if !self.is_authentic(origin.source, &advertisement) {
            return;
        }
        if self.is_own(family, origin.source, &advertisement) {
            // Others may take it for ours: what we send next is above it. What peers send need not be.
            self.sequence.go_beyond(advertisement.counter);
            return;
        }
        if self.is_stale(family, origin, &advertisement) {
            return;
        }
        let Advertisement {
            advbase,
            advskew,
            demotion,
            counter,
            ..
        } = advertisement;
        let Origin {
            source, arrival, ..
        } = origin;
        let listener = Listener {
            interval: self.interval(),
            master_down: self.master_down_time(),
            no_openbsd: self.settings.no_openbsd || self.settings.strict_counter,
        };
        let evidence = self.memory.judge(source, arrival, &advertisement, listener);
        if evidence.is_proof() && !self.settings.strict_counter {
            self.sequence.follow(counter);
        }
        self.sequence.observe(family, counter);
        self.count_evidence(origin.source, evidence);
        let theirs = Advertiser {
            priority: Priority { advbase, advskew },
            demotion,
        };
        if evidence.is_proof() {
            self.believe(family, origin, theirs.priority);
            self.warn_of_equal_settings(origin.source, theirs.priority);
        }
        if let Evidence::OtherVersion { since, .. } = evidence {
            self.hear_another_version(family, since);
        }
        match self.state {
            State::Init => {}
            State::Backup => self.judge_as_backup(family, origin, theirs, evidence),
            State::Master => {
                self.judge_as_master(family, origin, theirs, counter, evidence);
            }
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

    /// Our own, reflected or repeated. Nobody else sends from the address that we send from, unless it is a virtual one: a
    /// host without an address of its own uses that.
    fn is_own(&mut self, family: Family, source: IpAddr, advertisement: &Advertisement) -> bool {
        let is_shared = self.settings.addresses.contains(source);
        let own = self.sources[family] == Some(source)
            && (!is_shared || self.memory.sent_lately(family, advertisement.counter));
        if own {
            self.counters.dropped_own_echo += 1;
            self.notify_limited(
                |limits| &mut limits.own_echo,
                |suppressed| Notice::OwnEcho { source, suppressed },
            );
        }
        own
    }

    /// With strict counters: its counter does not rise. The last of a peer may come again with another priority: of two
    /// versions of one counter the genuine one can be the second.
    fn is_stale(&mut self, family: Family, origin: Origin, advertisement: &Advertisement) -> bool {
        let Origin {
            source, arrival, ..
        } = origin;
        let stale = self.settings.strict_counter
            && !self.sequence.rises(family, advertisement.counter, arrival)
            && !self
                .memory
                .is_last_of_somebody(family, advertisement.counter);
        if stale {
            self.counters.dropped_stale_counter += 1;
            self.notify_limited(
                |limits| &mut limits.stale_counter,
                |suppressed| Notice::StaleCounter { source, suppressed },
            );
        }
        stale
    }

    fn warn_of_equal_settings(&mut self, source: IpAddr, theirs: Priority) {
        if theirs != self.advertised() || self.memory.was_warned(source) {
            return;
        }
        let limit = &mut self.limits.equal_settings;
        if limit.admit(self.now, NOTICE_INTERVAL).is_some() {
            self.memory.set_warned(source);
            self.notify(Notice::EqualSettings { source });
        }
    }

    pub(super) fn ours(&self) -> Advertiser {
        let demotion = demotion::advertised_demotion(self.demotions.sum(), self.settings.profile);
        Advertiser {
            priority: self.advertised(),
            demotion,
        }
    }

    fn judge_as_backup(
        &mut self,
        family: Family,
        origin: Origin,
        theirs: Advertiser,
        evidence: Evidence,
    ) {
        let decision = self.backup_decision(theirs);
        match evidence {
            Evidence::New | Evidence::Constant => {}
            Evidence::Duplicate | Evidence::OtherVersion { .. } => return,
            Evidence::Heard | Evidence::Unrelated => {
                // Several in two versions at a time: the second of this one came after the first of the next.
                if decision == BackupDecision::Stay {
                    self.call_off(|planned| planned.cause.source == origin.source);
                }
                return self.doubt(family, origin, decision);
            }
        }
        if decision != BackupDecision::Stay && self.better.lives(family, origin) {
            return;
        }
        let at = origin.arrival + self.suspicion();
        match decision {
            BackupDecision::Stay => {
                self.better.heard(family, origin, theirs.priority);
                self.keep_listening(family, origin.arrival);
            }
            BackupDecision::PreemptWorse => {
                self.plan_take_over(Reason::PreemptingWorseMaster, origin, at);
            }
            BackupDecision::PreemptMoreDemoted => {
                self.plan_take_over(Reason::PreemptingMoreDemotedMaster, origin, at);
            }
            // Several backups hear it at the same moment; the best should be the first.
            BackupDecision::MasterWillTimeOut => {
                let rank = self.advertised().advskew.duration() / BOW_OUT_TURN_DIVISOR;
                let turn = at + rank + self.turn_by_address(family);
                self.plan_take_over(Reason::MasterWillTimeOut, origin, turn);
            }
        }
    }

    /// The MASTER is fine. Whatever made us want to take over before it was heard is settled.
    fn keep_listening(&mut self, family: Family, arrival: Instant) {
        if self
            .take_over
            .take_if(|planned| planned.cause.arrival <= arrival)
            .is_some()
        {
            self.timers.clear(Timer::TakeOver);
        }
        self.listen(family, arrival);
    }

    /// Takes over `at`, with the next timeout that is not before it: what is waiting in the same queue may revoke it.
    /// The master-down timer goes on as before. An operator's wish to stay away comes first.
    fn plan_take_over(&mut self, reason: Reason, cause: Origin, at: Instant) {
        if self.now < self.held_until
            || self
                .timers
                .get(Timer::TakeOver)
                .is_some_and(|planned| planned <= at)
        {
            return;
        }
        self.take_over = Some(Planned {
            reason,
            cause,
            is_doubtful: false,
        });
        self.timers.set(Timer::TakeOver, at);
    }

    fn judge_as_master(
        &mut self,
        family: Family,
        origin: Origin,
        theirs: Advertiser,
        counter: u64,
        evidence: Evidence,
    ) {
        // What was heard before gets no answer where counters are strict.
        let is_old = self.settings.strict_counter && !evidence.is_new();
        if is_old && !matches!(evidence, Evidence::OtherVersion { .. }) {
            return;
        }
        self.counters.conflicting_masters += 1;
        let Origin {
            source, arrival, ..
        } = origin;
        let (ours, tie) = (self.ours(), self.tie(family, source));
        let (reason, since) = match election::as_master(ours, theirs, tie, self.settings.profile) {
            // An equal in IPv6, where IPv4 is going to decide: nothing to answer yet.
            MasterDecision::Stay if tie.inet_decides && ours == theirs => return,
            MasterDecision::Stay if is_old => return,
            MasterDecision::Stay => {
                self.reassert(evidence);
                self.notify_limited(
                    |limits| &mut limits.worse_master,
                    |suppressed| Notice::WorseMasterAdvertised { source, suppressed },
                );
                return;
            }
            MasterDecision::YieldToBetter => (Reason::BetterMasterAdvertised, arrival),
            MasterDecision::YieldOnTie => {
                (Reason::TieLost, arrival + self.tie_delay(family, source))
            }
        };
        if self.is_answer(family, source, arrival, counter, evidence) {
            self.find_out_if_misled(evidence);
            self.better.heard(family, origin, theirs.priority);
            self.doubt.answered(self.now, self.interval() * 3 / 2);
            self.give_way(reason, since, origin.ethernet_source);
        } else if !is_old {
            self.challenge(family, source, reason == Reason::TieLost, evidence);
        }
    }

    pub(super) fn tie(&self, family: Family, theirs: IpAddr) -> Tie {
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
    fn give_way(&mut self, reason: Reason, since: Instant, winner: [u8; 6]) {
        self.yielded_at = Some(self.now);
        self.enter(State::Backup, reason);
        self.release();
        // The winner may have been heard before it heard us: without a word from us it would not know that it has to
        // announce the addresses again. A BSD yields to an equal, so a tie with one must end in silence, or both would;
        // a ucarp stays, and so does a carpd that sends from its own MAC address. And every OpenBSD takes over from
        // whoever says that it is more demoted, whether a better one lives or not.
        let is_bsd = winner == [0, 0, 0x5e, 0, 1, self.settings.vhid.get()];
        let speaks = match reason == Reason::TieLost {
            true => self.settings.profile == Profile::Ucarp && !is_bsd,
            false => self.ours().demotion == Demotion::NONE,
        };
        if speaks {
            self.last_advertisement();
        }
        self.doubt.proven(since);
        for family in self.active_families() {
            self.listen(family, since);
        }
    }
}
