//! A seccomp filter for system calls that a running carpd without scripts never makes.
//!
//! The filter lists the forbidden calls. Calls that libc, the runtime or aya begin to use later therefore keep
//! working, while a taken over process cannot reach other processes, the kernel, or the layout of the file system. A
//! forbidden call returns EPERM. A call through another architecture's entry (32-bit calls on x86-64) ends the
//! process.

use std::collections::BTreeMap;

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};

/// Calls that execute programs, inspect other processes, or set up parts of the system.
const REFUSED: [libc::c_long; 43] = [
    // Calls on other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_personality,
    // Calls on the kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Calls on keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Calls on namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    // Calls on what all processes share.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// The reason why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no filter for this architecture.
    #[error("failed to make a seccomp filter: {0}")]
    Make(#[from] BackendError),
    /// The kernel, or a container's own filter, refused it.
    #[error("failed to apply a seccomp filter: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Forbids these calls to this process from now on. Sets `no_new_privs`.
pub fn refuse_what_is_never_needed() -> Result<(), FilterError> {
    Ok(seccompiler::apply_filter_all_threads(&filter()?)?)
}

fn filter() -> Result<BpfProgram, BackendError> {
    let refused: BTreeMap<i64, _> = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::process::Command;

    use super::*;

    #[test]
    fn refused_calls_answer_eperm_and_others_work() {
        // A filter applied to one thread alone ends with it.
        let refused = std::thread::spawn(|| {
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            std::fs::read("/proc/self/stat").unwrap();
            let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
            (
                Command::new("/bin/true").spawn().unwrap_err().kind(),
                unshared,
            )
        });
        let expected = (
            io::ErrorKind::PermissionDenied,
            Err(nix::errno::Errno::EPERM),
        );
        assert_eq!(refused.join().unwrap(), expected);
    }
}
