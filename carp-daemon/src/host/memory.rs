//! The state directory, in which what was heard is kept over a restart.
//!
//! A separate thread writes, one file or a few at a time, because a disk can stand still for seconds. It shares only the
//! open directory with the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Host;
use crate::api::event::process::Memory;
use crate::api::{Event, Place};
use crate::config::StateDirectory;
use crate::engine::effects::{Refused, Remember};
use crate::io::datapath::Chain;
use crate::io::errand::Errands;
use crate::io::state_dir::{FileName, StateDir};
use crate::log;

/// How long an orderly stop waits for the disk; four thousand files take about a second. The addresses are released before.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Files that are written at once.
const BUNCH: usize = 64;

/// Writes memories.
pub struct Keeper {
    /// `None`: nothing is kept.
    directory: Option<Arc<StateDir>>,
    writer: Errands<()>,
}

impl Keeper {
    /// Opens the directory, and logs when nothing will be kept.
    pub fn open(wanted: Option<&StateDirectory>) -> Self {
        let directory = match wanted.map(StateDir::open) {
            Some(Ok(directory)) => Some(Arc::new(directory)),
            Some(Err(error)) => {
                let error = Chain(&error).to_string();
                tell(Memory::DirectoryFailed { error });
                None
            }
            None => {
                tell(Memory::NoDirectory);
                None
            }
        };
        Self {
            directory,
            writer: Errands::new("carpd-memory"),
        }
    }

    /// Whether the latest write is still under way.
    fn is_writing(&mut self) -> bool {
        // A write that panicked is the only outcome, and has been logged: the virtual host writes again when it has its
        // next turn.
        while self.writer.take_outcome().is_some() {}
        self.writer.is_working()
    }

    /// Has some files written, after those before them. `done` is dropped at the end.
    fn write(&mut self, files: Vec<(FileName, Vec<u8>)>, done: Option<oneshot::Sender<()>>) {
        let Some(directory) = self.directory.clone() else {
            return;
        };
        let with = Arc::clone(&directory);
        let begun = self.writer.begin(move || {
            for (name, bytes) in files {
                with.keep(&name, &bytes);
            }
            drop(done);
            None
        });
        if let Err(error) = begun {
            directory.complain(&error);
        }
    }

    /// Writes everything that is new, for an orderly stop, as far as the disk does it within [`STOP_PATIENCE`].
    pub async fn keep_all(&mut self, files: Vec<(FileName, Vec<u8>)>) {
        if self.directory.is_none() {
            return;
        }
        let all = async {
            for bunch in files.chunks(BUNCH) {
                let (done, ended) = oneshot::channel();
                self.write(bunch.to_vec(), Some(done));
                // It is dropped, not sent: that is the end as well.
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            tell(Memory::Incomplete);
        }
    }
}

/// Logs what happened to the directory, for which there may be no engine yet, or any more.
fn tell(what: Memory) {
    log::event::log(&Event::new(Place::Process, what));
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
        // A disk that stands still must not collect errands.
        self.keeper.directory.is_some() && !self.keeper.is_writing()
    }

    fn keep(&mut self, files: Vec<(FileName, Vec<u8>)>) {
        self.keeper.write(files, None);
    }
}
