//! The host that carpd runs on, as the engine sees it: everything in `io`, behind [`crate::engine::effects::Effects`].
//!
//! | Module | What it implements |
//! |---|---|
//! | `datapath` | `Receive`, `Program` |
//! | `netlink` | `Netlink` |
//! | `wire` | `Wire` |
//! | `memory` | `Remember`, and what is written at the end |
//! | here | `Clock`, `Scripts`, `Exclusion`, `Tell`, and what wakes the engine |

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
use self::wire::Place;
use crate::api::{self, Event, Status};
use crate::config::{Config, VhostConfig};
use crate::engine::effects::{Clock, Exclusion, Observe, Scripts, Tell};
use crate::engine::registry::InstanceId;
use crate::engine::{Arrival, Error};
use crate::io::clock;
use crate::io::datapath::{Datapath, Fenced, Leaving, Lookout};
use crate::io::netlink::{Client, Monitor};
use crate::io::scripts::{Completions, Runner, Wish};
use crate::io::signals::{Request, Signals};
use crate::lock::{self, Locks, Wanted};
use crate::log;

/// Every descriptor of the daemon.
pub struct Host {
    datapath: Datapath,
    lookout: Lookout,
    /// The lookout found something gone.
    suspects_loss: bool,
    /// When the programs were last looked after.
    tended_at: Instant,
    /// `None` when it failed: opened anew with the next list.
    monitor: Option<Monitor>,
    netlink: Client,
    /// What became of the latest bunch of orders.
    outcomes: Option<Vec<io::Result<()>>>,
    places: BTreeMap<u32, Place>,
    runners: BTreeMap<InstanceId, Runner>,
    completions: Completions<InstanceId>,
    ended: mpsc::UnboundedReceiver<(InstanceId, crate::io::scripts::Completion)>,
    locks: Locks,
    keeper: Keeper,
}

/// Why the engine is to have a turn.
#[derive(Debug)]
pub enum Wake {
    /// Packets, netlink or a deadline: looked at in every turn anyway.
    Work,
    /// Something that it is told.
    Told(Arrival),
    /// It is to stop.
    Stop,
}

impl Host {
    /// Opens what everything else needs. Runs in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// What could not be opened.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let system = |action| move |source| Error::System { action, source };
        let (completions, ended) = mpsc::unbounded_channel();
        Ok(Self {
            datapath: Datapath::new(config),
            lookout: Lookout::default(),
            suspects_loss: false,
            tended_at: clock::now(),
            monitor: Some(Monitor::new().map_err(system("watch links and addresses"))?),
            netlink: Client::new().map_err(system("open a netlink socket"))?,
            outcomes: None,
            places: BTreeMap::new(),
            runners: BTreeMap::new(),
            completions,
            ended,
            locks: Locks::new(config.fingerprint()).map_err(system("watch its locks"))?,
            keeper: Keeper::open(config.state_directory.as_ref()),
        })
    }

    /// How many links the network namespace has.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn count_links(&mut self) -> io::Result<usize> {
        Ok(self.netlink.links()?.len())
    }

    /// From now on nothing waits for the kernel without bound, and threads that start have no more privileges than we have.
    pub const fn settle_in(&mut self) {
        self.netlink.limit_waits();
    }

    /// When somebody who asks for our locks has waited long enough for an answer.
    #[must_use]
    pub fn answers_at(&self) -> Option<Instant> {
        self.locks.due()
    }

    /// Ready when the engine is to have a turn.
    ///
    /// # Errors
    /// What the runtime answers.
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
        for place in self.places.values_mut() {
            if let Poll::Ready(result) = place.poll_claims(context) {
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
                Request::Dump => Wake::Told(Arrival::Report),
                Request::StepDown => Wake::Told(Arrival::StepDown),
                Request::Stop => Wake::Stop,
            }));
        }
        // After the signals: a process that is to stop does not say that it serves.
        self.locks.poll_questions(context)?;
        // Never ends: we hold a sender.
        if let Poll::Ready(Some((id, completion))) = self.ended.poll_recv(context) {
            return Poll::Ready(Ok(Wake::Told(Arrival::Script(id, completion))));
        }
        if work {
            Poll::Ready(Ok(Wake::Work))
        } else {
            Poll::Pending
        }
    }

    /// Waits until every script that was asked for has ended.
    pub async fn finish_scripts(runners: BTreeMap<InstanceId, Runner>) {
        for runner in runners.into_values() {
            runner.finish().await;
        }
    }

    /// The scripts, to be waited for; none can be asked for any more.
    pub fn take_runners(&mut self) -> BTreeMap<InstanceId, Runner> {
        std::mem::take(&mut self.runners)
    }

    /// The state directory, to be written to at the end.
    pub const fn keeper(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    /// Closes everything; what is pinned stays where it still fences one of these addresses, which nobody sees to.
    pub fn close(mut self, orphans: &[Fenced]) {
        let leaving: Option<Leaving> = self.datapath.close(orphans);
        // Leaves the groups and releases the locks.
        drop(self);
        if let Some(leaving) = leaving {
            leaving.leave();
        }
    }
}

impl Observe for Host {}

impl Tell for Host {
    fn tell(&mut self, event: Event) {
        log::event::log(&event);
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
                place.to_string(),
                scripts.clone(),
                config.election.vhid,
                address.clone(),
                instance,
                self.completions.clone(),
            );
            self.runners.insert(instance, runner);
        }
    }

    fn dismiss(&mut self, instance: InstanceId) {
        if let Some(runner) = self.runners.remove(&instance) {
            tokio::spawn(runner.finish());
        }
    }

    fn run(&mut self, instance: InstanceId, wish: Wish) {
        if let Some(runner) = self.runners.get(&instance) {
            runner.request(wish);
        }
    }
}

impl Exclusion for Host {
    fn has_locks(&self, ifindex: u32) -> bool {
        self.locks.has(ifindex)
    }

    fn lock(&mut self, wanted: &Wanted<'_>, patient: bool) -> Result<(), lock::Error> {
        self.locks.acquire(wanted, patient)
    }

    fn unlock(&mut self, ifindex: u32) {
        self.locks.release(ifindex);
    }

    fn unlock_one(&mut self, wanted: &Wanted<'_>) {
        self.locks.release_one(wanted);
    }

    fn living(&mut self) -> Result<Box<dyn Fn(u32, Vhid) -> bool>, lock::Error> {
        let held = lock::Held::look()?;
        Ok(Box::new(move |ifindex, vhid| held.serves(ifindex, vhid)))
    }
}
