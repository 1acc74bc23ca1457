//! What an authentic advertisement proves.
//!
//! The digest covers the counter, but neither the priority nor the sender, and no implementation rejects what it heard before. So
//! whoever recorded an advertisement can send it again with another priority, under another source. What tells a living peer
//! from a recording is the counter: nobody can make a digest for one that was never sent, and peers that count go on above
//! whatever they heard last, ours included.
//!
//! | A counter that … | proves |
//! |---|---|
//! | was heard before, from whomever | nothing |
//! | is near below what the source showed first, and follows nobody's | nothing: it was sent before we heard the source |
//! | is new and near above the source's last, or anybody's, or a challenge above it | that the source lives |
//! | is new, from a source that never counted | that it lives: a ucarp that hears nobody draws counters by chance |
//! | is new and unrelated, from a source that counts | nothing, until a second one follows it, and none in the old order does: the source was restarted |
//! | repeats the last of a source that never counted, after more than an interval | that it lives: an OpenBSD's never changes |
//! | is somebody's last, then with another priority or source | that somebody lived then; one of the two was altered |
//!
//! A MASTER asks for more than life before it yields, see [`super::vhost`]: a counter near above its own last one, which only
//! somebody who heard that can know.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::heard::{Closed, LAST_LEAVES_OUT, Recent, Run, Scattered, is_ahead, is_near_above};
use super::per_family::PerFamily;
use crate::time::{Duration, Instant};
use crate::units::{Demotion, Family, Priority};
use crate::wire::advertisement::Advertisement;

/// How many sources are remembered. One host has one or two (a family each); more than this is no cluster.
pub const SOURCES_MAX: usize = 16;
/// Unrelated counters after which a source is no OpenBSD that was restarted, whatever it repeats.
const UNRELATED_MAX: u8 = 16;
/// What counts as the interval of one who bows out again and again.
const BOW_OUT_INTERVAL: Duration = Duration::from_secs(1);
/// Repetitions of one counter after which a source is an OpenBSD, whatever it was before.
const REPETITIONS_TO_TELL: u8 = 3;

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

/// What was heard of whom, and what we sent ourselves.
///
/// Bounded: sources beyond the limit displace the one heard longest ago, and first those that never counted, which is all
/// that somebody with a few recordings can make. A source that is displaced leaves its counters behind.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(super) peers: Vec<Peer>,
    pub(super) closed: PerFamily<Closed>,
    /// For sources whose counters have no order; only where there is one.
    pub(super) scattered: Option<Box<Scattered>>,
    /// What we sent.
    pub(super) own: PerFamily<Own>,
}

/// What we sent in one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) run: Option<Run>,
    /// The run before it. A peer that did not hear us continues in its gaps, which `recent` knows.
    pub(super) before: Option<Run>,
    /// Of both.
    recent: Recent,
    /// `run` before the very last.
    previous: Option<Run>,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            run: None,
            before: None,
            recent: Recent::only(0),
            previous: None,
        }
    }
}

impl Own {
    /// Whether we sent it, or cannot tell.
    fn contains(&self, counter: u64) -> bool {
        self.runs().any(|run| run.contains(counter)) && self.recent.may_contain(counter)
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        self.before.into_iter().chain(self.run)
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
    fn again(&mut self, shown: Shown, arrival: Instant) -> Evidence {
        // A bow-out says nothing about when the next one comes.
        let interval = match self.shown.priority {
            Priority::BOW_OUT => shown.priority.interval().min(BOW_OUT_INTERVAL),
            before => before.interval(),
        };
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
    /// How many unrelated counters it showed, none of them again and again.
    pub(super) unrelated: u8,
}

impl Peer {
    fn is_constant(&self) -> bool {
        self.run.is_none() && self.latest.repetitions >= REPETITIONS_TO_TELL
    }

    /// The lowest counter that is remembered of what it does now.
    fn first(&self) -> u64 {
        self.run.map_or(self.latest.counter, |run| run.first)
    }

    /// Whether it showed it, or left it out.
    fn has_passed(&self, counter: u64) -> bool {
        self.run.is_some_and(|run| run.contains(counter)) || self.showed_alone(counter)
    }

    /// Whether it showed it, as far as we know.
    fn showed(&self, counter: u64) -> bool {
        self.has_passed(counter) && (self.recent.may_contain(counter) || self.showed_alone(counter))
    }

    fn showed_alone(&self, counter: u64) -> bool {
        self.latest.counter == counter
            || self
                .candidate
                .is_some_and(|candidate| candidate.counter == counter)
    }

    /// Its run is this one from now on.
    fn begins(&mut self, run: Option<Run>) {
        self.run = run;
        self.recent = run.map_or(Recent::unknown(), |run| Recent::only(run.first));
        if let Some(Run { first, last }) = run
            && first != last
        {
            self.recent.push(last);
        }
    }
}

impl Memory {
    /// What this advertisement proves; remembers it. With `no_openbsd` no repetition ever does.
    pub fn judge(
        &mut self,
        source: IpAddr,
        arrival: Instant,
        advertisement: &Advertisement,
        no_openbsd: bool,
    ) -> Evidence {
        let family = Family::of(source);
        let counter = advertisement.counter;
        let shown = Shown::of(advertisement);
        if !no_openbsd {
            self.move_openbsd(source, counter, shown, arrival);
        }
        let known = self.peers.iter().position(|peer| peer.source == source);
        let elsewhere = self.was_heard_elsewhere(source, advertisement);
        let evidence = match known {
            Some(index) if self.peers[index].has_passed(counter) => match elsewhere || no_openbsd {
                true => self.peers[index].again_from_a_counting_one(counter, shown),
                false => self.again(index, counter, shown, arrival),
            },
            Some(_) | None if elsewhere => self.again_from_another(source, counter),
            Some(index) => self.continues(index, advertisement, arrival),
            None => {
                let latest = Single::new(counter, shown, arrival);
                let follows = self.follows(family, counter, is_near_above);
                let displaced = self.make_room(Peer {
                    source,
                    heard_at: arrival,
                    warned: false,
                    run: follows.then_some(Run::of(counter)),
                    recent: Recent::only(counter),
                    shortest: shown.interval(),
                    latest,
                    candidate: None,
                    unrelated: 1,
                });
                if let Some(peer) = displaced {
                    self.leave_behind(peer);
                }
                Evidence::New
            }
        };
        if evidence.is_proof()
            && let Some(index) = known
        {
            let peer = &mut self.peers[index];
            peer.heard_at = peer.heard_at.max(arrival);
            peer.shortest = peer.shortest.min(shown.interval());
        }
        if evidence == Evidence::Constant {
            self.lead_back(family, source, counter);
        }
        evidence
    }

    /// A source that never counted is silent, and another one shows its last counter: an OpenBSD has another address now, or
    /// a stranger was the first to show what is its own. The peer moves there.
    fn move_openbsd(&mut self, source: IpAddr, counter: u64, shown: Shown, arrival: Instant) {
        let silence = shown.interval() * 2;
        let family = Family::of(source);
        let before = self.peers.iter().position(|peer| {
            peer.source != source
                && Family::of(peer.source) == family
                && peer.run.is_none()
                && peer.latest.counter == counter
                && arrival.saturating_duration_since(peer.latest.last_at) >= silence
        });
        let Some(before) = before else { return };
        let here = self.peers.iter().position(|peer| peer.source == source);
        if here.is_some_and(|index| self.peers[index].run.is_some()) {
            return;
        }
        self.peers[before].source = source;
        if let Some(here) = here {
            self.peers.swap_remove(here);
        }
    }

    /// We send this counter.
    pub fn sent(&mut self, family: Family, counter: u64) {
        let own = &mut self.own[family];
        own.previous = own.run;
        own.recent.push(counter);
        // What we left out is not ours: a peer that missed it goes on below.
        let goes_on = |counter, last| counter > last && counter - last < LAST_LEAVES_OUT;
        match &mut own.run {
            Some(run) if goes_on(counter, run.last) => run.last = counter,
            Some(_) | None => {
                let ended = own.run.replace(Run::of(counter));
                if let Some(ended) = ended
                    && let Some(older) = own.before.replace(ended)
                {
                    self.closed[family].add(older);
                }
            }
        }
    }

    /// The last one in this family did not leave.
    pub fn unsend(&mut self, family: Family) {
        self.own[family].run = self.own[family].previous;
    }

    /// Whether this is one of the last counters that we sent.
    #[must_use]
    pub fn sent_lately(&self, family: Family, counter: u64) -> bool {
        self.own[family].recent.contains(counter)
    }

    /// Whether this counter is the last that proved something of one of the sources.
    #[must_use]
    pub fn is_last_of_somebody(&self, family: Family, counter: u64) -> bool {
        self.last_of(family, counter).is_some()
    }

    fn last_of(&self, family: Family, counter: u64) -> Option<&Peer> {
        let mut peers = self.peers.iter();
        peers.find(|peer| Family::of(peer.source) == family && peer.latest.counter == counter)
    }

    /// Whether this source was warned of before, as far as we remember.
    #[must_use]
    pub fn was_warned(&self, source: IpAddr) -> bool {
        self.peers
            .iter()
            .any(|peer| peer.source == source && peer.warned)
    }

    /// This source has been warned of.
    pub fn set_warned(&mut self, source: IpAddr) {
        for peer in self.peers.iter_mut().filter(|peer| peer.source == source) {
            peer.warned = true;
        }
    }

    /// Whether only somebody who heard the group can know this counter: he goes on with one that was heard or sent before.
    fn follows(&self, family: Family, counter: u64, goes_on: impl Fn(u64, u64) -> bool) -> bool {
        let goes_on = |last| goes_on(counter, last);
        let mut peers = self.peers.iter();
        self.own[family].runs().any(|run| goes_on(run.last))
            || self.closed[family].iter().any(|run| goes_on(run.last))
            || peers.any(|peer| {
                Family::of(peer.source) == family
                    && (goes_on(peer.latest.counter)
                        || peer.candidate.is_some_and(|it| goes_on(it.counter)))
            })
    }

    /// Whether anybody but this source showed it, or this source did before it was restarted.
    fn was_heard_elsewhere(&self, source: IpAddr, advertisement: &Advertisement) -> bool {
        let family = Family::of(source);
        let counter = advertisement.counter;
        let others = self
            .peers
            .iter()
            .filter(|peer| peer.source != source && Family::of(peer.source) == family);
        let is_last_of_source = || {
            let mut peers = self.peers.iter();
            peers.any(|peer| peer.source == source && peer.latest.counter == counter)
        };
        self.own[family].contains(counter)
            || others.into_iter().any(|peer| peer.showed(counter))
            || self.closed[family].contains(counter)
            || self
                .scattered
                .as_ref()
                .is_some_and(|scattered| scattered.contains(&advertisement.digest))
                && !is_last_of_source()
    }

    /// A counter that this source, and nobody else, showed before.
    fn again(&mut self, index: usize, counter: u64, shown: Shown, arrival: Instant) -> Evidence {
        let peer = &mut self.peers[index];
        if let Some(mut candidate) = peer.candidate.filter(|it| it.counter == counter) {
            // A source that counted and now repeats an unrelated counter: another system has its address.
            let evidence = candidate.again(shown, arrival);
            peer.candidate = Some(candidate);
            if evidence != Evidence::Constant || candidate.repetitions < REPETITIONS_TO_TELL {
                return Evidence::Heard;
            }
            peer.candidate = None;
            peer.latest = candidate;
            peer.unrelated = 1;
            if let Some(run) = peer.run.take() {
                self.closed[Family::of(peer.source)].add(run);
            }
            return Evidence::Constant;
        }
        if peer.run.is_some() || peer.unrelated > UNRELATED_MAX {
            return peer.again_from_a_counting_one(counter, shown);
        }
        let evidence = peer.latest.again(shown, arrival);
        if peer.latest.repetitions >= REPETITIONS_TO_TELL {
            peer.unrelated = 1;
        }
        evidence
    }

    /// A counter that somebody else showed: where it is that one's last, one of the two is an altered copy, whichever
    /// came first.
    fn again_from_another(&self, source: IpAddr, counter: u64) -> Evidence {
        match self.last_of(Family::of(source), counter) {
            Some(other) => Evidence::OtherVersion {
                since: other.latest.first_at,
                same_source: false,
            },
            None => Evidence::Heard,
        }
    }

    /// A counter that nobody showed, from a source that is known.
    fn continues(
        &mut self,
        index: usize,
        advertisement: &Advertisement,
        arrival: Instant,
    ) -> Evidence {
        let counter = advertisement.counter;
        let single = Single::new(counter, Shown::of(advertisement), arrival);
        let family = Family::of(self.peers[index].source);
        let is_counting = self.peers[index].run.is_some();
        let follows = self.follows(family, counter, is_near_above)
            || is_counting && self.follows(family, counter, is_ahead);
        let peer = &mut self.peers[index];
        if !follows && is_near_above(peer.first(), counter) {
            // From before we heard it.
            if let Some(run) = &mut peer.run {
                run.first = counter;
            }
            return Evidence::Heard;
        }
        let closed = &mut self.closed[family];
        if is_near_above(counter, peer.latest.counter) {
            match &mut peer.run {
                Some(run) => {
                    run.last = counter;
                    peer.recent.push(counter);
                }
                None => peer.begins(Some(Run {
                    first: peer.latest.counter,
                    last: counter,
                })),
            }
        } else if follows {
            closed.add(peer.run.unwrap_or(Run::of(peer.latest.counter)));
            peer.begins(Some(Run::of(counter)));
        } else if let Some(run) = peer.run {
            // Who was started again goes on no more where he was.
            let goes_on = arrival < peer.latest.last_at + peer.shortest;
            let before = peer.candidate.replace(single);
            let Some(candidate) = before.filter(|_| !goes_on) else {
                return Evidence::Unrelated;
            };
            closed.add(run);
            peer.begins(is_near_above(counter, candidate.counter).then_some(Run {
                first: candidate.counter,
                last: counter,
            }));
            if peer.run.is_none() {
                closed.add(Run::of(candidate.counter));
                peer.unrelated = 2;
            }
        } else {
            peer.unrelated = peer.unrelated.saturating_add(1);
            if peer.unrelated > UNRELATED_MAX {
                self.scattered
                    .get_or_insert_default()
                    .add(&advertisement.digest);
            }
            if peer.unrelated <= UNRELATED_MAX + 1 {
                closed.add(Run::of(peer.latest.counter));
            }
        }
        peer.candidate = None;
        peer.latest = single;
        Evidence::New
    }

    /// An OpenBSD said its counter. ucarp, FreeBSD and NetBSD go on with whatever they heard last, also downwards, and so
    /// they come to the counters above it again and again: what they showed of those is forgotten.
    fn lead_back(&mut self, family: Family, source: IpAddr, counter: u64) {
        let is_led = |last: u64| is_near_above(last, counter);
        self.closed[family].cut(counter);
        let before = &mut self.own[family].before;
        *before = before.filter(|run| !is_led(run.last));
        self.peers.retain(|peer| {
            peer.source == source
                || Family::of(peer.source) != family
                || !is_led(peer.latest.counter)
        });
    }

    /// Puts the peer in; returns another when all places were taken.
    fn make_room(&mut self, peer: Peer) -> Option<Peer> {
        if self.peers.len() < SOURCES_MAX {
            // A virtual host has one peer, and there are thousands: no room for three more.
            self.peers.reserve_exact(1);
            self.peers.push(peer);
            return None;
        }
        let least = self
            .peers
            .iter_mut()
            .min_by_key(|peer| (peer.run.is_some() || peer.is_constant(), peer.heard_at))?;
        Some(core::mem::replace(least, peer))
    }

    /// A source is forgotten; what it showed is not.
    fn leave_behind(&mut self, peer: Peer) {
        // An OpenBSD has nothing else to come back with.
        if peer.is_constant() {
            return;
        }
        let closed = &mut self.closed[Family::of(peer.source)];
        closed.add(peer.run.unwrap_or(Run::of(peer.latest.counter)));
        if let Some(candidate) = peer.candidate {
            closed.add(Run::of(candidate.counter));
        }
    }
}

impl Peer {
    /// A counter again, from a source that is no OpenBSD.
    fn again_from_a_counting_one(&self, counter: u64, shown: Shown) -> Evidence {
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
