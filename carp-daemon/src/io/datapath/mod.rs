//! The source of advertisements: the kernel program or packet sockets.
//!
//! | Module | What it is |
//! |---|---|
//! | `rungs` | the ways to listen on an interface, and the order in which they are tried |
//! | `entries` | the entries of our virtual hosts, and their addresses |
//! | `loader` | loads the kernel program when it is first wanted |
//! | `program` | the kernel program and its maps |
//! | `object` | the maps of the loaded object |
//! | `hook` | the ways to attach the program: XDP in the driver or in the stack, tcx |
//! | `programs` | the attached programs, at the ingress and egress of interfaces |
//! | `egress` | the program that prevents the host from speaking in the name of fenced addresses |
//! | `lookout`, `sight` | a thread that checks whether the programs are still attached |
//! | `attached` | carpd's programs as the kernel lists them |
//! | `bpffs` | the file system of pinned programs |
//! | `pins`, `pin` | how programs stay attached when carpd is killed, and who takes them over |
//! | `tables`, `shared` | the tables of virtual hosts and addresses, which every carpd shares |
//! | `layouts` | such tables of another version |
//! | `slots` | the keys and ledgers of our virtual hosts |
//! | `sockets`, `socket` | AF_PACKET with a classic BPF filter: needs no CAP_BPF, works on every device |
//! | `batch` | received advertisements on their way to the engine |
//! | [`error`] | what the kernel refuses, and what the operator can do |
//!
//! All rungs run the same classifier, have the same counters and deliver the same
//! [`AdvertisementEvent`](carp_common::abi::event::AdvertisementEvent)s. Each interface has one rung, and interfaces may
//! have different ones. All rungs but the socket share one object and one ring.

mod attached;
mod batch;
mod bpffs;
mod egress;
mod entries;
pub mod error;
mod hook;
mod layouts;
mod loader;
mod lookout;
mod object;
mod pin;
mod pins;
mod program;
mod programs;
mod rungs;
mod shared;
mod sight;
mod slots;
mod socket;
mod sockets;
mod tables;
mod tally;

use std::collections::BTreeMap;
use std::io;
use std::task::{Context, Poll};

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{NO_COUNTS, VhostKey};
use carp_common::time::Instant;

pub use self::attached::programs as attached_programs;
pub use self::batch::{Batch, Drained};
pub use self::egress::Leaving;
use self::entries::Entries;
pub use self::entries::{Endpoints, Entry};
pub use self::hook::HookLoss;
use self::layouts::OtherLayouts;
use self::loader::Loader;
pub use self::lookout::Lookout;
pub use self::pin::remove_unused_set as remove_unused_egress;
pub use self::pins::{Pins, Removal};
use self::program::{Options, Sizes};
use self::programs::Programs;
use self::rungs::Refusals;
pub use self::rungs::{Choice, DatapathError, Rung};
use self::slots::add;
use self::sockets::Sockets;
pub use self::tables::{AddressOwner, Fenced, Tables};
use crate::api::event::kernel::Ingress;
pub use crate::api::status::Survival;
use crate::api::{Outbox, Place};
use crate::config::{self, Config, Fence};
use crate::io::chain::Chain;
use crate::io::clock;
use crate::io::netlink::{Client, Link};
pub use carp_common::abi::layout::Counts;

/// The receiving side of every interface.
pub struct Datapath {
    wanted: config::Datapath,
    fence: Fence,
    loader: Loader,
    /// The virtual hosts and addresses that the kernel program and the sockets know.
    pub entries: Entries,
    /// The attached kernel programs.
    pub programs: Programs,
    /// The packet sockets.
    pub sockets: Sockets,
    rungs: BTreeMap<u32, Rung>,
    outbox: Outbox,
}

impl Datapath {
    /// Returns a datapath that has opened and loaded nothing yet. It sends its events to `outbox`.
    #[must_use]
    pub fn new(config: &Config, outbox: Outbox) -> Self {
        let pins = Pins::existing(outbox.clone());
        let options = Options {
            debug: config.debug,
            fence: config.fence,
            instance: new_instance(),
            sizes: Sizes::of(config),
        };
        let wanted = config.vhosts.iter().flat_map(|vhost| &vhost.addresses);
        let others = OtherLayouts::new(wanted.map(|wanted| wanted.address).collect());
        Self {
            wanted: config.datapath,
            fence: config.fence,
            entries: Entries::new(options.instance, config.fence, Tables::pinned(&pins)),
            loader: Loader::new(options, pins, others),
            programs: Programs::new(outbox.clone()),
            sockets: Sockets::default(),
            rungs: BTreeMap::new(),
            outbox,
        }
    }

    /// Loads the kernel programs that may ever be used, even though no interface wants them yet.
    ///
    /// Call it at the end of the start, because loading would be refused later: CAP_PERFMON is given up then, and without it
    /// the verifier applies stricter rules, which hide pointers from the program and guard against Spectre. A file system
    /// cannot be mounted then either.
    ///
    /// # Errors
    /// Returns why they cannot be loaded, unless there is another way to receive.
    pub fn prepare(&mut self) -> Result<(), DatapathError> {
        for hook in Rung::hooks(self.wanted) {
            let program = self.loader.program(&mut self.entries);
            match program.and_then(|(program, _)| program.prepare(*hook)) {
                Ok(()) => {}
                Err(error) if self.wanted == config::Datapath::Auto => {
                    let (hook, error) = (hook.name(), Chain(&error).to_string());
                    self.outbox
                        .tell(Place::Process, Ingress::HookUnusable { hook, error });
                }
                Err(source) => {
                    let rung = Rung::Kernel(*hook);
                    return Err(DatapathError::Program { rung, source });
                }
            }
        }
        let Loader { program, pins, .. } = &mut self.loader;
        if let Some(program) = program {
            self.programs.prepare_egress(program, pins, self.fence);
        }
        Ok(())
    }

    /// Takes over what dead carpds left on the interfaces of the network namespace, which are all of these, and covers the
    /// egress of those that are served.
    pub fn start_cover(&mut self, links: &BTreeMap<u32, Link>) {
        let Loader {
            program,
            pins,
            others,
            ..
        } = &mut self.loader;
        if let Some(program) = program {
            self.programs.start_cover(program, pins, links);
        }
        let (tables, served) = (self.entries.tables.as_mut(), self.programs.attachments());
        others.adopt_links(pins, tables, program.as_mut(), served);
    }

    /// Starts listening on an interface, on the first rung that works of those that may be used.
    ///
    /// # Errors
    /// Returns why the last of them does not work.
    pub fn attach(&mut self, link: &Link, netlink: &mut Client) -> Result<Choice, DatapathError> {
        let mut refusals = Refusals::default();
        let mut candidates = Rung::candidates(self.wanted, link).iter().peekable();
        let rung = loop {
            let rung = *candidates.next().expect("the last candidate returns");
            match self.attach_to(link, rung, netlink) {
                Ok(()) => break rung,
                // The rung may work once the kernel answers again, and the engine tries again soon.
                Err(error) if error.is_unanswered() => return Err(error),
                Err(error) if candidates.peek().is_some() => refusals.add(rung, &error),
                Err(error) => {
                    if let Some(refusals) = refusals.text() {
                        let refusals = refusals.to_owned();
                        self.tell_of(link, Ingress::NoRung { refusals });
                    }
                    return Err(error);
                }
            }
        };
        self.rungs.insert(link.index, rung);
        // Our program looks into the same table. Without one of ours, a leftover that still fences has its use.
        let tables = self.entries.tables.as_ref();
        let fences_nothing = || tables.is_none_or(|tables| tables.on(link.index).is_empty());
        if rung != Rung::Socket || fences_nothing() {
            let removal = self.loader.pins.remove_unowned(link.index, &link.name);
            for pin in removal.removed {
                self.tell_of(link, Ingress::LeftoverRemoved { pin });
            }
        }
        Ok(refusals.choice(rung, link, self.wanted, self.fence))
    }

    fn attach_to(
        &mut self,
        link: &Link,
        rung: Rung,
        netlink: &mut Client,
    ) -> Result<(), DatapathError> {
        match rung {
            Rung::Kernel(hook) => {
                self.loader.adopt_addresses(&mut self.entries);
                let program = self.loader.program(&mut self.entries);
                let attached = program.and_then(|(program, pins)| {
                    // Reception must not depend on statistics.
                    if let Err(error) = self.entries.count_on(link.index) {
                        let error = Chain(&error).to_string();
                        let place = Place::Interface(link.name.clone());
                        self.outbox.tell(place, Ingress::NotCounted { error });
                    }
                    program.attach(link, hook, pins, netlink)
                });
                let attachment = attached.map_err(|source| DatapathError::Kernel {
                    interface: link.name.clone(),
                    rung,
                    source,
                })?;
                self.programs.insert(link.index, attachment);
            }
            Rung::Socket => {
                let opened = self.sockets.open(link);
                opened.map_err(|source| DatapathError::Socket {
                    interface: link.name.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn tell_of(&self, link: &Link, what: Ingress) {
        self.outbox.tell(Place::Interface(link.name.clone()), what);
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        self.sockets.forget(ifindex);
        self.entries.forget(ifindex);
    }

    /// Stops listening on an interface, which may be gone already.
    pub fn detach(&mut self, ifindex: u32) {
        self.rungs.remove(&ifindex);
        self.sockets.close(ifindex);
        self.programs.detach(ifindex);
        self.loader.pins.forget(ifindex);
    }

    /// Stops listening on every interface.
    ///
    /// Pinned programs stay where they fence one of the `orphans`: addresses that a carpd left which died, or an earlier run
    /// if our start failed. A living carpd has programs of its own. The last carpd to stop removes the rest with the result,
    /// when everything else is closed.
    pub fn close(&mut self, orphans: &[Fenced]) -> Option<Leaving> {
        self.entries.remove_all();
        let interfaces: Vec<u32> = self.rungs.keys().copied().collect();
        for ifindex in interfaces {
            if !orphans
                .iter()
                .any(|fenced| fenced.owner.is_none_or(|owner| owner.ifindex == ifindex))
            {
                self.detach(ifindex);
                let removal = self.loader.pins.remove_unowned(ifindex, "an interface");
                for pin in removal.removed {
                    self.outbox
                        .tell(Place::Process, Ingress::LeftoverRemovedAtEnd { pin });
                }
            }
        }
        self.programs.close_egress(!orphans.is_empty())
    }

    /// Removes the programs that have no owner any more on interfaces other than these.
    pub fn remove_unowned_but(&self, links: &BTreeMap<u32, Link>) {
        let pins = &self.loader.pins;
        for ifindex in pins.interfaces() {
            if !links.contains_key(&ifindex) {
                // A program that has an owner is removed by that owner.
                let _ = pins.remove_unowned(ifindex, "an interface");
            }
        }
    }

    /// Returns whether the fence on an interface outlives a daemon that is killed. Returns `No` if there is no fence.
    #[must_use]
    pub fn survival(&self, ifindex: u32) -> Survival {
        match self.fence != Fence::Off && self.programs.are_pinned(ifindex) {
            true => self.loader.pins.survival(),
            false => Survival::No,
        }
    }

    /// Returns the rung of an interface.
    #[must_use]
    pub fn rung(&self, ifindex: u32) -> Option<Rung> {
        self.rungs.get(&ifindex).copied()
    }

    /// Returns every fenced address of the network namespace, whichever carpd fences it.
    #[must_use]
    pub fn all_fenced(&self) -> Vec<Fenced> {
        let tables = self.entries.tables.as_ref();
        let mut all = tables.map_or_else(Vec::new, Tables::all);
        let Loader { pins, others, .. } = &self.loader;
        all.extend(others.fenced(pins, tables));
        all
    }

    /// Ready when there may be something to [`drain`](Self::drain), or an interface was covered.
    ///
    /// # Errors
    /// Returns any error of the runtime.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = self.programs.poll_news(context).is_ready();
        if let Some(program) = &mut self.loader.program
            && let Poll::Ready(result) = program.poll_readable(context)
        {
            result?;
            ready = true;
        }
        if let Poll::Ready(result) = self.sockets.poll_readable(context) {
            result?;
            ready = true;
        }
        match ready {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Fetches what arrived up to `now`, whether or not a wake-up announced it.
    ///
    /// Advertisements that arrive while this runs may stay behind, so that a flood cannot keep the engine here.
    pub fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        let in_ring = match &mut self.loader.program {
            Some(program) => program.drain(now, batch),
            None => Drained::Empty,
        };
        if in_ring == Drained::Full {
            return Drained::Full;
        }
        match self.sockets.drain(now, self.entries.vhosts(), batch) {
            Drained::Empty => in_ring,
            drained @ (Drained::Later | Drained::Full) => drained,
        }
    }

    /// Returns how many advertisements did not fit into the buffers since the last call.
    pub fn take_losses(&mut self) -> u64 {
        let program = self.loader.program.as_mut();
        let ring = program.map_or(0, |program| program.take_losses());
        self.sockets.take_losses() + ring
    }

    /// Returns the counters of an interface's rung. All interfaces that use the kernel program have its counters in common.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts(&mut self, ifindex: u32) -> Result<Counts, error::KernelError> {
        match (self.sockets.get(ifindex), &self.loader.program) {
            (Some(socket), _) => Ok(socket.counts()),
            (None, Some(program)) => program.counts(),
            (None, None) => Ok(NO_COUNTS),
        }
    }

    /// Returns one of the counters, summed over all interfaces.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn count(&self, counter: Counter) -> Result<u64, error::KernelError> {
        let in_kernel = match &self.loader.program {
            Some(program) => program.count(counter)?,
            None => 0,
        };
        Ok(in_kernel.wrapping_add(self.sockets.count(counter)))
    }

    /// Returns what became of the advertisements for a virtual host since the start, on every rung that its interface had.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts_of(&mut self, key: VhostKey) -> Result<Counts, error::KernelError> {
        let mut sum = self.entries.counts_of(key)?;
        if let Some(tally) = self.sockets.tally(key.ifindex) {
            add(&mut sum, &tally.of(key));
        }
        Ok(sum)
    }

    /// Returns what became of the frames on an interface that were for none of our virtual hosts.
    ///
    /// # Errors
    /// Returns any refusal of the kernel.
    pub fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, error::KernelError> {
        let mut sum = self.entries.counts_of_others(ifindex)?;
        if let Some(tally) = self.sockets.tally(ifindex) {
            add(&mut sum, &tally.others());
        }
        Ok(sum)
    }
}

/// Returns a number that no other process of this machine has: its pid and the present time.
fn new_instance() -> u64 {
    clock::now().as_nanos() << 22 | u64::from(std::process::id())
}
