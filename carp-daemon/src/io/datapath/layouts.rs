//! Tables of carpds that have another layout, older or newer.
//!
//! At its start, carpd copies the addresses that they fence into its own tables, replaces each program that a dead carpd left
//! with its own, and removes their tables if no living carpd uses them. The kernel replaces the program of a link between one
//! packet and the next, so the fence does not open.
//!
//! Unless the version of a table is known here, only its addresses can be read. Therefore:
//!
//! - An address of ours is silent until the election says otherwise, even if no table has it. The table that had it may be
//!   one that cannot be read.
//! - Any other address in such a table is silent, unless a living carpd has its lock. Its owner is unknown, so it stays silent
//!   until its carpd runs again, until a start finds it gone from this host, or until `carpd --detach`. The purpose of a fence
//!   is to silence the address of a dead MASTER, and an answer could be a second one.
//! - A table that breaks the promise of [`carp_common::abi::layout::VERSION`] tells nothing about the addresses of others.
//!   Addresses that carpd itself added end with their lease. Nothing can be known about the rest.
//!
//! A living carpd of another layout keeps its programs, its tables and its part of egress. On tcx our programs run in addition
//! to its own; an XDP hook that it has is taken, as with any carpd. Each fences only its own addresses, because neither reads
//! the tables of the other. On the packet socket there is no fence, and programs of another layout are removed like any
//! leftover that fences nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{MapInfo, MapType};
use carp_common::abi::layout::{FAMILY_INET, FAMILY_INET6};
use carp_common::units::Vhid;

use super::hook::{Attachment, Hook};
use super::pin;
use super::pins::Pins;
use super::program::Program;
use super::tables::{AddressOwner, Fenced, Tables};
use crate::api::event::kernel::Layout;
use crate::api::{Outbox, Place};
use crate::io::chain::Chain;
use crate::lock;
use crate::sys;

/// The largest number of keys that is read of a table, so that reading one that changes meanwhile ends.
const KEYS_MAX: usize = 64 * 1024;

/// An address in a table of another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FoundAddress {
    fenced: Fenced,
    every_packet: bool,
}

/// Returns the addresses in a table. `None` if it is not a table of addresses, or cannot be read.
fn read(table: &Path, outbox: &Outbox) -> Option<Vec<FoundAddress>> {
    let info = MapInfo::from_pin(table).ok()?;
    let [key_len, value_len] = [info.key_size(), info.value_size()].map(|len| len as usize);
    let is_hash = matches!(info.map_type(), Ok(MapType::Hash));
    if !is_hash || key_len <= 16 {
        return None;
    }
    let read = || -> io::Result<Vec<FoundAddress>> {
        let map = sys::open_bpf_object(table)?;
        let keys = sys::bpf_map_keys(map.as_fd(), key_len, KEYS_MAX)?;
        let known = keys.iter().filter_map(|key| {
            // An address that was removed meanwhile is not fenced any more.
            let value = sys::bpf_map_value(map.as_fd(), key, value_len).ok()?;
            parse(key, &value)
        });
        Ok(known.collect())
    };
    match read() {
        Ok(known) => Some(known),
        Err(error) => {
            pin::tell_unusable(outbox, table, &error);
            None
        }
    }
}

/// Returns the address of an entry, which every version promises, and its owner if the sizes are those of version 2.
fn parse(key: &[u8], value: &[u8]) -> Option<FoundAddress> {
    let (address, rest) = key.split_first_chunk::<16>()?;
    let address = match *rest.first()? {
        FAMILY_INET => {
            let (inet, zeros) = address.split_first_chunk::<4>()?;
            zeros
                .iter()
                .all(|byte| *byte == 0)
                .then(|| IpAddr::from(*inet))?
        }
        FAMILY_INET6 => IpAddr::from(*address),
        _ => return None,
    };
    let (owner, every_packet) = match (key.len(), value) {
        // The value is a deadline of 8 bytes, the owner's interface and vhid, and whether the fence covers every packet.
        (20, &[_, _, _, _, _, _, _, _, a, b, c, d, vhid, every_packet, _, _]) => {
            let ifindex = u32::from_ne_bytes([a, b, c, d]);
            let owner = Vhid::new(vhid).map(|vhid| AddressOwner { ifindex, vhid });
            (owner, every_packet != 0)
        }
        _ => (None, false),
    };
    let fenced = Fenced { address, owner };
    Some(FoundAddress {
        fenced,
        every_packet,
    })
}

/// Takes over from dead carpds whose tables have another layout.
pub struct OtherLayouts {
    /// The addresses of every configured virtual host.
    own_addresses: Vec<IpAddr>,
}

impl OtherLayouts {
    /// Returns a value for a configuration with these addresses.
    #[must_use]
    pub const fn new(own_addresses: Vec<IpAddr>) -> Self {
        Self { own_addresses }
    }

    /// Returns what dead carpds of other layouts fence and our tables do not have.
    fn missing(&self, pins: &Pins, tables: Option<&Tables>) -> Vec<FoundAddress> {
        let others = pins.other_tables();
        if others.is_empty() {
            return Vec::new();
        }
        // If it is unknown which daemons are alive, all count as dead, because then the fence is closed.
        let held = lock::Held::look().ok();
        let lives = |address| held.as_ref().is_some_and(|held| held.has_address(address));
        let theirs = others
            .iter()
            .filter_map(|table| read(table, &pins.outbox))
            .flatten();
        let theirs = theirs.filter(|known| {
            let address = known.fenced.address;
            self.own_addresses.contains(&address) || !lives(address)
        });
        let ours = self.own_addresses.iter().map(|address| FoundAddress {
            fenced: Fenced {
                address: *address,
                owner: None,
            },
            every_packet: false,
        });
        let mut seen: BTreeSet<IpAddr> = tables
            .map_or_else(Vec::new, Tables::all)
            .iter()
            .map(|fenced| fenced.address)
            .collect();
        let mut known: Vec<FoundAddress> = theirs.chain(ours).collect();
        known.retain(|known| seen.insert(known.fenced.address));
        known
    }

    /// Returns what [`adopt_addresses`](Self::adopt_addresses) would fence. There may be no tables yet.
    pub fn fenced(&self, pins: &Pins, tables: Option<&Tables>) -> impl Iterator<Item = Fenced> {
        let missing = self.missing(pins, tables).into_iter();
        missing.map(|known| known.fenced)
    }

    /// Fences in our tables what dead carpds of other layouts fence. Call it before a program of theirs is replaced.
    pub fn adopt_addresses(&self, pins: &Pins, tables: &mut Tables) {
        for known in self.missing(pins, Some(tables)) {
            if let Err(error) = tables.own(known.fenced, known.every_packet) {
                let (address, error) = (known.fenced.address, Chain(&error).to_string());
                let what = Layout::AddressNotTakenOver { address, error };
                pins.outbox.tell(Place::Process, what);
            }
        }
    }

    /// Replaces each program that a dead carpd of another layout left on an interface that we do not serve with ours. Then
    /// removes its tables, unless a living carpd uses them. `served` are the interfaces that we serve.
    pub fn adopt_links(
        &self,
        pins: &Pins,
        tables: Option<&mut Tables>,
        mut program: Option<&mut Program>,
        served: &BTreeMap<u32, Attachment>,
    ) {
        let others = pins.other_tables();
        if others.is_empty() {
            return;
        }
        if let Some(tables) = tables {
            self.adopt_addresses(pins, tables);
        }
        let mut is_replaced = true;
        for (ifindex, name) in pins.places() {
            let attachment = served.get(&ifindex);
            if attachment.is_some_and(|it| it.is_pinned_as(&name)) {
                continue;
            }
            let program = program.as_deref_mut();
            is_replaced &= program.is_some_and(|it| adopt_link(it, pins, ifindex, &name));
        }
        let is_alone = lock::Held::look().is_ok_and(|held| held.hooks() <= served.len());
        if is_replaced && is_alone {
            for table in others {
                match fs::remove_file(&table) {
                    Ok(()) => pins
                        .outbox
                        .tell(Place::Process, Layout::TakenOver { table }),
                    Err(error) => pin::tell_unusable(&pins.outbox, &table, &error),
                }
            }
        }
    }
}

/// Returns whether the link at a place does not use tables of another layout any more.
fn adopt_link(program: &mut Program, pins: &Pins, ifindex: u32, name: &str) -> bool {
    let Some(hook) = Hook::of_pin(name) else {
        return false;
    };
    // A living carpd keeps its place.
    let Ok(place) = pins.claim(ifindex, name, pin::place_of(name)) else {
        return false;
    };
    let Some(leftover) = place.leftover(name) else {
        return false;
    };
    let replaced = program.replace(leftover, hook);
    if let Err(error) = &replaced {
        let (pin, error) = (name.to_owned(), error.to_string());
        let what = Layout::ProgramNotTakenOver {
            pin,
            ifindex,
            error,
        };
        pins.outbox.tell(Place::Process, what);
    }
    replaced.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &[u8], family: u8, length: usize) -> Vec<u8> {
        let mut key = vec![0; length];
        key[..address.len()].copy_from_slice(address);
        key[16] = family;
        key
    }

    fn value(ifindex: u32, vhid: u8, every_packet: u8) -> Vec<u8> {
        let mut value = vec![0xff; 8];
        value.extend(ifindex.to_ne_bytes());
        value.extend([vhid, every_packet, 0, 0]);
        value
    }

    #[test]
    fn version_2_tells_the_owner_too() {
        let known = parse(&key(&[10, 9, 0, 100], 4, 20), &value(7, 3, 1)).unwrap();
        assert_eq!(known.fenced.address, IpAddr::from([10, 9, 0, 100]));
        let owner = known.fenced.owner.unwrap();
        assert_eq!((owner.ifindex, owner.vhid.get()), (7, 3));
        assert!(known.every_packet);
        let nobody = parse(&key(&[10, 9, 0, 100], 4, 20), &value(7, 0, 0)).unwrap();
        assert_eq!((nobody.fenced.owner, nobody.every_packet), (None, false));
    }

    #[test]
    fn of_any_other_version_the_address_is_known() {
        let inet6: Vec<u8> = (1..=16).collect();
        for (key_len, value_len) in [(17, 1), (20, 8), (24, 16), (64, 4096)] {
            let value = vec![7; value_len];
            let known = parse(&key(&[192, 0, 2, 1], 4, key_len), &value).unwrap();
            assert_eq!(known.fenced.address, IpAddr::from([192, 0, 2, 1]));
            let known = parse(&key(&inet6, 6, key_len), &value).unwrap();
            let bytes: [u8; 16] = inet6.clone().try_into().unwrap();
            assert_eq!(known.fenced.address, IpAddr::from(bytes));
            assert_eq!(known.fenced.owner, None);
        }
    }

    #[test]
    fn values_that_are_no_address_are_left_out() {
        for key in [
            key(&[192, 0, 2, 1], 5, 20),
            key(&[192, 0, 2, 1, 9], 4, 20),
            key(&[192, 0, 2, 1], 4, 17)[..16].to_vec(),
            vec![],
        ] {
            assert_eq!(parse(&key, &value(7, 3, 0)), None, "{key:?}");
        }
    }
}
