//! Restores virtual addresses that other programs remove, within limits.
//!
//! Each address is restored after a moment, three times within ten seconds. If it is removed once more, that is intended by
//! something on this host, and repeating the restoration helps nobody. The host then advertises a worse priority, so that a
//! better host can take over, and restores the address once in ten seconds while none does. The demotion ends after a minute
//! without a removal.
//!
//! If an address cannot be added at all, carpd tries again every second, and demotes the host likewise.
//!
//! An address whose lease ran out while the process was stopped was not removed by another program. It is restored without
//! counting. If scripts own the addresses, a removal is only logged.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::probation::{Probation, QUIET};
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::super::context::Site;
use super::super::effects::Effects;
use super::holdings::{Holding, Holdings};
use super::identity::{CoreRequests, Identity};
use crate::api::event::address::Restore as Event;
use crate::config::Ownership;
use crate::io::netlink::Address;

/// Time between a removal and the restoration. `ip address flush` looks again until nothing is left, up to ten times, so one
/// command would remove an address ten times if it were back at once.
const DELAY: Duration = Duration::from_millis(30);
/// The number of restorations of one address within [`WINDOW`].
const LIMIT: usize = 3;
/// The time in which restorations are counted, and the time between two of them once there were too many.
const WINDOW: Duration = Duration::from_secs(10);

/// Time between two attempts to add an address that could not be added.
const FAILED_RETRY: Duration = Duration::from_secs(1);

/// The reaction to a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    /// Restore it in a moment.
    Restore,
    /// Restore it later, and demote this host from now on.
    GiveWay,
    /// Restore it later. This host is demoted already.
    Wait,
}

/// Removals of the addresses of one virtual host.
#[derive(Debug)]
pub struct Restore {
    /// The times at which each address was restored, oldest first, at most [`LIMIT`].
    restored: Vec<VecDeque<Instant>>,
    probation: Probation,
    retry_at: Option<Instant>,
    /// The number of restorations of any address.
    count: u64,
    /// Limits the log lines about removals of addresses that scripts own.
    limit: RateLimit,
}

impl Restore {
    /// Returns the state before anything has happened to any of so many addresses.
    pub fn new(addresses: usize) -> Self {
        Self {
            restored: vec![VecDeque::with_capacity(LIMIT); addresses],
            probation: Probation::default(),
            retry_at: None,
            count: 0,
            limit: RateLimit::default(),
        }
    }

    /// Notes that one address was removed while this host is MASTER.
    fn removed(&mut self, address: usize, now: Instant) -> Repair {
        if self.probation.is_on() {
            self.probation.fail(now);
            self.retry_at.get_or_insert(now + WINDOW);
            return Repair::Wait;
        }
        let restored = &mut self.restored[address];
        restored.retain(|at| now < *at + WINDOW);
        if restored.len() < LIMIT {
            restored.push_back(now);
            self.retry_at.get_or_insert(now + DELAY);
            return Repair::Restore;
        }
        self.probation.fail(now);
        self.retry_at = Some(now + WINDOW);
        Repair::GiveWay
    }

    /// Plans another attempt in a moment, because not all addresses could be added.
    pub fn incomplete(&mut self, now: Instant) {
        self.retry_at.get_or_insert(now + DELAY);
    }

    /// Notes that one address could not be added again: the host is demoted, and tries again.
    fn failed(&mut self, now: Instant) -> Repair {
        self.retry_at = Some(now + FAILED_RETRY);
        match self.probation.fail(now) {
            true => Repair::GiveWay,
            false => Repair::Wait,
        }
    }

    /// Notes that the addresses are no longer ours.
    pub fn released(&mut self) {
        self.retry_at = None;
    }

    /// Returns when something is due.
    pub fn deadline(&self) -> Option<Instant> {
        let ends = self.probation.deadline();
        self.retry_at.into_iter().chain(ends).min()
    }

    /// Returns once whether it is time to restore the missing addresses.
    fn take_retry(&mut self, now: Instant) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }

    /// Returns once whether it was quiet long enough to end the demotion.
    fn take_quiet(&mut self, now: Instant) -> bool {
        self.probation.timeout(now)
    }
}

/// The selection of addresses that may be missing.
pub enum Suspects {
    /// Those that netlink reported as deleted, or that belong to another program now.
    Lost(BTreeSet<(u32, IpAddr, u8)>),
    /// Any address, because notifications were lost.
    Any,
}

impl Suspects {
    fn include(&self, address: &Address) -> bool {
        match self {
            Self::Lost(lost) => lost.contains(&(address.ifindex, address.address, address.prefix)),
            Self::Any => true,
        }
    }

    /// Returns whether an address is among them, with any prefix length.
    fn include_ip(&self, ifindex: u32, ip: IpAddr) -> bool {
        match self {
            Self::Lost(lost) => lost
                .iter()
                .any(|(on, address, _)| (*on, *address) == (ifindex, ip)),
            // It is not known which addresses scripts had added.
            Self::Any => false,
        }
    }
}

impl Restore {
    /// Returns how often an address was restored.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Checks whether a MASTER lost addresses, and plans their restoration. The tables of the namespace
    /// must be current.
    pub fn look<E: Effects>(
        &mut self,
        who: &Identity,
        holdings: &mut Holdings,
        suspects: &Suspects,
        site: &mut Site<'_, E>,
    ) -> CoreRequests {
        match who.config.ownership {
            Ownership::Native => self.look_at_ours(who, holdings, suspects, site),
            Ownership::Scripts => {
                self.miss_scripted(who, suspects, site);
                CoreRequests::default()
            }
        }
    }

    fn look_at_ours<E: Effects>(
        &mut self,
        who: &Identity,
        holdings: &mut Holdings,
        suspects: &Suspects,
        site: &mut Site<'_, E>,
    ) -> CoreRequests {
        let mut missing = Vec::new();
        for (index, address) in who.native_addresses(site.interface).into_iter().enumerate() {
            if !suspects.include(&address) {
                continue;
            }
            match site.cx.namespace.known(&address) {
                // An address that could not be added has its own time for another attempt.
                None if holdings.holding(index) == Holding::None => {}
                None if holdings.holding(index).may_come() => {}
                None => missing.push((index, address)),
                Some(known) if site.cx.namespace.is_theirs(known) => {
                    holdings.hand_over(who, index, &address, site);
                }
                Some(_) => {}
            }
        }
        let mut wishes = CoreRequests::default();
        let now = site.cx.now;
        for (index, address) in missing {
            let cidr = address.cidr();
            holdings.lose(index);
            // This reads the clock, because the process may have been stopped in the middle of this turn.
            if holdings.has_run_out(site.cx.effects.now()) {
                let expired = Event::LeaseExpired { address: cidr };
                site.cx.tell(&who.place, expired);
                let held = holdings.hold(who, index, &address, site);
                if !held {
                    self.incomplete(now);
                }
                wishes.claimed |= held;
                continue;
            }
            match self.removed(index, now) {
                Repair::Restore => {
                    let removed = Event::RemovedByOther { address: cidr };
                    site.cx.tell(&who.place, removed);
                }
                Repair::GiveWay => {
                    let removed = Event::RemovedTooOften {
                        address: cidr,
                        times: LIMIT + 1,
                        within: WINDOW,
                        quiet: QUIET,
                        retry: WINDOW,
                    };
                    site.cx.tell(&who.place, removed);
                    wishes.demoted = Some(true);
                }
                Repair::Wait => {}
            }
        }
        wishes
    }

    fn miss_scripted<E: Effects>(
        &mut self,
        who: &Identity,
        suspects: &Suspects,
        site: &mut Site<'_, E>,
    ) {
        let Some(ifindex) = site.interface.ifindex else {
            return;
        };
        for virtual_one in &who.config.addresses {
            let ip = virtual_one.address;
            let mut here = site.cx.namespace.on(ifindex).iter();
            let missing =
                suspects.include_ip(ifindex, ip) && !here.any(|address| address.address == ip);
            if missing && let Some(suppressed) = self.limit.admit(site.cx.now, WINDOW) {
                let removed = Event::ScriptedRemoved { address: ip };
                site.cx.tell_after(suppressed, &who.place, removed);
            }
        }
    }

    /// Does what is due.
    pub fn timeout<E: Effects>(
        &mut self,
        who: &Identity,
        holdings: &mut Holdings,
        is_master: bool,
        site: &mut Site<'_, E>,
    ) -> CoreRequests {
        let mut wishes = CoreRequests::default();
        let now = site.cx.now;
        if self.take_retry(now) && is_master {
            let mut failed = false;
            for (index, address) in who.native_addresses(site.interface).into_iter().enumerate() {
                let is_settled = matches!(holdings.holding(index), Holding::Ours | Holding::Theirs);
                let was_ordered = holdings.holding(index).may_come();
                let is_there = site.cx.namespace.known(&address).is_some();
                if is_there && is_settled {
                    continue;
                }
                // An address that is there although it is not held is ours because an order came late, or was refused in name
                // only.
                let held = holdings.hold(who, index, &address, site);
                self.count += u64::from(held && !was_ordered && !is_there);
                wishes.claimed |= held;
                if holdings.holding(index) == Holding::Ordered {
                    self.incomplete(now);
                } else {
                    failed |= !held;
                }
            }
            if failed {
                wishes.demoted = self.make_way(who, site);
            }
        }
        if self.take_quiet(now) {
            site.cx.tell(&who.place, Event::LeftAlone { quiet: QUIET });
            wishes.demoted = Some(false);
        }
        wishes
    }

    /// Demotes this host, because an address cannot be added. Returns the change of the demotion, if any.
    fn make_way<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) -> Option<bool> {
        if self.failed(site.cx.now) != Repair::GiveWay {
            return None;
        }
        let retry = FAILED_RETRY;
        site.cx.tell(&who.place, Event::CannotAdd { retry });
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn three_restorations_within_ten_seconds_and_then_we_give_way() {
        let mut restore = Restore::new(1);
        let verdicts = [0, 1, 2, 3, 4].map(|second| restore.removed(0, at(second)));
        assert_eq!(
            verdicts,
            [
                Repair::Restore,
                Repair::Restore,
                Repair::Restore,
                Repair::GiveWay,
                Repair::Wait
            ]
        );
    }

    #[test]
    fn a_restoration_waits_a_moment_and_no_longer_than_100_ms() {
        let mut restore = Restore::new(2);
        assert_eq!(restore.removed(0, at(5)), Repair::Restore);
        let due = restore.deadline().unwrap();
        assert!(due > at(5) && due <= at(5) + Duration::from_millis(50));
        // A second address does not postpone the first one.
        assert_eq!(
            restore.removed(1, at(5) + Duration::from_millis(20)),
            Repair::Restore
        );
        assert_eq!(restore.deadline(), Some(due));
        assert!(!restore.take_retry(at(5)) && restore.take_retry(due));
        assert_eq!(restore.deadline(), None);
    }

    #[test]
    fn slow_removals_are_always_restored() {
        let mut restore = Restore::new(1);
        for second in (0..1000).step_by(4) {
            assert_eq!(
                restore.removed(0, at(second)),
                Repair::Restore,
                "at {second} s"
            );
        }
    }

    #[test]
    fn a_flush_counts_once_for_each_address() {
        let mut restore = Restore::new(50);
        for second in 0..3 {
            for address in 0..50 {
                assert_eq!(restore.removed(address, at(second)), Repair::Restore);
            }
        }
        assert_eq!(restore.removed(7, at(3)), Repair::GiveWay);
    }

    #[test]
    fn after_giving_way_it_tries_every_ten_seconds_until_a_quiet_minute() {
        let mut restore = Restore::new(1);
        for second in 0..4 {
            let _ = restore.removed(0, at(second));
        }
        assert_eq!(restore.deadline(), Some(at(13)));
        assert!(!restore.take_retry(at(12)) && restore.take_retry(at(13)));
        assert!(!restore.take_retry(at(14)), "said once");
        // It is removed again: the next attempt is ten seconds later, and the minute begins anew.
        assert_eq!(restore.removed(0, at(15)), Repair::Wait);
        assert!(!restore.take_retry(at(24)) && restore.take_retry(at(25)));
        assert!(!restore.take_quiet(at(74)) && restore.take_quiet(at(75)));
        assert_eq!(restore.deadline(), None);
        assert_eq!(restore.removed(0, at(76)), Repair::Restore);
    }

    #[test]
    fn an_address_that_cannot_be_added_makes_us_give_way_once_and_is_tried_every_second() {
        let mut restore = Restore::new(1);
        assert_eq!(restore.failed(at(5)), Repair::GiveWay);
        assert!(!restore.take_retry(at(5)) && restore.take_retry(at(6)));
        assert_eq!(restore.failed(at(6)), Repair::Wait);
        assert_eq!(restore.deadline(), Some(at(7)));
        assert!(!restore.take_quiet(at(65)) && restore.take_quiet(at(66)));
    }

    #[test]
    fn a_backup_tries_nothing_and_still_becomes_eligible_again() {
        let mut restore = Restore::new(1);
        for second in 0..4 {
            let _ = restore.removed(0, at(second));
        }
        restore.released();
        assert!(!restore.take_retry(at(20)));
        assert_eq!(restore.deadline(), Some(at(63)));
        assert!(restore.take_quiet(at(63)));
    }
}
