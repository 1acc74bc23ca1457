//! The memory of what was heard, kept over a restart: read at the start, written now and then and at an orderly stop.
//!
//! A separate thread writes, one file or a few at a time, because a disk can stand still for seconds. It shares only the
//! open directory with the engine. The bytes are the core's, which alone understands them.

use std::sync::Arc;
use std::time::Duration;

use carp_common::time::Instant;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::vhost::Vhost;
use super::{AT_ONCE, Engine};
use crate::config::StateDirectory;
use crate::io::datapath::Chain;
use crate::io::errand::Errands;
use crate::io::state_dir::{FileName, StateDir};

/// Least time between two writes of one virtual host's memory.
const KEEP_INTERVAL: Duration = Duration::from_secs(600);

/// How long an orderly stop waits for the disk; four thousand files take about a second. The addresses are released before.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The files of the virtual hosts, and when they are due.
pub struct Memories {
    /// `None`: nothing is kept.
    directory: Option<Arc<StateDir>>,
    /// By virtual host.
    files: Vec<File>,
    turns: Turns,
    /// Writes the files.
    writer: Errands<()>,
}

/// The file of one virtual host.
struct File {
    name: FileName,
    /// Something was heard or sent since it was written.
    outdated: bool,
}

/// The order in which virtual hosts write: they take turns, so that thousands never write at once.
#[derive(Debug)]
struct Turns {
    count: usize,
    next: usize,
    at: Instant,
}

impl Turns {
    fn new(count: usize, now: Instant) -> Self {
        let mut turns = Self {
            count: count.max(1),
            next: 0,
            at: now,
        };
        turns.at = now + turns.interval();
        turns
    }

    fn interval(&self) -> Duration {
        KEEP_INTERVAL / u32::try_from(self.count).unwrap_or(u32::MAX)
    }

    /// Returns the virtual host that has its turn, when it is time for one.
    fn take(&mut self, now: Instant) -> Option<usize> {
        if now < self.at {
            return None;
        }
        self.at = now + self.interval();
        let turn = self.next;
        self.next = (turn + 1) % self.count;
        Some(turn)
    }
}

impl Memories {
    /// Opens the directory, and logs when nothing will be kept.
    pub fn open(wanted: Option<&StateDirectory>, vhosts: &[Vhost], now: Instant) -> Self {
        let directory = match wanted.map(StateDir::open) {
            Some(Ok(directory)) => Some(Arc::new(directory)),
            Some(Err(error)) => {
                warn!(
                    "what is heard from peers will be forgotten at exit: {}",
                    Chain(&error)
                );
                None
            }
            None => {
                info!(
                    "no state directory: what is heard from peers will be forgotten at exit (give --state-dir DIR, or \
                     StateDirectory=carpd in the systemd unit)"
                );
                None
            }
        };
        let file = |vhost: &Vhost| File {
            name: FileName::new(&vhost.config.interface, vhost.config.election.vhid),
            outdated: false,
        };
        Self {
            directory,
            files: vhosts.iter().map(file).collect(),
            turns: Turns::new(vhosts.len(), now),
            writer: Errands::new("carpd-memory"),
        }
    }

    /// Notes that a virtual host heard or sent something: both is remembered.
    pub fn outdate(&mut self, vhost: usize) {
        if let Some(file) = self.files.get_mut(vhost) {
            file.outdated = true;
        }
    }

    /// Returns what is to be written for a virtual host; nothing when that is in its file already.
    fn take(&mut self, index: usize, vhost: &Vhost) -> Option<(FileName, Vec<u8>)> {
        let file = self.files.get_mut(index)?;
        std::mem::take(&mut file.outdated).then(|| (file.name.clone(), vhost.machine.memory()))
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
}

impl Engine {
    /// Gives each virtual host back what it heard before, and logs how many had something.
    pub(super) fn recall_memories(&mut self) {
        let Some(directory) = &self.memories.directory else {
            return;
        };
        let path = directory.path().display();
        let mut recalled = 0;
        let mut refused: Vec<String> = Vec::new();
        for (file, vhost) in self.memories.files.iter().zip(&mut self.vhosts) {
            match directory.read(&file.name) {
                Ok(None) => {}
                Ok(Some(bytes)) if vhost.machine.recall(&bytes) => recalled += 1,
                Ok(Some(_)) => refused.push(format!(
                    "{} is damaged or of another version of carpd",
                    directory.path_of(&file.name).display()
                )),
                Err(error) => refused.push(Chain(&error).to_string()),
            }
        }
        if let [first, others @ ..] = &refused[..] {
            warn!(
                others = (!others.is_empty()).then_some(others.len()),
                "ignored what was heard before: {first}"
            );
        }
        info!(
            "recalled what {recalled} of {} virtual hosts heard before, from {path}",
            self.vhosts.len()
        );
    }

    /// Starts to write the memory of the next virtual host, when it is time for one and there is something new.
    pub(super) fn keep_memories(&mut self, now: Instant) {
        let memories = &mut self.memories;
        // A disk that stands still must not collect threads.
        if memories.directory.is_none() || memories.is_writing() {
            return;
        }
        if let Some(index) = memories.turns.take(now)
            && let Some(file) = memories.take(index, &self.vhosts[index])
        {
            memories.write(vec![file], None);
        }
    }
}

/// Writes everything that is new, for an orderly stop, as far as the disk does it within [`STOP_PATIENCE`].
pub async fn keep_all(memories: &mut Memories, vhosts: &[Vhost]) {
    if memories.directory.is_none() {
        return;
    }
    let all = async {
        for (chunk, begin) in vhosts.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
            let files: Vec<_> = (begin..)
                .zip(chunk)
                .filter_map(|(index, vhost)| memories.take(index, vhost))
                .collect();
            if !files.is_empty() {
                let (done, ended) = oneshot::channel();
                memories.write(files, Some(done));
                // It is dropped, not sent: that is the end as well.
                let _ = ended.await;
            }
        }
    };
    if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
        warn!("stopped without keeping all that was heard from peers: the disk is too slow");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_virtual_host_has_its_turn_once_in_the_interval_and_none_at_once() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut turns = Turns::new(3, at(1000));
        let taken: Vec<_> = (1000..2200)
            .filter_map(|second| turns.take(at(second)).map(|turn| (second, turn)))
            .collect();
        assert_eq!(
            taken,
            [(1200, 0), (1400, 1), (1600, 2), (1800, 0), (2000, 1)]
        );
        // However late: one at a time.
        assert_eq!(turns.take(at(9000)), Some(2));
        assert_eq!(turns.take(at(9000)), None);
    }

    #[test]
    fn thousands_of_virtual_hosts_write_a_few_times_a_second() {
        let turns = Turns::new(4080, Instant::ZERO);
        assert!(turns.interval() > Duration::from_millis(140));
        assert_eq!(Turns::new(0, Instant::ZERO).interval(), KEEP_INTERVAL);
    }
}
