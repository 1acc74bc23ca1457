//! The event loop: input in, actions out, wait for the next deadline.
//!
//! One task owns every virtual host, so nothing needs a lock and every order is the program's. Each turn looks at the
//! clock once and then, in this order: feeds all advertisements that arrived up to that moment, follows the links and
//! addresses, and only then judges timers. However late a turn comes (the process was stopped, or starved), a MASTER
//! that advertised in time is heard before its silence is judged.
//!
//! | Module | What it is |
//! |---|---|
//! | `deadlines` | who is due next |
//! | `interface` | a network interface by name, as it comes and goes |
//! | `vhost` | one virtual host with what belongs to it |
//! | `actions` | carries out what the core decided |
//! | `links` | netlink events to inputs |
//! | `changes` | what netlink told, taken into the tables |
//! | `source` | the address that advertisements come from |
//! | `addresses` | the virtual addresses in native mode |
//! | `leases` | how long they outlive us |
//! | `placement` | where they stand among the host's own |
//! | `fence` | until when the kernel lets this host answer for them |
//! | `address_guard` | puts back what others remove |
//! | `arp` | others that have our addresses |
//! | `chores` | when leases, guard and ARP are due |
//! | `mistakes` | what the configuration cannot, or will hardly, mean on this host |
//! | `memory` | what was heard, kept over a restart |
//! | `scripts` | which to run, and what follows from how they ended |
//! | `health` | whether we still hear |
//! | `stalls` | how late we were |
//! | `report` | log lines for transitions and notices |
//! | `status` | what SIGUSR1 shows, and what SIGUSR2 costs |

mod actions;
mod address_guard;
mod addresses;
mod arp;
mod changes;
mod chores;
mod deadlines;
mod fence;
mod health;
mod interface;
mod leases;
mod links;
mod memory;
mod mistakes;
mod placement;
mod report;
mod scripts;
mod source;
mod stalls;
mod status;
mod vhost;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use carp_common::abi::layout::{AdvertisementEvent, VhostKey};
use carp_common::proto::rate_limit::RateLimit;
use carp_common::proto::{Input, Origin};
use carp_common::time::Instant;
use carp_common::units::State;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config::{Config, Lease};
use crate::io::clock;
use crate::io::datapath::{self, Batch, Datapath, Drained, Lookout};
use crate::io::netlink::{Address, Client, Link, Monitor};
use crate::io::scripts::Completion;
use crate::io::signals::{Request, Signals};
use crate::io::timer::DeadlineTimer;
use crate::lock::{self, Locks};
use crate::log;
use crate::privileges;
use crate::sys;
use changes::Changes;
use deadlines::Deadlines;
use interface::Interface;
use leases::Renewing;
use memory::Memories;
use report::UnicastWatch;
use vhost::Vhost;

/// How long a MASTER that bowed out lets the others take over before it takes its program off, which resets the queues of
/// some network cards. The last backup's turn comes after 62 ms.
const HAND_OVER: Duration = Duration::from_millis(100);

/// Lateness that means we were stopped, by a signal, a debugger, a suspended machine or the want of a processor.
const STALL: Duration = Duration::from_millis(100);

/// Time between two looks at what did not fit into the buffers. They wake nobody.
const LOSS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Virtual hosts whose timers are judged in one turn, and whose chores are done in one.
///
/// Before the next ones there is another look at what has arrived and at the clock. So those that are due at one
/// instant, as all are after a start, do not stay so for ever: when they take over, each bunch gets a phase of its own.
/// Fewer at once would mean more wake-ups, and more of them a longer wait for everything else.
const AT_ONCE: usize = 64;

/// The locks of its vhid and of its address, and what watches its script.
const DESCRIPTORS_OF_A_VHOST: usize = 3;
/// Its sockets, and its attachment with a lock.
const DESCRIPTORS_OF_AN_INTERFACE: usize = 8;
/// The program at the egress of any interface, where it is not pinned, and again for the thread that looks at it; and as much
/// for as many interfaces again, which may come.
const DESCRIPTORS_OF_A_LINK: usize = 4;
/// Maps, programs, netlink, the timer, and what comes and goes.
const OTHER_DESCRIPTORS: usize = 128;

/// Time between two looks at the counters of what is worth a warning: VRRP with a vhid of ours, and unicast. They wake
/// nobody: it is looked at when there is something else to do.
const COUNTER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What ends the engine before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An interface is not there, and we were not told to wait for it.
    #[error("interface {0} does not exist; give --wait-interface to wait for it")]
    NoSuchInterface(String),
    /// It has no frames that could be sent or heard.
    #[error(
        "{0} is not an Ethernet interface (loopback, tun, WireGuard and PPP are not): name one that is with --interface"
    )]
    NotEthernet(String),
    /// A capability is missing, or what it allows is forbidden all the same.
    #[error("not permitted to {action}: {way_out}")]
    NotPermitted {
        /// What was attempted.
        action: String,
        /// What the administrator can do.
        way_out: String,
    },
    /// The configuration does not fit this host.
    #[error("{0}")]
    Unworkable(String),
    /// Someone else serves one of our virtual hosts.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// Advertisements cannot be received.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The caller, told that we are ready, could not give up its privileges.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// A socket, timer or signal handler.
    #[error("failed to {action}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A socket of one interface.
    #[error("failed to {action} on {interface}")]
    Interface {
        /// What was attempted.
        action: &'static str,
        /// Where.
        interface: String,
        /// Why not.
        source: io::Error,
    },
}

/// Serves every virtual host of the configuration until asked to stop.
///
/// Runs on a tokio `current_thread` runtime with I/O and time enabled. `on_ready` is called once every step of the
/// start that needs privileges beyond serving has succeeded.
///
/// # Errors
/// What failed at the start, also in `on_ready`, or what makes going on impossible.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce() -> Result<(), privileges::Error>,
) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(|source| Error::System {
        action: "handle signals",
        source,
    })?;
    let mut engine = Engine::start(config)?;
    if let Err(error) = on_ready() {
        engine.close();
        return Err(error.into());
    }
    // Threads that start from now on have no more privileges than we have.
    engine.netlink.limit_waits();
    let outcome = engine.serve(&mut signals).await;
    // Whatever ended it: the others hear of it, and the addresses go.
    engine.stop(&mut signals).await;
    outcome
}

/// Everything that is served. A virtual host or interface is known by its index.
struct Engine {
    wait_interface: bool,
    /// Lifetime of the addresses we assign.
    lease: Lease,
    vhosts: Vec<Vhost>,
    interfaces: Vec<Interface>,
    /// Who an advertisement is for.
    keys: HashMap<VhostKey, usize>,
    /// Of the elections.
    deadlines: Deadlines,
    /// When leases are to be renewed.
    renewals: Deadlines,
    renewing: Option<Renewing>,
    /// Of everything else.
    chores: Deadlines,
    timer: DeadlineTimer,
    datapath: Datapath,
    batch: Batch,
    /// `None` when it failed: opened anew with the next list.
    monitor: Option<Monitor>,
    netlink: Client,
    /// Scripts that ended, each with its virtual host.
    scripts: mpsc::UnboundedReceiver<(usize, Completion)>,
    /// Every link and address of the namespace, as netlink tells it.
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, Vec<Address>>,
    /// An address carried our number: the kernel knows numbers (Linux 5.18).
    tagged: bool,
    /// What netlink told and nobody followed yet.
    changes: Changes,
    /// When the last turn began.
    looked_at: Instant,
    /// Something was left behind in it: do not wait before the next.
    busy: bool,
    stopping: bool,
    /// Something could not be opened, attached or programmed: when to try again.
    retry_at: Option<Instant>,
    /// Links and addresses could not be listed, or not be watched: when to try again.
    resync_at: Option<Instant>,
    /// Of lines about that.
    resync_limit: RateLimit,
    /// Of lines about notifications that were lost.
    overrun_limit: RateLimit,
    /// When the interfaces were last looked at, whether everything is still attached.
    looked_after_at: Instant,
    lookout: Lookout,
    /// It found something gone.
    suspects_loss: bool,
    /// When to look next at what did not fit into the buffers.
    loss_check_at: Instant,
    /// VRRP with the VRID of a vhid of ours: when to look for it next; `None` once it was said.
    vrrp_check_at: Option<Instant>,
    /// Peers that send by unicast.
    unicast: UnicastWatch,
    /// What was heard, over a restart.
    memories: Memories,
    /// Of lines about stalls.
    stall_limit: RateLimit,
    locks: Locks,
}

/// Why a turn begins.
enum Wake {
    /// Packets, netlink or a deadline: looked at in every turn anyway.
    Work,
    Script(usize, Completion),
    Signal(Request),
}

impl Engine {
    fn start(mut config: Config) -> Result<Self, Error> {
        let system = |action| move |source| Error::System { action, source };
        let now = clock::now();
        let interfaces: BTreeSet<_> = config.vhosts.iter().map(|it| &it.interface).collect();
        let mut netlink = Client::new().map_err(system("open a netlink socket"))?;
        let links = netlink.links().map_err(system("list links"))?;
        privileges::allow_descriptors(
            config.vhosts.len() * DESCRIPTORS_OF_A_VHOST
                + interfaces.len() * DESCRIPTORS_OF_AN_INTERFACE
                + links.len() * DESCRIPTORS_OF_A_LINK
                + OTHER_DESCRIPTORS,
        )
        .map_err(|errno| system("allow more open files")(errno.into()))?;
        let locks = Locks::new(config.fingerprint()).map_err(system("watch its locks"))?;
        interface::take_present_names(&mut config.vhosts, &links);
        mistakes::refuse_twins(&config.vhosts)?;
        let datapath = Datapath::new(&config);
        let (completions, scripts) = mpsc::unbounded_channel();
        let (interfaces, vhosts) = vhost::arrange(config.vhosts, &completions, now);
        let memories = Memories::open(config.state_directory.as_ref(), &vhosts, now);
        let mut engine = Self {
            wait_interface: config.wait_interface,
            vhosts,
            interfaces,
            keys: HashMap::new(),
            lease: config.lease,
            deadlines: Deadlines::default(),
            renewals: Deadlines::default(),
            renewing: None,
            chores: Deadlines::default(),
            timer: DeadlineTimer::new().map_err(system("create a timer"))?,
            datapath,
            batch: Batch::new(),
            monitor: Some(Monitor::new().map_err(system("watch links and addresses"))?),
            netlink,
            scripts,
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            tagged: false,
            changes: Changes::default(),
            looked_at: now,
            busy: false,
            stopping: false,
            retry_at: None,
            resync_at: None,
            resync_limit: RateLimit::default(),
            overrun_limit: RateLimit::default(),
            looked_after_at: now,
            lookout: Lookout::default(),
            suspects_loss: false,
            loss_check_at: now,
            vrrp_check_at: Some(now),
            unicast: UnicastWatch::default(),
            memories,
            stall_limit: RateLimit::default(),
            locks,
        };
        engine.recall_memories();
        match engine.open() {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.close();
                Err(error)
            }
        }
    }

    /// What can fail at the start and would leave something behind.
    fn open(&mut self) -> Result<(), Error> {
        self.resync().map_err(|source| Error::System {
            action: "list links and addresses",
            source,
        })?;
        self.refuse_without_the_right_to_assign()?;
        // All of them before anything is touched.
        for interface in 0..self.interfaces.len() {
            if let Some(link) = self.link_of(interface) {
                self.refuse_the_impossible(interface, &link)?;
                self.lock(interface, &link, true)?;
                self.warn_of_the_unlikely(interface, &link);
            }
        }
        self.settle_gone();
        for interface in 0..self.interfaces.len() {
            self.find_at_start(interface)?;
        }
        self.datapath.prepare()?;
        self.datapath.start_cover(&self.links);
        // Loading and attaching took a while; listening begins now.
        let now = clock::now();
        self.place_addresses(now);
        for interface in 0..self.interfaces.len() {
            self.follow(interface, now);
        }
        sys::trim_heap();
        Ok(())
    }

    /// Turns until someone asks to stop.
    async fn serve(&mut self, signals: &mut Signals) -> Result<(), Error> {
        loop {
            if self.busy {
                // Scripts and signals have their own tasks, which run while this one waits.
                tokio::task::yield_now().await;
            } else {
                let earliest = self
                    .deadlines
                    .earliest()
                    .into_iter()
                    .chain(self.next_renewal())
                    .chain(self.chores.earliest())
                    .chain(self.next_arp())
                    .chain(self.retry_at)
                    .chain(self.locks.due())
                    .chain(self.resync_at)
                    .chain(self.next_look())
                    .min();
                self.timer.set(earliest).map_err(|source| Error::System {
                    action: "set the timer",
                    source,
                })?;
            }
            let wake = poll_fn(|context| self.poll_wake(signals, context))
                .await
                .map_err(|source| Error::System {
                    action: "wait for events",
                    source,
                })?;
            let now = clock::now();
            self.turn(now);
            match wake {
                Wake::Work => {}
                Wake::Script(vhost, completion) => self.script_ended(vhost, completion, now),
                Wake::Signal(Request::Dump) => self.dump(now),
                Wake::Signal(Request::StepDown) => self.step_down(now),
                Wake::Signal(Request::Stop) => return Ok(()),
            }
        }
    }

    /// What there is to do at `now`, in the order that keeps the election right.
    fn turn(&mut self, now: Instant) {
        let looked_at = std::mem::replace(&mut self.looked_at, now);
        let due = self.deadlines.earliest();
        let oldest = self.hear(now);
        self.look_for_losses(now, due.into_iter().chain(oldest).min());
        self.follow_links(now);
        self.look_after_datapath(now);
        self.retry(now);
        self.judge_timers(looked_at, now);
        self.hear_arp(now);
        self.do_chores(now);
        self.choose_frames();
        let rest = [
            self.deadlines.earliest(),
            self.next_renewal(),
            self.chores.earliest(),
        ];
        self.busy |= rest.into_iter().flatten().any(|due| due <= now);
        self.look_for_vrrp(now);
        self.look_for_unicast(now);
        self.keep_memories(now);
    }

    fn poll_wake(
        &mut self,
        signals: &mut Signals,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Wake>> {
        let mut work = std::mem::take(&mut self.busy);
        if let Poll::Ready(result) = self.datapath.poll_readable(context) {
            result?;
            work = true;
        }
        if let Some(monitor) = &self.monitor
            && let Poll::Ready(result) = monitor.poll_readable(context)
        {
            result?;
            work = true;
        }
        for watch in self
            .interfaces
            .iter_mut()
            .filter_map(|it| it.watch.as_mut())
        {
            if let Poll::Ready(result) = watch.poll_readable(context) {
                result?;
                work = true;
            }
        }
        if let Poll::Ready(()) = self.lookout.poll_suspicion(context) {
            self.suspects_loss = true;
            work = true;
        }
        if let Poll::Ready(result) = self.timer.poll_expired(context) {
            result?;
            work = true;
        }
        if let Some(renewing) = &mut self.renewing
            && let Poll::Ready(outcomes) = self.netlink.poll_outcomes(context)
        {
            renewing.outcomes = Some(outcomes);
            work = true;
        }
        if let Poll::Ready(request) = signals.poll_request(context) {
            return Poll::Ready(Ok(Wake::Signal(request)));
        }
        // After the signals: a process that is to stop does not say that it serves.
        self.locks.poll_questions(context)?;
        // Ends only when no virtual host has a script.
        if let Poll::Ready(Some((vhost, completion))) = self.scripts.poll_recv(context) {
            return Poll::Ready(Ok(Wake::Script(vhost, completion)));
        }
        if work {
            Poll::Ready(Ok(Wake::Work))
        } else {
            Poll::Pending
        }
    }

    /// Feeds every advertisement that arrived up to `now`; when the first of them did.
    fn hear(&mut self, now: Instant) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        loop {
            let drained = self.datapath.drain(now, &mut self.batch);
            let mut batch = std::mem::take(&mut self.batch);
            for event in batch.take() {
                let arrival = Instant::from_nanos(event.arrival_ns);
                oldest = Some(oldest.map_or(arrival, |oldest| oldest.min(arrival)));
                self.receive(&event, now);
            }
            self.batch = batch;
            match drained {
                Drained::Full => {}
                Drained::Later => {
                    self.busy = true;
                    return oldest;
                }
                Drained::Empty => return oldest,
            }
        }
    }

    /// What did not fit into the buffers while we were stopped was never heard, and it is the latest that did not fit.
    /// `since` is when this turn should have come: something was due or had arrived.
    ///
    /// Only what was lost while we were stopped counts: were losses alone enough, a flood could keep a BACKUP from ever
    /// taking over.
    fn look_for_losses(&mut self, now: Instant, since: Option<Instant>) {
        let stopped = since.is_some_and(|since| now > since + STALL);
        if !stopped && now < self.loss_check_at {
            return;
        }
        self.loss_check_at = now + LOSS_CHECK_INTERVAL;
        let lost = self.datapath.take_losses();
        if stopped && lost > 0 {
            warn!("{lost} advertisements were lost while carpd was stopped: listening anew");
            for vhost in 0..self.vhosts.len() {
                self.feed(vhost, now, Input::AdvertisementsLost);
            }
        }
    }

    fn receive(&mut self, event: &AdvertisementEvent, now: Instant) {
        let (Some(&vhost), Some(family)) = (self.keys.get(&event.key), event.key.family()) else {
            return;
        };
        let origin = Origin {
            source: event.source_address(),
            ethernet_source: event.ethernet_source,
            arrival: Instant::from_nanos(event.arrival_ns),
        };
        self.note_lateness(vhost, origin.arrival, now);
        self.memories.outdate(vhost);
        self.feed(
            vhost,
            now,
            Input::Advertisement {
                family,
                origin,
                payload: &event.payload,
            },
        );
        self.settle_leftovers(vhost, now);
    }

    /// One input to one virtual host, and everything that follows from it.
    fn feed(&mut self, vhost: usize, now: Instant, input: Input<'_>) {
        self.vhosts[vhost].machine.handle_input(now, input);
        self.act(vhost, now);
    }

    /// The orderly stop: bow out, release, wait for scripts; a second request to stop ends the waiting.
    async fn stop(mut self, signals: &mut Signals) {
        self.stopping = true;
        let now = clock::now();
        let mut handed_over = false;
        for vhost in 0..self.vhosts.len() {
            let before = self.vhosts[vhost].machine.state();
            handed_over |= before == State::Master;
            self.feed(vhost, now, Input::Shutdown);
            self.release_at_exit(vhost, before);
        }
        let runners: Vec<_> = self
            .vhosts
            .iter_mut()
            .filter_map(|vhost| vhost.runner.take())
            .collect();
        let hand_over = async {
            if handed_over {
                tokio::time::sleep(HAND_OVER).await;
            }
            for runner in runners {
                runner.finish().await;
            }
        };
        let keep = memory::keep_all(&mut self.memories, &self.vhosts);
        let finish = async { tokio::join!(hand_over, keep) };
        tokio::select! {
            ((), ()) = finish => {}
            () = signals.stop() => warn!("asked to stop again: not waiting for scripts"),
        }
        self.finish_orders();
        for vhost in 0..self.vhosts.len() {
            self.remove_fence(vhost);
        }
        self.close();
        info!(target: log::NOTICE, "carpd has stopped");
    }
}
