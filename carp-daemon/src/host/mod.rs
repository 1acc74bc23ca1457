//! The host that carpd runs on, as the engine sees it: all of `io` behind [`crate::engine::effects::Effects`].
//!
//! | Module | What it implements |
//! |---|---|
//! | `datapath` | `Receive`, `KernelProgram` |
//! | `netlink` | `Netlink` |
//! | `wire` | `Wire` |
//! | `memory` | `Remember`, and the writes of an orderly stop |
//! | here | `Clock`, `Scripts`, `Exclusion`, `Tell`, and the events that wake the engine |

mod datapath;
mod memory;
mod netlink;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::task::{Context, Poll};

use carp_common::time::Instant;
use carp_common::units::Vhid;
use tokio::sync::mpsc;

use self::memory::Keeper;
use self::wire::InterfaceSockets;
use crate::api::{self, Event, Outbox, Status};
use crate::config::{Config, VhostConfig};
use crate::engine::effects::{Clock, Exclusion, Observe, Scripts, Tell};
use crate::engine::registry::InstanceId;
use crate::engine::{Arrival, EngineError};
use crate::io::clock;
use crate::io::datapath::{Datapath, Fenced, Leaving, Lookout};
use crate::io::netlink::{Client, Monitor};
use crate::io::scripts::{Admission, Completions, Runner, Wish};
use crate::io::signals::{SignalRequest, Signals};
use crate::lock::{self, Locks, Wanted};
use crate::log;

/// Owns every descriptor of the daemon.
pub struct Host {
    datapath: Datapath,
    lookout: Lookout,
    /// The lookout found that something is gone.
    suspects_loss: bool,
    /// The time of the last check of the programs.
    tended_at: Instant,
    /// The monitor. `None` after it failed; it is opened again with the next list.
    monitor: Option<Monitor>,
    netlink: Client,
    /// The outcomes of the latest bunch of orders.
    outcomes: Option<Vec<io::Result<()>>>,
    /// The sockets of each open interface, by its index.
    sockets: BTreeMap<u32, InterfaceSockets>,
    runners: BTreeMap<InstanceId, Runner>,
    completions: Completions<InstanceId>,
    ended: mpsc::UnboundedReceiver<(InstanceId, crate::io::scripts::Completion)>,
    locks: Locks,
    keeper: Keeper,
    /// The channel to which the parts of `io` send their events. They become lines as those of the engine do.
    outbox: Outbox,
    /// carpd stops. A process that asks at a lock of ours gets no answer, and waits.
    is_ending: bool,
}

/// The reason why the engine gets a turn.
#[derive(Debug)]
pub enum Wake {
    /// Packets, netlink messages or a deadline. Every turn looks at all of them.
    Work,
    /// A value that the turn receives.
    Told(Arrival),
    /// A signal asks carpd to stop.
    Stop,
}

impl Host {
    /// Opens everything that is needed from the start. Must run in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// Returns what could not be opened.
    pub fn new(config: &Config) -> Result<Self, EngineError> {
        let system = |action| move |source| EngineError::System { action, source };
        let (completions, ended) = mpsc::unbounded_channel();
        let outbox = Outbox::new(|event| log::event::log(&event));
        Ok(Self {
            datapath: Datapath::new(config, outbox.clone()),
            lookout: Lookout::default(),
            suspects_loss: false,
            tended_at: clock::now(),
            monitor: Some(Monitor::new().map_err(system("watch links and addresses"))?),
            netlink: Client::new().map_err(system("open a netlink socket"))?,
            outcomes: None,
            sockets: BTreeMap::new(),
            runners: BTreeMap::new(),
            completions,
            ended,
            locks: Locks::new(config.fingerprint()).map_err(system("watch its locks"))?,
            keeper: Keeper::open(config.state_directory.as_ref(), outbox.clone()),
            outbox,
            is_ending: false,
        })
    }

    /// Returns how many links the network namespace has.
    ///
    /// # Errors
    /// Returns an error if they cannot be listed.
    pub fn count_links(&mut self) -> io::Result<usize> {
        Ok(self.netlink.links()?.len())
    }

    /// Ends the start: from now on no call waits for the kernel without bound, and new threads have no more
    /// privileges than this one.
    pub const fn settle_in(&mut self) {
        self.netlink.limit_waits();
    }

    /// Returns when the next process that asks at a lock of ours is to be answered.
    #[must_use]
    pub fn answers_at(&self) -> Option<Instant> {
        self.locks.due().filter(|_| !self.is_ending)
    }

    /// Ready when the engine is to have a turn.
    ///
    /// # Errors
    /// Returns any error of the runtime.
    pub fn poll_wake(
        &mut self,
        signals: &mut Signals,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Wake>> {
        let mut work = false;
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
        for sockets in self.sockets.values_mut() {
            if let Poll::Ready(result) = sockets.poll_claims(context) {
                result?;
                work = true;
            }
        }
        if let Poll::Ready(()) = self.lookout.poll_suspicion(context) {
            self.suspects_loss = true;
            work = true;
        }
        if let Poll::Ready(outcomes) = self.netlink.poll_outcomes(context) {
            self.outcomes = Some(outcomes);
            work = true;
        }
        if let Poll::Ready(request) = signals.poll_request(context) {
            return Poll::Ready(Ok(match request {
                SignalRequest::Dump => Wake::Told(Arrival::Report),
                SignalRequest::StepDown => Wake::Told(Arrival::StepDown),
                SignalRequest::Stop => Wake::Stop,
            }));
        }
        // This comes after the signals, because a process that is to stop must not answer that it serves.
        if !self.is_ending {
            self.locks.poll_questions(context)?;
        }
        // The channel never ends, because we hold a sender.
        if let Poll::Ready(Some((id, completion))) = self.ended.poll_recv(context) {
            return Poll::Ready(Ok(Wake::Told(Arrival::Script(id, completion))));
        }
        if work {
            Poll::Ready(Ok(Wake::Work))
        } else {
            Poll::Pending
        }
    }

    /// Waits until every requested script has ended.
    pub async fn finish_scripts(runners: BTreeMap<InstanceId, Runner>) {
        for runner in runners.into_values() {
            runner.finish().await;
        }
    }

    /// Takes the script runners and the state directory, so that their work can be awaited. No script can be requested
    /// and nothing stored by the engine any more.
    pub fn end(&mut self) -> (BTreeMap<InstanceId, Runner>, Keeper) {
        self.is_ending = true;
        let closed = Keeper::closed(self.outbox.clone());
        let keeper = std::mem::replace(&mut self.keeper, closed);
        (std::mem::take(&mut self.runners), keeper)
    }

    /// Closes everything. A pinned object stays while it fences one of `orphans`, the addresses that no process looks
    /// after any more.
    pub fn close(mut self, orphans: &[Fenced]) {
        let leaving: Option<Leaving> = self.datapath.close(orphans);
        // Dropping leaves the multicast groups and releases the locks.
        drop(self);
        if let Some(leaving) = leaving {
            leaving.leave();
        }
    }
}

impl Observe for Host {}

impl Tell for Host {
    fn tell(&mut self, event: Event) {
        self.outbox.send(event);
    }

    fn show(&mut self, status: &Status) {
        log::status::log(status);
    }
}

impl Clock for Host {
    fn now(&mut self) -> Instant {
        clock::now()
    }

    fn wall_clock_nanos(&mut self) -> u64 {
        clock::wall_clock_nanos()
    }
}

impl Scripts for Host {
    fn enlist(&mut self, instance: InstanceId, place: &api::Place, config: &VhostConfig) {
        let scripts = &config.scripts;
        let address = config.addresses.first();
        if let Some(address) = address
            && (scripts.up.is_some() || scripts.down.is_some())
        {
            let runner = Runner::new(
                place.clone(),
                scripts.clone(),
                config.election.vhid,
                address.clone(),
                instance,
                self.completions.clone(),
                self.outbox.clone(),
            );
            self.runners.insert(instance, runner);
        }
    }

    fn dismiss(&mut self, instance: InstanceId) {
        if let Some(runner) = self.runners.remove(&instance) {
            tokio::spawn(runner.finish());
        }
    }

    fn run(&mut self, instance: InstanceId, wish: Wish) -> Admission {
        let runner = self.runners.get(&instance);
        runner.map_or_else(Admission::default, |runner| runner.request(wish))
    }

    fn runs(&self, instance: InstanceId) -> bool {
        self.runners.get(&instance).is_some_and(Runner::is_busy)
    }
}

impl Exclusion for Host {
    fn lock(&mut self, wanted: &Wanted<'_>, patient: bool) -> Result<(), lock::LockError> {
        self.locks.acquire(wanted, patient)
    }

    fn unlock(&mut self, ifindex: u32) {
        self.locks.release(ifindex);
    }

    fn unlock_one(&mut self, wanted: &Wanted<'_>) {
        self.locks.release_one(wanted);
    }

    fn living(&mut self) -> Result<Box<dyn Fn(u32, Vhid) -> bool>, lock::LockError> {
        let held = lock::Held::look()?;
        Ok(Box::new(move |ifindex, vhid| held.serves(ifindex, vhid)))
    }
}
