//! `carpd --detach`: removes by hand what a killed carpd left attached.

use std::io;

use crate::io::datapath::{FenceTable, Pins, Removal};
use crate::io::netlink::Requests;
use crate::lock;

/// Why nothing could be removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was attached to it went with it.
    #[error("interface {0} does not exist, nothing is attached to it any more")]
    NoSuchInterface(String),
    /// Somebody is alive there.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The interfaces could not be listed.
    #[error("failed to list the interfaces")]
    Links(#[source] io::Error),
}

/// Removes every kernel program of a carpd that is not alive from an interface of this network namespace, and whatever
/// is left of interfaces that are gone.
///
/// # Errors
/// When the interface does not exist, or the system refuses.
pub fn from(interface: &str) -> Result<Removal, Error> {
    let pins = Pins::existing()?;
    pins.remove_dead();
    let links = Requests::new()
        .and_then(|mut requests| requests.links())
        .map_err(Error::Links)?;
    let Some(link) = links.into_iter().find(|link| link.is_called(interface)) else {
        return Err(Error::NoSuchInterface(interface.to_owned()));
    };
    let removal = pins.remove_unowned(link.index, interface);
    if let Some(mut fences) = pins.fence_table().as_deref().and_then(FenceTable::pinned) {
        let held = lock::Held::look()?;
        for fenced in fences.on(link.index) {
            if !held.serves(link.index, fenced.vhid) {
                // What cannot be removed goes with the last program.
                let _ = fences.clear(link.index, fenced.address);
            }
        }
    }
    Ok(removal)
}
