//! Tests of the whole engine on a [`Recorder`]: a test causes a fault, and checks the requests of the engine to the host.
//!
//! These tests need neither root nor a kernel. The clock stands still unless a test moves it, and the host is a few tables.
//! Each file covers the faults of one chapter of `docs/FAULTS.md`.
//!
//! | Module | What it is about |
//! |---|---|
//! | [`host`] | the host: its tables, and its faults |
//! | `effects` | the engine's traits, on that host |
//! | [`peer`] | another host of the group, which signs its advertisements |

mod effects;
mod host;
mod peer;

mod addresses;
mod arp;
mod attacks;
mod coming;
mod families;
mod foreign;
mod groups;
mod leaving;
mod link;
mod machine;
mod peers;
mod process;
mod scripts;
mod status;
mod takeover;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use carp_common::proto::{AddressSet, Key, Settings};
use carp_common::time::Instant;
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Family, Profile, State, Vhid};

use super::registry::InstanceId;
use super::{Arrival, Engine};
use crate::config::{
    ADDRESS_PROTOCOL, Config, DEFAULT_GROUP, Datapath, Fence as FenceOption, Lease, Ownership,
    Scripts, VhostConfig, VirtualAddress,
};
use crate::io::datapath::Endpoints;
use crate::io::netlink::{Address, Link};
use crate::io::scripts::{Completion, Outcome, Which};
use host::Recorder;
use peer::Peer;

/// The interface of all virtual hosts.
const ETH0: u32 = 2;
/// The virtual address of vhid 1.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 101));
/// The host's own address.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// The times of a host with the settings of [`vhost`]: the interval is 1 s, so the master-down time is 3 s.
const INTERVAL: Duration = Duration::from_secs(1);
const MASTER_DOWN: Duration = Duration::from_secs(3);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Returns an address of 10.0.0.0/24 that another program added.
fn address(last: u8) -> Address {
    Address::new(ETH0, [10, 0, 0, last].into(), 24, 0)
}

/// Returns a virtual address as native mode adds it.
fn tagged(last: u8) -> Address {
    Address {
        prefix: 32,
        protocol: ADDRESS_PROTOCOL,
        ..address(last)
    }
}

/// Returns the virtual address as another program adds it.
fn foreign() -> Address {
    Address {
        protocol: 0,
        ..tagged(101)
    }
}

/// Returns a host with one interface that has one address.
fn host() -> Recorder {
    let origin = Instant::ZERO + Duration::from_secs(1000);
    Recorder {
        now: origin,
        origin,
        wall_clock: 1_700_000_000_000_000_000,
        links: [(ETH0, Link::up(ETH0, "eth0"))].into(),
        addresses: vec![(address(1), None)],
        ..Recorder::default()
    }
}

/// Returns a virtual host of eth0 with ucarp's defaults and the address 10.0.0.100 + vhid, which native mode adds.
pub(super) fn vhost(vhid: u8) -> VhostConfig {
    let ip = IpAddr::from([10, 0, 0, 100 + vhid]);
    VhostConfig {
        interface: "eth0".to_owned(),
        election: Settings {
            vhid: Vhid::new(vhid).unwrap(),
            advbase: AdvBase(1),
            advskew: AdvSkew(0),
            deadratio: DeadRatio::default(),
            preempt: false,
            profile: Profile::Ucarp,
            addresses: AddressSet::new([ip]),
            key: Key::new(b"love").unwrap(),
            strict_counter: false,
            no_openbsd: false,
            announce_refresh: None,
        },
        source: None,
        group: DEFAULT_GROUP,
        broadcast: false,
        own_mac: false,
        ignore_carrier: false,
        addresses: vec![VirtualAddress {
            address: ip,
            prefix: 24,
        }],
        ownership: Ownership::Native,
        scripts: Scripts {
            up: None,
            down: None,
            xparam: None,
            timeout: Duration::from_secs(60),
        },
        release_at_exit: false,
        neutral: false,
    }
}

/// Returns the same virtual host with scripts that own the address.
fn scripted(vhid: u8) -> VhostConfig {
    let mut config = vhost(vhid);
    config.ownership = Ownership::Scripts;
    config.scripts.up = Some(PathBuf::from("/up"));
    config.scripts.down = Some(PathBuf::from("/down"));
    config
}

/// Returns a complete configuration.
fn config(vhosts: Vec<VhostConfig>) -> Config {
    Config {
        vhosts,
        datapath: Datapath::Auto,
        fence: FenceOption::Arp,
        lease: Lease::Auto,
        wait_interface: false,
        realtime: false,
        state_directory: None,
        debug: false,
    }
}

/// An engine that runs on its host.
struct Scene {
    engine: Engine<Recorder>,
}

impl Scene {
    /// Starts one virtual host, which is BACKUP then.
    fn backup(vhost: VhostConfig) -> Self {
        let mut scene = Self::start(config(vec![vhost]), host());
        assert_eq!(scene.state(), State::Backup);
        scene.forget();
        scene
    }

    /// Starts one virtual host, which has just become MASTER then.
    fn master(vhost: VhostConfig) -> Self {
        let mut scene = Self::backup(vhost);
        scene.become_master();
        scene.forget();
        scene
    }

    /// Starts the engine, and gives it its first turns.
    fn start(config: Config, host: Recorder) -> Self {
        let engine = match Engine::start(config, host) {
            Ok(engine) => engine,
            Err(failed) => panic!("{}", failed.error),
        };
        let mut scene = Self { engine };
        scene.turn();
        scene
    }

    /// Returns the host.
    fn host(&mut self) -> &mut Recorder {
        self.engine.effects_mut()
    }

    /// Returns the state of the only virtual host.
    fn state(&self) -> State {
        self.states()[0]
    }

    /// Returns the states of all virtual hosts.
    fn states(&self) -> Vec<State> {
        let all = self.engine.instances();
        all.map(|instance| instance.machine().state()).collect()
    }

    /// Returns the id of the only virtual host.
    fn id(&self) -> InstanceId {
        let mut all = self.engine.instances();
        all.next().expect("one is served").who.id
    }

    /// Returns the addresses between which the only virtual host's advertisements of a family are sent, as the datapath
    /// knows them.
    fn endpoints(&mut self, family: Family) -> Endpoints {
        let mut entries = self.host().entries.values();
        let entry = entries.next().expect("there is an entry");
        entry.endpoints[family].expect("it is heard")
    }

    /// Gives the engine turns until it has left nothing behind.
    fn turn(&mut self) {
        self.turn_with([]);
    }

    fn turn_with(&mut self, arrivals: impl IntoIterator<Item = Arrival>) {
        self.engine.turn(arrivals);
        for _ in 0..1000 {
            if !self.engine.is_busy() {
                return;
            }
            self.engine.turn([]);
        }
        panic!("always busy");
    }

    /// Lets time pass. The engine has a turn whenever it wants one.
    fn pass(&mut self, time: Duration) {
        let end = self.host().now + time;
        for _ in 0..100_000 {
            let wanted = self.engine.next_wake().into_iter();
            let wanted = wanted.chain(self.host().next_end()).min();
            let Some(wake) = wanted.filter(|wake| *wake <= end) else {
                self.sleep_until(end);
                self.turn();
                return;
            };
            self.sleep_until(wake);
            self.turn();
        }
        panic!("the engine is woken again and again");
    }

    /// Lets time pass without a turn, as if the process were stopped or got no processor.
    fn sleep(&mut self, time: Duration) {
        let end = self.host().now + time;
        self.sleep_until(end);
    }

    fn sleep_until(&mut self, end: Instant) {
        let host = self.host();
        host.now = host.now.max(end);
        host.expire();
    }

    /// Waits until the only virtual host is MASTER.
    fn become_master(&mut self) {
        for _ in 0..1000 {
            if self.state() == State::Master {
                return;
            }
            self.pass(ms(10));
        }
        panic!("never becomes MASTER");
    }

    /// Lets an advertisement of a peer arrive, and the engine hear it.
    fn hear(&mut self, peer: &mut Peer) {
        self.queue(peer);
        self.turn();
    }

    /// Lets an advertisement of a peer arrive now. The engine hears it in its next turn. The peer has heard all of ours.
    fn queue(&mut self, peer: &mut Peer) {
        let host = self.host();
        peer.count_beyond(host.last_counter);
        let event = peer.advertise(host.now);
        host.arrived.push_back(event);
    }

    /// Lets a peer advertise at its interval for a while, and the engine hear it.
    fn hear_for(&mut self, peer: &mut Peer, time: Duration) {
        let end = self.host().now + time;
        while self.host().now < end {
            self.hear(peer);
            self.pass(peer.interval());
        }
    }

    /// Ends a script of the only virtual host.
    fn end_script(&mut self, which: Which, outcome: Outcome) {
        self.end_script_of(self.id(), which, outcome);
    }

    fn end_script_of(&mut self, id: InstanceId, which: Which, outcome: Outcome) {
        self.host().end(id, which);
        let completion = Completion { which, outcome };
        self.turn_with([Arrival::Script(id, completion)]);
    }

    /// Forgets the requests and events so far.
    fn forget(&mut self) {
        let host = self.host();
        host.asked.clear();
        host.told.clear();
    }

    /// Returns the requests since the last call that begin with one of these words.
    fn asked(&mut self, words: &[&str]) -> Vec<String> {
        let asked = std::mem::take(&mut self.host().asked);
        let is_wanted = |it: &String| words.iter().any(|word| it.split(' ').next() == Some(word));
        asked.into_iter().filter(is_wanted).collect()
    }

    /// Returns how many events of this name were reported since the last call for it.
    fn told(&mut self, name: &str) -> usize {
        let told = &mut self.host().told;
        let before = told.len();
        told.retain(|it| it.what.name() != name);
        before - told.len()
    }

    /// Stops the engine in an orderly way, and returns the host.
    fn stop(mut self) -> Recorder {
        self.engine.shut_down();
        let (host, orphans) = self.engine.close();
        assert_eq!(orphans, [], "nothing is left fenced");
        host
    }

    /// Kills the process, and returns the host.
    fn kill(self) -> Recorder {
        let (mut host, _) = self.engine.close();
        // The sockets and locks of the process go with it. The state of the kernel stays.
        host.locks.clear();
        host.enlisted.clear();
        host.running.clear();
        host.open = BTreeMap::new();
        host.watched = BTreeMap::new();
        for entry in host.entries.values_mut() {
            entry.lives = false;
        }
        host.attached.clear();
        host.asked.clear();
        host.told.clear();
        host
    }
}
