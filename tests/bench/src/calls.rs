//! Counts the system calls of a thread with ptrace, which needs nothing installed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// `BPF_MAP_UPDATE_ELEM` (linux/bpf.h, `enum bpf_cmd`).
const MAP_UPDATE: u64 = 2;
/// The length of an IPv4 advertisement with its Ethernet and IP headers. Unit: bytes.
const ADVERTISEMENT_LEN: u64 = 14 + 20 + 36;
/// `PTRACE_SYSCALL_INFO_ENTRY` (linux/ptrace.h).
const ENTRY: u8 = 1;

/// The system calls of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// All of them.
    pub all: u32,
    /// Those that write one element of a map of eBPF.
    pub map_writes: u32,
    /// Those that send an advertisement.
    pub sent: u32,
}

impl Calls {
    /// Counts what the main thread of a process calls from one advertisement to another one, at least for this time. The
    /// calling thread traces it meanwhile, which makes every call slower.
    ///
    /// # Errors
    /// Returns an error if the process cannot be traced, ends, or does not advertise.
    pub fn of(pid: u32, window: Duration) -> Result<Self> {
        let thread = Pid::from_raw(i32::try_from(pid)?);
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).context("failed to trace carpd")?;
        ptrace::interrupt(thread)?;
        let start = Instant::now();
        // Counts nothing before the first advertisement, so that the figures are those of whole intervals.
        let mut counted = None;
        loop {
            let status = waitpid(thread, Some(WaitPidFlag::__WALL))?;
            let signal = match status {
                WaitStatus::Stopped(_, signal) => Some(signal),
                WaitStatus::PtraceSyscall(_) | WaitStatus::PtraceEvent(..) => None,
                WaitStatus::Exited(..)
                | WaitStatus::Signaled(..)
                | WaitStatus::Continued(_)
                | WaitStatus::StillAlive => bail!("carpd is gone: {status:?}"),
            };
            let is_call = matches!(status, WaitStatus::PtraceSyscall(_));
            if is_call && ptrace::syscall_info(thread)?.op == ENTRY {
                let call = Call::of(pid)?;
                if let Some(calls) = &mut counted {
                    call.add_to(calls);
                }
                if call.advertises() {
                    let calls = counted.get_or_insert_default();
                    if start.elapsed() >= window {
                        ptrace::detach(thread, signal)?;
                        return Ok(*calls);
                    }
                }
            }
            ensure!(
                start.elapsed() < window + Duration::from_secs(10),
                "carpd does not advertise"
            );
            ptrace::syscall(thread, signal)?;
        }
    }
}

/// A system call that a stopped thread is about to make.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: libc::c_long,
    arguments: [u64; 3],
}

impl Call {
    /// Reads it from `/proc`.
    fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
        let mut words = text.split_whitespace();
        let number = words.next().context("no system call")?.parse()?;
        let mut argument = || -> Result<u64> {
            let word = words.next().context("no argument")?;
            Ok(u64::from_str_radix(word.trim_start_matches("0x"), 16)?)
        };
        Ok(Self {
            number,
            arguments: [argument()?, argument()?, argument()?],
        })
    }

    /// Announcements are sent in the same way and are shorter.
    const fn advertises(self) -> bool {
        self.number == libc::SYS_sendto && self.arguments[2] == ADVERTISEMENT_LEN
    }

    const fn add_to(self, calls: &mut Calls) {
        calls.all += 1;
        if self.advertises() {
            calls.sent += 1;
        }
        if self.number == libc::SYS_bpf && self.arguments[0] == MAP_UPDATE {
            calls.map_writes += 1;
        }
    }
}
