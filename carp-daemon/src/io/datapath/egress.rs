//! What keeps this host from speaking in a fenced address's name: a tcx program at the egress of every interface.
//!
//! A host answers for its addresses on every interface, and its own ARP requests claim the address that they are sent from.
//! The programs at ingress silence neither. Linux has tcx from 6.6 on; before that there is only ingress.
//!
//! One set of links serves every carpd of a network namespace. It is pinned in a directory of its own, whose `flock` each
//! carpd holds shared: whoever gets it exclusively is alone, so it takes over at its start what dead ones left, and removes
//! the set at its end unless addresses stay fenced. An unpinned set is its process's own, and ends with it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::TcAttachType;
use aya::programs::links::{FdLink, PinnedLink};
use carp_common::shared::EGRESS_PROGRAM;
use nix::fcntl::{Flock, FlockArg};
use tracing::{debug, info, warn};

use super::error::Error;
use super::pins::{self, Pins};
use super::{Chain, hook};
use crate::config::Fence;
use crate::io::netlink::Link;

/// The loopback interface: what it carries stays on this host.
const LOOPBACK: u32 = 1;

/// The links of one process, or its share in those that are pinned.
pub struct Egress {
    /// The end of its pins' names: programs of different fences look at different packets.
    fence: &'static str,
    set: Option<Set>,
    /// What was done about each interface; a link is held where it is not pinned.
    interfaces: BTreeMap<u32, Option<FdLink>>,
    /// The kernel has no tcx.
    unavailable: bool,
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
            interfaces: BTreeMap::new(),
            unavailable: false,
        }
    }

    /// Attaches the program to each of these interfaces that lacks it, and forgets all others. They are every interface of the
    /// network namespace.
    pub fn cover(&mut self, object: &mut Ebpf, links: &BTreeMap<u32, Link>) {
        let set = self.set.as_ref();
        self.interfaces.retain(|index, _| {
            let stays = links.contains_key(index);
            if !stays && let Some(set) = set {
                set.forget(*index);
            }
            stays
        });
        for link in links.values() {
            if self.unavailable {
                break;
            }
            if link.index == LOOPBACK || self.interfaces.contains_key(&link.index) {
                continue;
            }
            match self.attach(object, link) {
                Ok(held) => {
                    self.interfaces.insert(link.index, held);
                }
                Err(Error::KernelTooOld { .. }) if self.interfaces.is_empty() => {
                    self.unavailable = true;
                    info!(
                        "the fence covers what comes in, not what this host says: tcx at egress needs Linux 6.6"
                    );
                }
                Err(error) => {
                    // Once for each: it is not tried again.
                    self.interfaces.insert(link.index, None);
                    warn!(
                        "{}: the fence does not cover what leaves there: {}",
                        link.name,
                        Chain(&error)
                    );
                }
            }
        }
        if let Some(set) = &mut self.set {
            set.share();
        }
    }

    fn attach(&self, object: &mut Ebpf, link: &Link) -> Result<Option<FdLink>, Error> {
        let attach = |object: &mut Ebpf| {
            hook::attach_tcx(object, link, EGRESS_PROGRAM, TcAttachType::Egress)
        };
        let Some(set) = &self.set else {
            return attach(object).map(Some);
        };
        let pin = set.directory.join(format!("{}-{}", link.index, self.fence));
        if let Some(leftover) = set.existing(&pin) {
            if !set.alone {
                return Ok(None);
            }
            match hook::replace_tcx(object, leftover, EGRESS_PROGRAM) {
                Ok(_) => return Ok(None),
                Err(error) => debug!("{} is of no use: {error}", pin.display()),
            }
            pins::remove(&pin);
        }
        match attach(object)?.pin(&pin) {
            Ok(_) => Ok(None),
            // Another carpd saw the interface come and was faster.
            Err(_) if fs::exists(&pin).unwrap_or(false) => Ok(None),
            Err(error) => {
                warn!(
                    "failed to pin {}, going on unpinned: {error}",
                    pin.display()
                );
                attach(object).map(Some)
            }
        }
    }

    /// Leaves the set, and removes it when nobody else uses it. With `keep` it stays: addresses are fenced still.
    pub fn close(self, keep: bool) {
        if let Some(set) = self.set
            && !keep
        {
            set.remove();
        }
    }
}

/// Removes the pinned set unless a living carpd uses it. Returns whether there was one.
#[must_use]
pub fn remove_unused(directory: &Path) -> bool {
    directory.is_dir() && Set::join(directory).is_ok_and(Set::remove)
}

impl Set {
    fn join(directory: &Path) -> io::Result<Self> {
        loop {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let opened = match File::open(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                outcome => outcome?,
            };
            let (lock, alone) = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => (lock, true),
                // Exclusive for no longer than a start or a stop takes.
                Err((opened, _)) => {
                    let lock = Flock::lock(opened, FlockArg::LockShared);
                    (lock.map_err(|(_, errno)| errno)?, false)
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

    /// Lets others in, once what the dead left is taken over.
    fn share(&mut self) {
        if std::mem::take(&mut self.alone)
            && let Err(errno) = self.lock.relock(FlockArg::LockShared)
        {
            warn!("{}: {errno}", self.directory.display());
        }
    }

    /// What is pinned and still attached.
    fn existing(&self, pin: &Path) -> Option<FdLink> {
        if !fs::exists(pin).unwrap_or(false) {
            return None;
        }
        if pins::is_dead_pin(pin) {
            pins::remove(pin);
            return None;
        }
        PinnedLink::from_pin(pin).ok().map(FdLink::from)
    }

    /// The interface is gone, or in another network namespace.
    fn forget(&self, ifindex: u32) {
        for fence in ["arp", "all"] {
            pins::remove(&self.directory.join(format!("{ifindex}-{fence}")));
        }
    }

    /// Removes everything, unless others use it.
    fn remove(self) -> bool {
        if self.lock.relock(FlockArg::LockExclusiveNonblock).is_err() {
            return false;
        }
        let names = pins::names(&self.directory);
        for name in &names {
            pins::remove(&self.directory.join(name));
        }
        let _ = fs::remove_dir(&self.directory);
        !names.is_empty()
    }
}
