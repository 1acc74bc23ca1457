//! The names and the shapes of the tables that every carpd of a network namespace shares.

use std::path::Path;

use aya::maps::MapInfo;
use carp_common::abi::layout::{
    ADDRESSES_MAP, ADDRESSES_MAX, AddressKey, AddressValue, VHOSTS_MAP, VHOSTS_MAX, VhostKey,
    VhostValue,
};

/// A shared table, as this version makes it.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// The name of its pin, without the version.
    pub name: &'static str,
    /// The name of its map in the object.
    pub map: &'static str,
    shape: Shape,
}

/// The two tables.
pub const SHARED: [Shared; 2] = [
    Shared {
        name: "vhosts",
        map: VHOSTS_MAP,
        shape: Shape::of::<VhostKey, VhostValue>(VHOSTS_MAX),
    },
    Shared {
        name: "addresses",
        map: ADDRESSES_MAP,
        shape: Shape::of::<AddressKey, AddressValue>(ADDRESSES_MAX),
    },
];

impl Shared {
    /// Returns whether a table of this shape is pinned at a path.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        Shape::at(path) == Some(self.shape)
    }
}

/// The properties of a map that the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Its type (linux/bpf.h, `enum bpf_map_type`).
    kind: usize,
    /// Unit: bytes.
    key_len: usize,
    /// Unit: bytes.
    value_len: usize,
    /// The largest number of entries.
    entries: usize,
}

impl Shape {
    /// BPF_MAP_TYPE_HASH (linux/bpf.h).
    const HASH: usize = 1;

    const fn of<K, V>(entries: u32) -> Self {
        Self {
            kind: Self::HASH,
            key_len: size_of::<K>(),
            value_len: size_of::<V>(),
            entries: entries as usize,
        }
    }

    /// Returns the shape of the map that is pinned at a path. `None` if there is none.
    fn at(path: &Path) -> Option<Self> {
        let info = MapInfo::from_pin(path).ok()?;
        Some(Self {
            kind: info.map_type().ok()? as usize,
            key_len: info.key_size() as usize,
            value_len: info.value_size() as usize,
            entries: info.max_entries() as usize,
        })
    }
}
