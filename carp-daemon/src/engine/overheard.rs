//! Packets for other receivers that are worth a warning: VRRP with one of our vhids, and peers that send by unicast.

use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::context::Context;
use super::effects::Effects;
use super::served::Served;
use crate::api::event::interface::Datapath;

/// Time between two looks at the counters. They cause no wake-up, because they happen when there is something else to do.
const COUNTER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two warnings of peers that send by unicast.
const UNICAST_WARNING_INTERVAL: Duration = Duration::from_secs(600);

/// The time to look for VRRP with a VRID that is one of our vhids.
#[derive(Debug)]
pub struct VrrpWatch {
    /// `None` after the warning.
    look_at: Option<Instant>,
}

/// The times to look for peers that send by unicast, and to warn of them.
#[derive(Debug, Default)]
pub struct UnicastWatch {
    look_at: Instant,
    heard: u64,
    limit: RateLimit,
}

impl UnicastWatch {
    fn is_time_to_look(&mut self, now: Instant) -> bool {
        let due = now >= self.look_at;
        if due {
            self.look_at = now + COUNTER_CHECK_INTERVAL;
        }
        due
    }

    /// Returns whether there were more since the last look, and the last warning is old enough.
    fn is_to_be_said(&mut self, heard: u64, now: Instant) -> bool {
        let more = heard > std::mem::replace(&mut self.heard, heard);
        more && self.limit.admit(now, UNICAST_WARNING_INTERVAL).is_some()
    }
}

/// Both watches.
#[derive(Debug)]
pub struct Overheard {
    vrrp: VrrpWatch,
    unicast: UnicastWatch,
}

impl Overheard {
    /// Nothing was heard yet.
    pub fn new(now: Instant) -> Self {
        Self {
            vrrp: VrrpWatch { look_at: Some(now) },
            unicast: UnicastWatch::default(),
        }
    }

    /// Looks at the counters if it is time.
    pub fn look<E: Effects>(&mut self, served: &Served, cx: &mut Context<E>) {
        self.look_for_vrrp(served, cx);
        self.look_for_unicast(served, cx);
    }

    /// Warns once if VRRP on one of our links has a VRID that is one of our vhids there.
    fn look_for_vrrp<E: Effects>(&mut self, served: &Served, cx: &mut Context<E>) {
        if self.vrrp.look_at.is_none_or(|at| cx.now < at) {
            return;
        }
        self.vrrp.look_at = Some(cx.now + COUNTER_CHECK_INTERVAL);
        // SIGUSR1 reports a counter that cannot be read.
        let heard = cx.effects.count(Counter::PassedVrrpSameVhid);
        if heard.is_ok_and(|count| count > 0) {
            self.vrrp.look_at = None;
            let shares_mac = served.has_bsd();
            cx.tell(&served.only_place(), Datapath::VrrpSameVhid { shares_mac });
        }
    }

    /// Warns if a peer sends advertisements with one of our vhids to a single host, and repeats the warning while that
    /// continues.
    fn look_for_unicast<E: Effects>(&mut self, served: &Served, cx: &mut Context<E>) {
        if !self.unicast.is_time_to_look(cx.now) {
            return;
        }
        // SIGUSR1 reports a counter that cannot be read.
        let Ok(heard) = cx.effects.count(Counter::PassedUnicast) else {
            return;
        };
        if self.unicast.is_to_be_said(heard, cx.now) {
            cx.tell(&served.only_place(), Datapath::UnicastPeer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicast_is_warned_of_at_once_and_again_while_it_goes_on() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut watch = UnicastWatch::default();
        assert!(!watch.is_to_be_said(0, at(1)));
        assert!(watch.is_to_be_said(1, at(2)));
        let said = |watch: &mut UnicastWatch, seconds: std::ops::Range<u64>, rises: u64| {
            seconds
                .filter(|second| watch.is_to_be_said(1 + second * rises, at(*second)))
                .collect::<Vec<_>>()
        };
        assert_eq!(said(&mut watch, 3..1500, 1), [602, 1202]);
        // It ended; much later there is another.
        assert!(said(&mut watch, 1500..9000, 0).is_empty());
        assert!(watch.is_to_be_said(2, at(9000)));
        assert!(watch.is_time_to_look(at(1)) && !watch.is_time_to_look(at(1)));
        assert!(watch.is_time_to_look(at(2)));
    }
}
