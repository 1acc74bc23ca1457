//! Another host of the group, which signs what it says as the core does.

use std::net::Ipv4Addr;
use std::time::Duration;

use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::{FAMILY_INET, VhostKey};
use carp_common::proto::{Authenticator, Demotion};
use carp_common::time::Instant;
use carp_common::units::{AdvBase, AdvSkew, Priority};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};

use super::{ETH0, vhost};
use crate::config::VhostConfig;

/// One peer.
pub struct Peer {
    config: VhostConfig,
    authenticator: Authenticator,
    /// Its IP source.
    pub source: Ipv4Addr,
    /// What it advertises.
    pub priority: Priority,
    counter: u64,
}

impl Peer {
    /// A peer of vhid 1 at 10.0.0.LAST with this advskew.
    pub fn new(last: u8, advskew: u8) -> Self {
        Self::of(vhost(1), last, advskew)
    }

    /// A peer of a virtual host.
    pub fn of(config: VhostConfig, last: u8, advskew: u8) -> Self {
        let election = &config.election;
        let authenticator = Authenticator::new(
            &election.key,
            election.vhid,
            &election.addresses,
            election.profile,
            None,
        );
        Self {
            authenticator,
            config,
            source: Ipv4Addr::new(10, 0, 0, last),
            priority: Priority {
                advbase: AdvBase(1),
                advskew: AdvSkew(advskew),
            },
            counter: u64::from(last) << 40,
        }
    }

    /// How often it advertises.
    pub fn interval(&self) -> Duration {
        self.priority.interval()
    }

    /// Its next advertisement, as it arrives then.
    pub fn advertise(&mut self, at: Instant) -> AdvertisementEvent {
        self.counter += 1;
        let advertisement = Advertisement {
            vhid: self.config.election.vhid,
            advskew: self.priority.advskew,
            demotion: Demotion::NONE,
            advbase: self.priority.advbase,
            counter: self.counter,
            digest: self.authenticator.sign(self.counter),
        };
        let mut event = AdvertisementEvent::empty(at.as_nanos());
        event.key = VhostKey::new(ETH0, 0, self.config.election.vhid);
        event.family = FAMILY_INET;
        event.source[..4].copy_from_slice(&self.source.octets());
        event.destination[..4].copy_from_slice(&self.config.group.octets());
        event.ethernet_source = [0, 0, 0x5e, 0, 0, self.config.election.vhid.get()];
        let mut payload = [0; HEADER_LEN];
        advertisement.emit(&mut payload);
        event.payload[..HEADER_LEN].copy_from_slice(&payload);
        event.length = 36;
        event
    }

    /// It advertises a bow-out from now on.
    pub const fn bow_out(&mut self) {
        self.priority = Priority::BOW_OUT;
    }

    /// It counts on from a counter that it heard.
    pub fn count_beyond(&mut self, counter: u64) {
        self.counter = self.counter.max(counter);
    }
}
