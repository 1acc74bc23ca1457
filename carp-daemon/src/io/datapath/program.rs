//! The kernel program and its maps. One object has a program for each kind of hook, over the same maps.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::task::{Context, Poll};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya::{Ebpf, EbpfError, EbpfLoader};
use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::{
    ADVERTISEMENTS_MAP, COUNTERS_MAP, Counts, DEBUG_GLOBAL, FENCE_ALL_GLOBAL, INSTANCE_GLOBAL,
    SUSPECTS_MAP,
};
use carp_common::time::Instant;
use tokio::io::unix::AsyncFd;

use super::batch::{Batch, Drained};
use super::egress::Egress;
use super::error::{KernelError, map_error, refused};
use super::hook::{self, Attachment, Hook};
use super::object::take;
use super::pins::Pins;
use super::shared::SHARED;
use super::slots::Slots;
use super::tables::Tables;
use crate::config::{Config, Fence};
use crate::io::netlink::{Client, Link};
use crate::sys;

/// The object that `cargo xtask build-ebpf` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CARPD_EBPF_OBJECT"));

/// The ring buffer of aya-log, which is unused without debug.
const LOG_MAP: &str = "AYA_LOGS";
/// The size of one page.
const SMALLEST_RING: u32 = 4096;

/// The options that the programs are loaded with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether they log the reason of each drop.
    pub debug: bool,
    /// The packets that the fence covers.
    pub fence: Fence,
    /// The number that marks the entries of this process.
    pub instance: u64,
    /// The sizes of their own maps.
    pub sizes: Sizes,
}

/// The sizes of the maps that cannot grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The size of the ring buffer. Unit: bytes. The kernel requires a power of two of whole pages.
    ring_bytes: u32,
}

impl Sizes {
    /// Returns the sizes for a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::for_number(config.vhosts.len())
    }

    /// Returns the sizes for a number of virtual hosts, which are served in one family so far. The ring has room for some
    /// thirty advertisements of each, which arrive while the process is stopped for that many intervals. Above a thousand
    /// virtual hosts it has room for fewer, because its memory cannot be swapped out.
    fn for_number(vhosts: usize) -> Self {
        const RECORD_LEN: usize = (AdvertisementEvent::PLAIN_LEN + 8).next_multiple_of(8);
        const SMALLEST: usize = 64 * 1024;
        const LARGEST: usize = 4 * 1024 * 1024;
        let ring = vhosts
            .saturating_mul(RECORD_LEN * 32)
            .clamp(SMALLEST, LARGEST)
            .next_power_of_two();
        Self {
            ring_bytes: u32::try_from(ring).expect("no more than LARGEST"),
        }
    }
}

/// The programs and their maps, which all interfaces share.
pub struct Program {
    /// The loaded object. It owns the programs, and the maps that were not taken.
    object: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    ring: AsyncFd<RingBuf<MapData>>,
    /// How many advertisements the ring had lost at the last call of [`Program::take_losses`].
    ring_losses: u64,
    /// Samples of advertisements that were not authentic.
    suspects: AsyncFd<RingBuf<MapData>>,
    log: Option<AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>>,
}

impl Program {
    /// Creates the maps. The programs are loaded when they are wanted.
    ///
    /// # Errors
    /// Returns what prevents it, and what the operator can do.
    pub fn load(options: &Options, pins: &Pins) -> Result<(Self, Tables, Slots), KernelError> {
        let &Options {
            debug,
            fence,
            instance,
            sizes,
        } = options;
        let mut loader = EbpfLoader::new();
        for table in SHARED {
            if let Some(path) = pins.table(table.name) {
                pins.set_aside(&table);
                // aya opens the table if it exists, and creates it otherwise.
                loader.map_pin_path(table.map, path);
            }
        }
        if !debug {
            loader.map_max_entries(LOG_MAP, SMALLEST_RING);
        }
        let mut object = loader
            // The program uses no kernel structure. This frees the kernel's types, which `new` has read.
            .btf(None)
            .override_global(DEBUG_GLOBAL, &u32::from(debug), true)
            .override_global(INSTANCE_GLOBAL, &instance, true)
            .override_global(FENCE_ALL_GLOBAL, &u32::from(fence == Fence::All), true)
            .map_max_entries(ADVERTISEMENTS_MAP, sizes.ring_bytes)
            .load(OBJECT)
            .map_err(|error: EbpfError| refused("create the eBPF maps", error))?;
        let log = if debug {
            Some(open_log(&mut object)?)
        } else {
            None
        };
        let tables = Tables::take(&mut object)?;
        let slots = Slots::take(&mut object)?;
        let counters = take(&mut object, COUNTERS_MAP)?;
        let ring = open_ring(&mut object, ADVERTISEMENTS_MAP)?;
        let suspects = open_ring(&mut object, SUSPECTS_MAP)?;
        let program = Self {
            object,
            counters,
            ring,
            ring_losses: 0,
            suspects,
            log,
        };
        Ok((program, tables, slots))
    }

    /// Loads the program of a hook if it is not loaded. It sees no packet before it is attached.
    ///
    /// # Errors
    /// Returns what prevents it, and what the operator can do.
    pub fn prepare(&mut self, hook: Hook) -> Result<(), KernelError> {
        hook::load(&mut self.object, hook)
    }

    /// Attaches the program to an interface.
    ///
    /// # Errors
    /// Returns what prevents it, and what the operator can do.
    pub fn attach(
        &mut self,
        link: &Link,
        hook: Hook,
        pins: &Pins,
        netlink: &mut Client,
    ) -> Result<Attachment, KernelError> {
        self.prepare(hook)?;
        hook::attach(&mut self.object, link, hook, pins, netlink)
    }

    /// Replaces the program of a link with the program of a hook.
    ///
    /// # Errors
    /// Returns what prevents it.
    pub fn replace(&mut self, leftover: FdLink, hook: Hook) -> Result<(), Box<dyn StdError>> {
        self.prepare(hook)?;
        // The link is pinned.
        hook::replace(&mut self.object, leftover, hook).map(drop)
    }

    /// Loads the program for egress if it is not loaded, and returns its descriptor.
    ///
    /// # Errors
    /// Returns what prevents it, and what the operator can do.
    pub fn prepare_egress(&mut self) -> Result<OwnedFd, KernelError> {
        hook::load_egress(&mut self.object)
    }

    /// Calls [`Egress::start`] with the loaded object.
    pub fn start_egress(
        &mut self,
        egress: &mut Egress,
        others: &[PathBuf],
        links: &BTreeMap<u32, Link>,
        served: &BTreeMap<u32, Attachment>,
    ) {
        egress.start(&mut self.object, others, links, served);
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
        // Readiness is cleared before the rings are drained, so a record that arrives in between makes them ready again.
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

    /// Fetches what arrived up to `now`, as far as the batch has room.
    pub fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        // Suspects are few: each virtual host has one sample per second.
        for ring in [&mut self.ring, &mut self.suspects] {
            let ring = ring.get_mut();
            loop {
                if batch.is_full() {
                    return Drained::Full;
                }
                let Some(record) = ring.next() else {
                    break;
                };
                // Only our own program writes records, so all have the same length.
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

    /// Returns how many advertisements found no room in the ring since the last call.
    pub fn take_losses(&mut self) -> u64 {
        // A map that cannot be read is reported with the statistics.
        let Ok(total) = self.count(Counter::DatapathEventsLost) else {
            return 0;
        };
        total.saturating_sub(std::mem::replace(&mut self.ring_losses, total))
    }

    /// Returns every counter, summed over the processors.
    ///
    /// # Errors
    /// Returns any error of the kernel.
    pub fn counts(&self) -> Result<Counts, KernelError> {
        let mut counts = [0; Counter::ALL.len()];
        for (count, counter) in counts.iter_mut().zip(Counter::ALL) {
            *count = self.count(counter)?;
        }
        Ok(counts)
    }

    /// Returns one of the counters.
    ///
    /// # Errors
    /// Returns any error of the kernel.
    pub fn count(&self, counter: Counter) -> Result<u64, KernelError> {
        let per_cpu = self
            .counters
            .get(&counter.index(), 0)
            .map_err(map_error("read", COUNTERS_MAP))?;
        Ok(per_cpu
            .iter()
            .fold(0_u64, |sum, count| sum.wrapping_add(*count)))
    }
}

fn open_ring(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<AsyncFd<RingBuf<MapData>>, KernelError> {
    sys::watch(take(object, name)?).map_err(|error| refused("watch an eBPF ring buffer", error))
}

fn open_log(
    object: &mut Ebpf,
) -> Result<AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>, KernelError> {
    let logger = aya_log::EbpfLogger::init(object)
        .map_err(|error| refused("open the log of the kernel program", error))?;
    sys::watch(logger).map_err(|error| refused("watch the log of the kernel program", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_grows_with_the_virtual_hosts_in_powers_of_two() {
        assert_eq!(
            Sizes::for_number(1),
            Sizes {
                ring_bytes: 64 * 1024
            }
        );
        assert_eq!(
            Sizes::for_number(255),
            Sizes {
                ring_bytes: 1024 * 1024
            }
        );
        assert_eq!(Sizes::for_number(usize::MAX).ring_bytes, 4 * 1024 * 1024);
    }
}
