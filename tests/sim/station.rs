//! A host and its place on the network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use carp_common::time::Instant;
use carp_common::units::State;

use super::host::Host;
use super::machine::Machine;
use super::model::Model;
use super::watch::SentCounters;

/// The program that runs on a host.
#[derive(Debug)]
pub enum Body {
    /// The engine of the daemon.
    Carpd(Box<Host>),
    /// A model of another implementation.
    Model(Box<Model>),
    /// Nothing.
    Dead,
}

/// An advertisement that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When it was sent.
    pub at: Instant,
    /// The 36 bytes.
    pub payload: Vec<u8>,
    /// Whether its peers must take it for a sign of life.
    pub credible: bool,
}

impl Sent {
    /// Byte 4, advbase and advskew.
    #[must_use]
    pub fn standing(&self) -> (u8, u8, u8) {
        (self.payload[4], self.payload[5], self.payload[2])
    }
}

/// A host and its place on the network.
#[derive(Debug)]
pub struct Station {
    /// The prefix of its lines in the trace.
    pub name: String,
    /// The vhid of its group.
    pub vhid: u8,
    /// The program that runs on it.
    pub body: Body,
    /// Whether frames come in and go out.
    pub link: bool,
    /// The machine without a process, while there is none. `None` for another implementation.
    pub machine: Option<Box<Machine>>,
    /// Whether its interface was renamed, so that a process that starts now does not find it.
    pub is_renamed: bool,
    /// When the world looks for expired addresses.
    pub expires_at: Option<Instant>,
    /// Whether it is to be started again when its process has ended.
    pub restarts: bool,
    /// The deadline by which mishaps of its kernel are repaired.
    pub repaired_by: Instant,
    /// Whether it is stopped by SIGSTOP, or its machine is paused.
    pub hung: bool,
    /// Whether its machine is paused; its kernel receives nothing.
    pub paused: bool,
    /// The families that have a source address.
    pub sources: [bool; 2],
    /// Whether the device refuses to send.
    pub send_errors: bool,
    /// When it last announced the addresses of each family.
    pub announced_at: [Option<Instant>; 2],
    /// The operator's demotion of the running process.
    pub demotion: u8,
    /// When its process runs next.
    pub wake_at: Option<Instant>,
    /// The process of the host to which a pending script belongs.
    pub incarnation: u32,
    /// The replay counters that its processes sent.
    pub sent: SentCounters,
    /// Every counter that it ever used.
    pub used: BTreeSet<u64>,
    /// Its last advertisements.
    pub last_sent: VecDeque<Sent>,
    /// By family: its last advertisement, and when it was sent.
    pub said: [Option<(Instant, Vec<u8>)>; 2],
    /// By family and source: the last advertisement of another host that its process must take for a sign of life.
    pub counted: [BTreeMap<IpAddr, Vec<u8>>; 2],
    /// The time until which its kernel lets it answer for the addresses, even if its process hangs or is dead.
    pub owns_until: Instant,
    /// When it last became MASTER.
    pub reigns_since: Instant,
    /// The state in which the world last saw it.
    pub seen: State,
}

impl Station {
    /// Returns the state of its election.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.body {
            Body::Carpd(host) => host.state(self.vhid),
            Body::Model(model) => model.state(),
            Body::Dead => State::Init,
        }
    }

    /// Whether send errors demote it.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        match &self.body {
            Body::Carpd(host) => host.is_suppressed(self.vhid),
            Body::Model(_) | Body::Dead => false,
        }
    }

    /// Returns the machine under its process, if that is simulated.
    pub fn machine(&mut self) -> Option<&mut Machine> {
        match &mut self.body {
            Body::Carpd(host) => Some(host.machine()),
            Body::Model(_) | Body::Dead => self.machine.as_deref_mut(),
        }
    }

    /// The same, read-only.
    #[must_use]
    pub fn machine_ref(&self) -> Option<&Machine> {
        match &self.body {
            Body::Carpd(host) => Some(host.machine_ref()),
            Body::Model(_) | Body::Dead => self.machine.as_deref(),
        }
    }

    /// Whether something prevents it from serving or hearing, although it has a network.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        let hampered = |machine: &Machine| {
            machine.sabotage.troubles()
                || machine.program.is_any_lost()
                || machine.program.is_any_damaged()
        };
        self.is_renamed || self.machine_ref().is_some_and(hampered)
    }

    /// Notes that the process is gone.
    pub fn die(&mut self) {
        match std::mem::replace(&mut self.body, Body::Dead) {
            Body::Carpd(host) => self.machine = Some(Box::new(host.kill())),
            Body::Model(_) | Body::Dead => {}
        }
    }

    /// Whether a process runs, is to continue, and has a network.
    #[must_use]
    pub const fn takes_part(&self) -> bool {
        let serves = match &self.body {
            Body::Carpd(host) => !host.is_ending(),
            Body::Model(_) => true,
            Body::Dead => false,
        };
        self.link && serves
    }
}
