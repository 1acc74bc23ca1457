//! Where advertisements come from.
//!
//! | Module | What it is |
//! |---|---|
//! | `program` | the kernel program and its maps |
//! | `hook` | the ways to attach it: XDP in the driver or in the stack, tcx |
//! | `attached` | carpd's programs as the kernel lists them |
//! | `bpffs` | the file system of pinned programs, where it outlives us |
//! | `pins` | how it stays attached when we are killed, and who takes it over |
//! | `tables` | the tables of virtual hosts and addresses, which every carpd shares |
//! | `layouts` | such tables of another version |
//! | `slots` | the keys and ledgers of our virtual hosts |
//! | `vhosts` | what the engine tells of a virtual host and its addresses |
//! | `egress` | the program that keeps the host from speaking for them |
//! | `cover` | what the engine tells of the interfaces that it covers |
//! | `lookout` | a thread that looks whether programs are still where they should be |
//! | `rungs` | which of the ways serves an interface |
//! | [`error`] | what stands in the way, and the way out |
//! | [`socket`] | AF_PACKET with a classic BPF filter: needs no CAP_BPF, works on every device |
//!
//! All run the same classifier, name their counters alike and deliver the same [`AdvertisementEvent`]s. Each interface
//! has one rung; different interfaces may have different ones. All but sockets share one object and one ring.

mod attached;
mod bpffs;
mod cover;
mod egress;
pub mod error;
mod hook;
mod layouts;
mod lookout;
mod pins;
mod program;
mod rungs;
mod slots;
pub mod socket;
mod tables;
mod vhosts;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::{VhostKey, VhostValue};
use carp_common::time::Instant;
use tracing::debug;

pub use self::attached::programs as attached_programs;
use self::egress::Egress;
pub use self::egress::{Leaving, remove_unused as remove_unused_egress};
pub use self::hook::Loss;
use self::hook::{Attachment, Hook};
pub use self::lookout::Lookout;
pub use self::pins::{Pins, Removal};
use self::program::{Options, Program, Sizes};
pub use self::rungs::{Choice, Rung};
use self::socket::Receiver;
pub use self::tables::{Fenced, Owner, Tables};
pub use self::vhosts::{Endpoints, Entry};
pub use crate::api::status::Survival;
use crate::config::{self, Config, Fence};
use crate::io::clock;
use crate::lock;

/// Why an interface cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel program cannot run there.
    #[error("cannot receive on {interface} through datapath {rung}: {}", .source.way_out())]
    Kernel {
        /// Where.
        interface: String,
        /// How.
        rung: Rung,
        /// Why not.
        source: error::Error,
    },
    /// The packet socket.
    #[error(
        "cannot receive on {interface} through datapath socket: a packet socket takes CAP_NET_RAW"
    )]
    Socket {
        /// Where.
        interface: String,
        /// Why not: EPERM without CAP_NET_RAW.
        source: io::Error,
    },
    /// The kernel program or its maps, wherever it runs.
    #[error("datapath {rung} cannot be used: {}", .source.way_out())]
    Program {
        /// How it was to run.
        rung: Rung,
        /// Why not.
        source: error::Error,
    },
}

impl Error {
    /// What the kernel program met, when it is about that.
    const fn cause(&self) -> Option<&error::Error> {
        match self {
            Self::Kernel { source, .. } => Some(source),
            Self::Socket { .. } | Self::Program { .. } => None,
        }
    }
}

/// Whether a drain left something behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Nothing is left.
    Empty,
    /// What is left arrived after the drain began.
    Later,
    /// The batch is full: handle it and drain again.
    Full,
}

/// Received advertisements, a bounded number at a time. The default has no memory yet.
#[derive(Debug, Default)]
pub struct Batch(Vec<AdvertisementEvent>);

impl Batch {
    const CAPACITY: usize = 256;

    /// An empty batch with its memory.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(Self::CAPACITY))
    }

    /// Puts one more in.
    pub fn push(&mut self, event: AdvertisementEvent) {
        self.0.push(event);
    }

    /// Whether it is to be emptied before more is put in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= Self::CAPACITY
    }

    /// Takes the advertisements out, in order of arrival on their interface.
    pub fn take(&mut self) -> impl Iterator<Item = AdvertisementEvent> + '_ {
        self.0.drain(..)
    }
}

pub use carp_common::abi::layout::Counts;

/// The receiving side of every interface.
pub struct Datapath {
    wanted: config::Datapath,
    fence: Fence,
    sizes: Sizes,
    debug: bool,
    /// Advertisements that the ring had lost when it was last looked at.
    ring_losses: u64,
    /// Loaded when the first interface wants it, or by [`Datapath::prepare`].
    kernel: Option<Program>,
    /// Those of the kernel programs, or what others pinned.
    tables: Option<Tables>,
    /// What our programs and our entries know each other by.
    instance: u64,
    egress: Option<Egress>,
    /// Its program was refused, which was warned of.
    egress_refused: bool,
    pins: Pins,
    /// Of every configured virtual host.
    own_addresses: Vec<IpAddr>,
    attachments: BTreeMap<u32, Attachment>,
    receivers: BTreeMap<u32, Receiver>,
    /// Interfaces whose socket failed, and why; it is closed.
    failures: Vec<(u32, io::Error)>,
    rungs: BTreeMap<u32, Rung>,
    /// What the sockets look up; the kernel program has its own copy.
    vhosts: HashMap<VhostKey, VhostValue>,
    /// What the kernel program counted for virtual hosts before they were last removed.
    retired: BTreeMap<VhostKey, Counts>,
}

impl Datapath {
    /// Nothing is opened or loaded yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let pins = Pins::existing();
        Self {
            wanted: config.datapath,
            fence: config.fence,
            sizes: Sizes::of(config),
            debug: config.debug,
            ring_losses: 0,
            kernel: None,
            tables: Tables::pinned(&pins),
            instance: new_instance(),
            egress: None,
            egress_refused: false,
            pins,
            own_addresses: {
                let vhosts = config.vhosts.iter();
                let addresses = vhosts.flat_map(|vhost| &vhost.addresses);
                addresses.map(|wanted| wanted.address).collect()
            },
            attachments: BTreeMap::new(),
            receivers: BTreeMap::new(),
            failures: Vec::new(),
            rungs: BTreeMap::new(),
            vhosts: HashMap::new(),
            retired: BTreeMap::new(),
        }
    }

    /// The kernel program, loaded now at the latest, and where it is pinned.
    fn kernel(&mut self) -> Result<(&mut Program, &Pins), error::Error> {
        if self.kernel.is_none() {
            self.load()?;
        }
        let kernel = self.kernel.as_mut();
        let kernel = kernel.ok_or(error::Error::Missing("the kernel program"))?;
        Ok((kernel, &self.pins))
    }

    fn load(&mut self) -> Result<(), error::Error> {
        self.pins = Pins::open();
        let options = Options {
            debug: self.debug,
            fence: self.fence,
            instance: self.instance,
            sizes: self.sizes,
        };
        let (kernel, mut tables) = Program::load(&options, &self.pins)?;
        // Where it cannot be told who lives, everything stays.
        if let Ok(held) = lock::Held::look() {
            tables.remove_dead(|ifindex, vhid| held.serves(ifindex, vhid));
        }
        self.kernel = Some(kernel);
        self.tables = Some(tables);
        self.adopt_addresses();
        Ok(())
    }

    /// Loads the kernel programs that may ever be used, even though no interface wants them yet.
    ///
    /// At the end of the start, because later it would be refused: CAP_PERFMON is given up then, and the verifier judges
    /// the program of a process without it by stricter rules, which hide pointers from it and guard against Spectre.
    /// Mounting a file system is over then, too.
    ///
    /// # Errors
    /// Why they cannot be loaded, unless there is another way to receive.
    pub fn prepare(&mut self) -> Result<(), Error> {
        let hooks: &[Hook] = match self.wanted {
            config::Datapath::Auto => &[Hook::XdpNative, Hook::Tcx],
            config::Datapath::XdpNative | config::Datapath::XdpGeneric => &[Hook::XdpNative],
            config::Datapath::Tcx => &[Hook::Tcx],
            config::Datapath::Socket => &[],
        };
        for hook in hooks {
            match self.kernel().and_then(|(kernel, _)| kernel.prepare(*hook)) {
                Ok(()) => {}
                Err(error) if self.wanted == config::Datapath::Auto => {
                    debug!("there will be no {}: {}", hook.name(), Chain(&error));
                }
                Err(source) => {
                    let rung = Rung::Kernel(*hook);
                    return Err(Error::Program { rung, source });
                }
            }
        }
        self.prepare_egress();
        Ok(())
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        if let Some(tables) = &mut self.tables {
            tables.forget(ifindex);
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.forget(ifindex);
        }
        self.retired.retain(|key, _| key.ifindex != ifindex);
    }

    /// Stops listening on an interface, which may be gone already.
    pub fn detach(&mut self, ifindex: u32) {
        self.rungs.remove(&ifindex);
        self.receivers.remove(&ifindex);
        if let Some(attachment) = self.attachments.remove(&ifindex) {
            attachment.detach();
        }
        self.pins.forget(ifindex);
    }

    /// Stops listening everywhere. What is pinned stays for the `orphans`, and fences them: addresses that another carpd
    /// left which died, or an earlier run when our start failed. A living carpd has programs of its own. The last to stop
    /// removes the rest, when everything else is closed.
    pub fn close(&mut self, orphans: &[Fenced]) -> Option<Leaving> {
        let ours: Vec<VhostKey> = self.vhosts.keys().copied().collect();
        for key in ours {
            // What cannot be removed is a dead one's, like any that is left.
            let _ = self.remove(key);
        }
        let interfaces: Vec<u32> = self.rungs.keys().copied().collect();
        for ifindex in interfaces {
            if !orphans
                .iter()
                .any(|fenced| fenced.owner.is_none_or(|owner| owner.ifindex == ifindex))
            {
                self.detach(ifindex);
                for name in self.pins.remove_unowned(ifindex, "an interface").removed {
                    debug!("removed the {name} program that another run left");
                }
            }
        }
        let egress = self.egress.take()?;
        Some(egress.close(!orphans.is_empty()))
    }

    /// Whether the fence outlives a daemon that is killed, on an interface: `No` also where there is none.
    #[must_use]
    pub fn survival(&self, ifindex: u32) -> Survival {
        let attachment = self.attachments.get(&ifindex);
        let is_pinned = attachment.is_some_and(Attachment::is_pinned)
            && self.egress.as_ref().is_none_or(Egress::is_pinned);
        match is_pinned && self.fence != Fence::Off {
            true => self.pins.survival(),
            false => Survival::No,
        }
    }

    /// The rung of an interface.
    #[must_use]
    pub fn rung(&self, ifindex: u32) -> Option<Rung> {
        self.rungs.get(&ifindex).copied()
    }

    /// Ready when there may be something to [`drain`](Self::drain).
    ///
    /// # Errors
    /// What the runtime answers.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = false;
        if let Some(kernel) = &mut self.kernel
            && let Poll::Ready(result) = kernel.poll_readable(context)
        {
            result?;
            ready = true;
        }
        if let Some(egress) = &mut self.egress
            && let Poll::Ready(()) = egress.poll_news(context)
        {
            ready = true;
        }
        for receiver in self.receivers.values() {
            if let Poll::Ready(result) = receiver.poll_readable(context) {
                result?;
                ready = true;
            }
        }
        if ready {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Fetches what arrived up to `now`, whether or not a wake-up announced it.
    ///
    /// What arrives while this runs may stay behind, so that a flood cannot hold the engine here.
    ///
    /// A socket that fails is closed, see [`Datapath::take_failures`]. A link that is down or gone is no failure: netlink
    /// tells about that.
    pub fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        let mut drained = Drained::Empty;
        if let Some(kernel) = &mut self.kernel {
            match kernel.drain(now, batch) {
                Drained::Empty => {}
                Drained::Later => drained = Drained::Later,
                Drained::Full => return Drained::Full,
            }
        }
        let failed_before = self.failures.len();
        for (ifindex, receiver) in &mut self.receivers {
            match receiver.drain(now, &self.vhosts, batch) {
                Ok(Drained::Empty) => {}
                Ok(Drained::Later) => drained = Drained::Later,
                Ok(Drained::Full) => {
                    drained = Drained::Full;
                    break;
                }
                Err(error) => self.failures.push((*ifindex, error)),
            }
        }
        for (ifindex, _) in &self.failures[failed_before..] {
            self.receivers.remove(ifindex);
        }
        drained
    }

    /// The interfaces whose sockets failed since this was last asked, and why.
    pub fn take_failures(&mut self) -> Vec<(u32, io::Error)> {
        std::mem::take(&mut self.failures)
    }

    /// How many advertisements did not fit into the buffers since this was last asked.
    pub fn take_losses(&mut self) -> u64 {
        let sockets: u64 = self.receivers.values_mut().map(Receiver::take_losses).sum();
        // A map that cannot be read is reported with the statistics.
        let ring = self
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.count(Counter::DatapathEventsLost).ok());
        let before = ring.map_or(0, |total| std::mem::replace(&mut self.ring_losses, total));
        sockets + ring.unwrap_or(0).saturating_sub(before)
    }

    /// The statistics of an interface's rung; those of the kernel program are common to all interfaces
    /// that use it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn counts(&mut self, ifindex: u32) -> Result<Counts, error::Error> {
        match (self.receivers.get_mut(&ifindex), &self.kernel) {
            (Some(receiver), _) => Ok(receiver.counts()),
            (None, Some(kernel)) => kernel.counts(),
            (None, None) => Ok([0; Counter::ALL.len()]),
        }
    }

    /// One of the statistics, of all interfaces together.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn count(&mut self, counter: Counter) -> Result<u64, error::Error> {
        let kernel = match &self.kernel {
            Some(kernel) => kernel.count(counter)?,
            None => 0,
        };
        let sockets = self.receivers.values_mut();
        Ok(sockets.fold(kernel, |sum, socket| {
            sum.wrapping_add(socket.count_of(counter))
        }))
    }
}

/// A number that no other process of this machine has: of its pid at this moment.
fn new_instance() -> u64 {
    clock::now().as_nanos() << 22 | u64::from(std::process::id())
}

/// An error and its causes on one line.
pub(crate) struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
