//! `carpd --detach`: removes what a killed carpd left attached.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use carp_common::abi::layout::EGRESS_PROGRAM;

use crate::api::Outbox;
use crate::io::clock;
use crate::io::datapath::{Pins, Removal, Tables, attached_programs, remove_unused_egress};
use crate::io::netlink::Client;
use crate::lock;

/// The time for which a removed program may still be listed, and the pause between two checks.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_RETRY: Duration = Duration::from_millis(20);

/// The reason why not everything could be removed.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The interface does not exist, and programs attached to it are gone with it.
    #[error("interface {0} does not exist, nothing is attached to it any more")]
    NoSuchInterface(String),
    /// A carpd is alive there.
    #[error("{0}: stop that one, and it removes its programs itself")]
    Alive(lock::LockError),
    /// The locks could not be read.
    #[error(transparent)]
    Lock(lock::LockError),
    /// A program is attached, but its pin is not visible.
    #[error(
        "{program} is still attached to {interface}, and pinned nowhere that this process can see: its carpd is alive \
         without a bpffs, or was killed in a container or mount namespace of its own, which goes on; run this there, or \
         end that container"
    )]
    Elsewhere {
        /// The name of the program.
        program: String,
        /// The interface that it is attached to.
        interface: String,
    },
    /// The interfaces could not be listed.
    #[error("failed to list the interfaces")]
    Links(#[source] io::Error),
}

impl From<lock::LockError> for DetachError {
    fn from(error: lock::LockError) -> Self {
        if matches!(error, lock::LockError::Busy { .. }) {
            Self::Alive(error)
        } else {
            Self::Lock(error)
        }
    }
}

/// Removes every kernel program of a dead carpd from an interface of this network namespace, and everything left of
/// interfaces that are gone.
///
/// # Errors
/// Returns an error if the interface does not exist, a carpd is alive there, or the system refuses.
pub fn from(interface: &str) -> Result<Removal, DetachError> {
    let outbox = Outbox::closed();
    let pins = Pins::existing(outbox.clone());
    pins.remove_dead();
    let mut netlink = Client::new().map_err(DetachError::Links)?;
    let links = netlink.links().map_err(DetachError::Links)?;
    let Some(link) = links.into_iter().find(|link| link.is_called(interface)) else {
        return Err(DetachError::NoSuchInterface(interface.to_owned()));
    };
    let mut removal = pins.remove_unowned(link.index, interface);
    if let Some(mut tables) = Tables::pinned(&pins) {
        let held = lock::Held::look()?;
        for fenced in tables.all() {
            let is_dead = fenced.owner.is_none_or(|owner| {
                owner.ifindex == link.index && !held.serves(owner.ifindex, owner.vhid)
            });
            if is_dead {
                // Entries that cannot be removed go with the last program.
                let _ = tables.disown(fenced);
            }
        }
        tables.remove_dead(|ifindex, vhid| held.serves(ifindex, vhid));
        if tables.all().is_empty()
            && pins
                .egress()
                .is_some_and(|it| remove_unused_egress(&it, &outbox))
        {
            removal.removed.push("egress".to_owned());
        }
    }
    for directory in pins.other_egress() {
        if remove_unused_egress(&directory, &outbox) {
            removal.removed.push("egress".to_owned());
        }
    }
    if lock::Held::look()?.hooks() == 0 && pins.places().is_empty() {
        for table in pins.other_tables() {
            let _ = fs::remove_file(table);
        }
    }
    let give_up_at = clock::now() + PATIENCE;
    let attached = loop {
        // The link is queried again, because removed programs disappear from it.
        let now = netlink.link(link.index).map_err(DetachError::Links)?;
        let mut attached = attached_programs(&now);
        // A living carpd on another interface of the network namespace covers this interface too.
        if pins.egress().is_some_and(|it| it.is_dir()) {
            attached.retain(|name| name != EGRESS_PROGRAM);
        }
        if attached.is_empty() || !removal.refused.is_empty() || clock::now() >= give_up_at {
            break attached;
        }
        thread::sleep(PATIENCE_RETRY);
    };
    match attached.into_iter().next() {
        Some(program) if removal.refused.is_empty() => Err(DetachError::Elsewhere {
            program,
            interface: interface.to_owned(),
        }),
        Some(_) | None => Ok(removal),
    }
}
