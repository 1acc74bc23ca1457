//! Another host of the group. It signs its advertisements as the core does.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::{FAMILY_INET, FAMILY_INET6, VhostKey};
use carp_common::proto::{Authenticator, Demotion};
use carp_common::time::Instant;
use carp_common::units::{AdvBase, AdvSkew, Priority};
use carp_common::wire::advertisement::{Advertisement, GROUP_INET6, HEADER_LEN};

use super::{ETH0, vhost};
use crate::config::VhostConfig;

/// One peer.
pub struct Peer {
    config: VhostConfig,
    authenticator: Authenticator,
    /// Its source address.
    pub source: IpAddr,
    /// The priority that it advertises.
    pub priority: Priority,
    counter: u64,
}

impl Peer {
    /// Returns a peer of vhid 1 at 10.0.0.LAST with this advskew.
    pub fn new(last: u8, advskew: u8) -> Self {
        Self::of(vhost(1), last, advskew)
    }

    /// Returns a peer of a virtual host.
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
            source: [10, 0, 0, last].into(),
            priority: Priority {
                advbase: AdvBase(1),
                advskew: AdvSkew(advskew),
            },
            counter: u64::from(last) << 40,
        }
    }

    /// Returns how often it advertises.
    pub fn interval(&self) -> Duration {
        self.priority.interval()
    }

    /// Returns its next advertisement, as it arrives at that time.
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
        match self.source {
            IpAddr::V4(source) => {
                event.family = FAMILY_INET;
                event.source[..4].copy_from_slice(&source.octets());
                event.destination[..4].copy_from_slice(&self.config.group.octets());
            }
            IpAddr::V6(source) => {
                event.family = FAMILY_INET6;
                event.source = source.octets();
                event.destination = GROUP_INET6.octets();
            }
        }
        event.ethernet_source = [0, 0, 0x5e, 0, 0, self.config.election.vhid.get()];
        let mut payload = [0; HEADER_LEN];
        advertisement.emit(&mut payload);
        event.payload[..HEADER_LEN].copy_from_slice(&payload);
        event.length = 36;
        event
    }

    /// Makes it advertise a bow-out from now on.
    pub const fn bow_out(&mut self) {
        self.priority = Priority::BOW_OUT;
    }

    /// Makes its counter continue from one that it heard.
    pub fn count_beyond(&mut self, counter: u64) {
        self.counter = self.counter.max(counter);
    }
}
