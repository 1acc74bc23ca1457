//! The pinned links of a network namespace, in a directory whose lock every carpd of the namespace holds.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::links::PinnedLink;
use carp_common::abi::layout::EGRESS_PROGRAM;
use nix::fcntl::{Flock, FlockArg};

use super::super::hook;
use super::super::pin::{self, is_attached, unlink};
use crate::api::event::kernel;
use crate::api::{Outbox, Place};
use crate::io::clock;
use crate::io::netlink::Link;

/// The time that a start waits for another start that takes over what dead carpds left, or for a stop, and the pause
/// between two attempts.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_RETRY: Duration = Duration::from_millis(5);

/// The pinned set.
#[derive(Debug)]
pub struct Set {
    directory: PathBuf,
    lock: Flock<File>,
    /// Nobody else uses it, so all links in it were left by dead carpds.
    pub alone: bool,
    outbox: Outbox,
}

impl Set {
    /// Creates the directory if it does not exist, and takes its lock.
    ///
    /// # Errors
    /// Returns any error of the system, EAGAIN if another carpd holds the lock exclusively for too long.
    pub fn join(directory: &Path, outbox: &Outbox) -> io::Result<Self> {
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
                // A carpd has the lock exclusively only during its start or stop, unless it was stopped meanwhile.
                Err((_, errno)) if clock::now() >= give_up_at => return Err(errno.into()),
                Err(_) => {
                    thread::sleep(PATIENCE_RETRY);
                    continue;
                }
            };
            // The last carpd to leave may have removed the directory meanwhile.
            let is_there = fs::metadata(directory).map(|it| it.ino()).ok();
            if is_there == Some(lock.metadata()?.ino()) {
                return Ok(Self {
                    directory: directory.to_owned(),
                    lock,
                    alone,
                    outbox: outbox.clone(),
                });
            }
        }
    }

    /// Replaces the programs of dead carpds with ours, and removes the links that are of no use: those of interfaces that are
    /// gone, or that were moved to another network namespace together with the program.
    pub fn take_over(&self, object: &mut Ebpf, fence: &str, links: &BTreeMap<u32, Link>) {
        for name in pin::names(&self.directory) {
            let path = self.directory.join(&name);
            let (index, of) = name.split_once('-').unwrap_or_default();
            let is_here = index.parse().is_ok_and(|index| links.contains_key(&index));
            let replaced = match PinnedLink::from_pin(&path) {
                // A program of the other fence can stay as it is.
                Ok(_) if is_here && of != fence => continue,
                Ok(leftover) if is_here && !pin::is_dead(&path) => {
                    hook::replace_tcx(object, leftover.into(), EGRESS_PROGRAM).map(drop)
                }
                Ok(_) => Err("its interface is gone".into()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = replaced {
                self.tell_not_taken_over(&path, &*error);
                unlink(&path, &self.outbox);
            }
        }
    }

    /// Takes over the links in a directory that only dead carpds of another layout used, and moves them to ours. Returns the
    /// interfaces that they cover.
    pub fn take_over_from(
        &self,
        object: &mut Ebpf,
        directory: &Path,
        fence: &str,
        links: &BTreeMap<u32, Link>,
    ) -> Vec<u32> {
        let mut covered = Vec::new();
        let opened = File::open(directory).ok();
        // A living carpd keeps its programs in addition to ours.
        let Some(_lock) =
            opened.and_then(|opened| Flock::lock(opened, FlockArg::LockExclusiveNonblock).ok())
        else {
            return covered;
        };
        for name in pin::names(directory) {
            let path = directory.join(&name);
            let (index, _) = name.split_once('-').unwrap_or_default();
            let index = index.parse().ok().filter(|index| links.contains_key(index));
            let moved = match (PinnedLink::from_pin(&path), index) {
                (Ok(leftover), Some(index)) if !pin::is_dead(&path) => {
                    let ours = self.pin(index, fence);
                    match is_attached(&ours) {
                        true => Ok(()),
                        false => hook::replace_tcx(object, leftover.into(), EGRESS_PROGRAM)
                            .and_then(|link| Ok(link.pin(&ours).map(drop)?))
                            .map(|()| covered.push(index)),
                    }
                }
                (Ok(_), _) => Ok(()),
                (Err(error), _) => Err(error.into()),
            };
            if let Err(error) = moved {
                self.tell_not_taken_over(&path, &*error);
            }
            unlink(&path, &self.outbox);
        }
        let _ = fs::remove_dir(directory);
        covered
    }

    fn tell_not_taken_over(&self, path: &Path, error: &dyn StdError) {
        let (path, error) = (path.to_owned(), error.to_string());
        self.outbox
            .tell(Place::Process, kernel::Egress::NotTakenOver { path, error });
    }

    /// Lets other carpds join, once the leftovers are taken over.
    pub fn share(&self) {
        if let Err(errno) = self.lock.relock(FlockArg::LockShared) {
            let what = kernel::Egress::SetNotShared {
                directory: self.directory.clone(),
                error: errno.to_string(),
            };
            self.outbox.tell(Place::Process, what);
        }
    }

    /// Returns the path of the pin of an interface.
    pub fn pin(&self, ifindex: u32, fence: &str) -> PathBuf {
        self.directory.join(format!("{ifindex}-{fence}"))
    }

    /// Removes the pins of an interface that is gone, or in another network namespace.
    pub fn forget(&self, ifindex: u32) {
        for fence in ["arp", "all"] {
            unlink(&self.pin(ifindex, fence), &self.outbox);
        }
    }

    /// Removes the set with all links, unless others use it. Returns whether there were links.
    ///
    /// The kernel detaches the links later, and nobody waits for that.
    pub fn remove(self) -> bool {
        if self.lock.relock(FlockArg::LockExclusiveNonblock).is_err() {
            return false;
        }
        pin::remove_all(&self.directory, |pin| unlink(pin, &self.outbox))
    }
}
