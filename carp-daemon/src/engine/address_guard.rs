//! Virtual addresses that somebody else removes are put back, but not for ever.
//!
//! Each address is restored in a moment, three times within ten seconds. Removed once more, something on this host means
//! it, and fighting over it helps nobody: we advertise a worse priority, so that a better host can take over, and while
//! none does, the address is restored once in ten seconds. After a minute without a removal the demotion ends.
//!
//! An address that cannot be added at all is tried again every second, and demotes likewise.
//!
//! An address whose lease ran out while we were stopped was removed by no one: it is restored without counting. With
//! scripts the addresses are theirs, and a removal is only said.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::demotion::lost_addresses_demotion;
use carp_common::proto::{Demotion, DemotionCause, Input};
use carp_common::time::Instant;
use carp_common::units::State;
use tracing::{error, info, warn};

use super::Engine;
use super::addresses::Holding;
use crate::config::Ownership;
use crate::io::netlink::Address;

/// Between a removal and the restoration. `ip address flush` looks again until nothing is left, up to ten times: an
/// address that is back at once would be removed ten times by one command.
const DELAY: Duration = Duration::from_millis(30);
/// Restorations of one address within [`WINDOW`].
const LIMIT: usize = 3;
/// In which restorations are counted; also the time between two of them once there were too many.
const WINDOW: Duration = Duration::from_secs(10);
/// Without a removal for so long, the demotion ends: well above [`WINDOW`], so that two hosts do not hand the addresses to
/// and fro in its rhythm.
const QUIET: Duration = Duration::from_secs(60);

/// Between two attempts to add an address that could not be added.
const FAILED_RETRY: Duration = Duration::from_secs(1);

/// What to do about a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Put it back in a moment.
    Restore,
    /// Put it back later, and give way from now on.
    GiveWay,
    /// Put it back later; we gave way already.
    Wait,
}

/// Removals of the addresses of one virtual host.
#[derive(Debug)]
pub struct AddressGuard {
    /// For each address when it was restored, oldest first, [`LIMIT`] at most.
    restored: Vec<VecDeque<Instant>>,
    demoted_until: Option<Instant>,
    retry_at: Option<Instant>,
}

impl AddressGuard {
    /// Nothing has happened to any of so many addresses.
    pub fn new(addresses: usize) -> Self {
        Self {
            restored: vec![VecDeque::with_capacity(LIMIT); addresses],
            demoted_until: None,
            retry_at: None,
        }
    }

    /// One address was removed while we were MASTER.
    pub fn removed(&mut self, address: usize, now: Instant) -> Verdict {
        if let Some(until) = &mut self.demoted_until {
            *until = now + QUIET;
            self.retry_at.get_or_insert(now + WINDOW);
            return Verdict::Wait;
        }
        let restored = &mut self.restored[address];
        restored.retain(|at| now < *at + WINDOW);
        if restored.len() < LIMIT {
            restored.push_back(now);
            self.retry_at.get_or_insert(now + DELAY);
            return Verdict::Restore;
        }
        self.demoted_until = Some(now + QUIET);
        self.retry_at = Some(now + WINDOW);
        Verdict::GiveWay
    }

    /// Not all addresses could be added on becoming MASTER: try again in a moment.
    pub fn incomplete(&mut self, now: Instant) {
        self.retry_at.get_or_insert(now + DELAY);
    }

    /// One address could not be added again: make way, and go on trying.
    pub fn failed(&mut self, now: Instant) -> Verdict {
        let verdict = match self.demoted_until {
            Some(_) => Verdict::Wait,
            None => Verdict::GiveWay,
        };
        self.demoted_until = Some(now + QUIET);
        self.retry_at = Some(now + FAILED_RETRY);
        verdict
    }

    /// The addresses are not ours any more.
    pub fn released(&mut self) {
        self.retry_at = None;
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.demoted_until).min()
    }

    /// Whether it is time to put back what is missing; says so once.
    pub fn take_retry(&mut self, now: Instant) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether it was quiet long enough to end the demotion; says so once.
    pub fn take_quiet(&mut self, now: Instant) -> bool {
        self.demoted_until.take_if(|until| *until <= now).is_some()
    }
}

/// Which addresses may be missing.
pub enum Suspects {
    /// Those that netlink said were deleted, or that are somebody else's now.
    Lost(BTreeSet<(u32, IpAddr, u8)>),
    /// Any: notifications were lost.
    Any,
}

impl Suspects {
    fn include(&self, address: &Address) -> bool {
        match self {
            Self::Lost(lost) => lost.contains(&(address.ifindex, address.address, address.prefix)),
            Self::Any => true,
        }
    }

    /// With any prefix length.
    fn include_ip(&self, ifindex: u32, ip: IpAddr) -> bool {
        match self {
            Self::Lost(lost) => lost
                .iter()
                .any(|(on, address, _)| (*on, *address) == (ifindex, ip)),
            // With scripts nobody knows which addresses there were.
            Self::Any => false,
        }
    }
}

impl Engine {
    /// Looks whether the MASTERs of an interface lost addresses, and puts them back.
    ///
    /// What we know about the namespace must be current.
    pub(super) fn keep_addresses(&mut self, interface: usize, suspects: &Suspects, now: Instant) {
        for vhost in self.interfaces[interface].vhosts.clone() {
            if self.vhosts[vhost].machine.state() != State::Master {
                continue;
            }
            match self.vhosts[vhost].config.ownership {
                Ownership::Native => self.keep_native(vhost, suspects, now),
                Ownership::Scripts => self.miss_scripted(vhost, suspects, now),
            }
            self.schedule_chores(vhost);
        }
    }

    fn keep_native(&mut self, vhost: usize, suspects: &Suspects, now: Instant) {
        let mut missing = Vec::new();
        for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
            if !suspects.include(&address) {
                continue;
            }
            match self.known(&address) {
                // One that could not be added is tried again at its time.
                None if matches!(
                    self.vhosts[vhost].holdings[index],
                    Holding::None | Holding::Ordered
                ) => {}
                None => missing.push((index, address)),
                Some(known) if self.is_theirs(known) => self.hand_over(vhost, index, &address),
                Some(_) => {}
            }
        }
        let mut restored = false;
        for (index, address) in missing {
            let Address {
                address: ip,
                prefix,
                ..
            } = address;
            let served = &mut self.vhosts[vhost];
            let label = &served.label;
            served.holdings[index] = Holding::None;
            if served.leased_until.is_some_and(|until| until <= now) {
                warn!("{label}: the lease of {ip}/{prefix} ran out while carpd was stopped");
                let held = self.hold(vhost, index, &address);
                if !held {
                    self.vhosts[vhost].guard.incomplete(now);
                }
                restored |= held;
                continue;
            }
            match served.guard.removed(index, now) {
                Verdict::Restore => {
                    warn!("{label}: {ip}/{prefix} was removed by someone else: adding it again");
                }
                Verdict::GiveWay => {
                    error!(
                        "{label}: {ip}/{prefix} was removed by someone else {} times within {} s: advertising a worse \
                         priority until it is left alone for {} s, and adding it again every {} s",
                        LIMIT + 1,
                        WINDOW.as_secs(),
                        QUIET.as_secs(),
                        WINDOW.as_secs(),
                    );
                    self.demote(vhost, DemotionCause::LostAddresses, true, now);
                }
                Verdict::Wait => {}
            }
        }
        if restored {
            self.feed(vhost, now, Input::ClaimCompleted);
        }
    }

    fn miss_scripted(&mut self, vhost: usize, suspects: &Suspects, now: Instant) {
        let served = &mut self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return;
        };
        let ifindex = port.ifindex();
        let here = self.addresses.get(&ifindex).map_or(&[][..], Vec::as_slice);
        for ip in served
            .config
            .addresses
            .iter()
            .map(|virtual_one| virtual_one.address)
        {
            let missing = suspects.include_ip(ifindex, ip)
                && !here.iter().any(|address| address.address == ip);
            if missing && let Some(suppressed) = served.removal_limit.admit(now, WINDOW) {
                warn!(
                    suppressed,
                    "{}: {ip} was removed while MASTER; the scripts own it, so it is not added again",
                    served.label
                );
            }
        }
    }

    /// What the timers of the guard are for.
    pub(super) fn guard_timeout(&mut self, vhost: usize, now: Instant) {
        if self.vhosts[vhost].guard.take_retry(now)
            && self.vhosts[vhost].machine.state() == State::Master
        {
            let (mut restored, mut failed) = (false, false);
            for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
                let was_ordered = self.vhosts[vhost].holdings[index] == Holding::Ordered;
                if was_ordered || self.known(&address).is_none() {
                    let held = self.hold(vhost, index, &address);
                    let served = &mut self.vhosts[vhost];
                    served.addresses_restored += u64::from(held && !was_ordered);
                    restored |= held;
                    if served.holdings[index] == Holding::Ordered {
                        served.guard.incomplete(now);
                    } else {
                        failed |= !held;
                    }
                }
            }
            if failed {
                self.make_way(vhost, now);
            }
            if restored {
                self.feed(vhost, now, Input::ClaimCompleted);
            }
        }
        if self.vhosts[vhost].guard.take_quiet(now) {
            info!(
                "{}: nobody removed its addresses for {} s: the configured priority again",
                self.vhosts[vhost].label,
                QUIET.as_secs()
            );
            self.demote(vhost, DemotionCause::LostAddresses, false, now);
        }
    }

    /// An address that we are MASTER of cannot be added.
    pub(super) fn make_way(&mut self, vhost: usize, now: Instant) {
        if self.vhosts[vhost].guard.failed(now) == Verdict::GiveWay {
            error!(
                "{}: advertising a worse priority until its addresses can be added, trying again every {} s",
                self.vhosts[vhost].label,
                FAILED_RETRY.as_secs()
            );
            self.demote(vhost, DemotionCause::LostAddresses, true, now);
        }
        self.schedule_chores(vhost);
    }

    /// Advertises the priority of a host that lacks its addresses, or no longer for this cause.
    pub(super) fn demote(
        &mut self,
        vhost: usize,
        cause: DemotionCause,
        demoted: bool,
        now: Instant,
    ) {
        let amount = if demoted {
            lost_addresses_demotion(self.vhosts[vhost].config.election.profile)
        } else {
            Demotion::NONE
        };
        self.feed(vhost, now, Input::DemotionChanged { cause, amount });
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
        let mut guard = AddressGuard::new(1);
        let verdicts = [0, 1, 2, 3, 4].map(|second| guard.removed(0, at(second)));
        assert_eq!(
            verdicts,
            [
                Verdict::Restore,
                Verdict::Restore,
                Verdict::Restore,
                Verdict::GiveWay,
                Verdict::Wait
            ]
        );
    }

    #[test]
    fn a_restoration_waits_a_moment_and_no_longer_than_100_ms() {
        let mut guard = AddressGuard::new(2);
        assert_eq!(guard.removed(0, at(5)), Verdict::Restore);
        let due = guard.deadline().unwrap();
        assert!(due > at(5) && due <= at(5) + Duration::from_millis(50));
        // A second address does not postpone the first one.
        assert_eq!(
            guard.removed(1, at(5) + Duration::from_millis(20)),
            Verdict::Restore
        );
        assert_eq!(guard.deadline(), Some(due));
        assert!(!guard.take_retry(at(5)) && guard.take_retry(due));
        assert_eq!(guard.deadline(), None);
    }

    #[test]
    fn slow_removals_are_restored_for_ever() {
        let mut guard = AddressGuard::new(1);
        for second in (0..1000).step_by(4) {
            assert_eq!(
                guard.removed(0, at(second)),
                Verdict::Restore,
                "at {second} s"
            );
        }
    }

    #[test]
    fn a_flush_counts_once_for_each_address() {
        let mut guard = AddressGuard::new(50);
        for second in 0..3 {
            for address in 0..50 {
                assert_eq!(guard.removed(address, at(second)), Verdict::Restore);
            }
        }
        assert_eq!(guard.removed(7, at(3)), Verdict::GiveWay);
    }

    #[test]
    fn having_given_way_it_tries_every_ten_seconds_until_a_quiet_minute() {
        let mut guard = AddressGuard::new(1);
        for second in 0..4 {
            let _ = guard.removed(0, at(second));
        }
        assert_eq!(guard.deadline(), Some(at(13)));
        assert!(!guard.take_retry(at(12)) && guard.take_retry(at(13)));
        assert!(!guard.take_retry(at(14)), "said once");
        // It is removed again: the next attempt is ten seconds later, and the minute begins anew.
        assert_eq!(guard.removed(0, at(15)), Verdict::Wait);
        assert!(!guard.take_retry(at(24)) && guard.take_retry(at(25)));
        assert!(!guard.take_quiet(at(74)) && guard.take_quiet(at(75)));
        assert_eq!(guard.deadline(), None);
        assert_eq!(guard.removed(0, at(76)), Verdict::Restore);
    }

    #[test]
    fn what_cannot_be_added_makes_us_give_way_once_and_is_tried_every_second() {
        let mut guard = AddressGuard::new(1);
        assert_eq!(guard.failed(at(5)), Verdict::GiveWay);
        assert!(!guard.take_retry(at(5)) && guard.take_retry(at(6)));
        assert_eq!(guard.failed(at(6)), Verdict::Wait);
        assert_eq!(guard.deadline(), Some(at(7)));
        assert!(!guard.take_quiet(at(65)) && guard.take_quiet(at(66)));
    }

    #[test]
    fn a_backup_tries_nothing_and_still_becomes_eligible_again() {
        let mut guard = AddressGuard::new(1);
        for second in 0..4 {
            let _ = guard.removed(0, at(second));
        }
        guard.released();
        assert!(!guard.take_retry(at(20)));
        assert_eq!(guard.deadline(), Some(at(63)));
        assert!(guard.take_quiet(at(63)));
    }
}
