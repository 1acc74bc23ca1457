//! What comes next, from the timers that are set and the comparisons that decide.

use core::net::{IpAddr, Ipv4Addr};

use super::{Advertiser, FAMILIES, Family, Instant, LinkState, Reason, State, Timer, VirtualHost};
use crate::proto::DatapathState;
use crate::proto::election::{self, BackupDecision, MasterDecision};
use crate::proto::outlook::{AtOnce, Lack, Outlook, best, next_better};
use crate::units::Priority;

impl VirtualHost {
    /// Returns what it would do next, as things stand at `now`.
    #[must_use]
    pub fn outlook(&self, now: Instant) -> Outlook {
        let now = self.now.max(now);
        match self.state {
            State::Init => Outlook::Start {
                lacks: self.lacks(),
            },
            State::Backup => {
                let (at, reason) = self.takes_over();
                Outlook::TakeOver {
                    after: at.saturating_duration_since(now),
                    reason,
                    held: self.held_until.saturating_duration_since(now),
                    at_once: self.takes_over_at_once(),
                    heard: self.heard().map(|(_, theirs)| self.backup_decision(theirs)),
                }
            }
            State::Master => Outlook::Yield {
                better_than: self.yields_to_better_than(),
                heard: self
                    .heard()
                    .map(|(source, theirs)| self.master_decision(source, theirs)),
            },
        }
    }

    fn lacks(&self) -> Lack {
        if self.stopped {
            Lack::Stopped
        } else if self.link == LinkState::Down {
            Lack::Link
        } else if self.datapath == DatapathState::Refuses {
            Lack::Datapath
        } else {
            Lack::Source
        }
    }

    /// When a BACKUP takes over if it hears nothing that counts, and why.
    fn takes_over(&self) -> (Instant, Reason) {
        let called = self.timers.get(Timer::TakeOver);
        let called = called.and_then(|at| Some((at, self.take_over?.reason)));
        let silence = FAMILIES
            .into_iter()
            .filter_map(|family| self.timers.get(Timer::MasterDown(family)))
            .map(|at| (at, Reason::MasterTimedOut));
        // The first of those that are due together. A BACKUP always listens in some family.
        let first = called.into_iter().chain(silence).min_by_key(|(at, _)| *at);
        first.unwrap_or((self.now, Reason::MasterTimedOut))
    }

    /// From which MASTER a BACKUP takes over although that one advertises.
    fn takes_over_at_once(&self) -> Option<AtOnce> {
        let decision = |priority| {
            self.backup_decision(Advertiser {
                priority,
                ..self.ours()
            })
        };
        let first = best(|priority| decision(priority) != BackupDecision::Stay)?;
        Some(AtOnce {
            above: next_better(first)?,
            decision: decision(first),
        })
    }

    fn yields_to_better_than(&self) -> Priority {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let stays = |priority| {
            let theirs = Advertiser {
                priority,
                ..self.ours()
            };
            self.master_decision(nobody, theirs) != MasterDecision::YieldToBetter
        };
        best(stays).unwrap_or(Priority::BOW_OUT)
    }

    fn master_decision(&self, source: IpAddr, theirs: Advertiser) -> MasterDecision {
        let tie = self.tie(Family::of(source), source);
        election::as_master(self.ours(), theirs, tie, self.settings.profile)
    }

    /// Whom we last heard in an advertisement that counted, and what that one shows of itself, as far as we remember.
    fn heard(&self) -> Option<(IpAddr, Advertiser)> {
        let source = self.last_heard?.source;
        let mut peers = self.memory.peers.iter();
        let shown = peers.find(|peer| peer.source == source)?.latest.shown;
        Some((
            source,
            Advertiser {
                priority: shown.priority,
                demotion: shown.demotion,
            },
        ))
    }
}
