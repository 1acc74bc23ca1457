//! Where advertisements come from.
//!
//! | Module | What it is |
//! |---|---|
//! | [`xdp`] | the kernel program and its maps |
//! | `guard` | the maps that it looks virtual hosts up in |
//! | [`socket`] | AF_PACKET with a classic BPF filter: needs no CAP_BPF, works on every device |
//!
//! Both run the same classifier, name their counters alike and deliver the same [`AdvertisementEvent`]s. Each interface
//! has one rung; different interfaces may have different ones. All XDP interfaces share one program and one ring.

mod guard;
pub mod socket;
pub mod xdp;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::task::{Context, Poll};

use carp_common::shared::{AdvertisementEvent, Counter, KernelKeys, VhostKey, VhostValue};
use carp_common::time::Instant;
use tracing::{debug, warn};

use self::socket::Receiver;
use self::xdp::{Mode, Xdp};
use super::netlink::Link;
use crate::config;

/// How one interface is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack, after every packet was copied.
    XdpGeneric,
    /// A packet socket.
    Socket,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Socket => "socket",
        })
    }
}

/// Why an interface cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel program cannot run there.
    #[error("cannot receive on {interface} through datapath {rung}: {}", .source.way_out())]
    Xdp {
        /// Where.
        interface: String,
        /// How.
        rung: Rung,
        /// Why not.
        source: xdp::Error,
    },
    /// The packet socket.
    #[error("failed to open a packet socket on {interface}, which takes CAP_NET_RAW")]
    Socket {
        /// Where.
        interface: String,
        /// Why not: EPERM without CAP_NET_RAW.
        source: io::Error,
    },
    /// The kernel program or its maps, wherever it runs.
    #[error(transparent)]
    Program(#[from] xdp::Error),
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

    fn push(&mut self, event: AdvertisementEvent) {
        self.0.push(event);
    }

    fn is_full(&self) -> bool {
        self.0.len() >= Self::CAPACITY
    }

    /// Takes the advertisements out, in order of arrival on their interface.
    pub fn take(&mut self) -> impl Iterator<Item = AdvertisementEvent> + '_ {
        self.0.drain(..)
    }
}

/// One value per [`Counter`].
pub type Counts = [u64; Counter::ALL.len()];

/// The receiving side of every interface.
pub struct Datapath {
    wanted: config::Datapath,
    sizes: xdp::Sizes,
    debug: bool,
    /// Advertisements that the ring had lost when it was last looked at.
    ring_losses: u64,
    /// Loaded when the first interface wants it, or by [`Datapath::prepare`].
    xdp: Option<Xdp>,
    receivers: BTreeMap<u32, Receiver>,
    rungs: BTreeMap<u32, Rung>,
    /// What the sockets look up; the kernel program has its own copy.
    vhosts: HashMap<VhostKey, VhostValue>,
}

impl Datapath {
    /// Nothing is opened or loaded yet.
    ///
    /// `debug` lets the kernel program explain its rejections; `vhosts` is how many virtual hosts there will be.
    #[must_use]
    pub fn new(wanted: config::Datapath, debug: bool, vhosts: usize) -> Self {
        Self {
            wanted,
            sizes: xdp::Sizes::for_vhosts(vhosts),
            debug,
            ring_losses: 0,
            xdp: None,
            receivers: BTreeMap::new(),
            rungs: BTreeMap::new(),
            vhosts: HashMap::new(),
        }
    }

    /// Starts listening on an interface, on the first rung that works of those that may be used.
    ///
    /// # Errors
    /// Why the last of them does not work.
    pub fn attach(&mut self, link: &Link) -> Result<Rung, Error> {
        let pinned = |rung| {
            move |source| Error::Xdp {
                interface: link.name.clone(),
                rung,
                source,
            }
        };
        let rung = match self.wanted {
            config::Datapath::XdpNative => self
                .attach_xdp(link, Mode::Native)
                .map_err(pinned(Rung::XdpNative))?,
            config::Datapath::XdpGeneric => self
                .attach_xdp(link, Mode::Generic)
                .map_err(pinned(Rung::XdpGeneric))?,
            config::Datapath::Socket => self.attach_socket(link)?,
            config::Datapath::Auto => match self.attach_xdp(link, Mode::Native) {
                Ok(rung) => rung,
                Err(error) => {
                    let rung = self.attach_socket(link)?;
                    warn!(
                        "{}: datapath {rung} instead of {}: {}",
                        link.name,
                        Rung::XdpNative,
                        Chain(&error)
                    );
                    rung
                }
            },
        };
        self.rungs.insert(link.index, rung);
        Ok(rung)
    }

    /// Loads the kernel program, if it may ever be used, even though no interface wants it yet.
    ///
    /// At the end of the start, because later it would be refused: CAP_PERFMON is given up then, and the verifier judges
    /// the program of a process without it by stricter rules, which hide pointers from it and guard against Spectre.
    ///
    /// # Errors
    /// Why it cannot be loaded, unless there is another way to receive.
    pub fn prepare(&mut self) -> Result<(), Error> {
        if self.wanted == config::Datapath::Socket || self.xdp.is_some() {
            return Ok(());
        }
        match Xdp::load(self.debug, self.sizes) {
            Ok(xdp) => self.xdp = Some(xdp),
            Err(error) if self.wanted == config::Datapath::Auto => {
                debug!("there will be no XDP: {}", Chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn attach_xdp(&mut self, link: &Link, mode: Mode) -> Result<Rung, xdp::Error> {
        let xdp = match &mut self.xdp {
            Some(xdp) => xdp,
            none => none.insert(Xdp::load(self.debug, self.sizes)?),
        };
        xdp.attach(link, mode)?;
        Ok(match mode {
            Mode::Native => Rung::XdpNative,
            Mode::Generic => Rung::XdpGeneric,
        })
    }

    fn attach_socket(&mut self, link: &Link) -> Result<Rung, Error> {
        let receiver = Receiver::open(link).map_err(|source| Error::Socket {
            interface: link.name.clone(),
            source,
        })?;
        self.receivers.insert(link.index, receiver);
        Ok(Rung::Socket)
    }

    /// Stops listening on an interface, which may be gone already.
    pub fn detach(&mut self, ifindex: u32) {
        self.rungs.remove(&ifindex);
        self.receivers.remove(&ifindex);
        if let Some(xdp) = &mut self.xdp {
            xdp.detach(ifindex);
        }
    }

    /// The rung of an interface.
    #[must_use]
    pub fn rung(&self, ifindex: u32) -> Option<Rung> {
        self.rungs.get(&ifindex).copied()
    }

    /// From now on advertisements for `key`, sent to `group`, are delivered; in the kernel only what `keys` accept.
    ///
    /// # Errors
    /// What the kernel answers, E2BIG when its map is full.
    pub fn configure(
        &mut self,
        key: VhostKey,
        group: [u8; 16],
        keys: &KernelKeys,
        alive_until: Instant,
    ) -> Result<(), Error> {
        // The sockets go when we go, and need no keys.
        self.vhosts.insert(key, VhostValue::new(group, 0));
        if let Some(xdp) = &mut self.xdp {
            xdp.guard().configure(key, group, keys, alive_until)?;
        }
        Ok(())
    }

    /// Until then the kernel program is not taken for a leftover and may drop.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn keep_alive(&mut self, key: VhostKey, until: Instant) -> Result<(), Error> {
        if let Some(xdp) = &mut self.xdp {
            xdp.guard().keep_alive(key, until)?;
        }
        Ok(())
    }

    /// From now on they are not.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove(&mut self, key: VhostKey) -> Result<(), Error> {
        if self.vhosts.remove(&key).is_some()
            && let Some(xdp) = &mut self.xdp
        {
            xdp.guard().remove(key)?;
        }
        Ok(())
    }

    /// Ready when there may be something to [`drain`](Self::drain).
    ///
    /// # Errors
    /// What the runtime answers.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = false;
        if let Some(xdp) = &mut self.xdp
            && let Poll::Ready(result) = xdp.poll_readable(context)
        {
            result?;
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
    /// # Errors
    /// What `recvmsg(2)` answers, except for a link that is down or gone: netlink tells about that.
    pub fn drain(&mut self, now: Instant, batch: &mut Batch) -> io::Result<Drained> {
        let mut drained = Drained::Empty;
        if let Some(xdp) = &mut self.xdp {
            match xdp.drain(now, batch) {
                Drained::Empty => {}
                Drained::Later => drained = Drained::Later,
                Drained::Full => return Ok(Drained::Full),
            }
        }
        for receiver in self.receivers.values_mut() {
            match receiver.drain(now, &self.vhosts, batch)? {
                Drained::Empty => {}
                Drained::Later => drained = Drained::Later,
                Drained::Full => return Ok(Drained::Full),
            }
        }
        Ok(drained)
    }

    /// How many advertisements did not fit into the buffers since this was last asked.
    pub fn take_losses(&mut self) -> u64 {
        let sockets: u64 = self.receivers.values_mut().map(Receiver::take_losses).sum();
        // A map that cannot be read is reported with the statistics.
        let ring = self
            .xdp
            .as_ref()
            .and_then(|xdp| xdp.count(Counter::DatapathEventsLost).ok());
        let before = ring.map_or(0, |total| std::mem::replace(&mut self.ring_losses, total));
        sockets + ring.unwrap_or(0).saturating_sub(before)
    }

    /// The statistics of an interface's rung; those of XDP are common to all interfaces that use it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn counts(&mut self, ifindex: u32) -> Result<Counts, Error> {
        match (self.receivers.get_mut(&ifindex), &self.xdp) {
            (Some(receiver), _) => Ok(receiver.counts()),
            (None, Some(xdp)) => Ok(xdp.counts()?),
            (None, None) => Ok([0; Counter::ALL.len()]),
        }
    }
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
