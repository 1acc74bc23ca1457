//! Log lines for transitions and notices.

use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::proto::{Notice, Reason, Transition};
use carp_common::time::Instant;
use carp_common::units::Profile;
use tracing::{error, info, warn};

use super::vhost::Vhost;
use super::{COUNTER_CHECK_INTERVAL, Engine};
use crate::log;

/// Transitions of one virtual host that are logged within [`TRANSITIONS_WINDOW`]. Nobody reads more; and beside an OpenBSD
/// a stranger who captured one advertisement can cause as many as he likes.
const TRANSITIONS_MAX: u32 = 60;
const TRANSITIONS_WINDOW: Duration = Duration::from_secs(60);

/// Which of a virtual host's transitions are said.
#[derive(Debug, Default)]
pub struct Transitions {
    window_ends: Instant,
    said: u32,
    suppressed: u64,
}

impl Transitions {
    /// `Some` when this one may be said, with the number that were not since the last one that was.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now >= self.window_ends {
            self.window_ends = now + TRANSITIONS_WINDOW;
            self.said = 0;
        }
        if self.said == TRANSITIONS_MAX {
            self.suppressed += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Least time between two warnings of peers that send by unicast.
const UNICAST_WARNING_INTERVAL: Duration = Duration::from_secs(600);

/// Why a virtual host is in INIT although its link is up.
pub const DEAF: &str = "advertisements cannot be received";

/// When to look for peers that send by unicast, and when to warn of them.
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

    /// Whether there were more since the last look, and the last warning is old.
    fn is_to_be_said(&mut self, heard: u64, now: Instant) -> bool {
        let more = heard > std::mem::replace(&mut self.heard, heard);
        more && self.limit.admit(now, UNICAST_WARNING_INTERVAL).is_some()
    }
}

impl Engine {
    /// ucarp's line, which people grep for, and why.
    pub(super) fn report(&mut self, vhost: usize, transition: Transition, now: Instant) {
        self.note_transition(vhost, transition, now);
        let reason = self.reason(&self.vhosts[vhost], transition.reason);
        let served = &mut self.vhosts[vhost];
        let Some(suppressed) = served.transitions.admit(now) else {
            return;
        };
        let config = &served.config;
        let interface = &self.interfaces[served.interface].current_name;
        info!(target: log::NOTICE, %interface, vhid = %config.election.vhid, from = %transition.from, reason, suppressed,
            "Switching to state: {}", transition.to);
    }

    /// Why a virtual host is in the state that it is in. Where its interface is gone or a port, or it is deaf, the core heard of
    /// a link that is down.
    pub(super) fn reason(&self, vhost: &Vhost, reason: Reason) -> &'static str {
        let interface = &self.interfaces[vhost.interface];
        let is_link = reason == Reason::LinkDown;
        if is_link && interface.port.is_none() {
            "the interface is gone"
        } else if is_link && interface.upper.is_some() {
            "the interface is a port of another one"
        } else if is_link && self.is_deaf(vhost) {
            DEAF
        } else if reason == Reason::NoSourceAddress && vhost.said_source_gone {
            "the --srcip address is gone"
        } else {
            self::reason(reason)
        }
    }

    /// Something that is not a transition; rate-limited by the core.
    pub(super) fn notify(&self, vhost: usize, notice: Notice) {
        let label = &self.vhosts[vhost].label;
        match notice {
            Notice::BadDigest { source, suppressed } => warn!(
                suppressed,
                "Bad digest - {label}: advertisement from {source}. Check vhid, password and virtual IP address"
            ),
            Notice::EqualSettings { source } => warn!(
                "{label}: {source} advertises the same advbase and advskew; give the hosts different ones, so that \
                 it is clear who is to be MASTER"
            ),
            Notice::OwnEcho { source, suppressed } => warn!(
                suppressed,
                "{label}: our own advertisement came back (source {source}): the switch, bond or bridge reflects it, \
                 somebody replays it, or another host sends from our address"
            ),
            Notice::WorseMasterAdvertised { source, suppressed } => {
                warn!(
                    suppressed,
                    "{label}: {source} is MASTER too, with a worse priority; we stay"
                );
            }
            Notice::Tampered { source, suppressed } => warn!(
                suppressed,
                "{label}: an advertisement from {source} was altered on its way or replayed with another priority"
            ),
            Notice::StaleCounter { source, suppressed } => {
                warn!(
                    suppressed,
                    "{label}: replayed advertisement, source {source}: its counter did not rise"
                );
            }
            Notice::Unproven { source, suppressed } => warn!(
                suppressed,
                "{label}: took over although {source} advertises: its counters were heard before, so it may be a \
                 recording of a dead MASTER; a living one that is better answers, and this host yields"
            ),
            Notice::Unanswered { source, suppressed } => warn!(
                suppressed,
                "{label}: {source} claims to be a better MASTER and does not answer our advertisements: a recording, or \
                 a host that does not hear this one"
            ),
            Notice::Suppressed => {
                error!(
                    "{label}: advertisements cannot be sent: advertising a worse priority until they can"
                );
            }
            Notice::Unsuppressed => info!("{label}: advertisements can be sent again"),
        }
    }

    /// Warns once when VRRP on a link of ours has a VRID that is a vhid of ours there.
    pub(super) fn look_for_vrrp(&mut self, now: Instant) {
        if self.vrrp_check_at.is_none_or(|at| now < at) {
            return;
        }
        self.vrrp_check_at = Some(now + COUNTER_CHECK_INTERVAL);
        // A counter that cannot be read is USR1's to report.
        let heard = self.datapath.count(Counter::PassedVrrpSameVhid);
        if heard.is_ok_and(|count| count > 0) {
            self.vrrp_check_at = None;
            let place = self.only_place();
            let of_bsd = |vhost: &Vhost| vhost.config.election.profile != Profile::Ucarp;
            let shared_mac = match self.vhosts.iter().any(of_bsd) {
                true => ", and both use the virtual MAC address 00:00:5e:00:01:VRID",
                false => "",
            };
            warn!(
                "{place}VRRP is spoken with a VRID that is a vhid of ours: keepalived delays its own advertisements \
                 for ours{shared_mac}; give one of them another id, or carpd a group of its own (--mcast)"
            );
        }
    }

    /// Warns when somebody sends advertisements with a vhid of ours to a single host, and again while that goes on.
    pub(super) fn look_for_unicast(&mut self, now: Instant) {
        if !self.unicast.is_time_to_look(now) {
            return;
        }
        // A counter that cannot be read is USR1's to report.
        let Ok(heard) = self.datapath.count(Counter::PassedUnicast) else {
            return;
        };
        if self.unicast.is_to_be_said(heard, now) {
            let place = self.only_place();
            warn!(
                "{place}a peer sends its advertisements for a vhid of ours by unicast, which carpd does not hear yet: \
                 both would be MASTER; take the peer's unicast setting away (`peer` of FreeBSD and pfSense, `carppeer` \
                 of OpenBSD)"
            );
        }
    }

    /// The interface, for what the counters of all of them tell: known only where there is one.
    fn only_place(&self) -> String {
        match &self.interfaces[..] {
            [only] => format!("{}: ", only.current_name),
            _ => String::new(),
        }
    }
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Started => "link and source address are there",
        Reason::MasterTimedOut => "no MASTER was heard for the master-down time",
        Reason::PreemptingWorseMaster => "preempting a worse MASTER",
        Reason::PreemptingMoreDemotedMaster => "preempting a more demoted MASTER",
        Reason::MasterWillTimeOut => "the MASTER bowed out or advertises too rarely",
        Reason::BetterMasterAdvertised => "a better MASTER advertised",
        Reason::TieLost => "an equal MASTER advertised and won the tie",
        Reason::Requested => "SIGUSR2 asked for it",
        Reason::LinkDown => "link down",
        Reason::NoSourceAddress => "no source address",
        Reason::Shutdown => "shutting down",
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

    #[test]
    fn a_storm_of_transitions_is_said_in_part_and_counted() {
        let mut transitions = Transitions::default();
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let said = (0..1000)
            .filter(|_| transitions.admit(at(5)).is_some())
            .count();
        assert_eq!(said, TRANSITIONS_MAX as usize);
        assert_eq!(transitions.admit(at(64)), None);
        assert_eq!(transitions.admit(at(65)), Some(941));
        assert_eq!(transitions.admit(at(65)), Some(0));
    }
}
