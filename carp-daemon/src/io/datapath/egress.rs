//! What keeps this host from speaking in a fenced address's name: a tcx program at the egress of every interface.
//!
//! A host answers for its addresses on every interface, and its own ARP requests claim the address that they are sent from.
//! The programs at ingress silence neither. Linux has tcx from 6.6 on; before that there is only ingress.
//!
//! One set of links serves every carpd of a network namespace. It is pinned in a directory of its own, whose `flock` each
//! carpd holds shared: whoever gets it exclusively is alone, so it takes over at its start what dead ones left, and removes
//! the set at its end unless addresses stay fenced. An unpinned set is its process's own, and ends with it.
//!
//! The kernel takes ten milliseconds and more to attach one, and a host may have hundreds of interfaces. So only those that
//! are served are covered at the start; a thread follows with the others one by one, and with time between them.

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
use tracing::{info, warn};

use self::set::Set;
use self::worker::{Cover, Job, Outcome, Worker};
use super::error::{KernelError, errno, refused};
use super::hook::Attachment;
use super::pin::{self, is_attached};
use super::sight::Sight;
use crate::config::Fence;
use crate::io::chain::Chain;
use crate::io::clock;
use crate::io::netlink::{Client, Link};
use crate::sys;

/// The loopback interface: what it carries stays on this host.
const LOOPBACK: u32 = 1;

/// Of the time in which interfaces are covered one by one, this part is left to everything else: so many times what
/// attaching took.
const SHARE_OF_OTHERS: u32 = 4;

/// How long a look may take. Looking at one interface takes 4 µs.
const LOOK_BUDGET: Duration = Duration::from_millis(5);

/// Least time between two log lines about programs that were taken off.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The links of one process, or its share in those that are pinned.
pub struct Egress {
    /// The end of its pins' names: programs of different fences look at different packets.
    fence: &'static str,
    set: Option<Set>,
    /// The interfaces that have the program.
    covered: BTreeMap<u32, Cover>,
    program: OwnedFd,
    worker: Worker,
    /// What the worker told last.
    outcome: Option<Outcome>,
    /// Those that the kernel refused it on: tried again after the next look.
    refused: BTreeSet<u32>,
    /// Those among them, and of earlier times, that were warned of.
    complained: BTreeSet<u32>,
    /// The kernel has no tcx.
    unavailable: bool,
    /// When there is something to do.
    due: Option<Instant>,
    /// Until then only interfaces that are served are covered.
    rests_until: Instant,
    /// Where the next look begins.
    look_from: u32,
    /// Of lines about programs that others took off.
    limit: RateLimit,
}

impl Egress {
    /// Joins the users of the pinned set in `directory`. Without one the links are this process's own. `program` is
    /// attached.
    #[must_use]
    pub fn open(program: OwnedFd, directory: Option<PathBuf>, fence: Fence) -> Self {
        let set = directory.and_then(|directory| match Set::join(&directory) {
            Ok(set) => Some(set),
            Err(error) => {
                warn!(
                    "failed to use {}, going on unpinned: {error}",
                    directory.display()
                );
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
            // In the first turn: privileges are given up before, which takes a process with one thread.
            due: Some(clock::now()),
            rests_until: Instant::default(),
            look_from: 0,
            limit: RateLimit::default(),
        }
    }

    /// Takes over what dead ones left, at the start, in a network namespace with these interfaces, and covers those that are
    /// served: a MASTER could be killed soon. `others` are the directories of carpds of other layouts.
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

    /// Follows the interfaces of the network namespace, of which these are all.
    ///
    /// One at a time is covered, one that is served by a program first: see [`Egress::due`]. Where none is served, nothing
    /// more is covered: a packet socket has no fence.
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

    fn job(&self, link: &Link) -> io::Result<Job> {
        let set = self.set.as_ref();
        Ok(Job {
            program: self.program.try_clone()?,
            ifindex: link.index,
            pin: set.map(|set| set.pin(link.index, self.fence)),
        })
    }

    /// Ready when there is something to be told to [`Egress::cover`].
    pub fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.worker.poll_outcome(context).map(|outcome| {
            self.outcome = Some(outcome);
            self.due = Some(clock::now());
        })
    }

    /// Whether what covers the interfaces outlives us.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.set.is_some()
    }

    /// When to call [`Egress::cover`] again, unless interfaces come or go before; `None` when there is nothing to do.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether others took programs off, which then are to be attached anew. What a look has no time for is the next one's.
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
            // The kernel may be busy with links, and make us wait for each answer.
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
        // With an interface goes what was attached to it; netlink has the news.
        lost.retain(|index| netlink.link(*index).is_ok());
        let mut names = lost.iter().filter_map(|index| links.get(index));
        if let Some(first) = names.next()
            && let Some(suppressed) = self.limit.admit(now, REPORT_INTERVAL)
        {
            let others = match names.count() {
                0 => String::new(),
                more => format!(" and of {more} more"),
            };
            warn!(
                suppressed,
                "{}: another program took carpd's off the egress of the interface{others}: attaching anew",
                first.name
            );
        }
        !lost.is_empty()
    }

    /// What a thread looks at.
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

    /// Interfaces that the kernel refused the program on are to be tried again.
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

    fn take_outcome(&mut self, outcome: Outcome, links: &BTreeMap<u32, Link>) {
        let ifindex = outcome.ifindex;
        match (outcome.attached, links.get(&ifindex)) {
            (Ok(cover), Some(_)) => {
                self.covered.insert(ifindex, cover);
                self.complained.remove(&ifindex);
            }
            // It went, or moved to another network namespace, meanwhile.
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
            info!(
                "the fence covers what comes in, not what this host says: tcx at egress needs Linux 6.6"
            );
            return;
        }
        self.refused.insert(link.index);
        // One that is gone is netlink's news.
        let is_gone = errno(error) == Some(libc::ENODEV);
        if !is_gone && self.complained.insert(link.index) {
            warn!(
                "{}: the fence does not cover what leaves there, trying again: {}",
                link.name,
                Chain(error)
            );
        }
    }

    /// Stops following the interfaces. With `keep` the set stays: addresses are fenced still.
    pub const fn close(self, keep: bool) -> Leaving {
        Leaving { egress: self, keep }
    }
}

/// What is left to do about egress at the end of the process.
///
/// The kernel needs as long to detach as to attach, and holds up all who change links and addresses: what closes a socket
/// or releases an address comes first.
#[must_use]
pub struct Leaving {
    egress: Egress,
    keep: bool,
}

impl Leaving {
    /// Leaves the set, and removes it when nobody else uses it.
    pub fn leave(self) {
        // What it pins afterwards nobody would remove.
        self.egress.worker.finish();
        if let Some(set) = self.egress.set
            && !self.keep
        {
            // Nobody waits until the links are gone.
            set.remove(pin::unlink);
        }
    }
}
