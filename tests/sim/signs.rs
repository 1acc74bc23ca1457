//! Determines which advertisements one host must take for signs of life, from the packets that arrived at its kernel.
//!
//! This claims less than the core believes: a sign of life that the counter proves without doubt. It shares no code with the
//! core, so that a mistake there is noticed here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carp_common::time::Instant;

use super::packet::Ad;
use super::scenario::interval;

/// A peer's next counter is at most this far above the last one.
pub const NEAR: u64 = 1 << 20;

/// A peer that has asked or heard a question since continues at most this far above. The core may take such a counter
/// for a continuation, and one that is unrelated to it for the first one of a new life.
const AHEAD: u64 = 1 << 44;

/// Whether a peer that heard or sent `last` may continue with `counter`.
#[must_use]
pub const fn is_near_above(counter: u64, last: u64) -> bool {
    counter > last && counter - last <= NEAR
}

/// The advertisements that arrived in one family.
#[derive(Debug, Default)]
pub struct Signs {
    /// Every counter that arrived or that the host sent, with the source if there was only one.
    known: BTreeMap<u64, Option<IpAddr>>,
    /// The last counter that the host sent.
    own: Option<u64>,
    /// The last sign of life, and the time from which the host had to wait before it.
    last: Option<(u64, Instant)>,
    sources: BTreeMap<IpAddr, Steps>,
}

/// The counters of one source.
#[derive(Clone, Copy, Debug)]
struct Steps {
    last: u64,
    /// Whether it counts: some counter was slightly above the one before.
    counts: bool,
    /// A later counter that is unrelated to the others.
    stray: Option<u64>,
    /// Whether a counter that may be its next one came after the stray one, so that it was not restarted.
    went_on: bool,
    /// The values that it showed with its last counter, when, and how often that counter was repeated.
    shown: (u8, u8, u8),
    first_at: Instant,
    last_at: Instant,
    again: u32,
}

impl Signs {
    /// Notes that the host sent this counter. It had to wait from `must` on, but no longer if a peer sent the same
    /// counter and the host has not read that yet.
    pub fn sent(&mut self, counter: u64, must: Instant) -> Instant {
        self.known.insert(counter, None);
        self.own = Some(counter);
        match self.last.take() {
            Some((last, before)) if last == counter => before,
            _ => must,
        }
    }

    /// Notes that a sign of life counts: the host has to wait from then on, rather than from `must`.
    pub fn counts(&mut self, counter: u64, at: Instant, must: Instant) -> Instant {
        self.last = Some((counter, must));
        must.max(at)
    }

    /// Notes that the host begins to listen, and did not hear the packets that arrived before.
    pub fn begins(&mut self, now: Instant) {
        for steps in self.sources.values_mut() {
            *steps = Steps {
                counts: true,
                stray: None,
                went_on: false,
                again: 0,
                first_at: now,
                ..*steps
            };
        }
    }

    /// Notes an authentic advertisement. Returns whether it must be taken for a sign of life, if its sender sent it
    /// now.
    pub fn arrives(&mut self, at: Instant, source: IpAddr, ad: Ad) -> bool {
        let counter = ad.counter;
        let highest = self.known.last_key_value().map(|(highest, _)| *highest);
        let around = counter.saturating_sub(NEAR)..=counter.saturating_add(NEAR);
        let lonely = self.known.range(around).next().is_none();
        let below = self
            .known
            .range(counter.saturating_sub(NEAR)..counter)
            .next()
            .is_some();
        let is_new = highest.is_none_or(|highest| counter > highest) || lonely;
        let near = |last: Option<u64>| last.is_some_and(|last| is_near_above(counter, last));
        let follows = near(self.own)
            || self
                .sources
                .values()
                .any(|steps| near(Some(steps.last)) || near(steps.stray));
        let ahead = |last: u64| counter > last && counter - last <= AHEAD;
        let is_ahead = self.own.is_some_and(ahead)
            || self
                .sources
                .values()
                .any(|steps| ahead(steps.last) || steps.stray.is_some_and(ahead));
        let fresh = !self.known.contains_key(&counter);
        let showed = self.known.entry(counter).or_insert(Some(source));
        if *showed != Some(source) {
            // It is not an OpenBSD's counter, which no other host has.
            *showed = None;
            return false;
        }
        let shown = (ad.advbase, ad.advskew, ad.demotion);
        let new = Steps {
            last: counter,
            // A source that continues from any counter that was heard.
            counts: follows || below,
            stray: None,
            went_on: false,
            shown,
            first_at: at,
            last_at: at,
            again: 0,
        };
        let Some(steps) = self.sources.get_mut(&source) else {
            if fresh {
                self.sources.insert(source, new);
            }
            return is_new;
        };
        if !fresh {
            return steps.repeats(at, counter, shown, interval(ad.advbase, ad.advskew) / 4);
        }
        // It may lie between two counters that were heard, and be taken for one of those, or for the next one.
        if !is_new && steps.counts {
            steps.last_at = at;
            steps.went_on = true;
            return false;
        }
        let near = is_near_above(counter, steps.last);
        if near || follows {
            *steps = Steps {
                counts: true,
                ..new
            };
            return is_new;
        }
        if !steps.counts {
            *steps = new;
            return is_new;
        }
        if is_ahead {
            *steps = Steps {
                counts: true,
                ..new
            };
            return false;
        }
        // A host that was restarted no longer sends its earlier counters.
        let (advbase, advskew, _) = steps.shown;
        let goes_on = at < steps.last_at + interval(advbase, advskew);
        let went_on = std::mem::take(&mut steps.went_on);
        match steps.stray.replace(counter) {
            None => false,
            Some(_) if goes_on || went_on => false,
            Some(stray) => {
                *steps = Steps {
                    counts: is_near_above(counter, stray),
                    ..new
                };
                is_new
            }
        }
    }
}

impl Steps {
    /// Notes a repeated counter: an OpenBSD's, once it has come often enough.
    fn repeats(
        &mut self,
        at: Instant,
        counter: u64,
        shown: (u8, u8, u8),
        quarter: std::time::Duration,
    ) -> bool {
        if self.last != counter || self.counts || at < self.last_at + quarter {
            return false;
        }
        if self.shown != shown {
            self.shown = shown;
            return false;
        }
        self.last_at = at;
        self.again += 1;
        // Another source may have shown it first, and the core may have seen the first repetition too early.
        self.again > 4 && at >= self.first_at + quarter * 20
    }
}
