//! The value of an authentic advertisement as evidence.
//!
//! The digest covers the counter, but neither the priority nor the sender, and no implementation rejects what it heard before.
//! So an attacker can record an advertisement and send it again with another priority, from another source. Only the counter
//! tells a living peer from a recording. Nobody without the password can make a digest for a counter that was never sent, and
//! peers that count go on above the last one that they heard, ours included.
//!
//! | A counter that … | proves |
//! |---|---|
//! | was heard before, from whomever | nothing |
//! | is near below the first one of the source, and follows nobody's | nothing: it was sent before we heard the source |
//! | is new and near above the source's last, or anybody's, or a challenge above it | that the source lives |
//! | is new, from a source that never counted | that it lives: a ucarp that hears nobody draws counters by chance |
//! | is new and unrelated, from a source that counts | nothing, until a second one follows it |
//! | repeats the last of a source that never counted, after more than an interval | that it lives: an OpenBSD's never changes |
//! | is that of an OpenBSD, from somebody else who does not count | as above: anybody can use its address too |
//! | is somebody's last, then with another priority or source | that somebody lived then; one of the two was altered |
//!
//! If a second counter follows a new and unrelated one, and none in the old order does, then the source was restarted.
//!
//! A MASTER asks for more than a sign of life before it yields, see [`super::vhost`]: a counter near above its own last one,
//! which only a host that heard that one can know.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::heard::{Closed, LAST_LEAVES_OUT, Recent, Run, Scattered, is_ahead, is_near_above};
use super::peer::{Peer, REPETITIONS_TO_TELL, Shown, Single};
use super::per_family::PerFamily;
pub use super::proof::{Evidence, Yardstick};
use crate::time::Instant;
use crate::units::Family;
use crate::wire::advertisement::Advertisement;

/// The number of remembered sources. A host has one in each family, and no cluster has more hosts than this allows.
pub const SOURCES_MAX: usize = 16;
/// A source that showed more unrelated counters than this is no OpenBSD that was restarted, whatever it repeats.
const UNRELATED_MAX: u8 = 16;

/// The counters that each source showed, and those that we sent ourselves.
///
/// The memory is bounded. A source beyond the limit displaces the one that was heard longest ago, and sources that never
/// counted first, because an attacker with a few recordings can make only those. The counters of a displaced source stay
/// remembered.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(super) peers: Vec<Peer>,
    pub(super) closed: PerFamily<Closed>,
    /// The counters of sources whose counters have no order. `None` until there is such a source.
    pub(super) scattered: Option<Box<Scattered>>,
    /// The counters that we sent.
    pub(super) own: PerFamily<Own>,
}

/// The counters that we sent in one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) run: Option<Run>,
    /// The run before it. A peer that did not hear us continues in its gaps, which `recent` knows.
    pub(super) before: Option<Run>,
    /// The latest counters of both runs.
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
    /// Returns whether we sent it, or cannot tell.
    fn contains(&self, counter: u64) -> bool {
        self.runs().any(|run| run.contains(counter)) && self.recent.may_contain(counter)
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        self.before.into_iter().chain(self.run)
    }
}

impl Memory {
    /// Remembers an advertisement, and returns what it proves.
    pub fn hear(
        &mut self,
        source: IpAddr,
        arrival: Instant,
        advertisement: &Advertisement,
        ours: Yardstick,
    ) -> Evidence {
        let family = Family::of(source);
        let counter = advertisement.counter;
        let shown = Shown::of(advertisement);
        let mut peers = self.peers.iter_mut();
        let former = peers
            .find(|peer| Family::of(peer.source) == family && peer.was_constant(counter, arrival));
        if let Some(peer) = former.filter(|_| !ours.no_openbsd) {
            let (run, latest) = (peer.run, peer.latest);
            if !peer.returns_to_former(shown, arrival, ours) {
                return Evidence::Heard;
            }
            let source = peer.source;
            self.closed[family].add(run.unwrap_or(Run::of(latest.counter)));
            self.lead_back(family, source, counter);
            return Evidence::Constant;
        }
        let source = match ours.no_openbsd {
            true => source,
            false => self.whose(source, counter, arrival, ours),
        };
        let known = self.peers.iter().position(|peer| peer.source == source);
        let elsewhere = self.was_heard_elsewhere(source, advertisement);
        let evidence = match known {
            Some(index) if self.peers[index].has_passed(counter) => {
                match elsewhere || ours.no_openbsd {
                    true => self.peers[index].again_from_a_counting_one(counter, shown),
                    false => self.again(index, counter, shown, arrival, ours),
                }
            }
            Some(_) | None if elsewhere => self.again_from_another(source, counter),
            Some(index) => self.continues(index, advertisement, arrival, ours),
            None => {
                let latest = Single::new(counter, shown, arrival);
                let follows = self.follows(family, counter, is_near_above);
                let run = follows.then_some(Run::of(counter));
                self.make_room(Peer::new(source, run, latest));
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

    /// Returns the source that this counter belongs to.
    ///
    /// An OpenBSD's address can change, and a stranger can be the first to show its counter, and go on. So a source that shows
    /// the counter of a known OpenBSD speaks for it, unless the source counts. An OpenBSD that has repeated its counter less
    /// often moves to another address after a silence at the old one: by then a source that counts has shown its next counter.
    fn whose(&mut self, source: IpAddr, counter: u64, arrival: Instant, ours: Yardstick) -> IpAddr {
        let is_silent = |single: &Single| {
            let silence = ours.believes(single.shown.interval()) * 2;
            let silence = silence.min(ours.master_down);
            arrival.saturating_duration_since(single.last_at) >= silence
        };
        let family = Family::of(source);
        let here = self.peers.iter().position(|peer| peer.source == source);
        if here.is_some_and(|index| self.peers[index].run.is_some()) {
            return source;
        }
        let before = self.peers.iter().position(|peer| {
            peer.source != source
                && Family::of(peer.source) == family
                && peer.run.is_none()
                && peer.unrelated <= UNRELATED_MAX
                && peer.latest.counter == counter
        });
        let Some(before) = before else {
            self.move_candidate(source, counter, is_silent);
            return source;
        };
        if self.peers[before].is_constant() {
            return self.peers[before].source;
        }
        let is_free = here.is_none_or(|index| is_silent(&self.peers[index].latest));
        if is_free && is_silent(&self.peers[before].latest) {
            let old = core::mem::replace(&mut self.peers[before].source, source);
            if let Some(here) = here {
                self.peers[here].source = old;
            }
        }
        source
    }

    /// Moves a counter to its own source, if a stranger showed it first in the name of a source that counts.
    fn move_candidate(
        &mut self,
        source: IpAddr,
        counter: u64,
        is_silent: impl Fn(&Single) -> bool,
    ) {
        let family = Family::of(source);
        let mut others = self.peers.iter_mut();
        let candidate = others.find_map(|peer| {
            let is_it = |it: &mut Single| it.counter == counter && is_silent(it);
            (Family::of(peer.source) == family).then(|| peer.candidate.take_if(is_it))?
        });
        if let Some(candidate) = candidate
            && self.peers.iter().all(|peer| peer.source != source)
        {
            self.make_room(Peer::new(source, None, candidate));
        }
    }

    /// Remembers a counter that we send.
    pub fn sent(&mut self, family: Family, counter: u64) {
        let own = &mut self.own[family];
        own.previous = own.run;
        own.recent.push(counter);
        // The counters that we left out are not ours, because a peer that missed this one goes on below it.
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

    /// Forgets the last counter of this family: the advertisement was not sent.
    pub fn unsend(&mut self, family: Family) {
        self.own[family].run = self.own[family].previous;
    }

    /// Returns whether this is one of the last counters that we sent.
    #[must_use]
    pub fn sent_lately(&self, family: Family, counter: u64) -> bool {
        self.own[family].recent.contains(counter)
    }

    /// Returns whether this counter is the last proof from one of the sources.
    #[must_use]
    pub fn is_last_of_somebody(&self, family: Family, counter: u64) -> bool {
        self.last_of(family, counter).is_some()
    }

    fn last_of(&self, family: Family, counter: u64) -> Option<&Peer> {
        let mut peers = self.peers.iter();
        peers.find(|peer| Family::of(peer.source) == family && peer.latest.counter == counter)
    }

    /// Returns whether there was a warning about this source, as far as we remember.
    #[must_use]
    pub fn was_warned(&self, source: IpAddr) -> bool {
        self.peers
            .iter()
            .any(|peer| peer.source == source && peer.warned)
    }

    /// Remembers a warning about this source.
    pub fn set_warned(&mut self, source: IpAddr) {
        for peer in self.peers.iter_mut().filter(|peer| peer.source == source) {
            peer.warned = true;
        }
    }

    /// Returns whether only a host that heard the group can know this counter, because it goes on with one that was heard or
    /// sent before.
    fn follows(&self, family: Family, counter: u64, goes_on: impl Fn(u64, u64) -> bool) -> bool {
        let goes_on = |last| goes_on(counter, last);
        let mut peers = self.peers.iter();
        self.own[family].runs().any(|run| goes_on(run.last))
            || self.closed[family].iter().any(|run| goes_on(run.last))
            || peers.any(|peer| {
                Family::of(peer.source) == family
                    && (goes_on(peer.latest.counter)
                        || peer.candidate.is_some_and(|it| goes_on(it.counter))
                        || peer.stray.is_some_and(goes_on))
            })
    }

    /// Returns whether another source showed the counter, or this source did before it was restarted.
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

    /// Takes note of a counter that only this source showed before.
    fn again(
        &mut self,
        index: usize,
        counter: u64,
        shown: Shown,
        arrival: Instant,
        ours: Yardstick,
    ) -> Evidence {
        let peer = &mut self.peers[index];
        if let Some(mut candidate) = peer.candidate.filter(|it| it.counter == counter) {
            // A source that counted and now repeats an unrelated counter: another system has its address.
            let evidence = candidate.again(shown, arrival, ours);
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
        let evidence = peer.latest.again(shown, arrival, ours);
        if peer.latest.repetitions >= REPETITIONS_TO_TELL {
            peer.unrelated = 1;
        }
        evidence
    }

    /// Returns what a counter proves that another source showed. If it is the last of that one, one of the two is an altered
    /// copy, whichever came first.
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
        ours: Yardstick,
    ) -> Evidence {
        let counter = advertisement.counter;
        let single = Single::new(counter, Shown::of(advertisement), arrival);
        let family = Family::of(self.peers[index].source);
        let is_counting = self.peers[index].run.is_some();
        let follows = self.follows(family, counter, is_near_above)
            || is_counting && self.follows(family, counter, is_ahead);
        let peer = &mut self.peers[index];
        if !follows && is_near_above(peer.first(), counter) {
            // Its source sent it before we heard that source.
            if let Some(run) = &mut peer.run {
                run.first = counter;
            }
            return Evidence::Heard;
        }
        let was_constant = peer.is_constant();
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
            // A source that was started again does not continue its old counters.
            let goes_on = arrival < peer.latest.last_at + ours.believes(peer.shortest);
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
        peer.moves_on(single, was_constant);
        Evidence::New
    }

    /// Forgets the counters above that of an OpenBSD, which has just shown it. ucarp, FreeBSD and NetBSD go on with the counter
    /// that they heard last, even downwards, so they come to the counters above it again and again.
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

    /// Adds the peer, in the place of another if all are taken.
    fn make_room(&mut self, peer: Peer) {
        if self.peers.len() < SOURCES_MAX {
            // Most virtual hosts have one peer, and there are thousands of them, so no capacity is reserved for more.
            self.peers.reserve_exact(1);
            self.peers.push(peer);
            return;
        }
        let least = self
            .peers
            .iter_mut()
            .min_by_key(|peer| (peer.run.is_some() || peer.is_constant(), peer.heard_at));
        if let Some(least) = least {
            let displaced = core::mem::replace(least, peer);
            self.leave_behind(displaced);
        }
    }

    /// Keeps the counters of a source that is forgotten.
    fn leave_behind(&mut self, peer: Peer) {
        // An OpenBSD has no other counter to come back with.
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
