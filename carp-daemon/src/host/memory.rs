//! The state directory, which keeps what was heard over a restart.
//!
//! A separate thread writes a few files at a time, because a disk can stall for seconds. It shares only the open
//! directory with the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Host;
use crate::api::event::process::Memory;
use crate::api::{Outbox, Place};
use crate::config::StateDirectory;
use crate::engine::effects::{Refused, Remember};
use crate::io::chain::Chain;
use crate::io::errand::Errands;
use crate::io::state_dir::{FileName, StateDir};

/// The time that an orderly stop waits for the disk. Four thousand files take about a second, and the addresses have been
/// released before.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Number of files that are written in one errand.
const BUNCH: usize = 64;

/// Writes the files of the virtual hosts.
pub struct Keeper {
    /// The open directory. `None` if nothing is stored.
    directory: Option<Arc<StateDir>>,
    writer: Errands<()>,
    teller: Teller,
}

/// Tells what becomes of the files.
#[derive(Clone)]
struct Teller(Outbox);

impl Teller {
    fn tell(&self, what: Memory) {
        self.0.tell(Place::Process, what);
    }
}

impl Keeper {
    /// Opens the directory. Tells if nothing will be stored.
    pub fn open(wanted: Option<&StateDirectory>, outbox: Outbox) -> Self {
        let keeper = Self::closed(outbox);
        let directory = match wanted.map(StateDir::open) {
            Some(Ok(directory)) => Some(Arc::new(directory)),
            Some(Err(error)) => {
                let error = Chain(&error).to_string();
                keeper.teller.tell(Memory::DirectoryFailed { error });
                None
            }
            None => {
                keeper.teller.tell(Memory::NoDirectory);
                None
            }
        };
        Self {
            directory,
            ..keeper
        }
    }

    /// Stores nothing.
    pub fn closed(outbox: Outbox) -> Self {
        Self {
            directory: None,
            writer: Errands::new("carpd-memory"),
            teller: Teller(outbox),
        }
    }

    /// Returns whether the latest write is still running.
    fn is_writing(&mut self) -> bool {
        // Only a panic of the thread leaves an outcome, and it has been logged. The virtual host writes again when it
        // has its next turn.
        while self.writer.take_outcome().is_some() {}
        self.writer.is_working()
    }

    /// Queues files to be written after those before them. `done` is dropped when they are.
    fn write(&mut self, files: Vec<(FileName, Vec<u8>)>, done: Option<oneshot::Sender<()>>) {
        let Some(directory) = self.directory.clone() else {
            return;
        };
        let (with, teller) = (Arc::clone(&directory), self.teller.clone());
        let begun = self.writer.begin(move || {
            for (name, bytes) in files {
                if let Some(failure) = with.keep(&name, &bytes) {
                    teller.tell(failure);
                }
            }
            drop(done);
            None
        });
        if let Err(error) = begun
            && let Some(failure) = directory.complaint(&error)
        {
            self.teller.tell(failure);
        }
    }

    /// Writes all new files for an orderly stop, as far as the disk manages that within [`STOP_PATIENCE`].
    pub async fn keep_all(&mut self, files: Vec<(FileName, Vec<u8>)>) {
        if self.directory.is_none() {
            return;
        }
        let all = async {
            for bunch in files.chunks(BUNCH) {
                let (done, ended) = oneshot::channel();
                self.write(bunch.to_vec(), Some(done));
                // The sender is dropped without sending, which ends the wait as well.
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            self.teller.tell(Memory::Incomplete);
        }
    }
}

impl Remember for Host {
    fn recall(&mut self, name: &FileName) -> Result<Option<Vec<u8>>, Refused> {
        let Some(directory) = &self.keeper.directory else {
            return Ok(None);
        };
        directory
            .read(name)
            .map_err(|error| Refused(Chain(&error).to_string()))
    }

    fn keeps_in(&self) -> Option<PathBuf> {
        let directory = self.keeper.directory.as_ref()?;
        Some(directory.path().to_owned())
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        let directory = self.keeper.directory.as_ref();
        directory.map_or_else(PathBuf::new, |directory| directory.path_of(name))
    }

    fn can_keep(&mut self) -> bool {
        // Errands must not pile up while a disk stalls.
        self.keeper.directory.is_some() && !self.keeper.is_writing()
    }

    fn keep(&mut self, files: Vec<(FileName, Vec<u8>)>) {
        self.keeper.write(files, None);
    }
}
