//! Fenced addresses that no process looks after at the end.

use super::context::Context;
use super::effects::Effects;
use super::segment::strangers;
use super::served::Served;
use crate::io::datapath::Fenced;

/// Returns the fenced addresses that no process looks after once this one has ended.
pub fn find<E: Effects>(served: &Served, cx: &mut Context<E>) -> Vec<Fenced> {
    let mut orphans = cx.effects.fenced();
    // If it is not known which processes live, everything stays fenced.
    if let Ok(lives) = cx.effects.living() {
        orphans.retain(|Fenced { owner, .. }| {
            let Some(owner) = owner else {
                return true;
            };
            let is_ours = served.segments().any(|segment| {
                strangers::serves(segment, owner.ifindex, owner.vhid, &cx.namespace)
            });
            is_ours || !lives(owner.ifindex, owner.vhid)
        });
    }
    // The same holds if it is not known which addresses are there. An address that is gone, as with its lease, needs no
    // fence.
    if !cx.namespace.is_unknown() {
        orphans.retain(|fenced| cx.namespace.has(fenced.address));
    }
    orphans
}
