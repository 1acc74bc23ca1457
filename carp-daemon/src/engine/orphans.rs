//! Fenced addresses that no process looks after at the end.

use super::context::Context;
use super::effects::Effects;
use super::segment::strangers;
use super::served::Served;
use crate::io::datapath::Fenced;

/// Returns the fenced addresses that no process looks after once this one has ended. The fence of a dead process around an
/// address that is gone is lifted. No later start may find it, as on an interface that was renamed meanwhile, and the host
/// would be silent about whatever program adds that address.
pub fn settle<E: Effects>(served: &Served, cx: &mut Context<E>) -> Vec<Fenced> {
    let mut orphans = cx.effects.fenced();
    let is_ours = |fenced: &Fenced, cx: &Context<E>| {
        fenced.owner.is_some_and(|owner| {
            let mut segments = served.segments();
            segments.any(|it| strangers::serves(it, owner.ifindex, owner.vhid, &cx.namespace))
        })
    };
    // If it is not known which processes live, everything stays fenced.
    let lives = cx.effects.living().ok();
    if let Some(lives) = &lives {
        orphans.retain(|fenced| {
            let is_alive = fenced.owner.is_some_and(|it| lives(it.ifindex, it.vhid));
            is_ours(fenced, cx) || !is_alive
        });
    }
    // The same holds if it is not known which addresses are there. An address that is gone, as with its lease, needs no
    // fence.
    if cx.namespace.is_unknown() || cx.namespace.is_stale() {
        return orphans;
    }
    let is_there = |fenced: &Fenced| cx.namespace.has(fenced.address);
    let (there, gone): (Vec<_>, Vec<_>) = orphans.into_iter().partition(is_there);
    for fenced in gone {
        if lives.is_some() && !is_ours(&fenced, cx) {
            // Objects that cannot be removed go with the last program.
            let _ = cx.effects.disown(fenced);
        }
    }
    there
}
