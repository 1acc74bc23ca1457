//! The next decision of a virtual host, from the deadlines that are set and the comparisons that decide.

use core::net::{IpAddr, Ipv4Addr};

use super::context::CoreContext;
use super::machine::Machine;
use crate::proto::Reason;
use crate::proto::election::{Advertiser, BackupDecision, MasterDecision};
use crate::proto::outlook::{AtOnce, Lack, Outlook, best, next_better};
use crate::time::Instant;
use crate::units::{Priority, State};

/// Returns what a virtual host would do next, as things stand at `now`.
pub(super) fn of(machine: &Machine, cx: &CoreContext, now: Instant) -> Outlook {
    let heard = heard(machine);
    match machine.state() {
        State::Init => Outlook::Start {
            // The host would have started if nothing were lacking.
            lacks: machine.conditions.lack(cx).unwrap_or(Lack::Source),
        },
        State::Backup => {
            // A BACKUP always listens in some family.
            let next = machine.listener.next();
            let (at, reason) = next.unwrap_or((cx.now, Reason::MasterTimedOut));
            let held_until = machine.listener.held_until;
            Outlook::TakeOver {
                after: at.saturating_duration_since(now),
                reason,
                held: held_until.saturating_duration_since(now),
                at_once: takes_over_at_once(cx),
                heard: heard.map(|(_, theirs)| cx.as_backup(theirs)),
            }
        }
        State::Master => Outlook::Yield {
            better_than: yields_to_better_than(cx),
            heard: heard.map(|(source, theirs)| cx.as_master(source, theirs)),
        },
    }
}

/// Returns from which MASTER a BACKUP takes over although that one advertises.
fn takes_over_at_once(cx: &CoreContext) -> Option<AtOnce> {
    let decision = |priority| {
        cx.as_backup(Advertiser {
            priority,
            ..cx.ours()
        })
    };
    let first = best(|priority| decision(priority) != BackupDecision::Stay)?;
    Some(AtOnce {
        above: next_better(first)?,
        decision: decision(first),
    })
}

fn yields_to_better_than(cx: &CoreContext) -> Priority {
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let stays = |priority| {
        let theirs = Advertiser {
            priority,
            ..cx.ours()
        };
        cx.as_master(nobody, theirs) != MasterDecision::YieldToBetter
    };
    best(stays).unwrap_or(Priority::BOW_OUT)
}

/// Returns the host that we last heard in an advertisement that counted, and its priority, as far as we remember.
fn heard(machine: &Machine) -> Option<(IpAddr, Advertiser)> {
    let source = machine.listener.last_heard?.source;
    let mut peers = machine.history.memory.peers.iter();
    let shown = peers.find(|peer| peer.source == source)?.latest.shown;
    Some((
        source,
        Advertiser {
            priority: shown.priority,
            demotion: shown.demotion,
        },
    ))
}
