//! Events about the process and what it leans on: netlink, scripts, the state directory, the scheduler.

use std::path::PathBuf;
use std::time::Duration;

use super::events;

/// What was asked of netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Notifications.
    Watch,
    /// A list.
    List,
}

events! {
    /// News about links and addresses.
    Netlink
    /// Links and addresses could not be watched or listed.
    Failed {
        /// What was asked.
        request: Request,
        /// Why not.
        error: String,
    } => Error "netlink-failed",
    /// Notifications were lost.
    Overrun => Warning "netlink-overrun",
}

events! {
    /// Up scripts, where they own the addresses.
    Script
    /// The up script failed, and the address is not there: demoted.
    Failed {
        /// Time between two attempts.
        retry: Duration,
    } => Error "up-script-failed",
    /// The up script has worked: the demotion ends.
    Worked => Info "up-script-worked",
    /// The failure is long past on a host that is not MASTER: the demotion ends.
    FailureExpired {
        /// How long.
        quiet: Duration,
    } => Info "up-script-failure-expired",
}

/// Why a file of the state directory was ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is damaged, or another version of carpd wrote it.
    Damaged(PathBuf),
    /// It could not be read, with this error, which names it.
    Unreadable(String),
}

events! {
    /// What was heard, kept over a restart.
    Memory
    /// There is no state directory.
    NoDirectory => Info "memory-without-directory",
    /// The state directory cannot be used.
    DirectoryFailed {
        /// Why not.
        error: String,
    } => Warning "memory-directory-failed",
    /// Files were ignored.
    Ignored {
        /// The first of them.
        first: Refusal,
        /// How many more.
        others: usize,
    } => Warning "memory-ignored",
    /// What was heard before is known again.
    Recalled {
        /// Virtual hosts that had something.
        recalled: usize,
        /// All of them.
        total: usize,
        /// The state directory.
        directory: PathBuf,
    } => Info "memory-recalled",
    /// The disk was too slow to keep everything at the end.
    Incomplete => Warning "memory-incomplete",
}

events! {
    /// Lateness.
    Stall
    /// The engine looked at something by more than half an interval too late.
    Late {
        /// How late.
        lateness: Duration,
        /// The virtual host's advertisement interval.
        interval: Duration,
    } => Warning "engine-late",
    /// Advertisements did not fit into the buffers while the engine was stopped.
    AdvertisementsLost {
        /// How many.
        lost: u64,
    } => Warning "advertisements-lost",
}

events! {
    /// Start and end.
    Process
    /// A second request to stop ended the waiting for scripts.
    NotWaiting => Warning "not-waiting-for-scripts",
    /// Everything is released.
    Stopped => Notice "stopped",
}
