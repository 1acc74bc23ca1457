//! The errors of the kernel program, with what the operator can do about each.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use aya::maps::MapError;
use aya::programs::ProgramError;
use caps::Capability;
use tracing::debug;

use crate::lock;
use crate::privileges::MissingCapabilities;

/// An error of the kernel program or its maps.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process lacks a capability.
    #[error("not permitted to {action}")]
    NotPermitted {
        /// The action that failed.
        action: &'static str,
        /// The capabilities that are missing.
        lacking: MissingCapabilities,
        /// The error of the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The kernel lacks a feature that the program requires.
    #[error(
        "failed to {action}: Linux {release} may be too old (multi-buffer XDP needs 5.18, tcx 6.6)"
    )]
    KernelTooOld {
        /// The action that failed.
        action: &'static str,
        /// The running kernel.
        release: String,
        /// The error of the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The hook has another program, which carpd does not replace.
    #[error("XDP hook of {interface} is taken by program id {id}{}", Name(.name))]
    Taken {
        /// The interface.
        interface: String,
        /// The other program.
        id: u32,
        /// Its name, if it has one.
        name: Option<String>,
    },
    /// Another carpd has the hook, or it is unknown whether one has.
    #[error(transparent)]
    Owned(#[from] lock::LockError),
    /// The driver does not support native XDP.
    #[error("the driver of {interface} has no native XDP, or not with its present settings")]
    NoDriverSupport {
        /// The interface.
        interface: String,
        /// The error of the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Attaching failed for another reason.
    #[error("failed to attach the kernel program to {interface}")]
    Attach {
        /// The interface.
        interface: String,
        /// The error of the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Loading failed for another reason.
    #[error("failed to {action}")]
    Load {
        /// The action that failed.
        action: &'static str,
        /// The error of the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The embedded object is not the one this daemon was written for.
    #[error("the embedded eBPF object lacks {0}")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("failed to {action} eBPF map {map}")]
    Map {
        /// The action that failed.
        action: &'static str,
        /// The name of the map.
        map: &'static str,
        /// The error of the system.
        source: Box<MapError>,
    },
    /// A map has no room left.
    #[error("eBPF map {0} is full")]
    Full(&'static str),
    /// The number of possible processors, which per-processor maps depend on, could not be read.
    #[error("failed to count the processors")]
    Processors(#[source] io::Error),
    /// The state of the interface could not be read.
    #[error("failed to look at {interface}")]
    Look {
        /// The interface.
        interface: String,
        /// The error of the system.
        source: io::Error,
    },
}

impl KernelError {
    /// Returns what the operator can do about it.
    #[must_use]
    pub fn way_out(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NotPermitted { lacking, .. } => {
                return format!("{}; or use --datapath socket", lacking.way_out()).into();
            }
            Self::Taken { .. } => {
                "detach the other program, or use --datapath tcx or --datapath socket"
            }
            Self::Owned(_) => "use --datapath tcx or --datapath socket beside it",
            Self::NoDriverSupport { .. } => {
                "use --datapath tcx, --datapath xdp-generic or --datapath socket"
            }
            Self::Missing(_) => "rebuild with `cargo xtask build-ebpf`",
            Self::KernelTooOld { .. }
            | Self::Attach { .. }
            | Self::Load { .. }
            | Self::Map { .. }
            | Self::Full(_)
            | Self::Processors(_)
            | Self::Look { .. } => "use --datapath socket",
        })
    }
}

struct Name<'a>(&'a Option<String>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

pub(super) fn map_error(
    action: &'static str,
    map: &'static str,
) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map {
        action,
        map,
        source: Box::new(source),
    }
}

/// Returns the error for a refusal, by its errno.
pub(super) fn refused(
    action: &'static str,
    error: impl StdError + Send + Sync + 'static,
) -> KernelError {
    let errno = errno(&error);
    let source = Box::new(Brief::of(&error));
    match errno {
        Some(libc::EPERM | libc::EACCES) => KernelError::NotPermitted {
            action,
            lacking: MissingCapabilities::of(&[
                Capability::CAP_BPF,
                Capability::CAP_PERFMON,
                Capability::CAP_NET_ADMIN,
            ]),
            source,
        },
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            let release = nix::sys::utsname::uname().map_or_else(
                |_| String::new(),
                |name| name.release().to_string_lossy().into_owned(),
            );
            KernelError::KernelTooOld {
                action,
                release,
                source,
            }
        }
        _ => KernelError::Load { action, source },
    }
}

/// The texts of an error and its causes without repetitions. Of the verifier's log it has only the verdict.
#[derive(Debug)]
struct Brief(String);

impl Brief {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut messages: Vec<String> = Vec::new();
        let mut current = Some(error);
        while let Some(error) = current {
            if let Some(ProgramError::LoadError {
                io_error,
                verifier_log,
            }) = error.downcast_ref()
            {
                let log = verifier_log.to_string();
                debug!("the verifier's log ends with: {}", tail(&log));
                messages.push(match verdict(&log) {
                    Some(verdict) => format!("the verifier: {verdict}"),
                    None => String::new(),
                });
                messages.push(io_error.to_string());
                break;
            }
            messages.push(error.to_string());
            current = error.source();
        }
        // Many errors repeat the text of their cause.
        let mut brief: Vec<&str> = Vec::new();
        for message in messages.iter().rev().map(String::as_str) {
            if !message.is_empty() && !brief.last().is_some_and(|cause| message.contains(cause)) {
                brief.push(message);
            }
        }
        brief.reverse();
        Self(brief.join(": "))
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Brief {}

/// Returns the last line of the verifier's log before its statistics.
fn verdict(log: &str) -> Option<&str> {
    let is_statistics = |line: &str| {
        ["processed ", "verification time ", "stack depth "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let mut lines = log.lines().rev().map(str::trim);
    lines.find(|line| !line.is_empty() && !is_statistics(line))
}

/// Returns the end of a text, as much as fits into a line of the log.
fn tail(log: &str) -> &str {
    const LENGTH: usize = 2048;
    let mut start = log.len().saturating_sub(LENGTH);
    while !log.is_char_boundary(start) {
        start += 1;
    }
    &log[start..]
}

/// Returns the errno of the system call that caused an error.
pub(super) fn errno(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io_error) = error.downcast_ref::<io::Error>() {
            return io_error.raw_os_error();
        }
        current = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = aya::EbpfError::MapError(MapError::CreateError {
            name: "VHOSTS".into(),
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        });
        let brief = Brief::of(&error).0;
        assert_eq!(
            brief,
            "failed to create map `VHOSTS`: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn of_the_verifiers_pages_the_verdict_is_kept() {
        let pages = "0: (bf) r8 = r1\n".repeat(1000);
        let log = format!(
            "{pages}R3 pointer comparison prohibited\nverification time 1 usec\nprocessed 9 insns (limit 1000000)\n\n"
        );
        assert_eq!(verdict(&log), Some("R3 pointer comparison prohibited"));
        assert_eq!(verdict(""), None);
        assert!(tail(&log).len() <= 2048 && tail("é".repeat(2000).as_str()).len() <= 2048);
    }

    #[test]
    fn a_refusal_is_sorted_by_its_errno_however_deep_it_lies() {
        let deep = |errno| {
            MapError::SyscallError(aya::sys::SyscallError {
                call: "bpf_map_create",
                io_error: io::Error::from_raw_os_error(errno),
            })
        };
        assert!(matches!(
            refused("x", deep(libc::EPERM)),
            KernelError::NotPermitted { .. }
        ));
        assert!(matches!(
            refused("x", deep(libc::EINVAL)),
            KernelError::KernelTooOld { .. }
        ));
        assert!(matches!(
            refused("x", deep(libc::ENOMEM)),
            KernelError::Load { .. }
        ));
    }
}
