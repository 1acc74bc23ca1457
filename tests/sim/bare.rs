//! A host that runs only the core, for groups with IPv6 addresses, alone or beside IPv4.
//!
//! Packets wait in the ring with the time at which the kernel received them. When the process runs, it first drains
//! the ring, then handles everything else that happened, and judges its timers last, so a process that was stopped
//! does not mistake its own absence for the master's. Before that, it is informed of packets that were lost because
//! the ring was full while it was stopped.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::drive::{self, Executor};
use carp_common::proto::{
    Action, Command, Demotion, DemotionCause, Input, LinkState, Origin, Reason, SendOutcome,
    Settings, Standing, VirtualHost,
};
use carp_common::time::Instant;
use carp_common::units::{Family, Profile, State};

use super::model::index;
use super::packet::{Group, Packet};
use super::trace::Trace;
use super::watch::{Provenance, SentCounters, Violation, Watch};

/// An event that waits for the process, other than a packet.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// The carrier changed.
    Link(LinkState),
    /// The source address of a family appeared (true) or disappeared.
    Source(Family, bool),
    /// The operator demotes the host.
    Demotion(u8),
    /// The operator makes the host step down.
    StepDown(Duration),
    /// An up script ended.
    Claimed,
    /// The process gets SIGTERM.
    Shutdown,
}

/// A request of the process to the world.
#[derive(Debug)]
pub enum Request {
    /// A packet for the wire.
    Transmit(Packet),
    /// A packet that its device refused to send.
    Refused(Packet),
    /// A script was started; it ends after its running time.
    ScriptStarted,
    /// The addresses of a family were announced.
    Announced(Family),
    /// The ring was full, and packets were lost.
    Overflowed {
        /// Whether the process was stopped then, rather than busy.
        was_stopped: bool,
    },
    /// The process told the kernel its new standing.
    Programmed(Standing),
    /// The state changed.
    Became(State, Reason),
    /// The operator keeps the host away for a while.
    StaysAway(Duration),
    /// The process ended.
    Exited,
}

/// A packet in the ring.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The time at which the kernel received it.
    pub at: Instant,
    /// The packet.
    pub packet: Packet,
    /// The conclusions that the checks may draw from the packet.
    pub provenance: Provenance,
}

/// The scripts of one virtual host: one at a time; the latest request wins.
#[derive(Debug, Default)]
struct Scripts {
    running: Option<Which>,
    wanted: Option<Which>,
    /// Whether the addresses are on the interface.
    held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Up,
    Down,
}

/// The parameters of a process.
#[derive(Debug)]
pub struct Start {
    /// The prefix of its lines in the trace.
    pub name: String,
    /// The core's settings.
    pub settings: Settings,
    /// The first counter it sends.
    pub initial_counter: u64,
    /// The group as its peers know it.
    pub group: Group,
    /// Source addresses, by family.
    pub sources: [IpAddr; 2],
    /// How long each of its scripts takes; zero for none.
    pub script_time: Duration,
    /// How many packets its ring holds.
    pub ring: usize,
    /// The counters that earlier processes on this host sent.
    pub sent: SentCounters,
}

/// One carpd process and the kernel under it.
#[derive(Debug)]
pub struct Bare {
    core: VirtualHost,
    shell: Shell,
    ring: VecDeque<Arrived>,
    ring_size: usize,
    /// Packets that found the ring full since the process last looked.
    lost: u64,
    /// Whether the process was stopped since it last looked.
    was_stopped: bool,
    /// When it last looked at what had arrived.
    looked_at: Instant,
    stopping: bool,
}

/// Everything of the process but the core.
#[derive(Debug)]
struct Shell {
    name: String,
    sources: [IpAddr; 2],
    ethernet_source: [u8; 6],
    script_time: Duration,
    watch: Watch,
    controls: VecDeque<Control>,
    scripts: Scripts,
    send_errors: bool,
}

impl Bare {
    /// Creates a process that has just started.
    #[must_use]
    pub fn new(start: Start, now: Instant) -> Self {
        let Start {
            name,
            settings,
            initial_counter,
            group,
            sources,
            script_time,
            ring,
            sent,
        } = start;
        let kind = u8::from(settings.profile != Profile::Ucarp);
        let shell = Shell {
            name,
            sources,
            ethernet_source: [0, 0, 0x5e, 0, kind, group.vhid],
            script_time,
            watch: Watch::new(&settings, &group, sources, sent, now),
            controls: VecDeque::new(),
            scripts: Scripts::default(),
            send_errors: false,
        };
        Self {
            core: VirtualHost::new(settings, initial_counter, now),
            shell,
            ring: VecDeque::new(),
            ring_size: ring,
            lost: 0,
            was_stopped: false,
            looked_at: now,
            stopping: false,
        }
    }

    /// Returns the state of its election.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.state()
    }

    /// Returns when it wants to run next if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.next_deadline()
    }

    /// Makes the device refuse to send, or send again.
    pub const fn set_send_errors(&mut self, fails: bool) {
        self.shell.send_errors = fails;
    }

    /// Stops the process.
    pub const fn stop(&mut self) {
        self.was_stopped = true;
    }

    /// Delivers a packet to the kernel. Returns whether the process must take it for a sign of life.
    pub fn enqueue(&mut self, arrived: Arrived) -> bool {
        let full = self.ring.len() >= self.ring_size;
        if full {
            self.lost += 1;
            // A running process misses the packet as if it had been lost on the way. A stopped one must not conclude
            // from its own absence that the sender is dead, so for the watch the packet counts as heard.
            if !self.was_stopped {
                return false;
            }
        }
        let counts = self
            .shell
            .watch
            .arrives(arrived.at, &arrived.packet, arrived.provenance);
        if !full {
            self.ring.push_back(arrived);
        }
        counts
    }

    /// Delivers another event.
    pub fn control(&mut self, control: Control) {
        self.shell.controls.push_back(control);
    }

    /// Ends the running script. Returns whether another one starts.
    pub fn script_ended(&mut self) -> bool {
        let ended = self.shell.scripts.running.take();
        self.shell.scripts.held = ended == Some(Which::Up);
        if ended == Some(Which::Up) {
            self.shell.controls.push_back(Control::Claimed);
        }
        self.shell.scripts.running = self
            .shell
            .scripts
            .wanted
            .take()
            .filter(|wanted| Some(*wanted) != ended);
        self.shell.scripts.running.is_some()
    }

    /// Whether the addresses are on the interface, with no script about to change that.
    #[must_use]
    pub fn settled_holding(&self) -> Option<bool> {
        self.shell
            .scripts
            .running
            .is_none()
            .then_some(self.shell.scripts.held)
    }

    /// Runs the process until it has nothing left to do.
    ///
    /// # Errors
    /// Returns the first thing that it did and must not do.
    pub fn run(
        &mut self,
        now: Instant,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        let looked_at = std::mem::replace(&mut self.looked_at, now);
        let Self { core, shell, .. } = self;
        let mut acting = Acting {
            shell,
            now,
            trace,
            requests,
            held: Ok(()),
        };
        let lost = (
            std::mem::take(&mut self.lost),
            std::mem::take(&mut self.was_stopped),
        );
        let mut losses = Some(lost);
        loop {
            while let Some(arrived) = self.ring.pop_front() {
                drive::feed(core, now, arrived.input(), &mut acting);
            }
            if let Some((lost, was_stopped)) = losses.take()
                && acting.loses(lost, was_stopped)
            {
                drive::feed(core, now, Input::AdvertisementsLost, &mut acting);
            }
            while let Some(control) = acting.shell.controls.pop_front() {
                self.stopping |= matches!(control, Control::Shutdown);
                let input = acting.apply(control);
                drive::feed(core, now, input, &mut acting);
            }
            acting.hold(|shell| shell.watch.looks(now, looked_at));
            drive::time_out(core, now, looked_at, &mut acting);
            acting.hold(|shell| shell.watch.settled(now, core));
            std::mem::replace(&mut acting.held, Ok(()))?;
            // A second call at the same time does nothing.
            let mut again = Vec::new();
            drive::time_out(core, now, looked_at, &mut again);
            if let Some(action) = again.first() {
                return Err(format!(
                    "a second timeout at the same time asked for {action:?}"
                ));
            }
            if acting.shell.controls.is_empty() {
                break;
            }
        }
        if self.stopping {
            requests.push(Request::Exited);
        }
        Ok(())
    }

    /// Whether send errors demote it, which is invisible from outside.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        self.shell.watch.is_suppressed()
    }

    /// Kills the process. Returns what its host remembers of it.
    #[must_use]
    pub fn into_sent(self) -> SentCounters {
        self.shell.watch.into_sent()
    }
}

impl Arrived {
    fn input(&self) -> Input<'_> {
        let Packet {
            family,
            source,
            ethernet_source,
            ref payload,
        } = self.packet;
        let origin = Origin {
            source,
            ethernet_source,
            arrival: self.at,
        };
        Input::Advertisement {
            family,
            origin,
            payload,
        }
    }
}

/// The process while it runs: it carries out what the core decides, and the watch looks on.
struct Acting<'a> {
    shell: &'a mut Shell,
    now: Instant,
    trace: &'a mut Trace,
    requests: &'a mut Vec<Request>,
    /// The first rule that was broken, if any was.
    held: Result<(), Violation>,
}

impl Executor for Acting<'_> {
    fn feeds(&mut self, input: &Input<'_>) {
        let now = self.now;
        self.hold(|shell| shell.watch.told(now, input));
    }

    fn execute(&mut self, _core: &VirtualHost, action: Action) -> Option<Input<'static>> {
        let now = self.now;
        self.trace.action(now, &self.shell.name, &action);
        self.hold(|shell| shell.watch.decided(now, &action));
        self.shell.perform(action, self.requests)
    }

    fn executed(&mut self, core: &VirtualHost) {
        let now = self.now;
        self.hold(|shell| shell.watch.judged(now, core));
    }
}

impl Acting<'_> {
    /// Looks whether a rule holds, unless one was broken already.
    fn hold(&mut self, look: impl FnOnce(&mut Shell) -> Result<(), Violation>) {
        if self.held.is_ok() {
            self.held = look(self.shell);
        }
    }

    /// Packets lost while the process ran count as lost on the wire. For packets lost while it was stopped, the
    /// process itself is responsible. Returns whether it must hear of them.
    fn loses(&mut self, lost: u64, was_stopped: bool) -> bool {
        if lost > 0 {
            self.requests.push(Request::Overflowed { was_stopped });
        }
        if lost == 0 || !was_stopped {
            return false;
        }
        self.trace.note(self.now, &self.shell.name, || {
            format!("lost {lost} packets while it was stopped")
        });
        true
    }

    fn apply(&mut self, control: Control) -> Input<'static> {
        self.trace
            .note(self.now, &self.shell.name, || format!("{control:?}"));
        match control {
            Control::Link(link) => Input::LinkChanged(link),
            Control::Source(family, there) => Input::SourceChanged {
                family,
                source: there.then_some(self.shell.sources[index(family)]),
            },
            Control::Demotion(amount) => Input::DemotionChanged {
                cause: DemotionCause::Administrator,
                amount: Demotion(amount),
            },
            Control::StepDown(hold) => {
                self.requests.push(Request::StaysAway(hold));
                Input::Command(Command::StepDown { hold })
            }
            Control::Claimed => Input::ClaimCompleted,
            Control::Shutdown => Input::Shutdown,
        }
    }
}

impl Shell {
    /// Carries out an action. Returns its result, if there is one already.
    fn perform(&mut self, action: Action, requests: &mut Vec<Request>) -> Option<Input<'static>> {
        match action {
            Action::SendAdvertisement { family, payload } => {
                let packet = Packet {
                    family,
                    source: self.sources[index(family)],
                    ethernet_source: self.ethernet_source,
                    payload: payload.to_vec(),
                };
                let (outcome, request) = match self.send_errors {
                    true => (SendOutcome::Failed, Request::Refused(packet)),
                    false => (SendOutcome::Sent, Request::Transmit(packet)),
                };
                requests.push(request);
                return Some(Input::SendCompleted { family, outcome });
            }
            Action::ClaimAddresses => self.script(Which::Up, requests),
            Action::ReleaseAddresses => self.script(Which::Down, requests),
            Action::Announce(family) => requests.push(Request::Announced(family)),
            Action::Report(change) => requests.push(Request::Became(change.to, change.reason)),
            Action::ProgramDatapath(standing) => requests.push(Request::Programmed(standing)),
            Action::Notify(_) => {}
        }
        None
    }

    fn script(&mut self, which: Which, requests: &mut Vec<Request>) {
        if self.scripts.running.is_some() {
            self.scripts.wanted = Some(which);
        } else if self.script_time.is_zero() {
            // Native mode: done before the next input, and reported like any other effect.
            self.scripts.held = which == Which::Up;
            if which == Which::Up {
                self.controls.push_back(Control::Claimed);
            }
        } else {
            self.scripts.running = Some(which);
            requests.push(Request::ScriptStarted);
        }
    }
}
