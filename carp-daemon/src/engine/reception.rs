//! Hears advertisements, and notices those that did not fit into the buffers.

use std::time::Duration;

use carp_common::proto::patience::losses_count;
use carp_common::time::Instant;

use super::context::Context;
use super::effects::Effects;
use super::served::Served;
use crate::api::Place;
use crate::api::event::process::Stall;
use crate::io::datapath::{Batch, Drained};

/// Time between two looks at what did not fit into the buffers. They cause no wake-up.
const LOSS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Advertisements that arrived.
#[derive(Debug)]
pub struct Reception {
    batch: Batch,
    /// The time of the next look at the number of advertisements that did not fit into the buffers.
    loss_check_at: Instant,
}

impl Reception {
    /// Nothing was heard yet.
    pub fn new(now: Instant) -> Self {
        Self {
            batch: Batch::new(),
            loss_check_at: now,
        }
    }

    /// Feeds every advertisement that arrived up to now. Returns when the first of them arrived.
    pub fn hear<E: Effects>(
        &mut self,
        served: &mut Served,
        cx: &mut Context<E>,
    ) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        loop {
            let drained = cx.effects.drain(cx.now, &mut self.batch);
            for event in self.batch.take() {
                let arrival = Instant::from_nanos(event.arrival_ns);
                oldest = Some(oldest.map_or(arrival, |oldest| oldest.min(arrival)));
                if let Some(id) = served.owner(&event.key) {
                    served.visit(id, cx, |instance, site| instance.receive(&event, site));
                }
            }
            match drained {
                Drained::Full => {}
                Drained::Later => {
                    cx.busy = true;
                    return oldest;
                }
                Drained::Empty => return oldest,
            }
        }
    }

    /// Tells the virtual hosts if advertisements did not fit into the buffers while the process was stopped. They were never
    /// heard, and they are the latest ones. `since` is when this turn should have come, because something was due or had
    /// arrived.
    pub fn look_for_losses<E: Effects>(
        &mut self,
        since: Option<Instant>,
        served: &mut Served,
        cx: &mut Context<E>,
    ) {
        let now = cx.now;
        let stopped = losses_count(since, now);
        if !stopped && now < self.loss_check_at {
            return;
        }
        self.loss_check_at = now + LOSS_CHECK_INTERVAL;
        let lost = cx.effects.take_losses();
        if stopped && lost > 0 {
            let lost = Stall::AdvertisementsLost { lost };
            cx.tell(&Place::Process, lost);
            served.each(cx, |instance, site| {
                instance.miss_advertisements(site);
            });
        }
    }
}
