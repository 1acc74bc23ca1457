//! Events about the process and what it depends on: netlink, scripts, the state directory, the scheduler.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::{Cidr, events};

/// A request to netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetlinkRequest {
    /// Notifications.
    Watch,
    /// A list.
    List,
}

events! {
    /// Notifications about links and addresses.
    Netlink
    /// Links and addresses could not be watched or listed.
    Failed {
        /// The request.
        request: NetlinkRequest,
        /// The error.
        error: String,
    } => Error "netlink-failed",
    /// Notifications were lost.
    Overrun => Warning "netlink-overrun",
    /// The process ends although the kernel has not carried out every order.
    Unfinished {
        /// The time for which carpd waited.
        waited: Duration,
        /// The virtual addresses that it may leave.
        addresses: Vec<Cidr>,
    } => Error "netlink-unfinished",
}

events! {
    /// Runs of scripts. `line` is the script with its arguments, separated by blanks.
    Run
    /// A script is about to be started.
    Spawning {
        /// The script.
        line: String,
    } => Notice "script-spawning",
    /// A script could not be started because the system is short of something. carpd tries again.
    Postponed {
        /// The script.
        line: String,
        /// The error.
        error: String,
    } => Error "script-postponed",
    /// A script could not be started within its time.
    NotStartedInTime {
        /// The script.
        line: String,
        /// Its time.
        limit: Duration,
    } => Error "script-not-started-in-time",
    /// A script could not be started.
    NotStarted {
        /// The script.
        line: String,
        /// The error.
        error: String,
    } => Error "script-not-started",
    /// A script runs longer than its time, so carpd ends it.
    Overdue {
        /// The script.
        line: String,
        /// Its time.
        limit: Duration,
    } => Error "script-overdue",
    /// The exit status was 0.
    Succeeded {
        /// The script.
        line: String,
    } => Debug "script-succeeded",
    /// The exit status was not 0, or a signal ended the script.
    Failed {
        /// The script.
        line: String,
        /// The exit status, or the signal.
        status: ExitStatus,
    } => Warning "script-failed",
    /// The kernel refused to return how a script ended.
    Unknown {
        /// The script.
        line: String,
        /// The error.
        error: String,
    } => Error "script-end-unknown",
    /// A signal could not be sent to the processes of a script.
    NotSignalled {
        /// The signal.
        signal: &'static str,
        /// The process group.
        group: i32,
        /// The error.
        error: String,
    } => Warning "script-not-signalled",
    /// The task that runs the scripts of a virtual host ended early.
    WorkerEnded {
        /// The error.
        error: String,
    } => Error "script-worker-ended",
}

events! {
    /// Up scripts, where they own the addresses.
    Script
    /// The up script failed, and the address is missing. The virtual host is demoted.
    Failed {
        /// Time between two attempts.
        retry: Duration,
    } => Error "up-script-failed",
    /// The up script succeeded, and the demotion ends.
    Worked => Info "up-script-worked",
    /// The failure is long past on a host that is not MASTER, and the demotion ends.
    FailureExpired {
        /// How long ago it was.
        quiet: Duration,
    } => Info "up-script-failure-expired",
}

/// The reason why a file of the state directory was ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is damaged, or another version of carpd wrote it.
    Damaged(PathBuf),
    /// It could not be read. The error names it.
    Unreadable(String),
}

events! {
    /// The memory of virtual hosts, stored over a restart.
    Memory
    /// There is no state directory.
    NoDirectory => Info "memory-without-directory",
    /// The state directory cannot be used.
    DirectoryFailed {
        /// The error.
        error: String,
    } => Warning "memory-directory-failed",
    /// Files were ignored.
    Ignored {
        /// The first of them.
        first: Refusal,
        /// The number of the others.
        others: usize,
    } => Warning "memory-ignored",
    /// The memory from before the restart was read.
    Recalled {
        /// The number of virtual hosts that had a file.
        recalled: usize,
        /// The number of all virtual hosts.
        total: usize,
        /// The state directory.
        directory: PathBuf,
    } => Info "memory-recalled",
    /// What was heard cannot be stored. Further failures are not reported until a write succeeds.
    NotKept {
        /// The error.
        error: String,
    } => Warning "memory-not-kept",
    /// The disk was too slow to store everything at the end.
    Incomplete => Warning "memory-incomplete",
}

events! {
    /// Late turns of the engine.
    Stall
    /// The engine looked at an input later than half an interval after it was due.
    Late {
        /// How late it was.
        lateness: Duration,
        /// The virtual host's advertisement interval.
        interval: Duration,
    } => Warning "engine-late",
    /// Advertisements did not fit into the buffers while the engine was stopped.
    AdvertisementsLost {
        /// The number of advertisements.
        lost: u64,
    } => Warning "advertisements-lost",
}

events! {
    /// Start and end of the process.
    Process
    /// A second request to stop ended the wait for scripts.
    NotWaiting => Warning "not-waiting-for-scripts",
    /// Everything is released.
    Stopped => Notice "stopped",
}
