//! A virtual host for tests: every setting is its default.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carp_common::proto::{AddressSet, Key, Settings};
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Profile, Vhid};

use super::{DEFAULT_GROUP, Ownership, Scripts, VhostConfig, VirtualAddress};

/// The virtual host with the vhid `number` and the address 10.9.0.`number`.
pub fn plain(interface: &str, number: u8) -> VhostConfig {
    let address = IpAddr::V4(Ipv4Addr::new(10, 9, 0, number));
    VhostConfig {
        interface: interface.to_owned(),
        election: Settings {
            vhid: Vhid::new(number).unwrap(),
            advbase: AdvBase(1),
            advskew: AdvSkew(0),
            deadratio: DeadRatio::default(),
            preempt: false,
            profile: Profile::Ucarp,
            addresses: AddressSet::new([address]),
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
            address,
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
