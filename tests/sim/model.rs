//! Model hosts: ucarp, FreeBSD and OpenBSD as a peer on the wire meets them.
//!
//! Each rule names whose it is. They share no code with the core that they test.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Family, State};

use super::packet::{Ad, Group, Packet};
use super::rng::Rng;

/// Whose behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// ucarp 1.5.2.
    Ucarp,
    /// FreeBSD 14.
    FreeBsd,
    /// OpenBSD, `ip_carp.c` r1.370.
    OpenBsd,
}

/// One step of advskew.
const STEP: Duration = Duration::from_nanos(1_000_000_000 / 256);
const FAMILIES: [Family; 2] = [Family::Inet, Family::Inet6];

/// How a model host was set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whose behaviour.
    pub dialect: Dialect,
    /// The group it is in.
    pub group: Group,
    /// Seconds.
    pub advbase: u8,
    /// 256ths of a second.
    pub advskew: u8,
    /// ucarp's `-r`; the BSDs have 3.
    pub deadratio: u8,
    /// ucarp's `-P`, the BSDs' sysctl.
    pub preempt: bool,
    /// Source addresses, by family.
    pub sources: [IpAddr; 2],
}

/// One host of a foreign implementation.
#[derive(Debug)]
pub struct Model {
    setup: Setup,
    state: State,
    demotion: u8,
    /// OpenBSD: constant. The others: `None` until an advertisement was heard.
    counter: Option<u64>,
    advertise_at: Option<Instant>,
    master_down_at: [Option<Instant>; 2],
    /// When it last announced the addresses.
    announced_at: Option<Instant>,
    rng: Rng,
}

impl Model {
    /// A host whose interface is not up yet.
    #[must_use]
    pub fn new(setup: Setup, mut rng: Rng) -> Self {
        let counter = (setup.dialect == Dialect::OpenBsd).then(|| rng.next_u64());
        Self {
            setup,
            state: State::Init,
            demotion: 0,
            counter,
            advertise_at: None,
            master_down_at: [None; 2],
            announced_at: None,
            rng,
        }
    }

    /// Where it is in the election.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// When it last announced the addresses.
    #[must_use]
    pub const fn announced_at(&self) -> Option<Instant> {
        self.announced_at
    }

    /// When it wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.advertise_at
            .into_iter()
            .chain(self.master_down_at.into_iter().flatten())
            .min()
    }

    /// The interface came up.
    pub fn start(&mut self, now: Instant) {
        if self.state == State::Init {
            self.become_backup(now);
        }
    }

    /// The interface went down.
    pub fn link_down(&mut self) {
        self.state = State::Init;
        self.advertise_at = None;
        self.master_down_at = [None; 2];
    }

    /// An ordered stop. OpenBSD's `ifconfig carpN down` bows out; ucarp and FreeBSD fall silent.
    pub fn stop(&mut self, out: &mut Vec<Packet>) {
        if self.state == State::Master && self.setup.dialect == Dialect::OpenBsd {
            self.send(255, 255, out);
        }
        self.link_down();
    }

    /// The operator's demotion. Both BSDs tell the group at once when it rises; ucarp knows none.
    pub fn demote(&mut self, demotion: u8, out: &mut Vec<Packet>) {
        let rose = demotion > self.demotion;
        self.demotion = demotion;
        if rose && self.state == State::Master && self.setup.dialect != Dialect::Ucarp {
            self.advertise(out);
        }
    }

    /// The deadline came.
    pub fn timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        if self.advertise_at.is_some_and(|at| at <= now) {
            self.advertise(out);
            self.advertise_at = Some(now + self.interval());
        }
        if self.master_down_at.iter().flatten().any(|at| *at <= now) {
            self.become_master(now, out);
        }
    }

    /// A packet arrived.
    pub fn receive(&mut self, now: Instant, packet: &Packet, out: &mut Vec<Packet>) {
        // ucarp's capture filter leaves its own source address out.
        let own_source = packet.source == self.setup.sources[index(packet.family)];
        if self.state == State::Init || (self.setup.dialect == Dialect::Ucarp && own_source) {
            return;
        }
        let Some(theirs) = self.setup.group.open(&packet.payload) else {
            return;
        };
        match self.setup.dialect {
            // "replay or network loop detected"
            Dialect::OpenBsd if self.counter == Some(theirs.counter) => return,
            Dialect::OpenBsd => {}
            Dialect::Ucarp | Dialect::FreeBsd => self.counter = Some(theirs.counter),
        }
        if self.state == State::Master {
            self.master_hears(now, packet.source, theirs, out);
        } else {
            self.backup_hears(now, packet.family, theirs, out);
        }
    }

    fn master_hears(&mut self, now: Instant, source: IpAddr, theirs: Ad, out: &mut Vec<Packet>) {
        let (ours, theirs_rank) = (self.rank(), (theirs.advbase, theirs.advskew));
        let yields = match self.setup.dialect {
            Dialect::Ucarp => {
                ours > theirs_rank
                    || (ours == theirs_rank && raw(source) < raw(self.setup.sources[0]))
            }
            Dialect::FreeBsd => ours >= theirs_rank,
            Dialect::OpenBsd => {
                (ours >= theirs_rank && theirs.demotion <= self.demotion)
                    || theirs.demotion < self.demotion
            }
        };
        if yields {
            if self.setup.dialect == Dialect::Ucarp {
                self.advertise(out);
            }
            self.become_backup(now);
        } else if self.setup.dialect == Dialect::Ucarp {
            // "Non-preferred master advertising: reasserting control of VIP with another gratuitous arp". And again two
            // advertisements later, which nothing here depends on. The BSDs do nothing.
            self.announced_at = Some(now);
        }
    }

    fn backup_hears(&mut self, now: Instant, family: Family, theirs: Ad, out: &mut Vec<Packet>) {
        let (ours, theirs_rank) = (self.rank(), (theirs.advbase, theirs.advskew));
        let open_bsd = self.setup.dialect == Dialect::OpenBsd;
        let preempts = self.setup.preempt
            && ours < theirs_rank
            && (!open_bsd || theirs.demotion >= self.demotion);
        let less_demoted = open_bsd && theirs.demotion > self.demotion;
        let patience = (
            u16::from(self.setup.deadratio) * u16::from(self.setup.advbase),
            ours.1,
        );
        let will_time_out =
            self.setup.advbase != 0 && patience < (u16::from(theirs.advbase), theirs.advskew);
        if preempts || less_demoted || will_time_out {
            self.become_master(now, out);
        } else if self.setup.group.uses(family) {
            self.master_down_at[index(family)] = Some(now + self.master_down());
        }
    }

    fn become_master(&mut self, now: Instant, out: &mut Vec<Packet>) {
        self.state = State::Master;
        self.master_down_at = [None; 2];
        self.advertise(out);
        self.announced_at = Some(now);
        self.advertise_at = Some(now + self.interval());
    }

    fn become_backup(&mut self, now: Instant) {
        self.state = State::Backup;
        self.advertise_at = None;
        for family in FAMILIES {
            self.master_down_at[index(family)] = self
                .setup
                .group
                .uses(family)
                .then(|| now + self.master_down());
        }
    }

    /// (advbase, advskew) as it advertises them: FreeBSD adds its demotion to advskew.
    fn rank(&self) -> (u8, u8) {
        let advskew = match self.setup.dialect {
            Dialect::FreeBsd => self.setup.advskew.saturating_add(self.demotion).min(240),
            Dialect::Ucarp | Dialect::OpenBsd => self.setup.advskew,
        };
        (self.setup.advbase, advskew)
    }

    fn interval(&self) -> Duration {
        let (advbase, advskew) = self.rank();
        match (advbase, advskew) {
            (0, 0) => STEP,
            _ => Duration::from_secs(advbase.into()) + STEP * u32::from(advskew),
        }
    }

    /// By its own advskew, without demotion.
    fn master_down(&self) -> Duration {
        let (ratio, skew) = (
            u32::from(self.setup.deadratio),
            u32::from(self.setup.advskew),
        );
        match self.setup.advbase {
            0 => STEP * ratio * skew.max(1),
            advbase => Duration::from_secs(advbase.into()) * ratio + STEP * skew,
        }
    }

    /// ucarp and the BSDs differ in one byte.
    fn ethernet_source(&self) -> [u8; 6] {
        let dialect = u8::from(self.setup.dialect != Dialect::Ucarp);
        [0, 0, 0x5e, 0, dialect, self.setup.group.vhid]
    }

    fn advertise(&mut self, out: &mut Vec<Packet>) {
        let (advbase, advskew) = self.rank();
        self.send(advbase, advskew, out);
    }

    fn send(&mut self, advbase: u8, advskew: u8, out: &mut Vec<Packet>) {
        let demotion = if self.setup.dialect == Dialect::OpenBsd {
            self.demotion
        } else {
            0
        };
        for family in FAMILIES {
            if self.setup.group.uses(family) {
                let counter = self.next_counter();
                let payload = self.setup.group.seal(Ad {
                    advbase,
                    advskew,
                    demotion,
                    counter,
                });
                out.push(Packet {
                    family,
                    source: self.setup.sources[index(family)],
                    ethernet_source: self.ethernet_source(),
                    payload,
                });
            }
        }
    }

    /// OpenBSD: one for the whole run. The others: random until someone was heard, then one more than the last.
    fn next_counter(&mut self) -> u64 {
        match (self.setup.dialect, self.counter) {
            (Dialect::OpenBsd, Some(cookie)) => cookie,
            (_, Some(last)) => {
                self.counter = Some(last.wrapping_add(1));
                last.wrapping_add(1)
            }
            (_, None) => self.rng.next_u64(),
        }
    }
}

/// ucarp on a little-endian host compares addresses without turning them round: the last octet counts most.
fn raw(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => u32::from_le_bytes(address.octets()),
        IpAddr::V6(_) => 0,
    }
}

/// The family's place in pairs of per-family values.
#[must_use]
pub const fn index(family: Family) -> usize {
    match family {
        Family::Inet => 0,
        Family::Inet6 => 1,
    }
}
