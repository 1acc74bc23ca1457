//! Checks whether advertisements can be received, and repairs that.
//!
//! Other programs may take our program off an interface or put theirs in its place, a socket may fail, and a map may have no
//! room. Silence proves nothing then: a BACKUP that cannot receive would become a second MASTER. So each interface is checked
//! regularly, and before a silence counts. A lost program or socket is attached anew, on any rung that works. If none
//! does, the virtual
//! hosts are in INIT until one works.

use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::State;

use super::super::context::Context;
use super::super::effects::Effects;
use super::super::pace::REPORT_INTERVAL;
use super::super::registry::InstanceId;
use super::Segment;
use super::attachment;
use crate::api::event::interface::{Datapath as Event, Loss};
use crate::io::chain::Chain;
use crate::io::datapath;

/// An attachment that is lost again within this time after it was renewed is left alone for a while.
const MENDING_INTERVAL: Duration = Duration::from_millis(500);

/// Fires the timers of a virtual host, which are due since `due`. The engine last read all arrived advertisements at
/// `looked_at`.
pub fn fire_timers<E: Effects>(
    segment: &mut Segment,
    id: InstanceId,
    due: Instant,
    looked_at: Instant,
    cx: &mut Context<E>,
) {
    cx.touched.push(id);
    let waits = segment.visit(id, cx, |instance, site| {
        let (who, machine, rooms) = instance.parts();
        rooms.stalls.late(who, machine, due, site);
        machine.master_down_at().is_some()
    });
    // Silence counts only if advertisements could be received.
    if waits == Some(true) && !hears(segment, id, cx) {
        return;
    }
    segment.visit(id, cx, |instance, site| instance.timeout(looked_at, site));
}

/// Returns whether the attachment of the interface and the entry of a virtual host are as carpd left them. If not, they have
/// been repaired, as far as that was possible.
fn hears<E: Effects>(segment: &mut Segment, id: InstanceId, cx: &mut Context<E>) -> bool {
    if look(segment, cx) {
        return false;
    }
    let key = segment
        .instances
        .get(&id)
        .and_then(|it| it.rooms.tenure.key());
    let Some(key) = key else {
        return true;
    };
    if cx.effects.is_intact(key) {
        return true;
    }
    if let Some(suppressed) = segment
        .interface
        .hearing
        .limit
        .admit(cx.now, REPORT_INTERVAL)
    {
        let place = &segment.instances[&id].who.place;
        cx.tell_after(suppressed, place, Event::EntryChanged);
    }
    let programmed = segment.visit(id, cx, |instance, site| {
        let (who, machine, rooms) = instance.parts();
        let programmed = rooms.program(who, machine, site);
        if programmed {
            instance.miss_advertisements(site);
        }
        programmed
    });
    if programmed == Some(false) {
        segment.follow(cx);
    }
    false
}

/// Checks whether something was lost, and repairs it. Returns whether something was.
pub fn look<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) -> bool {
    let Some(ifindex) = segment.interface.ifindex else {
        return false;
    };
    // Once per turn is enough, however many virtual hosts are due in it.
    if std::mem::replace(&mut segment.interface.hearing.looked_at, cx.now) == cx.now {
        return false;
    }
    let Some(loss) = cx.effects.loss(ifindex) else {
        return false;
    };
    mend(
        segment,
        match loss {
            datapath::HookLoss::Detached => Loss::Detached,
            datapath::HookLoss::Replaced => Loss::Replaced,
        },
        cx,
    );
    true
}

/// Repairs an interface on which nothing is received, for this reason.
pub fn mend<E: Effects>(segment: &mut Segment, loss: Loss, cx: &mut Context<E>) {
    let Some(ifindex) = segment.interface.ifindex else {
        return;
    };
    // If the interface is gone, netlink will report that. Until then nothing is received.
    if let Err(error) = cx.effects.link(ifindex)
        && error.raw_os_error() == Some(libc::ENODEV)
    {
        lose(segment, cx);
        return;
    }
    let place = segment.interface.place();
    let hearing = &mut segment.interface.hearing;
    let said = hearing.limit.admit(cx.now, REPORT_INTERVAL);
    let soon = |at| cx.now < at + MENDING_INTERVAL;
    if hearing.mended_at.is_some_and(soon) {
        if let Some(suppressed) = said {
            cx.tell_after(suppressed, &place, Event::LostAgain { loss });
        }
        cx.effects.detach(ifindex);
        lose(segment, cx);
        return;
    }
    if let Some(suppressed) = said {
        cx.tell_after(suppressed, &place, Event::Lost { loss });
    }
    hearing.mended_at = Some(cx.now);
    attach_again(segment, said.is_some(), cx);
}

/// Tries to attach again.
fn attach_again<E: Effects>(segment: &mut Segment, say: bool, cx: &mut Context<E>) {
    let index = segment.interface.ifindex;
    let link = index.and_then(|index| cx.namespace.links().get(&index).cloned());
    let Some(link) = link else {
        return;
    };
    match cx.effects.attach_again(&link) {
        Ok(choice) => {
            if say || segment.interface.hearing.lost {
                attachment::report(choice, &link, cx);
            }
            segment.interface.hearing.lost = false;
            // Attaching took a while; listening begins now.
            let began = std::mem::replace(&mut cx.now, cx.effects.now());
            // The rung may be a new one, which knows nothing yet.
            segment.each(cx, |instance, site| instance.listen_anew(site));
            segment.follow(cx);
            cx.now = began;
        }
        Err(error) => {
            if say || !segment.interface.hearing.lost {
                let error = Chain(&error).to_string();
                cx.tell(&attachment::place(&link), Event::ReattachFailed { error });
            }
            lose(segment, cx);
        }
    }
}

fn lose<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    segment.interface.hearing.lost = true;
    cx.retry_soon();
    segment.follow(cx);
}

/// Repeats the operations that failed: opening the interface, attaching to it, and having virtual hosts accepted.
pub fn retry<E: Effects>(segment: &mut Segment, cx: &mut Context<E>) {
    if segment.interface.ifindex.is_none() {
        segment.follow(cx);
    } else if segment.interface.hearing.lost {
        attach_again(segment, false, cx);
    }
    let deaf = segment
        .instances
        .values()
        .filter(|it| it.rooms.tenure.is_deaf());
    let deaf: Vec<InstanceId> = deaf.map(|it| it.who.id).collect();
    for id in deaf {
        if segment.interface.ifindex.is_none() {
            return;
        }
        let programmed = segment.visit(id, cx, |instance, site| {
            let (who, machine, rooms) = instance.parts();
            rooms.program(who, machine, site)
        });
        if programmed == Some(true) {
            segment.follow(cx);
        }
        segment.visit(id, cx, |instance, site| {
            // Something else prevents the virtual host from running, so its advertisements are not wanted.
            if instance.machine().state() == State::Init {
                instance.rooms.tenure.withdraw(&instance.who, site);
            }
        });
    }
}
