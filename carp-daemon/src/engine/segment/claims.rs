//! ARP and neighbour discovery of other hosts on one interface, for the virtual hosts that watch them.

use std::net::IpAddr;

use super::super::context::{Context, Site};
use super::super::effects::Effects;
use super::Segment;
use crate::api::event::election::Conflict;

/// Passes on the claims of other hosts since the last look.
pub fn hear<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    let Some(ifindex) = segment.interface.ifindex else {
        return;
    };
    let seen = match cx.effects.claims(ifindex, cx.now) {
        Ok(seen) => seen,
        Err(error) => {
            let error = error.to_string();
            cx.tell(
                &segment.interface.place(),
                Conflict::ReceiveFailed { error },
            );
            return;
        }
    };
    let mut claims = seen.claims;
    let links = cx.namespace.links();
    claims.retain(|claim| {
        let sender = claim.station.0;
        !links.values().any(|link| link.mac == sender)
    });
    if claims.is_empty() {
        return;
    }
    let mut lost = seen.lost;
    let Segment {
        interface,
        instances,
    } = segment;
    for instance in instances.values_mut() {
        let (who, machine, rooms) = instance.parts();
        let site = &mut Site { interface, cx };
        if rooms.conflict.hear(who, machine, &claims, site) {
            rooms.conflict.count_lost(std::mem::take(&mut lost));
        }
    }
}

/// Lets only the frames that concern the watching virtual hosts wake the engine.
pub fn choose_frames<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    let changed = std::mem::take(&mut segment.interface.watched_changed);
    let Some(ifindex) = segment.interface.ifindex.filter(|_| changed) else {
        return;
    };
    let watching = segment
        .instances
        .values()
        .filter(|instance| instance.rooms.conflict.is_watching());
    let addresses: Vec<IpAddr> = watching
        .flat_map(|instance| instance.who.addresses())
        .collect();
    if let Err(error) = cx.effects.watch(ifindex, &addresses) {
        let error = error.to_string();
        cx.tell(&segment.interface.place(), Conflict::WatchFailed { error });
    }
}
