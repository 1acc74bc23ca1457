//! Links that are pinned in carpd's bpffs, so that their programs stay attached when the process ends.
//!
//! A pinned link outlives its process, and so does the fence around the addresses that a dead MASTER left. Each link has a
//! place (an interface of a network namespace, and a hook there), and each place has a lock. The owner of the lock serves
//! there. A link at a place whose lock is free is a leftover. The next start takes over the links that it can use and removes
//! the rest; an orderly stop, and `carpd --detach`, leave nothing. The bpffs also has the shared tables (`tables`) and the
//! directory of the links at egress (`egress`), which have no places.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use carp_common::abi::layout::VERSION;

use super::bpffs::{Bpffs, DIRECTORY};
use super::pin::{self, names, place_of, tell_unusable};
use super::shared::{SHARED, Shared};
use crate::api::event::kernel::Pin;
use crate::api::status::Survival;
use crate::api::{Outbox, Place};
use crate::lock::{self, Lock};
use crate::sys;

/// The name of the directory of the links at egress, without the version.
const EGRESS: &str = "egress";

/// The age at which a table without a program is removed, in another network namespace. The owner of a newer one may be
/// about to attach a program.
const TABLE_GRACE: Duration = Duration::from_secs(60);

/// The pins of this network namespace.
#[derive(Debug)]
pub struct Pins {
    /// The cookie of the namespace. Its inode would not do, because a later namespace may get the same one and would inherit
    /// the fence.
    namespace: u64,
    /// `None` if nothing can be pinned. Programs then end with this process.
    bpffs: Option<Bpffs>,
    /// Where this and everything that uses pins sends its events.
    pub outbox: Outbox,
}

impl Pins {
    const fn none(outbox: Outbox) -> Self {
        Self {
            namespace: 0,
            bpffs: None,
            outbox,
        }
    }

    /// Mounts the bpffs unless it is mounted, and removes the pins of interfaces that are gone.
    ///
    /// Tells if the fence would not outlive a killed daemon.
    #[must_use]
    pub fn open(outbox: Outbox) -> Self {
        let directory = DIRECTORY;
        let opened =
            sys::network_cookie().and_then(|namespace| Ok((namespace, Bpffs::open(&outbox)?)));
        let (pins, about) = match opened {
            Ok((namespace, bpffs)) => {
                let about = match bpffs.survival() {
                    Survival::No => Some(Pin::PrivateBpffs { directory }),
                    Survival::WithContainer => Some(Pin::ContainerBpffs { directory }),
                    Survival::Yes => None,
                };
                let bpffs = Some(bpffs);
                let pins = Self {
                    namespace,
                    bpffs,
                    outbox,
                };
                (pins, about)
            }
            Err(error) => {
                let error = error.to_string();
                let about = Some(Pin::NoBpffs { directory, error });
                (Self::none(outbox), about)
            }
        };
        if let Some(about) = about {
            pins.outbox.tell(Place::Process, about);
        }
        pins.remove_dead();
        pins
    }

    /// Returns the existing pins, for a caller that pins nothing.
    #[must_use]
    pub fn existing(outbox: Outbox) -> Self {
        match sys::network_cookie() {
            Ok(namespace) => Self {
                namespace,
                bpffs: Bpffs::existing(),
                outbox,
            },
            // Kernels without the cookie, before 5.14, do not run the program either.
            Err(_) => Self::none(outbox),
        }
    }

    /// Returns whether pinned programs outlive a daemon that is killed.
    #[must_use]
    pub fn survival(&self) -> Survival {
        self.bpffs.as_ref().map_or(Survival::No, Bpffs::survival)
    }

    /// Claims a place for this process: `hook` of an interface. The interface's name is for the error.
    ///
    /// # Errors
    /// Returns `Busy` with the owner's pid if another carpd has the place.
    pub fn claim(
        &self,
        ifindex: u32,
        interface: &str,
        hook: &str,
    ) -> Result<HookClaim, lock::LockError> {
        Ok(HookClaim {
            directory: self.directory(ifindex),
            outbox: self.outbox.clone(),
            _lock: lock::acquire_hook(ifindex, interface, hook)?,
        })
    }

    /// Removes every link on an interface that has no living owner. Returns the removed links, and why the others stay.
    #[must_use]
    pub fn remove_unowned(&self, ifindex: u32, interface: &str) -> Removal {
        let mut removal = Removal::default();
        let Some(directory) = self.directory(ifindex) else {
            return removal;
        };
        for name in names(&directory) {
            match self.claim(ifindex, interface, place_of(&name)) {
                Ok(place) => {
                    place.remove(&name);
                    removal.removed.push(name);
                }
                Err(error) => removal.refused.push(error),
            }
        }
        // This only succeeds if the directory is empty.
        let _ = fs::remove_dir(directory);
        removal
    }

    /// Removes the pins of interfaces that are gone, in every network namespace.
    pub fn remove_dead(&self) {
        let Some(root) = self.root() else {
            return;
        };
        let (directories, tables): (Vec<_>, Vec<_>) = names(root)
            .into_iter()
            .partition(|name| root.join(name).is_dir());
        for name in &directories {
            remove_dead_in(&root.join(name), &self.outbox);
        }
        for table in &tables {
            // A namespace that has a program has a directory.
            let is_used = directories
                .iter()
                .any(|name| namespace_of(name) == namespace_of(table));
            if !is_used {
                remove_old(&root.join(table));
            }
        }
    }

    /// Returns the indices of the interfaces that have pins.
    #[must_use]
    pub fn interfaces(&self) -> Vec<u32> {
        let prefix = format!("{}:", self.namespace);
        let names = self.root().map(names).unwrap_or_default();
        let of_ours = names.iter().filter_map(|name| name.strip_prefix(&prefix));
        of_ours.filter_map(|name| name.parse().ok()).collect()
    }

    /// Removes the pins of dead links of an interface that is gone.
    pub fn forget(&self, ifindex: u32) {
        if let Some(directory) = self.directory(ifindex) {
            remove_dead_in(&directory, &self.outbox);
        }
    }

    /// Returns the path of the pin of a table that every carpd of this network namespace shares. `None` if nothing can be
    /// pinned.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<PathBuf> {
        self.path(&format!("{name}-{VERSION}"))
    }

    /// Renames a pin that has the name of a shared table but another shape. A carpd of another layout that forgot to change
    /// the version made it.
    pub fn set_aside(&self, table: &Shared) {
        let Some(path) = self.table(table.name) else {
            return;
        };
        if !fs::exists(&path).unwrap_or(false) || table.is_at(&path) {
            return;
        }
        let mut aside = path.clone().into_os_string();
        aside.push("-aside");
        match fs::rename(&path, &aside) {
            Ok(()) => self.outbox.tell(Place::Process, Pin::SetAside { path }),
            Err(error) => tell_unusable(&self.outbox, &path, &error),
        }
    }

    /// Returns the directory of the links at egress, which every carpd of this network namespace shares. `None` if nothing
    /// can be pinned.
    #[must_use]
    pub fn egress(&self) -> Option<PathBuf> {
        self.path(&format!("{EGRESS}-{VERSION}"))
    }

    /// Returns the directories of the links at egress of other layouts.
    #[must_use]
    pub fn other_egress(&self) -> Vec<PathBuf> {
        let mut others = self.in_namespace();
        let ours = self.egress();
        others.retain(|path| path.is_dir() && is_egress(path) && Some(path) != ours.as_ref());
        others
    }

    /// Returns the shared tables of other layouts.
    #[must_use]
    pub fn other_tables(&self) -> Vec<PathBuf> {
        let ours = SHARED.map(|table| self.table(table.name));
        let mut others = self.in_namespace();
        others.retain(|path| !path.is_dir() && !ours.contains(&Some(path.clone())));
        others
    }

    /// Returns every link that is pinned at a place, by the interface's index and the name of the pin.
    #[must_use]
    pub fn places(&self) -> Vec<(u32, String)> {
        let interfaces = self.interfaces().into_iter();
        let pinned = interfaces.filter_map(|ifindex| Some((ifindex, self.directory(ifindex)?)));
        pinned
            .flat_map(|(ifindex, directory)| {
                let names = names(&directory).into_iter();
                names.map(move |name| (ifindex, name))
            })
            .collect()
    }

    /// Returns the paths of all pins and directories of this network namespace.
    fn in_namespace(&self) -> Vec<PathBuf> {
        let prefix = format!("{}:", self.namespace);
        let Some(root) = self.root() else {
            return Vec::new();
        };
        let of_ours = names(root)
            .into_iter()
            .filter(|name| name.starts_with(&prefix));
        of_ours.map(|name| root.join(name)).collect()
    }

    fn root(&self) -> Option<&Path> {
        self.bpffs.as_ref().map(Bpffs::path)
    }

    fn directory(&self, ifindex: u32) -> Option<PathBuf> {
        self.path(&ifindex.to_string())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.root()?.join(format!("{}:{name}", self.namespace)))
    }
}

/// The outcome of removing the pins of an interface.
#[derive(Debug, Default)]
pub struct Removal {
    /// The names of the removed pins, which begin with the rung's name.
    pub removed: Vec<String>,
    /// Why the others stay.
    pub refused: Vec<lock::LockError>,
}

/// A place that belongs to this process until this is dropped.
#[derive(Debug)]
pub struct HookClaim {
    /// `None` if nothing can be pinned.
    directory: Option<PathBuf>,
    outbox: Outbox,
    _lock: Lock,
}

impl HookClaim {
    /// Returns whether a link is pinned here under a name.
    pub fn has(&self, name: &str) -> bool {
        let path = self.directory.as_ref().map(|it| it.join(name));
        path.is_some_and(|path| fs::exists(path).unwrap_or(false))
    }

    /// Returns the link that an earlier run left here under a name, still attached.
    #[must_use]
    pub fn leftover(&self, name: &str) -> Option<FdLink> {
        let path = self.directory.as_ref()?.join(name);
        if !fs::exists(&path).unwrap_or(false) {
            return None;
        }
        match PinnedLink::from_pin(&path) {
            Ok(link) => Some(link.into()),
            Err(error) => {
                tell_unusable(&self.outbox, &path, &error);
                None
            }
        }
    }

    /// Pins a link under a name. Returns `None` if that failed, and tells it. The link is gone then.
    #[must_use]
    pub fn pin(&self, link: FdLink, name: &str) -> Option<FdLink> {
        let Some(directory) = &self.directory else {
            return Some(link);
        };
        let path = directory.join(name);
        let created = match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome,
        };
        if let Err(error) = created {
            let (directory, error) = (directory.clone(), error.to_string());
            let what = Pin::NoDirectory { directory, error };
            self.outbox.tell(Place::Process, what);
            return Some(link);
        }
        match link.pin(&path) {
            Ok(link) => Some(link.into()),
            Err(error) => {
                let error = error.to_string();
                let what = Pin::Failed { path, error };
                self.outbox.tell(Place::Process, what);
                None
            }
        }
    }

    /// Detaches the link that is pinned here under a name, and removes the pin.
    pub fn remove(&self, name: &str) {
        if let Some(directory) = &self.directory {
            pin::remove(&directory.join(name), &self.outbox);
        }
    }
}

/// Returns the network namespace that a pin's name begins with.
fn namespace_of(name: &str) -> &str {
    name.split(':').next().unwrap_or_default()
}

fn is_egress(directory: &Path) -> bool {
    let name = directory.file_name().and_then(OsStr::to_str);
    name.and_then(|name| name.split_once(':'))
        .is_some_and(|(_, name)| name.starts_with(EGRESS))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time stamp of a file is one of the wall clock"
)]
fn remove_old(table: &Path) {
    let made = fs::metadata(table).and_then(|metadata| metadata.modified());
    if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > TABLE_GRACE)) {
        let _ = fs::remove_file(table);
    }
}

fn remove_dead_in(directory: &Path, outbox: &Outbox) {
    for name in names(directory) {
        let path = directory.join(&name);
        if pin::is_dead(&path) {
            pin::remove(&path, outbox);
            outbox.tell(Place::Process, Pin::Removed { path });
        }
    }
    // This only succeeds if the directory is empty. The owners of its lock remove the directory of the links at egress.
    if !is_egress(directory) {
        let _ = fs::remove_dir(directory);
    } else if names(directory).is_empty() {
        let _ = pin::remove_unused_set(directory, outbox);
    }
}
