//! What keeps this host from speaking in a fenced address's name: a tcx program at the egress of every interface.
//!
//! A host answers for its addresses on every interface, and its own ARP requests claim the address that they are sent from.
//! The programs at ingress silence neither. Linux has tcx from 6.6 on; before that there is only ingress.
//!
//! One set of links serves every carpd of a network namespace. It is pinned in a directory of its own, whose `flock` each
//! carpd holds shared: whoever gets it exclusively is alone, so it takes over at its start what dead ones left, and removes
//! the set at its end unless addresses stay fenced. An unpinned set is its process's own, and ends with it.
//!
//! The kernel takes ten milliseconds and more to attach one (it waits for all processors), and a host may have hundreds of
//! interfaces. So only those that are served are covered at once; the others follow one by one, with time between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::{MultiProgLink as _, TcAttachType};
use carp_common::proto::rate_limit::RateLimit;
use carp_common::shared::EGRESS_PROGRAM;
use carp_common::time::Instant;
use nix::fcntl::{Flock, FlockArg};
use tracing::{debug, info, warn};

use super::error::{Error, errno};
use super::hook::Attachment;
use super::lookout::Sight;
use super::pins::{self, Pins};
use super::{Chain, hook};
use crate::config::Fence;
use crate::io::clock;
use crate::io::netlink::{Link, Requests};
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

/// How long a start waits for another one that takes over what dead ones left, or for a stop, and the pause between two
/// looks.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_RETRY: Duration = Duration::from_millis(5);

/// The links of one process, or its share in those that are pinned.
pub struct Egress {
    /// The end of its pins' names: programs of different fences look at different packets.
    fence: &'static str,
    set: Option<Set>,
    /// The interfaces that have the program.
    covered: BTreeMap<u32, Cover>,
    /// Those that the kernel refused it on: tried again after the next look.
    refused: BTreeSet<u32>,
    /// Those among them, and of earlier times, that were warned of.
    complained: BTreeSet<u32>,
    /// The kernel has no tcx.
    unavailable: bool,
    /// Interfaces are left to be covered, not before then.
    due: Option<Instant>,
    /// Where the next look begins.
    look_from: u32,
    /// Of lines about programs that others took off.
    limit: RateLimit,
}

/// What holds a program where it is.
enum Cover {
    /// The pinned set.
    Pin,
    /// This process.
    Link(SchedClassifierLink),
}

/// The pinned set.
struct Set {
    directory: PathBuf,
    lock: Flock<File>,
    /// Nobody else uses it: what is there was left by the dead.
    alone: bool,
}

impl Egress {
    /// Joins those who use the pinned set.
    #[must_use]
    pub fn open(pins: &Pins, fence: Fence) -> Self {
        let set = pins
            .egress()
            .and_then(|directory| match Set::join(&directory) {
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
            refused: BTreeSet::new(),
            complained: BTreeSet::new(),
            unavailable: false,
            due: None,
            look_from: 0,
            limit: RateLimit::default(),
        }
    }

    /// Follows the interfaces of the network namespace, of which these are all.
    ///
    /// Those that are served by a program are covered at once, of the others one at a time: see [`Egress::due`]. Where none
    /// is, nothing more is: a packet socket has no fence.
    pub fn cover(
        &mut self,
        object: &mut Ebpf,
        links: &BTreeMap<u32, Link>,
        served: &BTreeMap<u32, Attachment>,
    ) {
        self.forget_all_but(links);
        if let Some(set) = &mut self.set
            && std::mem::take(&mut set.alone)
        {
            set.take_over(object, self.fence, links);
            set.share();
        }
        if served.is_empty() {
            self.due = None;
            return;
        }
        for link in links.values() {
            if served.contains_key(&link.index) && self.lacks(link) {
                self.cover_one(object, link);
            }
        }
        let mut rest = links.values().filter(|link| self.lacks(link));
        let Some(next) = rest.next() else {
            self.due = None;
            return;
        };
        let begun = clock::now();
        if self.due.is_some_and(|due| begun < due) {
            return;
        }
        let is_last = rest.next().is_none();
        self.cover_one(object, next);
        let ended = clock::now();
        let took = ended.saturating_duration_since(begun);
        self.due = (!is_last).then_some(ended + took * SHARE_OF_OTHERS);
    }

    /// Whether what covers the interfaces outlives us.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.set.is_some()
    }

    /// When the next interface is to be covered; `None` when none is left.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether others took programs off, which then are to be attached anew. What a look has no time for is the next one's.
    pub fn look(
        &mut self,
        links: &BTreeMap<u32, Link>,
        requests: &mut Requests,
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
                (Cover::Link(link), _) => is_attached(link),
                (Cover::Pin, Some(set)) => set.has(*index, self.fence),
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
        lost.retain(|index| requests.link(*index).is_ok());
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
                    link: link.fd().ok()?.try_clone_to_owned().ok()?,
                    program: None,
                }),
                Cover::Pin => Some(Sight::Pin(set?.pin(*index, self.fence))),
            })
    }

    /// Interfaces that the kernel refused the program on are to be tried again. Returns whether there are any.
    pub fn forget_refusals(&mut self) -> bool {
        !std::mem::take(&mut self.refused).is_empty()
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

    fn cover_one(&mut self, object: &mut Ebpf, link: &Link) {
        match self.attach(object, link) {
            Ok(cover) => {
                self.covered.insert(link.index, cover);
                self.complained.remove(&link.index);
            }
            Err(Error::KernelTooOld { .. })
                if self.covered.is_empty() && self.refused.is_empty() =>
            {
                self.unavailable = true;
                info!(
                    "the fence covers what comes in, not what this host says: tcx at egress needs Linux 6.6"
                );
            }
            Err(error) => {
                self.refused.insert(link.index);
                // One that is gone, or was renamed, is netlink's news.
                let is_gone = errno(&error) == Some(libc::ENODEV);
                if !is_gone && self.complained.insert(link.index) {
                    warn!(
                        "{}: the fence does not cover what leaves there, trying again: {}",
                        link.name,
                        Chain(&error)
                    );
                }
            }
        }
    }

    fn attach(&self, object: &mut Ebpf, link: &Link) -> Result<Cover, Error> {
        let attach = |object: &mut Ebpf| {
            hook::attach_tcx(object, link, EGRESS_PROGRAM, TcAttachType::Egress)
        };
        let Some(set) = &self.set else {
            return attach(object).map(Cover::Link);
        };
        if set.has(link.index, self.fence) {
            return Ok(Cover::Pin);
        }
        let pin = set.pin(link.index, self.fence);
        unlink(&pin);
        let attached = FdLink::try_from(attach(object)?).map_err(|source| Error::Attach {
            interface: link.name.clone(),
            source: source.into(),
        })?;
        match attached.pin(&pin) {
            Ok(_) => Ok(Cover::Pin),
            // Another carpd saw the interface come and was faster.
            Err(_) if set.has(link.index, self.fence) => Ok(Cover::Pin),
            Err(error) => {
                warn!(
                    "failed to pin {}, going on unpinned: {error}",
                    pin.display()
                );
                attach(object).map(Cover::Link)
            }
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
        if let Some(set) = self.egress.set
            && !self.keep
        {
            // Nobody waits until the links are gone.
            set.remove(unlink);
        }
    }
}

/// Removes the pinned set unless a living carpd uses it, and detaches its links at once. Returns whether there was one.
#[must_use]
pub fn remove_unused(directory: &Path) -> bool {
    let Ok(opened) = File::open(directory) else {
        return false;
    };
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).is_ok_and(|lock| {
        let set = Set {
            directory: directory.to_owned(),
            lock,
            alone: true,
        };
        set.remove(pins::remove)
    })
}

impl Set {
    /// # Errors
    /// What the system answers; EAGAIN when another carpd is alone with the set for too long.
    fn join(directory: &Path) -> io::Result<Self> {
        let give_up_at = clock::now() + PATIENCE;
        loop {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let opened = match File::open(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                outcome => outcome?,
            };
            let locked = Flock::lock(opened, FlockArg::LockExclusiveNonblock)
                .map(|lock| (lock, true))
                .or_else(|(opened, _)| {
                    Flock::lock(opened, FlockArg::LockSharedNonblock).map(|lock| (lock, false))
                });
            let (lock, alone) = match locked {
                Ok(locked) => locked,
                // Exclusive for no longer than a start or a stop takes, unless it was stopped then.
                Err((_, errno)) if clock::now() >= give_up_at => return Err(errno.into()),
                Err(_) => {
                    thread::sleep(PATIENCE_RETRY);
                    continue;
                }
            };
            // The last one to leave may have removed it meanwhile.
            let is_there = fs::metadata(directory).map(|it| it.ino()).ok();
            if is_there == Some(lock.metadata()?.ino()) {
                return Ok(Self {
                    directory: directory.to_owned(),
                    lock,
                    alone,
                });
            }
        }
    }

    /// Puts our program in the place of a dead one's, and removes what is of no use: of interfaces that are gone, or were
    /// moved to another network namespace and took the program along.
    fn take_over(&self, object: &mut Ebpf, fence: &str, links: &BTreeMap<u32, Link>) {
        for name in pins::names(&self.directory) {
            let pin = self.directory.join(&name);
            let (index, of) = name.split_once('-').unwrap_or_default();
            let is_here = index.parse().is_ok_and(|index| links.contains_key(&index));
            let replaced = match PinnedLink::from_pin(&pin) {
                // One of the other fence serves as it is.
                Ok(_) if is_here && of != fence => continue,
                Ok(leftover) if is_here && !pins::is_dead_pin(&pin) => {
                    hook::replace_tcx(object, leftover.into(), EGRESS_PROGRAM).map(drop)
                }
                Ok(_) => Err("its interface is gone".into()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = replaced {
                debug!("{} is of no use: {error}", pin.display());
                unlink(&pin);
            }
        }
    }

    /// Lets others in, once what the dead left is taken over.
    fn share(&self) {
        if let Err(errno) = self.lock.relock(FlockArg::LockShared) {
            warn!("{}: {errno}", self.directory.display());
        }
    }

    fn pin(&self, ifindex: u32, fence: &str) -> PathBuf {
        self.directory.join(format!("{ifindex}-{fence}"))
    }

    /// Whether the program of this fence is on an interface; also when that cannot be told.
    fn has(&self, ifindex: u32, fence: &str) -> bool {
        let link = sys::open_bpf_object(&self.pin(ifindex, fence));
        match link.and_then(|link| sys::bpf_link_info(link.as_fd())) {
            Ok(info) => info.ifindex != 0,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// The interface is gone, or in another network namespace.
    fn forget(&self, ifindex: u32) {
        for fence in ["arp", "all"] {
            unlink(&self.pin(ifindex, fence));
        }
    }

    /// Removes everything, unless others use it. Returns whether there was anything.
    fn remove(self, remove: impl Fn(&Path)) -> bool {
        if self.lock.relock(FlockArg::LockExclusiveNonblock).is_err() {
            return false;
        }
        let names = pins::names(&self.directory);
        for name in &names {
            remove(&self.directory.join(name));
        }
        let _ = fs::remove_dir(&self.directory);
        !names.is_empty()
    }
}

/// Whether a link of ours is still on an interface; also when that cannot be told.
fn is_attached(link: &SchedClassifierLink) -> bool {
    let info = link.fd().ok().and_then(|fd| sys::bpf_link_info(fd).ok());
    info.is_none_or(|info| info.ifindex != 0)
}

/// Removes a pin. Its link goes a moment later.
fn unlink(pin: &Path) {
    if let Err(error) = fs::remove_file(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!("{}: {error}", pin.display());
    }
}
