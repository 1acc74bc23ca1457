//! The addresses that this host must not answer for beyond a deadline: one table for every carpd of a network namespace.
//!
//! The key is the address alone: a host answers for each of its addresses on every interface.
//!
//! It is pinned beside the programs, and every program looks into it. So what a dead daemon left in it holds for as long
//! as any program is attached there, whoever attached it and whatever was started since; each entry says whose it is, and
//! goes when its address does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use carp_common::abi::layout::{FENCE_ENTRIES_MAX, FENCE_MAP, FenceKey, FenceValue};
use carp_common::time::Instant;
use carp_common::units::Vhid;
use tracing::{debug, warn};

use super::error::{Error, map_error};
use super::guard::absent_or;
use super::{Chain, Datapath, Egress, error};
use crate::config::Fence;
use crate::io::clock;
use crate::io::netlink::{Client, Link};
use crate::sys;

/// The table.
pub struct FenceTable(HashMap<MapData, FenceKey, FenceValue>);

/// One entry of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The address.
    pub address: IpAddr,
    /// The virtual host that it belongs to.
    pub owner: Owner,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The interface that it is served on.
    pub ifindex: u32,
    /// Its vhid.
    pub vhid: Vhid,
}

impl Owner {
    fn of(value: &FenceValue) -> Option<Self> {
        Some(Self {
            ifindex: value.ifindex,
            vhid: Vhid::new(value.vhid)?,
        })
    }
}

impl FenceTable {
    /// The one of loaded programs.
    #[must_use]
    pub const fn of(map: HashMap<MapData, FenceKey, FenceValue>) -> Self {
        Self(map)
    }

    /// Opens the pinned one, for a process that loads no program.
    #[must_use]
    pub fn pinned(path: &Path) -> Option<Self> {
        check_pin(path).ok()?;
        // Not there, or not for us.
        let map = Map::HashMap(MapData::from_pin(path).ok()?);
        match HashMap::try_from(map) {
            Ok(map) => Some(Self(map)),
            Err(error) => {
                debug!("{}: {error}", path.display());
                None
            }
        }
    }

    /// Fences the address from `deadline` on, and with `every_packet` more than ARP and neighbour discovery.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set(
        &mut self,
        Fenced { address, owner }: Fenced,
        deadline: Instant,
        every_packet: bool,
    ) -> Result<(), Error> {
        let value = FenceValue {
            deadline_ns: deadline.as_nanos(),
            ifindex: owner.ifindex,
            vhid: owner.vhid.get(),
            every_packet: every_packet.into(),
            _pad: [0; 2],
        };
        self.0
            .insert(FenceKey::new(address), value, 0)
            .map_err(map_error("write", FENCE_MAP))
    }

    /// Fences the address at once, unless another virtual host is MASTER with it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn silence(&mut self, fenced: Fenced, every_packet: bool) -> Result<(), Error> {
        let known = self.0.get(&FenceKey::new(fenced.address), 0).ok();
        let is_foreign = known.is_some_and(|value| {
            Owner::of(&value) != Some(fenced.owner) && value.deadline_ns > clock::now().as_nanos()
        });
        if is_foreign {
            return Ok(());
        }
        self.set(fenced, Instant::ZERO, every_packet)
    }

    /// Lifts the fence of an address, unless it is another virtual host's; a no-op where there is none.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn clear(&mut self, Fenced { address, owner }: Fenced) -> Result<(), Error> {
        let key = FenceKey::new(address);
        match self.0.get(&key, 0) {
            Ok(value) if Owner::of(&value) != Some(owner) => Ok(()),
            Ok(_) | Err(_) => absent_or(self.0.remove(&key)).map_err(map_error("write", FENCE_MAP)),
        }
    }

    /// Every fenced address of the network namespace.
    #[must_use]
    pub fn all(&self) -> Vec<Fenced> {
        let entries = self.0.iter().filter_map(Result::ok);
        entries
            .filter_map(|(key, value)| {
                Some(Fenced {
                    address: key.address(),
                    owner: Owner::of(&value)?,
                })
            })
            .collect()
    }

    /// Those that belong to virtual hosts on an interface, whoever serves them.
    #[must_use]
    pub fn on(&self, ifindex: u32) -> Vec<Fenced> {
        let mut all = self.all();
        all.retain(|fenced| fenced.owner.ifindex == ifindex);
        all
    }

    /// Removes what belongs to an interface that is gone: its index will not be used again.
    pub fn forget(&mut self, ifindex: u32) {
        for fenced in self.on(ifindex) {
            let _ = self.clear(fenced);
        }
    }
}

impl Datapath {
    /// Loads the program for egress, where there is a fence.
    pub(super) fn prepare_egress(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if self.fence == Fence::Off || self.egress.is_some() || self.egress_refused {
            return;
        }
        match kernel.prepare_egress() {
            Ok(program) => self.egress = Some(Egress::open(program, &self.pins, self.fence)),
            Err(error) => {
                self.egress_refused = true;
                warn!(
                    "the fence covers what comes in, not what this host says: {}",
                    Chain(&error)
                );
            }
        }
    }

    /// Takes over the programs at egress that dead ones left, of a network namespace with these interfaces, and covers
    /// those that are served.
    pub fn start_cover(&mut self, links: &BTreeMap<u32, Link>) {
        if let (Some(kernel), Some(egress)) = (&mut self.kernel, &mut self.egress) {
            kernel.start_egress(egress, links, &self.attachments);
        }
    }

    /// Follows the interfaces of the network namespace, of which these are all: the fence covers what leaves on each.
    pub fn cover(&mut self, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            egress.cover(links, &self.attachments);
        }
    }

    /// When interfaces are left to be covered.
    #[must_use]
    pub fn covers_at(&self) -> Option<Instant> {
        self.egress.as_ref().and_then(Egress::due)
    }

    /// The same, and tries again what the kernel refused before.
    pub fn cover_refused(&mut self, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            egress.forget_refusals();
        }
        self.cover(links);
    }

    /// Covers anew what others uncovered.
    pub fn look_at_cover(
        &mut self,
        links: &BTreeMap<u32, Link>,
        netlink: &mut Client,
        now: Instant,
    ) {
        let egress = self.egress.as_mut();
        if egress.is_some_and(|egress| egress.look(links, netlink, now)) {
            self.cover(links);
        }
    }

    /// From `deadline` on this host does not answer for the address, nor speak in its name.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn fence(&mut self, fenced: Fenced, deadline: Instant) -> Result<(), error::Error> {
        match &mut self.fences {
            Some(fences) if self.fence != Fence::Off => {
                fences.set(fenced, deadline, self.fence == Fence::All)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The same at once, unless another virtual host is MASTER with the address.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn silence(&mut self, fenced: Fenced) -> Result<(), error::Error> {
        match &mut self.fences {
            Some(fences) if self.fence != Fence::Off => {
                fences.silence(fenced, self.fence == Fence::All)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Lifts the fence: this host answers for the address if it has it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn unfence(&mut self, fenced: Fenced) -> Result<(), error::Error> {
        match &mut self.fences {
            Some(fences) => fences.clear(fenced),
            None => Ok(()),
        }
    }

    /// Every fenced address of the network namespace, whoever fenced it.
    #[must_use]
    pub fn all_fenced(&self) -> Vec<Fenced> {
        self.fences.as_ref().map_or_else(Vec::new, FenceTable::all)
    }

    /// What is fenced for the virtual hosts of an interface, whoever did it.
    #[must_use]
    pub fn fenced(&self, ifindex: u32) -> Vec<Fenced> {
        self.fences
            .as_ref()
            .map_or_else(Vec::new, |fences| fences.on(ifindex))
    }
}

/// Refuses what is pinned at a path when it is not such a table: the kernel would only say that a number is wrong.
///
/// # Errors
/// What is there, and what should be.
pub fn check_pin(path: &Path) -> Result<(), Error> {
    let wanted = describe([
        HASH_MAP,
        size_of::<FenceKey>(),
        size_of::<FenceValue>(),
        FENCE_ENTRIES_MAX as usize,
    ]);
    let is = match sys::open_bpf_object(path) {
        Ok(object) => {
            // Without /proc nothing can be compared.
            let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))
            else {
                return Ok(());
            };
            describe_object(&info)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => format!("not to be opened ({error})"),
    };
    if is == wanted {
        return Ok(());
    }
    let path = path.to_owned();
    Err(Error::ForeignPin { path, is, wanted })
}

/// BPF_MAP_TYPE_HASH (linux/bpf.h).
const HASH_MAP: usize = 1;

fn describe([kind, key, value, entries]: [usize; 4]) -> String {
    format!(
        "a map of type {kind} with keys of {key} bytes, values of {value} and {entries} entries"
    )
}

/// The same for what a descriptor's fdinfo tells.
fn describe_object(info: &str) -> String {
    let number = |name| {
        let mut lines = info.lines();
        let value = lines.find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.trim().parse().ok())
    };
    let sizes = ["map_type:", "key_size:", "value_size:", "max_entries:"].map(number);
    match sizes {
        [Some(kind), Some(key), Some(value), Some(entries)] => {
            describe([kind, key, value, entries])
        }
        _ => "no map".to_owned(),
    }
}
