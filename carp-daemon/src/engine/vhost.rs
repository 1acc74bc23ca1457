//! One virtual host with what belongs to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carp_common::abi::layout::VhostKey;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::proto::{LinkState, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::State;
use zeroize::Zeroize as _;

use super::address_guard::AddressGuard;
use super::addresses::Holding;
use super::arp::{Conflicts, Watch};
use super::interface::Interface;
use super::report::Transitions;
use super::scripts::ScriptGuard;
use super::stalls::Stalls;
use super::status::Since;
use crate::config::VhostConfig;
use crate::io::clock;
use crate::io::datapath::Endpoints;
use crate::io::scripts::{Completions, Runner};

/// A virtual host: the core's state machine, and what it was last told and has done.
pub struct Vhost {
    pub config: VhostConfig,
    pub machine: VirtualHost,
    /// Index of its interface.
    pub interface: usize,
    /// `eth0 id 1`, for log lines.
    pub label: String,
    /// Only when a script is configured.
    pub runner: Option<Runner>,
    /// Against an up script that fails.
    pub script_guard: ScriptGuard,
    /// What the core was last told.
    pub link: LinkState,
    /// What the core was last told.
    pub source: Option<Ipv4Addr>,
    /// Its entry in the datapath, while there is one.
    pub key: Option<VhostKey>,
    /// Until when the datapath takes us to be alive for that entry.
    pub alive_until: Instant,
    /// The datapath has a deadline for its addresses.
    pub fenced: bool,
    /// The datapath refused something, which was said.
    pub datapath_refused: bool,
    /// The datapath refused its entry, so it would hear nothing: in INIT until there is one.
    pub deaf: bool,
    /// For each virtual address.
    pub holdings: Vec<Holding>,
    /// An earlier run's addresses are still there, until the election is settled.
    pub has_leftovers: bool,
    /// When the addresses vanish unless renewed.
    pub leased_until: Option<Instant>,
    /// For each virtual address whether the route to its subnet is there, as far as we know.
    pub routes: Vec<Option<bool>>,
    /// Already warned of what its prefix does to other traffic of this host.
    pub said_placement: bool,
    /// Its fixed source was seen on this host.
    pub source_was_here: bool,
    /// Already warned that it is gone.
    pub said_source_gone: bool,
    /// Against removal by others.
    pub guard: AddressGuard,
    /// How often one was put back.
    pub addresses_restored: u64,
    /// Of lines about removals that are the scripts' business.
    pub removal_limit: RateLimit,
    /// Against others that have our addresses.
    pub watch: Watch,
    /// What it saw.
    pub conflicts: Conflicts,
    /// Which of its transitions are said.
    pub transitions: Transitions,
    /// Since when it has its state, and why.
    pub since: Since,
    /// When an operator last made it step down as MASTER, until that has ended.
    pub stepped_down: Option<Instant>,
    /// How late we were.
    pub stalls: Stalls,
    /// The state that [`super::Engine::follow_state`] has followed.
    pub followed: State,
    /// It claimed its addresses at least once.
    pub was_master: bool,
}

impl Vhost {
    fn new(
        mut config: VhostConfig,
        index: usize,
        interface: usize,
        completions: &Completions,
        now: Instant,
    ) -> Self {
        let machine = VirtualHost::new(config.election.clone(), clock::wall_clock_nanos(), now);
        // The machine keeps what it derived from it.
        config.election.key.zeroize();
        let has_script = config.scripts.up.is_some() || config.scripts.down.is_some();
        let label = label(&config.interface, &config);
        let address = config.addresses.first().cloned();
        let runner = address.filter(|_| has_script).map(|address| {
            Runner::new(
                label.clone(),
                config.scripts.clone(),
                config.election.vhid,
                address,
                index,
                completions.clone(),
            )
        });
        Self {
            machine,
            interface,
            label,
            runner,
            script_guard: ScriptGuard::default(),
            link: LinkState::Down,
            source: None,
            key: None,
            alive_until: Instant::ZERO,
            fenced: false,
            datapath_refused: false,
            deaf: false,
            holdings: vec![Holding::None; config.addresses.len()],
            has_leftovers: false,
            leased_until: None,
            routes: vec![None; config.addresses.len()],
            said_placement: false,
            source_was_here: false,
            said_source_gone: false,
            guard: AddressGuard::new(config.addresses.len()),
            addresses_restored: 0,
            removal_limit: RateLimit::default(),
            watch: Watch::Off,
            conflicts: Conflicts::default(),
            transitions: Transitions::default(),
            since: Since::start(now),
            stepped_down: None,
            stalls: Stalls::default(),
            followed: State::Init,
            was_master: false,
            config,
        }
    }

    /// The interface is called so now.
    pub fn call(&mut self, interface: &str) {
        self.label = label(interface, &self.config);
    }

    /// The address that only we send from: none while there is none, or while it is a virtual address of `interface`,
    /// which a peer may send from as well.
    pub fn own_source(&self, interface: &Interface) -> Option<IpAddr> {
        let source = IpAddr::from(self.source?);
        (!interface.is_virtual(source)).then_some(source)
    }

    /// The addresses that its advertisements go between.
    pub fn endpoints(&self, interface: &Interface) -> Endpoints {
        Endpoints {
            group: self.config.group.into(),
            own: self.own_source(interface),
        }
    }

    /// How long a sign of life of ours is good for: we hear, send or time out at least twice in it.
    pub fn life_sign_validity(&self) -> Duration {
        let interval = self.machine.advertised().interval();
        2 * self.machine.master_down_time().max(interval)
    }
}

fn label(interface: &str, config: &VhostConfig) -> String {
    format!("{interface} id {}", config.election.vhid)
}

/// Sorts the configured virtual hosts by interface.
pub fn arrange(
    configs: Vec<VhostConfig>,
    completions: &Completions,
    now: Instant,
) -> (Vec<Interface>, Vec<Vhost>) {
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    let mut vhosts = Vec::with_capacity(configs.len());
    for config in configs {
        let interface = *by_name.entry(config.interface.clone()).or_insert_with(|| {
            interfaces.push(Interface::new(config.interface.clone()));
            interfaces.len() - 1
        });
        let index = vhosts.len();
        interfaces[interface].add(index, &config);
        vhosts.push(Vhost::new(config, index, interface, completions, now));
    }
    (interfaces, vhosts)
}
