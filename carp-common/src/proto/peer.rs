//! One source of advertisements, and what it showed.

use core::net::IpAddr;

use super::heard::{Recent, Run};
use crate::time::{Duration, Instant};
use crate::units::{Demotion, Priority};
use crate::wire::advertisement::Advertisement;

/// What counts as the interval of one who bows out again and again.
const BOW_OUT_INTERVAL: Duration = Duration::from_secs(1);
/// Repetitions of one counter after which a source is an OpenBSD, whatever it was before.
pub(super) const REPETITIONS_TO_TELL: u8 = 3;

/// How long an OpenBSD is known by its counter after something else was shown in its name.
const FORMER: Duration = Duration::from_secs(600);

/// What an authentic advertisement proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The source lives: a counter that was never heard.
    New,
    /// The source lives: the constant counter of an OpenBSD.
    Constant,
    /// Somebody lived when this counter was first heard, then with another priority or source: one of the two was altered.
    OtherVersion {
        /// When it was first heard.
        since: Instant,
        /// From the same source. From another one it may be a peer that came to the same counter.
        same_source: bool,
    },
    /// Nothing: the same again, which networks do too.
    Duplicate,
    /// Nothing: the counter was heard before.
    Heard,
    /// Nothing yet: a new counter, unrelated to those of a source that counts.
    Unrelated,
}

impl Evidence {
    /// Whether it proves that the source lives and means what it says.
    #[must_use]
    pub const fn is_proof(self) -> bool {
        matches!(self, Self::New | Self::Constant)
    }

    /// Whether the counter was never heard before.
    #[must_use]
    pub const fn is_new(self) -> bool {
        matches!(self, Self::New | Self::Unrelated)
    }
}

/// What the digest does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) priority: Priority,
    pub(super) demotion: Demotion,
}

impl Shown {
    /// When the next one is due. A bow-out does not say that.
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

/// What a host knows of itself that judges others.
#[derive(Clone, Copy, Debug)]
pub struct Yardstick {
    /// Its own interval.
    pub interval: Duration,
    /// After which silence it takes over.
    pub master_down: Duration,
    /// Whether no repetition proves anything.
    pub no_openbsd: bool,
}

impl Yardstick {
    /// How long a peer that shows this interval may be silent. No digest covers it: an altered copy can show a shorter one, so that
    /// the peer seems to be gone, and a longer one, so that what comes after it is not believed for minutes.
    pub(super) fn believes(self, shown: Duration) -> Duration {
        shown.min(self.master_down).max(self.interval)
    }
}

/// One counter of a source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Single {
    pub(super) counter: u64,
    pub(super) shown: Shown,
    pub(super) first_at: Instant,
    pub(super) last_at: Instant,
    /// How often it came again as an OpenBSD's does.
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

    /// It came again, from a source that may be an OpenBSD.
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
    /// It counts: what it showed in this order.
    pub(super) run: Option<Run>,
    pub(super) recent: Recent,
    /// The shortest interval that it ever showed. A copy that is altered on its way can show a longer one.
    pub(super) shortest: Duration,
    /// Its last counter that proved something; the end of the run when there is one.
    pub(super) latest: Single,
    /// A counter unrelated to the run.
    pub(super) candidate: Option<Single>,
    /// That of the OpenBSD which it was before it showed another one.
    pub(super) former: Option<Single>,
    /// How many unrelated counters it showed, none of them again and again.
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
            former: None,
            unrelated: 1,
        }
    }

    pub(super) fn is_constant(&self) -> bool {
        self.run.is_none() && self.latest.repetitions >= REPETITIONS_TO_TELL
    }

    /// It shows something new. When it was an OpenBSD until now, that may be a recording in its name.
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
        self.candidate = None;
        self.latest = to;
    }

    /// It shows the counter again that it showed when it was an OpenBSD. When nothing new was shown for more than an interval it
    /// is one from now on, as before; whether that is so.
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

    /// Whether that is what it showed when it was an OpenBSD, not long ago.
    pub(super) fn was_constant(&self, counter: u64, now: Instant) -> bool {
        let mut former = self.former.iter();
        former.any(|it| it.counter == counter && now < it.last_at + FORMER)
    }

    /// The lowest counter that is remembered of what it does now.
    pub(super) fn first(&self) -> u64 {
        self.run.map_or(self.latest.counter, |run| run.first)
    }

    /// Whether it showed it, or left it out.
    pub(super) fn has_passed(&self, counter: u64) -> bool {
        self.run.is_some_and(|run| run.contains(counter)) || self.showed_alone(counter)
    }

    /// Whether it showed it, as far as we know.
    pub(super) fn showed(&self, counter: u64) -> bool {
        self.has_passed(counter) && (self.recent.may_contain(counter) || self.showed_alone(counter))
    }

    pub(super) fn showed_alone(&self, counter: u64) -> bool {
        self.latest.counter == counter
            || self
                .candidate
                .is_some_and(|candidate| candidate.counter == counter)
    }

    /// Its run is this one from now on.
    pub(super) fn begins(&mut self, run: Option<Run>) {
        self.run = run;
        self.recent = run.map_or(Recent::unknown(), |run| Recent::only(run.first));
        if let Some(Run { first, last }) = run
            && first != last
        {
            self.recent.push(last);
        }
    }

    /// A counter again, from a source that is no OpenBSD.
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
