//! `--realtime`: no ordinary process takes the CPU from carpd, and none of its pages has to be read from disk first.

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::sys;

/// The priority under SCHED_RR.
///
/// Interrupt threads run at 50 under SCHED_FIFO and deliver our packets (`sched_set_fifo`, kernel/sched/syscalls.c).
/// This is the highest priority that leaves them the CPU. With round robin, one carpd does not make another one on
/// the host wait.
pub const PRIORITY: u32 = 49;

/// The reason why `--realtime` is not possible.
#[derive(Debug, thiserror::Error)]
pub enum RealtimeError {
    /// The process has neither the capability nor the resource limit for the priority.
    #[error(
        "--realtime is not permitted: SCHED_RR takes CAP_SYS_NICE, or RLIMIT_RTPRIO of {PRIORITY} or more, which is \
         {limit} (systemd: LimitRTPRIO={PRIORITY})"
    )]
    Priority {
        /// RLIMIT_RTPRIO as it is.
        limit: u64,
    },
    /// The process has the capability, so the control group forbids it.
    #[error(
        "--realtime is not permitted here: the CPU control group has no time for SCHED_RR (CONFIG_RT_GROUP_SCHED); \
         give it some in cpu.rt_runtime_us, or set kernel.sched_rt_runtime_us=-1"
    )]
    Group,
    /// `sched_setscheduler(2)` failed for another reason.
    #[error("--realtime: failed to enter SCHED_RR")]
    Scheduler(#[source] Errno),
    /// The process has neither the capability nor the resource limit for locking memory.
    #[error(
        "--realtime is not permitted: locking all memory takes CAP_IPC_LOCK, or an unlimited RLIMIT_MEMLOCK, which is \
         {limit} bytes (systemd: LimitMEMLOCK=infinity)"
    )]
    MemoryLimit {
        /// RLIMIT_MEMLOCK as it is. Unit: bytes.
        limit: u64,
    },
    /// `mlockall(2)` failed for another reason.
    #[error("--realtime: failed to lock the memory")]
    Memory(#[source] Errno),
}

/// Enters SCHED_RR and locks all present and future memory.
///
/// Neither reaches scripts: the thread that starts one leaves SCHED_RR first, and memory locks end at `execve(2)`. Threads
/// that the caller starts later inherit SCHED_RR, unless they leave it. Call it after going into the background, where
/// memory locks end, and after the threads that write the log are started.
///
/// # Errors
///
/// Returns what is missing.
pub fn enter() -> Result<(), RealtimeError> {
    lock_memory()?;
    sys::schedule_round_robin(PRIORITY).map_err(|errno| {
        let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _hard)| soft);
        scheduler_error(errno, has(Capability::CAP_SYS_NICE), limit)
    })
}

fn lock_memory() -> Result<(), RealtimeError> {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _hard)| soft);
    // A limit that suffices now would make a later allocation fail.
    if limit != RLIM_INFINITY && !has(Capability::CAP_IPC_LOCK) {
        return Err(RealtimeError::MemoryLimit { limit });
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(RealtimeError::Memory)
}

fn scheduler_error(errno: Errno, permitted: bool, limit: u64) -> RealtimeError {
    if errno != Errno::EPERM {
        RealtimeError::Scheduler(errno)
    } else if permitted || limit >= PRIORITY.into() {
        RealtimeError::Group
    } else {
        RealtimeError::Priority { limit }
    }
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_what_is_missing() {
        let table = [
            (
                Errno::EPERM,
                false,
                0,
                "CAP_SYS_NICE, or RLIMIT_RTPRIO of 49 or more, which is 0",
            ),
            (Errno::EPERM, false, 48, "which is 48"),
            (Errno::EPERM, true, 0, "cpu.rt_runtime_us"),
            (Errno::EPERM, false, 49, "cpu.rt_runtime_us"),
            (Errno::ENOSYS, true, 0, "failed to enter SCHED_RR"),
        ];
        for (errno, permitted, limit, expected) in table {
            let error = scheduler_error(errno, permitted, limit).to_string();
            assert!(
                error.contains(expected),
                "{errno} {permitted} {limit}: {error}"
            );
        }
    }
}
