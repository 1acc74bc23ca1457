//! The tcx program at the egress of every interface, which prevents this host from speaking in the name of a fenced address.
//!
//! A host answers for its addresses on every interface, and its own ARP requests claim the address that they are sent from.
//! The programs at ingress prevent neither. Linux has tcx since 6.6; older kernels have only the programs at ingress.
//!
//! One set of links serves every carpd of a network namespace. It is pinned in a directory, and each carpd holds its `flock`
//! shared. A carpd that gets the lock exclusively is alone: at its start it takes over what dead ones left, and at its end it
//! removes the set, unless addresses stay fenced. An unpinned set belongs to its process and ends with it.
//!
//! The kernel takes ten milliseconds or more to attach a program, and a host may have hundreds of interfaces. At the start,
//! only the interfaces that are served are covered. A thread then covers the others one by one, with pauses.

mod set;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use aya::Ebpf;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use self::set::Set;
use self::worker::{Cover, CoverJob, CoverOutcome, Worker};
use super::error::{KernelError, errno, refused};
use super::hook::Attachment;
use super::pin::is_attached;
use super::sight::Sight;
use crate::api::event::kernel;
use crate::api::{Event, Outbox, Place};
use crate::config::Fence;
use crate::io::chain::Chain;
use crate::io::clock;
use crate::io::netlink::{Client, Link};
use crate::sys;

/// The loopback interface, whose packets stay on this host.
const LOOPBACK: u32 = 1;

/// The length of the pause after attaching to an interface that is not served, as a multiple of the time that attaching took.
const SHARE_OF_OTHERS: u32 = 4;

/// The time that a check may take. Checking one interface takes 4 µs.
const LOOK_BUDGET: Duration = Duration::from_millis(5);

/// The least time between two events about programs that other processes detached.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The links of one process, or its share in the pinned links.
pub struct Egress {
    /// The suffix of its pins' names, because programs of different fences handle different packets.
    fence: &'static str,
    set: Option<Set>,
    /// The interfaces that have the program.
    covered: BTreeMap<u32, Cover>,
    program: OwnedFd,
    worker: Worker,
    /// The worker's last outcome.
    outcome: Option<CoverOutcome>,
    /// The interfaces where the kernel refused the program. They are tried again after the next check.
    refused: BTreeSet<u32>,
    /// The interfaces whose refusal was told.
    complained: BTreeSet<u32>,
    /// The kernel has no tcx.
    unavailable: bool,
    /// The time at which [`Egress::cover`] has something to do.
    due: Option<Instant>,
    /// The end of the pause, in which only interfaces that are served are covered.
    rests_until: Instant,
    /// The index where the next check begins.
    look_from: u32,
    /// The rate limit of events about programs that other processes detached.
    limit: RateLimit,
    outbox: Outbox,
}

impl Egress {
    /// Joins the users of the pinned set in `directory`. Without one the links are this process's own. `program` is
    /// attached.
    #[must_use]
    pub fn open(
        program: OwnedFd,
        directory: Option<PathBuf>,
        fence: Fence,
        outbox: Outbox,
    ) -> Self {
        let set = directory.and_then(|directory| match Set::join(&directory, &outbox) {
            Ok(set) => Some(set),
            Err(error) => {
                let error = error.to_string();
                let what = kernel::Egress::SetUnusable { directory, error };
                outbox.tell(Place::Process, what);
                None
            }
        });
        Self {
            fence: match fence {
                Fence::All => "all",
                Fence::Arp | Fence::Off => "arp",
            },
            set,
            covered: BTreeMap::new(),
            program,
            worker: Worker::default(),
            outcome: None,
            refused: BTreeSet::new(),
            complained: BTreeSet::new(),
            unavailable: false,
            // The first turn is early enough. Before it, privileges are given up, which takes a process with one thread.
            due: Some(clock::now()),
            rests_until: Instant::default(),
            look_from: 0,
            limit: RateLimit::default(),
            outbox,
        }
    }

    /// At the start, takes over what dead carpds left in a network namespace with these interfaces, and covers those that are
    /// served, because a MASTER could be killed soon. `others` are the directories of carpds of other layouts.
    pub fn start(
        &mut self,
        object: &mut Ebpf,
        others: &[PathBuf],
        links: &BTreeMap<u32, Link>,
        served: &BTreeMap<u32, Attachment>,
    ) {
        if let Some(set) = &mut self.set
            && std::mem::take(&mut set.alone)
        {
            set.take_over(object, self.fence, links);
            set.share();
        }
        for directory in others {
            let Some(set) = &self.set else {
                break;
            };
            for index in set.take_over_from(object, directory, self.fence, links) {
                self.covered.insert(index, Cover::Pin);
            }
        }
        for link in served.keys().filter_map(|index| links.get(index)) {
            if !self.lacks(link) {
                continue;
            }
            match self.job(link) {
                Ok(job) => self.take_outcome(job.run(), links),
                Err(error) => self.refuse(link, &refused("hold the tcx program", error)),
            }
        }
    }

    /// Follows the interfaces of the network namespace, which are all of these.
    ///
    /// It covers one interface at a time, and begins with those that a program serves. [`Egress::due`] returns when the next
    /// one is due. If no interface is served, nothing more is covered, because a packet socket has no fence.
    pub fn cover(&mut self, links: &BTreeMap<u32, Link>, served: &BTreeMap<u32, Attachment>) {
        self.forget_all_but(links);
        if let Some(outcome) = self.outcome.take() {
            self.rests_until = clock::now() + outcome.took * SHARE_OF_OTHERS;
            self.take_outcome(outcome, links);
        }
        self.due = None;
        if served.is_empty() || self.worker.is_busy() {
            return;
        }
        let is_served = |link: &&Link| served.contains_key(&link.index);
        let lacking = links.values().filter(|link| self.lacks(link));
        let Some(next) = lacking.max_by_key(is_served) else {
            return;
        };
        if !is_served(&next) && clock::now() < self.rests_until {
            self.due = Some(self.rests_until);
            return;
        }
        self.begin(next);
    }

    fn begin(&mut self, link: &Link) {
        let begun = self.job(link).and_then(|job| self.worker.begin(job));
        if let Err(error) = begun {
            self.refuse(link, &refused("start a thread", error));
        }
    }

    fn job(&self, link: &Link) -> io::Result<CoverJob> {
        let set = self.set.as_ref();
        Ok(CoverJob {
            program: self.program.try_clone()?,
            ifindex: link.index,
            pin: set.map(|set| set.pin(link.index, self.fence)),
            outbox: self.outbox.clone(),
        })
    }

    /// Ready when [`Egress::cover`] should be called, because the worker is done with an interface.
    pub fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.worker.poll_outcome(context).map(|outcome| {
            self.outcome = Some(outcome);
            self.due = Some(clock::now());
        })
    }

    /// Returns whether the links outlive this process.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.set.is_some()
    }

    /// Returns when to call [`Egress::cover`] again, unless interfaces come or go before. `None` if there is nothing to do.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Checks the programs, and returns whether other processes detached some, which then must be attached again. The next
    /// check continues if the time is not enough.
    pub fn look(
        &mut self,
        links: &BTreeMap<u32, Link>,
        netlink: &mut Client,
        now: Instant,
    ) -> bool {
        let mut lost = Vec::new();
        let begun = clock::now();
        let from = std::mem::take(&mut self.look_from);
        for (index, cover) in self.covered.range(from..) {
            // The kernel may be busy with links, so that each answer takes long.
            if clock::now() > begun + LOOK_BUDGET {
                self.look_from = *index;
                break;
            }
            let is_there = match (cover, &self.set) {
                (Cover::Link(link), _) => {
                    sys::bpf_link_info(link.as_fd()).map_or(true, |info| info.ifindex != 0)
                }
                (Cover::Pin, Some(set)) => is_attached(&set.pin(*index, self.fence)),
                (Cover::Pin, None) => false,
            };
            if !is_there {
                lost.push(*index);
            }
        }
        for index in &lost {
            self.covered.remove(index);
        }
        // Programs end with their interface, which netlink reports.
        lost.retain(|index| netlink.link(*index).is_ok());
        let mut names = lost.iter().filter_map(|index| links.get(index));
        if let Some(first) = names.next()
            && let Some(suppressed) = self.limit.admit(now, REPORT_INTERVAL)
        {
            let what = kernel::Egress::Detached {
                others: names.count(),
            };
            let event = Event::new(Place::Interface(first.name.clone()), what);
            self.outbox.send(event.after(suppressed));
        }
        !lost.is_empty()
    }

    /// Returns the programs in the form that a thread checks.
    pub fn sights(&self) -> impl Iterator<Item = Sight> {
        let set = self.set.as_ref();
        self.covered
            .iter()
            .filter_map(move |(index, cover)| match cover {
                Cover::Link(link) => Some(Sight::Link {
                    link: link.try_clone().ok()?,
                    program: None,
                }),
                Cover::Pin => Some(Sight::Pin(set?.pin(*index, self.fence))),
            })
    }

    /// Lets the interfaces where the kernel refused the program be tried again.
    pub fn forget_refusals(&mut self) {
        self.refused.clear();
    }

    fn lacks(&self, link: &Link) -> bool {
        !self.unavailable
            && link.index != LOOPBACK
            && !self.covered.contains_key(&link.index)
            && !self.refused.contains(&link.index)
    }

    /// Forgets interfaces that are gone.
    fn forget_all_but(&mut self, links: &BTreeMap<u32, Link>) {
        let set = self.set.as_ref();
        self.covered.retain(|index, cover| {
            let stays = links.contains_key(index);
            if !stays && let (Cover::Pin, Some(set)) = (cover, set) {
                set.forget(*index);
            }
            stays
        });
        self.refused.retain(|index| links.contains_key(index));
        self.complained.retain(|index| links.contains_key(index));
    }

    fn take_outcome(&mut self, outcome: CoverOutcome, links: &BTreeMap<u32, Link>) {
        let ifindex = outcome.ifindex;
        match (outcome.attached, links.get(&ifindex)) {
            (Ok(cover), Some(_)) => {
                self.covered.insert(ifindex, cover);
                self.complained.remove(&ifindex);
            }
            // The interface went, or moved to another network namespace, meanwhile.
            (Ok(Cover::Pin), None) => {
                if let Some(set) = &self.set {
                    set.forget(ifindex);
                }
            }
            (Err(error), Some(link)) => {
                self.refuse(link, &refused("attach the tcx program", error));
            }
            (Ok(Cover::Link(_)) | Err(_), None) => {}
        }
    }

    fn refuse(&mut self, link: &Link, error: &KernelError) {
        if matches!(error, KernelError::KernelTooOld { .. })
            && self.covered.is_empty()
            && self.refused.is_empty()
        {
            self.unavailable = true;
            self.outbox.tell(Place::Process, kernel::Egress::TooOld);
            return;
        }
        self.refused.insert(link.index);
        // Netlink reports an interface that is gone.
        let is_gone = errno(error) == Some(libc::ENODEV);
        if !is_gone && self.complained.insert(link.index) {
            let error = Chain(error).to_string();
            let place = Place::Interface(link.name.clone());
            self.outbox
                .tell(place, kernel::Egress::NotCovered { error });
        }
    }

    /// Stops following the interfaces. With `keep` the set stays, because addresses are still fenced.
    pub const fn close(self, keep: bool) -> Leaving {
        Leaving { egress: self, keep }
    }
}

/// The programs at egress that must be removed at the end of the process.
///
/// The kernel takes as long to detach as to attach, and delays everybody who changes links and addresses. Sockets are closed
/// and addresses released before.
#[must_use]
pub struct Leaving {
    egress: Egress,
    keep: bool,
}

impl Leaving {
    /// Leaves the set, and removes it if nobody else uses it.
    pub fn leave(self) {
        // Nobody would remove what the worker pins afterwards.
        self.egress.worker.finish();
        if let Some(set) = self.egress.set
            && !self.keep
        {
            set.remove();
        }
    }
}
