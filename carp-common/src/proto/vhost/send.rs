//! What we put on the wire.

use core::net::IpAddr;

use super::{
    Action, Demotion, DemotionCause, Evidence, FAMILIES, Family, Notice, Priority, State, Timer,
    VirtualHost, demotion,
};
use crate::proto::SendOutcome;
use crate::proto::heard::LAST_LEAVES_OUT;
use crate::proto::send_errors::Change;
use crate::time::{Duration, Instant};
use crate::wire::advertisement::{Advertisement, HEADER_LEN};

/// When the last announcement of a takeover comes. A switch that blocks a port for a moment (spanning tree's proposals, LACP)
/// is done by then, and a client does not wait for its own ARP entry to expire.
const LATE: Duration = Duration::from_secs(5);

impl VirtualHost {
    /// Advertises in every family we take part in, and again one interval later.
    pub(super) fn advertise(&mut self) {
        self.leave_out();
        self.send(self.advertised());
        self.is_asking = false;
        self.timers
            .set(Timer::Advertise, self.now + self.interval());
    }

    /// The last advertisement of a leaving MASTER: somebody else take over, at once. A peer that we did not hear may have used
    /// what comes next, and would take it for its own sent again.
    pub(super) fn bow_out(&mut self) {
        self.sequence.jump(LAST_LEAVES_OUT);
        self.send(Priority::BOW_OUT);
    }

    /// The last advertisement of a MASTER that yields, as ucarp sends it: the winner hears that somebody else was MASTER, and
    /// announces the addresses again.
    ///
    /// With our true priority, as ucarp's: one step worse would make a third host that preempts take over from it. It may be
    /// lost, and a ucarp, FreeBSD or NetBSD that counts on below it must not come to this counter, which looks like ours sent again.
    pub(super) fn last_advertisement(&mut self) {
        self.sequence.jump(LAST_LEAVES_OUT);
        self.send(self.advertised());
    }

    /// Announces every virtual address.
    pub(super) fn announce(&mut self) {
        for family in FAMILIES {
            if self.settings.uses(family) {
                self.actions.push(Action::Announce(family));
            }
        }
    }

    /// Announces at once, two advertisements later, and late: the port of a client or of ours may be blocked at first.
    pub(super) fn announce_in_series(&mut self) {
        self.announce();
        self.announcements_left = 1;
        self.timers
            .set(Timer::Reannounce, self.two_advertisements_later());
        self.timers.set(Timer::Refresh, self.now + LATE);
    }

    /// The announcements that are due, once for all of them.
    pub(super) fn announce_if_due(&mut self) {
        let again = self.timers.take_due(Timer::Reannounce, self.now).is_some();
        let refresh = self.timers.take_due(Timer::Refresh, self.now).is_some();
        if again || refresh {
            self.announce();
        }
        if again {
            self.announcements_left = self.announcements_left.saturating_sub(1);
            if self.announcements_left > 0 {
                self.timers
                    .set(Timer::Reannounce, self.two_advertisements_later());
            }
        }
        if refresh && let Some(pace) = self.settings.announce_refresh {
            self.timers.set(Timer::Refresh, self.now + pace);
        }
    }

    fn two_advertisements_later(&self) -> Instant {
        self.now + self.interval() * 2
    }

    fn send(&mut self, priority: Priority) {
        for family in self.active_families() {
            let counter = self.sequence.send(family, self.stride(family), self.now);
            self.memory.sent(family, counter);
            if self.is_asking {
                let [last, _] = self.asked[family];
                self.asked[family] = [Some(counter), last];
            }
            let digest = self.authenticator.sign(counter);
            let advertisement = Advertisement {
                vhid: self.settings.vhid,
                advskew: priority.advskew,
                demotion: demotion::advertised_demotion(
                    self.demotions.sum(),
                    self.settings.profile,
                ),
                advbase: priority.advbase,
                counter,
                digest,
            };
            let mut payload = [0; HEADER_LEN];
            advertisement.emit(&mut payload);
            self.actions
                .push(Action::SendAdvertisement { family, payload });
        }
    }

    /// How many counters we leave out before the next. Two MASTERs whose advertisements cross would each find the other's
    /// counter used up, again and again; so each has a step of its own.
    fn stride(&self, family: Family) -> u64 {
        let next = self.sequence.next();
        match self.sources[family] {
            Some(IpAddr::V4(source)) => stride_of(&source.octets(), next),
            Some(IpAddr::V6(source)) => stride_of(&source.octets(), next),
            None => 0,
        }
    }

    pub(super) fn send_completed(&mut self, family: Family, outcome: SendOutcome) {
        let failed = match (outcome, family) {
            (SendOutcome::Sent, Family::Inet) => {
                self.counters.sent_inet_packets += 1;
                false
            }
            (SendOutcome::Sent, Family::Inet6) => {
                self.counters.sent_inet6_packets += 1;
                false
            }
            (SendOutcome::NoMemory, _) => {
                self.counters.send_failed_memory_error += 1;
                true
            }
            (SendOutcome::Failed, _) => {
                self.counters.send_failed += 1;
                true
            }
        };
        if failed {
            // Nobody heard it, so nobody can answer it.
            self.sequence.unsend(family);
            self.memory.unsend(family);
        }
        if !failed {
            let lasting = self.lasting();
            self.standing.advertised(self.now, lasting);
        }
        let change = self.send_errors.record(family, failed);
        self.apply(change);
    }

    /// A new link starts without send errors.
    pub(super) fn forget_send_errors(&mut self) {
        let change = self.send_errors.reset();
        self.apply(change);
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Suppressed => {
                self.notify(Notice::Suppressed);
                self.demote(
                    DemotionCause::SendErrors,
                    demotion::send_error_demotion(self.settings.profile),
                );
            }
            Change::Unsuppressed => {
                self.notify(Notice::Unsuppressed);
                self.demote(DemotionCause::SendErrors, Demotion::NONE);
            }
        }
    }

    /// Answers a worse MASTER: advertise and announce at once, and announce again two advertisements later. The
    /// announcement comes at most once per interval, or a replay becomes an ARP storm. One that would come sooner comes
    /// when the interval is over: the other one may have announced after ours. The advertisement has a pace of its own,
    /// because the other one waits for it before it yields.
    ///
    /// At once means with the next timeout: a better MASTER may be waiting in the same queue.
    pub(super) fn reassert(&mut self, evidence: Evidence) {
        if self.state != State::Master {
            return;
        }
        self.answer(evidence);
        let soonest = match self.reasserted_at {
            Some(at) => self.now.max(at + self.interval()),
            None => self.now,
        };
        let planned = self.timers.get(Timer::Reannounce);
        let due = planned.map_or(soonest, |planned| planned.min(soonest));
        self.reasserted_at = Some(due);
        self.announcements_left = 2;
        self.timers.set(Timer::Reannounce, due);
    }
}

/// FNV-1a over the address and the counter: hosts differ in any octet of their addresses, and take other steps each time.
/// Range: below 32, so that a peer that missed thirty thousand advertisements still finds the next one near.
fn stride_of(octets: &[u8], next: u64) -> u64 {
    let counter = next.to_be_bytes();
    let bytes = octets.iter().chain(&counter);
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    u64::from((hash >> 27) ^ (hash & 0x1f))
}
