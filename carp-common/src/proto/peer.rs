//! One source of advertisements, and the counters that it showed.

use core::net::IpAddr;

use super::heard::{Recent, Run};
use super::proof::{Evidence, Yardstick};
use crate::time::{Duration, Instant};
use crate::units::{Demotion, Priority};
use crate::wire::advertisement::Advertisement;

/// The interval of a host that bows out again and again.
const BOW_OUT_INTERVAL: Duration = Duration::from_secs(1);
/// Repetitions of one counter after which a source is an OpenBSD, whatever it was before.
pub(super) const REPETITIONS_TO_TELL: u8 = 3;

/// Time for which an OpenBSD is still recognised by its counter after another counter came from its address.
const FORMER: Duration = Duration::from_secs(600);

/// The fields that the digest does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) priority: Priority,
    pub(super) demotion: Demotion,
}

impl Shown {
    /// Returns the time until the next advertisement. A bow-out does not show it.
    pub(super) fn interval(self) -> Duration {
        match self.priority {
            Priority::BOW_OUT => BOW_OUT_INTERVAL,
            priority => priority.interval(),
        }
    }

    pub(super) const fn of(advertisement: &Advertisement) -> Self {
        let Advertisement {
            advbase,
            advskew,
            demotion,
            ..
        } = *advertisement;
        Self {
            priority: Priority { advbase, advskew },
            demotion,
        }
    }
}

/// One counter of a source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Single {
    pub(super) counter: u64,
    pub(super) shown: Shown,
    pub(super) first_at: Instant,
    pub(super) last_at: Instant,
    /// The number of times that it came again in the way of an OpenBSD.
    pub(super) repetitions: u8,
}

impl Single {
    pub(super) const fn new(counter: u64, shown: Shown, at: Instant) -> Self {
        Self {
            counter,
            shown,
            first_at: at,
            last_at: at,
            repetitions: 0,
        }
    }

    /// Takes note that it came again, from a source that may be an OpenBSD, and returns what that proves.
    pub(super) fn again(&mut self, shown: Shown, arrival: Instant, ours: Yardstick) -> Evidence {
        // A bow-out says nothing about when the next one comes.
        let shows = match self.shown.priority {
            Priority::BOW_OUT => shown,
            _ => self.shown,
        };
        let interval = shows.interval().min(ours.master_down);
        // A peer that counts has shown another counter by then.
        let is_constant = self.repetitions > 0
            || arrival.saturating_duration_since(self.first_at) >= interval + interval / 4;
        let same = self.shown == shown;
        if !is_constant {
            return match same {
                true => Evidence::Duplicate,
                false => Evidence::OtherVersion {
                    since: self.first_at,
                    same_source: true,
                },
            };
        }
        if same && arrival.saturating_duration_since(self.last_at) < interval / 4 {
            return Evidence::Duplicate;
        }
        self.shown = shown;
        self.last_at = arrival;
        self.repetitions = self.repetitions.saturating_add(1);
        Evidence::Constant
    }
}

/// One source.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) source: IpAddr,
    pub(super) heard_at: Instant,
    pub(super) warned: bool,
    /// The counters that it showed in ascending order; `None` if it does not count.
    pub(super) run: Option<Run>,
    pub(super) recent: Recent,
    /// The shortest interval that it ever showed, because an altered copy can show a longer one.
    pub(super) shortest: Duration,
    /// Its last counter that was proof. If there is a run, it is the end of it.
    pub(super) latest: Single,
    /// A counter unrelated to the run.
    pub(super) candidate: Option<Single>,
    /// The last such counter that it did not go on with. It may be a recording in its name, and others that heard it go on with
    /// it.
    pub(super) stray: Option<u64>,
    /// The counter that it repeated as an OpenBSD, before it showed another one.
    pub(super) former: Option<Single>,
    /// The number of unrelated counters that it showed without repeating one.
    pub(super) unrelated: u8,
}

impl Peer {
    pub(super) fn new(source: IpAddr, run: Option<Run>, latest: Single) -> Self {
        Self {
            source,
            heard_at: latest.last_at,
            warned: false,
            run,
            recent: Recent::only(latest.counter),
            shortest: latest.shown.interval(),
            latest,
            candidate: None,
            stray: None,
            former: None,
            unrelated: 1,
        }
    }

    pub(super) fn is_constant(&self) -> bool {
        self.run.is_none() && self.latest.repetitions >= REPETITIONS_TO_TELL
    }

    /// Takes note of a new counter. If the source was an OpenBSD until now, that may be a recording in its name.
    pub(super) fn moves_on(&mut self, to: Single, was_constant: bool) {
        let arrival = to.first_at;
        if was_constant {
            self.former = Some(Single {
                last_at: arrival,
                ..self.latest
            });
        }
        if let Some(former) = &mut self.former {
            former.first_at = arrival;
            former.repetitions = 0;
        }
        if let Some(candidate) = self.candidate.take() {
            self.stray = Some(candidate.counter);
        }
        self.latest = to;
    }

    /// Takes note that it repeats the counter that it showed as an OpenBSD. Returns whether it is one again, which it is if it
    /// has shown nothing new for more than an interval.
    pub(super) fn returns_to_former(
        &mut self,
        shown: Shown,
        arrival: Instant,
        ours: Yardstick,
    ) -> bool {
        let Some(former) = &mut self.former else {
            return false;
        };
        let returns = former.again(shown, arrival, ours) == Evidence::Constant;
        if returns {
            self.latest = Single {
                repetitions: REPETITIONS_TO_TELL,
                ..*former
            };
            self.run = None;
            self.former = None;
            self.candidate = None;
            self.unrelated = 1;
        }
        returns
    }

    /// Returns whether it repeated this counter as an OpenBSD, not long ago.
    pub(super) fn was_constant(&self, counter: u64, now: Instant) -> bool {
        let mut former = self.former.iter();
        former.any(|it| it.counter == counter && now < it.last_at + FORMER)
    }

    /// Returns the lowest counter of its present run.
    pub(super) fn first(&self) -> u64 {
        self.run.map_or(self.latest.counter, |run| run.first)
    }

    /// Returns whether it showed the counter, or left it out.
    pub(super) fn has_passed(&self, counter: u64) -> bool {
        self.run.is_some_and(|run| run.contains(counter)) || self.showed_alone(counter)
    }

    /// Returns whether it showed the counter, as far as we know.
    pub(super) fn showed(&self, counter: u64) -> bool {
        self.has_passed(counter) && (self.recent.may_contain(counter) || self.showed_alone(counter))
    }

    pub(super) fn showed_alone(&self, counter: u64) -> bool {
        self.latest.counter == counter
            || self
                .candidate
                .is_some_and(|candidate| candidate.counter == counter)
    }

    /// Begins this run.
    pub(super) fn begins(&mut self, run: Option<Run>) {
        self.run = run;
        self.recent = run.map_or(Recent::unknown(), |run| Recent::only(run.first));
        if let Some(Run { first, last }) = run
            && first != last
        {
            self.recent.push(last);
        }
    }

    /// Returns what a repeated counter proves, from a source that is no OpenBSD.
    pub(super) fn again_from_a_counting_one(&self, counter: u64, shown: Shown) -> Evidence {
        match self.latest {
            Single { counter: last, .. } if last != counter => Evidence::Heard,
            Single { shown: before, .. } if before == shown => Evidence::Duplicate,
            Single { first_at, .. } => Evidence::OtherVersion {
                since: first_at,
                same_source: true,
            },
        }
    }
}
