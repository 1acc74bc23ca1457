//! The kernel program: load, attach, maps, event stream.
//!
//! The only place that knows map names. The program is attached by a `bpf_link`: it goes when we go, however that
//! happens, and nobody can replace it by accident.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::task::{Context, Poll};

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfError, EbpfLoader};
use carp_common::shared::{
    ADVERTISEMENTS_MAP, AdvertisementEvent, COUNTERS_MAP, Counter, DEBUG_GLOBAL, HISTORY_MAP,
    KEYS_MAP, SUSPECTS_MAP, VHOSTS_MAP, XDP_PROGRAM,
};
use carp_common::time::Instant;
use tokio::io::unix::AsyncFd;

use super::guard::Guard;
use super::{Batch, Counts, Drained};
use crate::io::netlink::{Link, Requests};
use crate::sys;

/// The object that `cargo xtask build-ebpf` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CARPD_EBPF_OBJECT"));

/// aya-log's ring buffer; unused without debug.
const LOG_MAP: &str = "AYA_LOGS";
/// One page.
const SMALLEST_RING: u32 = 4096;

/// Where in the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel has a packet buffer.
    Native,
    /// In the stack.
    Generic,
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A missing capability.
    #[error("not permitted to {action}")]
    NotPermitted {
        /// What was attempted.
        action: &'static str,
        /// The refusal.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The kernel does not know something that the program needs.
    #[error("failed to {action}: Linux {release} may be too old (multi-buffer XDP needs 5.18)")]
    KernelTooOld {
        /// What was attempted.
        action: &'static str,
        /// The running kernel.
        release: String,
        /// The refusal.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Another program is there; it is left alone.
    #[error("XDP hook of {interface} is taken by program id {id}{}", Name(.name))]
    Taken {
        /// Where.
        interface: String,
        /// The other program.
        id: u32,
        /// Its name, when it has one.
        name: Option<String>,
    },
    /// The driver cannot.
    #[error("the driver of {interface} has no native XDP, or not with its present settings")]
    NoDriverSupport {
        /// Where.
        interface: String,
        /// The refusal.
        source: Box<ProgramError>,
    },
    /// Attaching failed otherwise.
    #[error("failed to attach the XDP program to {interface}")]
    Attach {
        /// Where.
        interface: String,
        /// The refusal.
        source: Box<ProgramError>,
    },
    /// Loading failed otherwise.
    #[error("failed to {action}")]
    Load {
        /// What was attempted.
        action: &'static str,
        /// The refusal.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The embedded object is not the one this daemon was written for.
    #[error("the embedded eBPF object lacks {0}")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("failed to {action} eBPF map {map}")]
    Map {
        /// What was attempted.
        action: &'static str,
        /// Which.
        map: &'static str,
        /// The refusal.
        source: Box<MapError>,
    },
    /// A map has no room left.
    #[error("eBPF map {0} is full")]
    Full(&'static str),
    /// How many processors there may be, which per-processor maps depend on.
    #[error("failed to count the processors")]
    Processors(#[source] io::Error),
    /// The state of the interface could not be asked for.
    #[error("failed to look at {interface}")]
    Look {
        /// Where.
        interface: String,
        /// The refusal.
        source: io::Error,
    },
}

impl Error {
    /// What an operator can do about it.
    #[must_use]
    pub const fn way_out(&self) -> &'static str {
        match self {
            Self::NotPermitted { .. } => {
                "grant CAP_BPF and CAP_NET_ADMIN (CAP_SYS_ADMIN before Linux 5.8) or use --datapath socket"
            }
            Self::Taken { .. } => "detach the other program or use --datapath socket",
            Self::NoDriverSupport { .. } => "use --datapath xdp-generic or --datapath socket",
            Self::Missing(_) => "rebuild with `cargo xtask build-ebpf`",
            Self::KernelTooOld { .. }
            | Self::Attach { .. }
            | Self::Load { .. }
            | Self::Map { .. }
            | Self::Full(_)
            | Self::Processors(_)
            | Self::Look { .. } => "use --datapath socket",
        }
    }
}

struct Name<'a>(&'a Option<String>);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

/// How large the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of the map of virtual hosts.
    vhosts: u32,
    /// Bytes of the ring buffer; the kernel wants a power of two of whole pages.
    ring_bytes: u32,
}

impl Sizes {
    /// Room for every virtual host in both families, and for about forty advertisements of each: what arrives while we
    /// are stopped for that many intervals.
    #[must_use]
    pub fn for_vhosts(vhosts: usize) -> Self {
        const RECORD_LEN: usize = size_of::<AdvertisementEvent>() + 8;
        const SMALLEST: usize = 64 * 1024;
        const LARGEST: usize = 16 * 1024 * 1024;
        let ring = vhosts
            .saturating_mul(RECORD_LEN * 40)
            .clamp(SMALLEST, LARGEST)
            .next_power_of_two();
        Self {
            vhosts: u32::try_from(vhosts.saturating_mul(2))
                .unwrap_or(u32::MAX)
                .max(2),
            ring_bytes: u32::try_from(ring).expect("no more than LARGEST"),
        }
    }
}

/// The loaded program, its maps, and the interfaces it is attached to.
pub struct Xdp {
    /// Owns the program, its links, and the maps that nobody took.
    object: Ebpf,
    guard: Guard,
    counters: PerCpuArray<MapData, u64>,
    ring: AsyncFd<RingBuf<MapData>>,
    /// What was not authentic, now and then.
    suspects: AsyncFd<RingBuf<MapData>>,
    log: Option<AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>>,
    links: BTreeMap<u32, XdpLinkId>,
}

impl Xdp {
    /// Loads the program; it sees no packet yet.
    ///
    /// # Errors
    /// What stands in the way, and the way out.
    pub fn load(debug: bool, sizes: Sizes) -> Result<Self, Error> {
        let mut loader = EbpfLoader::new();
        if !debug {
            loader.map_max_entries(LOG_MAP, SMALLEST_RING);
        }
        let mut object = loader
            // The program touches no kernel structure: give back the kernel's types, which `new` has read.
            .btf(None)
            .override_global(DEBUG_GLOBAL, &u32::from(debug), true)
            .map_max_entries(VHOSTS_MAP, sizes.vhosts)
            .map_max_entries(KEYS_MAP, sizes.vhosts)
            .map_max_entries(HISTORY_MAP, sizes.vhosts)
            .map_max_entries(ADVERTISEMENTS_MAP, sizes.ring_bytes)
            .load(OBJECT)
            .map_err(|error: EbpfError| refused("create the eBPF maps", error))?;
        let log = if debug {
            Some(open_log(&mut object)?)
        } else {
            None
        };
        let guard = Guard::take(&mut object)?;
        let counters = take(&mut object, COUNTERS_MAP)?;
        let ring = open_ring(&mut object, ADVERTISEMENTS_MAP)?;
        let suspects = open_ring(&mut object, SUSPECTS_MAP)?;
        program(&mut object)?
            .load()
            .map_err(|error| refused("load the XDP program", error))?;
        Ok(Self {
            object,
            guard,
            counters,
            ring,
            suspects,
            log,
            links: BTreeMap::new(),
        })
    }

    /// Attaches the program to an interface whose hook is free.
    ///
    /// # Errors
    /// What stands in the way, and the way out.
    pub fn attach(&mut self, link: &Link, mode: Mode) -> Result<(), Error> {
        let interface = || link.name.clone();
        // Asked first, because the fallback of kernels without bpf_link would replace what is there.
        if let Some(taken) = holder(link)? {
            return Err(taken);
        }
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let attached = program(&mut self.object)?.attach_to_if_index(link.index, flags);
        match attached.map_err(Box::new) {
            Ok(id) => {
                self.links.insert(link.index, id);
                Ok(())
            }
            Err(source) => Err(match errno(&source) {
                Some(libc::EOPNOTSUPP | libc::ERANGE) if mode == Mode::Native => {
                    Error::NoDriverSupport {
                        interface: interface(),
                        source,
                    }
                }
                Some(libc::EPERM | libc::EACCES) => refused("attach the XDP program", source),
                // Someone was faster, or holds the hook in the other mode.
                Some(libc::EBUSY | libc::EEXIST) => holder(link)?.unwrap_or(Error::Attach {
                    interface: interface(),
                    source,
                }),
                _ => Error::Attach {
                    interface: interface(),
                    source,
                },
            }),
        }
    }

    /// Takes the program off an interface, which may be gone already.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some(id) = self.links.remove(&ifindex)
            && let Ok(program) = program(&mut self.object)
            && let Err(error) = program.detach(id)
        {
            tracing::debug!("XDP link of interface {ifindex}: {error}");
        }
    }

    /// What the program looks up.
    pub const fn guard(&mut self) -> &mut Guard {
        &mut self.guard
    }

    /// Ready when a ring or the log has something.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(log) = &mut self.log {
            while let Poll::Ready(guard) = log.poll_read_ready_mut(context) {
                let mut guard = guard?;
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        }
        // Cleared before the rings are drained: a record that comes in between makes it ready again.
        let suspects = self.suspects.poll_read_ready(context)?;
        let suspects = suspects.map(|mut guard| guard.clear_ready());
        match self.ring.poll_read_ready(context)? {
            Poll::Ready(mut guard) => {
                guard.clear_ready();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => suspects.map(Ok),
        }
    }

    /// See [`super::Datapath::drain`].
    pub fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        // Suspects are few, a sample a second from each virtual host.
        for ring in [&mut self.ring, &mut self.suspects] {
            let ring = ring.get_mut();
            loop {
                if batch.is_full() {
                    return Drained::Full;
                }
                let Some(record) = ring.next() else {
                    break;
                };
                // Only our own program writes records, so all have the one length.
                let Some(event) = AdvertisementEvent::from_bytes(&record) else {
                    continue;
                };
                batch.push(event);
                if event.arrival_ns > now.as_nanos() {
                    return Drained::Later;
                }
            }
        }
        Drained::Empty
    }

    /// Every counter, summed over the processors.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn counts(&self) -> Result<Counts, Error> {
        let mut counts = [0; Counter::ALL.len()];
        for (count, counter) in counts.iter_mut().zip(Counter::ALL) {
            *count = self.count(counter)?;
        }
        Ok(counts)
    }

    /// One of them.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn count(&self, counter: Counter) -> Result<u64, Error> {
        let per_cpu = self
            .counters
            .get(&counter.index(), 0)
            .map_err(map_error("read", COUNTERS_MAP))?;
        Ok(per_cpu
            .iter()
            .fold(0_u64, |sum, count| sum.wrapping_add(*count)))
    }
}

fn program(object: &mut Ebpf) -> Result<&mut aya::programs::Xdp, Error> {
    object
        .program_mut(XDP_PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::Missing("the XDP program"))
}

fn open_ring(object: &mut Ebpf, name: &'static str) -> Result<AsyncFd<RingBuf<MapData>>, Error> {
    sys::watch(take(object, name)?).map_err(|error| refused("watch an eBPF ring buffer", error))
}

pub(super) fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = object.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(map_error("open", name))
}

fn open_log(
    object: &mut Ebpf,
) -> Result<AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>, Error> {
    let logger = aya_log::EbpfLogger::init(object)
        .map_err(|error| refused("open the log of the XDP program", error))?;
    sys::watch(logger).map_err(|error| refused("watch the log of the XDP program", error))
}

pub(super) fn map_error(action: &'static str, map: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map {
        action,
        map,
        source: Box::new(source),
    }
}

/// Sorts a refusal by its errno into what an operator can do about it.
fn refused(action: &'static str, error: impl StdError + Send + Sync + 'static) -> Error {
    let errno = errno(&error);
    let source = Box::new(error);
    match errno {
        Some(libc::EPERM | libc::EACCES) => Error::NotPermitted { action, source },
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            let release = nix::sys::utsname::uname().map_or_else(
                |_| String::new(),
                |name| name.release().to_string_lossy().into_owned(),
            );
            Error::KernelTooOld {
                action,
                release,
                source,
            }
        }
        _ => Error::Load { action, source },
    }
}

/// The system call's answer at the bottom of an error.
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

/// Who holds the XDP hook of an interface, as the error that it is to us; `None` when it is free.
fn holder(link: &Link) -> Result<Option<Error>, Error> {
    let now = Requests::new()
        .and_then(|mut requests| requests.link(link.index))
        .map_err(|source| Error::Look {
            interface: link.name.clone(),
            source,
        })?;
    if now.xdp_program == 0 {
        return Ok(None);
    }
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == now.xdp_program)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty());
    Ok(Some(Error::Taken {
        interface: link.name.clone(),
        id: now.xdp_program,
        name,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_grows_with_the_virtual_hosts_in_powers_of_two() {
        assert_eq!(
            Sizes::for_vhosts(1),
            Sizes {
                vhosts: 2,
                ring_bytes: 64 * 1024
            }
        );
        assert_eq!(
            Sizes::for_vhosts(255),
            Sizes {
                vhosts: 510,
                ring_bytes: 2 * 1024 * 1024
            }
        );
        assert_eq!(Sizes::for_vhosts(usize::MAX).ring_bytes, 16 * 1024 * 1024);
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
            Error::NotPermitted { .. }
        ));
        assert!(matches!(
            refused("x", deep(libc::EINVAL)),
            Error::KernelTooOld { .. }
        ));
        assert!(matches!(
            refused("x", deep(libc::ENOMEM)),
            Error::Load { .. }
        ));
    }
}
