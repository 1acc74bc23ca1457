//! The checks that turn a payload into evidence, in OpenBSD's order.

use core::net::IpAddr;

use super::context::{CoreContext, NOTICE_INTERVAL};
use super::history::History;
use crate::drop_reason::DropReason;
use crate::proto::election::Advertiser;
use crate::proto::evidence::Evidence;
use crate::proto::{Action, Notice, Origin};
use crate::units::{Family, Priority};
use crate::wire::advertisement::Advertisement;

/// An authentic advertisement of another host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) family: Family,
    pub(super) origin: Origin,
    pub(super) theirs: Advertiser,
    pub(super) counter: u64,
    /// Its value as evidence.
    pub(super) evidence: Evidence,
}

/// Checks a payload and remembers its counter. Returns the advertisement unless it is dropped.
pub(super) fn check(
    cx: &mut CoreContext,
    history: &mut History,
    family: Family,
    origin: Origin,
    payload: &[u8],
) -> Option<Received> {
    let origin = Origin {
        arrival: origin.arrival.min(cx.now),
        ..origin
    };
    let advertisement = parse(cx, payload)?;
    if !is_authentic(cx, origin.source, &advertisement) {
        return None;
    }
    if is_own(cx, history, family, origin.source, &advertisement) {
        // Other hosts may take it for ours, so our next counter is above it. The counters of peers need not be.
        history.sequence.go_beyond(advertisement.counter);
        return None;
    }
    if is_stale(cx, history, family, origin, &advertisement) {
        return None;
    }
    let evidence = history.hear(cx, family, origin, &advertisement);
    count(cx, origin.source, evidence);
    let Advertisement {
        advbase,
        advskew,
        demotion,
        counter,
        ..
    } = advertisement;
    let priority = Priority { advbase, advskew };
    if evidence.is_proof() {
        warn_of_equal_settings(cx, history, origin.source, priority);
    }
    Some(Received {
        family,
        origin,
        theirs: Advertiser { priority, demotion },
        counter,
        evidence,
    })
}

/// Checks length, checksum, vhid and version.
fn parse(cx: &mut CoreContext, payload: &[u8]) -> Option<Advertisement> {
    let reason = match Advertisement::parse(payload) {
        Ok(advertisement) if advertisement.vhid == cx.settings.vhid => {
            return Some(advertisement);
        }
        Ok(_) => DropReason::BadVhid,
        Err(reason) => reason,
    };
    cx.counters.drop_for(reason);
    None
}

fn is_authentic(cx: &mut CoreContext, source: IpAddr, advertisement: &Advertisement) -> bool {
    let authentic = cx
        .authenticator
        .verify(advertisement.counter, &advertisement.digest);
    if !authentic {
        cx.counters.drop_for(DropReason::BadAuthentication);
        cx.notify(
            |limits| &mut limits.bad_digest,
            |suppressed| Notice::BadDigest { source, suppressed },
        );
    }
    authentic
}

/// Whether it is our own, reflected or repeated. Nobody else sends from the address that we send from, unless it is a
/// virtual one: a host without an address of its own uses that.
fn is_own(
    cx: &mut CoreContext,
    history: &History,
    family: Family,
    source: IpAddr,
    advertisement: &Advertisement,
) -> bool {
    let is_shared = cx.settings.addresses.contains(source);
    let own = cx.sources[family] == Some(source)
        && (!is_shared || history.memory.sent_lately(family, advertisement.counter));
    if own {
        cx.counters.drop_for(DropReason::OwnEcho);
        cx.notify(
            |limits| &mut limits.own_echo,
            |suppressed| Notice::OwnEcho { source, suppressed },
        );
    }
    own
}

/// Returns whether counters are strict and this one does not rise. The last counter of a peer may come again with another
/// priority, because the second of two versions can be the genuine one.
fn is_stale(
    cx: &mut CoreContext,
    history: &History,
    family: Family,
    origin: Origin,
    advertisement: &Advertisement,
) -> bool {
    let Origin {
        source, arrival, ..
    } = origin;
    let counter = advertisement.counter;
    let stale = cx.settings.strict_counter
        && !history.sequence.rises(family, counter, arrival)
        && !history.memory.is_last_of_somebody(family, counter);
    if stale {
        cx.counters.drop_for(DropReason::StaleCounter);
        cx.notify(
            |limits| &mut limits.stale_counter,
            |suppressed| Notice::StaleCounter { source, suppressed },
        );
    }
    stale
}

/// Counts an advertisement that proves nothing, or that was altered on its way.
fn count(cx: &mut CoreContext, source: IpAddr, evidence: Evidence) {
    match evidence {
        Evidence::New | Evidence::Constant => {}
        Evidence::Duplicate => cx.counters.drop_for(DropReason::Duplicate),
        Evidence::Heard
        | Evidence::Unrelated
        | Evidence::OtherVersion {
            same_source: false, ..
        } => cx.counters.drop_for(DropReason::Unproven),
        Evidence::OtherVersion {
            same_source: true, ..
        } => {
            cx.counters.drop_for(DropReason::Tampered);
            cx.notify(
                |limits| &mut limits.tampered,
                |suppressed| Notice::Tampered { source, suppressed },
            );
        }
    }
}

fn warn_of_equal_settings(
    cx: &mut CoreContext,
    history: &mut History,
    source: IpAddr,
    theirs: Priority,
) {
    if theirs != cx.advertised() || history.memory.was_warned(source) {
        return;
    }
    let limit = &mut cx.limits.equal_settings;
    if limit.admit(cx.now, NOTICE_INTERVAL).is_some() {
        history.memory.set_warned(source);
        cx.act(Action::Notify(Notice::EqualSettings { source }));
    }
}
