//! The addresses that this host must not answer for beyond a deadline: one table for every carpd of a network namespace.
//!
//! It is pinned beside the programs, and every program looks into it. So what a dead daemon left in it holds for as long
//! as any program is attached there, whoever attached it and whatever was started since; each entry says whose it is, and
//! goes when its address does.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use carp_common::shared::{FENCE_MAP, FenceKey, FenceValue};
use carp_common::time::Instant;
use carp_common::units::Vhid;
use tracing::debug;

use super::error::{Error, map_error};
use super::guard::absent_or;

/// The table.
pub struct FenceTable(HashMap<MapData, FenceKey, FenceValue>);

/// One entry of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The address.
    pub address: IpAddr,
    /// The virtual host that it belongs to.
    pub vhid: Vhid,
}

impl FenceTable {
    /// The one of loaded programs.
    #[must_use]
    pub const fn of(map: HashMap<MapData, FenceKey, FenceValue>) -> Self {
        Self(map)
    }

    /// The one that is pinned, for who loads no program.
    #[must_use]
    pub fn pinned(path: &Path) -> Option<Self> {
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

    /// From `deadline` on questions for the address are dropped.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        vhid: Vhid,
        deadline: Instant,
    ) -> Result<(), Error> {
        let value = FenceValue {
            deadline_ns: deadline.as_nanos(),
            vhid: vhid.get().into(),
            _pad: 0,
        };
        self.0
            .insert(FenceKey::new(ifindex, 0, address), value, 0)
            .map_err(map_error("write", FENCE_MAP))
    }

    /// Questions for the address are nobody's business of ours; one that is not fenced is fine.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn clear(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        absent_or(self.0.remove(&FenceKey::new(ifindex, 0, address)))
            .map_err(map_error("write", FENCE_MAP))
    }

    /// What is fenced on an interface, by whomever.
    #[must_use]
    pub fn on(&self, ifindex: u32) -> Vec<Fenced> {
        let entries = self.0.iter().filter_map(Result::ok);
        entries
            .filter(|(key, _)| key.ifindex == ifindex)
            .filter_map(|(key, value)| {
                Some(Fenced {
                    address: key.address(),
                    vhid: u8::try_from(value.vhid).ok().and_then(Vhid::new)?,
                })
            })
            .collect()
    }

    /// The interface is gone, and its index will not be used again.
    pub fn forget(&mut self, ifindex: u32) {
        let keys = self.0.keys().filter_map(Result::ok);
        let keys: Vec<FenceKey> = keys.filter(|key| key.ifindex == ifindex).collect();
        for key in keys {
            let _ = self.0.remove(&key);
        }
    }
}
