//! Models of ucarp, FreeBSD, OpenBSD and NetBSD as a peer on the wire meets them.
//!
//! Each rule names its source. The models share no code with the core that they test.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Family, State};

use super::packet::{Ad, Group, Packet};
use super::rng::Rng;

/// The modelled implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// ucarp 1.5.2.
    Ucarp,
    /// FreeBSD 14.
    FreeBsd,
    /// OpenBSD, `ip_carp.c` r1.370.
    OpenBsd,
    /// NetBSD of 2016, which is OpenBSD's code of 2005: IPv4 only, byte 4 always 0 and never read.
    NetBsd,
}

impl Dialect {
    /// The unit in which the kernel counts time. ucarp is a process, and modelled as exact.
    const fn tick(self) -> Option<Duration> {
        match self {
            Self::Ucarp => None,
            Self::FreeBsd => Some(Duration::from_millis(1)),
            Self::OpenBsd | Self::NetBsd => Some(Duration::from_millis(10)),
        }
    }

    /// Returns the longest real time of a timer with this setting: the BSDs round up to ticks, and add one for the
    /// current tick.
    #[must_use]
    pub fn timer(self, exact: Duration) -> Duration {
        self.tick().map_or(exact, |tick| {
            Duration::from_nanos((nanos(exact).div_ceil(nanos(tick)) + 1) * nanos(tick))
        })
    }

    /// Returns the advertised advskew for a configured advskew and a demotion.
    #[must_use]
    pub fn advertised(self, advskew: u8, demotion: u8) -> u8 {
        match self {
            Self::Ucarp | Self::OpenBsd => advskew,
            // At most 240, demoted or not.
            Self::FreeBsd => advskew.saturating_add(demotion).min(240),
            Self::NetBsd if demotion > 0 => advskew.max(240),
            Self::NetBsd => advskew,
        }
    }

    /// Whether it sends its demotion in byte 4, and compares that first.
    #[must_use]
    pub const fn uses_byte_4(self) -> bool {
        matches!(self, Self::OpenBsd)
    }

    /// Whether its counter stays constant while it runs.
    #[must_use]
    pub const fn has_constant_counter(self) -> bool {
        matches!(self, Self::OpenBsd)
    }

    /// Whether an orderly stop sends 255/255.
    #[must_use]
    pub const fn bows_out(self) -> bool {
        matches!(self, Self::OpenBsd | Self::NetBsd)
    }
}

/// One step of advskew.
const STEP: Duration = Duration::from_nanos(1_000_000_000 / 256);
const FAMILIES: [Family; 2] = [Family::Inet, Family::Inet6];

/// The configuration of a model host.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The modelled implementation.
    pub dialect: Dialect,
    /// The group of the host.
    pub group: Group,
    /// Seconds.
    pub advbase: u8,
    /// 256ths of a second.
    pub advskew: u8,
    /// ucarp's `-r`; 3 for the BSDs.
    pub deadratio: u8,
    /// ucarp's `-P`, the BSDs' sysctl.
    pub preempt: bool,
    /// Source addresses, by family.
    pub sources: [IpAddr; 2],
}

/// One host of another implementation.
#[derive(Debug)]
pub struct Model {
    setup: Setup,
    state: State,
    demotion: u8,
    /// OpenBSD: constant. The others: `None` until an advertisement was heard.
    counter: Option<u64>,
    /// The offset of the kernel's ticks from the clock's origin.
    phase: Duration,
    advertise_at: Option<Instant>,
    master_down_at: [Option<Instant>; 2],
    /// When it last announced the addresses.
    announced_at: Option<Instant>,
    rng: Rng,
}

impl Model {
    /// Creates a host whose interface is not up yet.
    #[must_use]
    pub fn new(setup: Setup, mut rng: Rng) -> Self {
        let counter = setup.dialect.has_constant_counter().then(|| rng.next_u64());
        let tick = setup.dialect.tick().unwrap_or_default();
        let phase = Duration::from_nanos(rng.between(0, nanos(tick)));
        Self {
            setup,
            state: State::Init,
            demotion: 0,
            counter,
            phase,
            advertise_at: None,
            master_down_at: [None; 2],
            announced_at: None,
            rng,
        }
    }

    /// Returns the state of its election.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Returns when it last announced the addresses.
    #[must_use]
    pub const fn announced_at(&self) -> Option<Instant> {
        self.announced_at
    }

    /// Returns when it wants to be called next.
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

    /// Stops in an orderly way. `ifconfig carpN down` of OpenBSD and NetBSD bows out; ucarp falls silent, and so does
    /// FreeBSD with any command (`ifconfig down`, `state backup`).
    pub fn stop(&mut self, out: &mut Vec<Packet>) {
        if self.state == State::Master && self.setup.dialect.bows_out() {
            self.send(255, 255, out);
        }
        self.link_down();
    }

    /// Sets the operator's demotion. FreeBSD advertises every change, OpenBSD only a rise to 1, NetBSD only a rise
    /// from 0. ucarp has no demotion.
    pub fn demote(&mut self, now: Instant, demotion: u8, out: &mut Vec<Packet>) {
        let before = std::mem::replace(&mut self.demotion, demotion);
        let tells = match self.setup.dialect {
            Dialect::Ucarp => false,
            Dialect::FreeBsd => before != demotion,
            Dialect::OpenBsd => before < demotion && demotion == 1,
            Dialect::NetBsd => before == 0 && demotion > 0,
        };
        if tells && self.state == State::Master {
            self.advertise(out);
            self.advertise_at = Some(self.after(now, self.interval()));
        }
    }

    /// The deadline has passed.
    pub fn timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        if self.advertise_at.is_some_and(|at| at <= now) {
            self.advertise(out);
            self.advertise_at = Some(self.after(now, self.interval()));
        }
        if self.master_down_at.iter().flatten().any(|at| *at <= now) {
            self.become_master(now, out);
        }
    }

    /// A packet arrived.
    pub fn receive(&mut self, now: Instant, packet: &Packet, out: &mut Vec<Packet>) {
        // ucarp's capture filter excludes its own source address.
        let own_source = packet.source == self.setup.sources[index(packet.family)];
        if self.state == State::Init || (self.setup.dialect == Dialect::Ucarp && own_source) {
            return;
        }
        let Some(theirs) = self.setup.group.open(&packet.payload) else {
            return;
        };
        match self.setup.dialect {
            // The BSD's message: "replay or network loop detected".
            Dialect::OpenBsd if self.counter == Some(theirs.counter) => return,
            Dialect::OpenBsd => {}
            // The last counter heard, even if it is lower than the own last one.
            Dialect::Ucarp | Dialect::FreeBsd | Dialect::NetBsd => {
                self.counter = Some(theirs.counter);
            }
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
            Dialect::FreeBsd | Dialect::NetBsd => ours >= theirs_rank,
            // If the other's byte 4 is greater, it stays MASTER even against a better advskew.
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
            // ucarp's message: "Non-preferred master advertising: reasserting control of VIP with another gratuitous
            // arp". ucarp repeats the ARP two advertisements later, which does not matter here. The BSDs do nothing.
            self.announced_at = Some(now);
        }
    }

    fn backup_hears(&mut self, now: Instant, family: Family, theirs: Ad, out: &mut Vec<Packet>) {
        let (ours, theirs_rank) = (self.rank(), (theirs.advbase, theirs.advskew));
        let byte_4 = self.setup.dialect.uses_byte_4();
        let preempts = self.setup.preempt
            && ours < theirs_rank
            && (!byte_4 || theirs.demotion >= self.demotion);
        let less_demoted = byte_4 && theirs.demotion > self.demotion;
        let patience = (
            u16::from(self.setup.deadratio) * u16::from(self.setup.advbase),
            ours.1,
        );
        let will_time_out =
            self.setup.advbase != 0 && patience < (u16::from(theirs.advbase), theirs.advskew);
        if preempts || less_demoted || will_time_out {
            self.become_master(now, out);
        } else if self.setup.group.uses(family) {
            self.master_down_at[index(family)] = Some(self.after(now, self.master_down()));
        }
    }

    fn become_master(&mut self, now: Instant, out: &mut Vec<Packet>) {
        self.state = State::Master;
        self.master_down_at = [None; 2];
        self.advertise(out);
        self.announced_at = Some(now);
        // The BSDs set the first timer as MASTER by the configured values, whatever they just advertised.
        let first = match self.setup.dialect {
            Dialect::Ucarp => self.interval(),
            Dialect::FreeBsd | Dialect::OpenBsd | Dialect::NetBsd => {
                interval(self.setup.advbase, self.setup.advskew)
            }
        };
        self.advertise_at = Some(self.after(now, first));
    }

    fn become_backup(&mut self, now: Instant) {
        self.state = State::Backup;
        self.advertise_at = None;
        for family in FAMILIES {
            self.master_down_at[index(family)] = self
                .setup
                .group
                .uses(family)
                .then(|| self.after(now, self.master_down()));
        }
    }

    /// Returns (advbase, advskew) as it advertises them.
    fn rank(&self) -> (u8, u8) {
        let Setup {
            dialect,
            advbase,
            advskew,
            ..
        } = self.setup;
        (advbase, dialect.advertised(advskew, self.demotion))
    }

    fn interval(&self) -> Duration {
        let (advbase, advskew) = self.rank();
        interval(advbase, advskew)
    }

    /// Returns when a timer that is set now expires. The current tick counts as a whole one. A timer that is set
    /// between two ticks therefore expires up to one tick early, and one that is set again by a timer is late by the
    /// whole rounding, each time.
    fn after(&self, now: Instant, exact: Duration) -> Instant {
        let Some(tick) = self.setup.dialect.tick().map(nanos) else {
            return now + exact;
        };
        let since_tick = (now.as_nanos() + tick - nanos(self.phase) % tick) % tick;
        let last_tick = Instant::from_nanos(now.as_nanos() - since_tick);
        last_tick + self.setup.dialect.timer(exact)
    }

    /// Uses its own advskew, without demotion.
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

    /// The formats of ucarp and the BSDs differ in one byte.
    fn ethernet_source(&self) -> [u8; 6] {
        let dialect = u8::from(self.setup.dialect != Dialect::Ucarp);
        [0, 0, 0x5e, 0, dialect, self.setup.group.vhid]
    }

    fn advertise(&mut self, out: &mut Vec<Packet>) {
        let (advbase, advskew) = self.rank();
        self.send(advbase, advskew, out);
    }

    fn send(&mut self, advbase: u8, advskew: u8, out: &mut Vec<Packet>) {
        let demotion = if self.setup.dialect.uses_byte_4() {
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

    /// OpenBSD: one counter for the whole run. The others: random until another host was heard, then the last one
    /// heard plus one.
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

/// Returns the time between two advertisements, before any rounding.
fn interval(advbase: u8, advskew: u8) -> Duration {
    match (advbase, advskew) {
        (0, 0) => STEP,
        _ => Duration::from_secs(advbase.into()) + STEP * u32::from(advskew),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("timers are far below 584 years")
}

/// ucarp on a little-endian host compares addresses without swapping their bytes: the last octet counts most.
fn raw(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => u32::from_le_bytes(address.octets()),
        IpAddr::V6(_) => 0,
    }
}

/// Returns the family's index in per-family pairs.
#[must_use]
pub const fn index(family: Family) -> usize {
    match family {
        Family::Inet => 0,
        Family::Inet6 => 1,
    }
}
