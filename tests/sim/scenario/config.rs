//! The configurations of the hosts of a scenario.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use carp_common::proto::{AddressSet, Key, Settings};
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Vhid};
use carp_daemon::config::{Ownership, Scripts, VhostConfig, VirtualAddress};

use super::super::machine::INTERFACE;
use super::super::packet::Group;
use super::{Implementation, Member, Scenario, Theme};

/// CARP's multicast group.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Prefix length of a virtual IPv6 address.
const SUBNET6: u8 = 64;

/// A bound for every script of a scenario.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

impl Scenario {
    /// Returns every group that its kernels may see.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let first = std::iter::once(&self.group);
        first.chain(&self.second).cloned().collect()
    }

    /// Returns the core's settings for one member, as the daemon would create them.
    #[must_use]
    pub fn settings(&self, number: usize) -> Settings {
        settings(&self.group, &self.members[number], self.theme)
    }

    /// Returns one member as a host of the second virtual host, in which the last host is the best.
    #[must_use]
    pub fn second_member(&self, number: usize) -> Member {
        let opposite = self.members.len() - 1 - number;
        Member {
            advskew: self.members[opposite].advskew,
            ..self.members[number].clone()
        }
    }

    /// Returns the configuration of a carpd: the virtual host of the group.
    #[must_use]
    pub fn config(&self, number: usize) -> VhostConfig {
        self.configure(&self.group, &self.members[number])
    }

    /// Returns the configuration of the second virtual host, if there is one.
    #[must_use]
    pub fn second_config(&self, number: usize) -> Option<VhostConfig> {
        let second = self
            .second
            .as_ref()
            .filter(|_| self.members[number].is_carpd())?;
        Some(self.configure(second, &self.second_member(number)))
    }

    fn configure(&self, group: &Group, member: &Member) -> VhostConfig {
        let script = |name: &str| (!member.script.is_zero()).then(|| PathBuf::from(name));
        let addresses = group.addresses();
        VhostConfig {
            interface: INTERFACE.to_owned(),
            election: settings(group, member, self.theme),
            source: None,
            group: GROUP,
            broadcast: false,
            own_mac: false,
            ignore_carrier: false,
            addresses: addresses
                .map(|address| VirtualAddress {
                    address,
                    prefix: match address {
                        IpAddr::V4(_) => self.prefix,
                        IpAddr::V6(_) => SUBNET6,
                    },
                })
                .collect(),
            ownership: match member.script.is_zero() {
                true => Ownership::Native,
                false => Ownership::Scripts,
            },
            scripts: Scripts {
                up: script("/up"),
                down: script("/down"),
                xparam: None,
                timeout: SCRIPT_TIMEOUT,
            },
            release_at_exit: true,
            neutral: false,
        }
    }
}

fn settings(group: &Group, member: &Member, theme: Theme) -> Settings {
    let Implementation::Carpd(profile) = member.program else {
        unreachable!("only carpd runs the core")
    };
    let inet = group.inet.iter().copied().map(IpAddr::from);
    let inet6 = group.inet6.iter().copied().map(IpAddr::from);
    Settings {
        vhid: Vhid::new(group.vhid).expect("drawn from 1"),
        advbase: AdvBase(member.advbase),
        advskew: AdvSkew(member.advskew),
        deadratio: DeadRatio::new(member.deadratio).expect("drawn from 1"),
        preempt: member.preempt,
        profile,
        addresses: AddressSet::new(inet.chain(inet6)),
        key: Key::new(group.password).expect("drawn short enough"),
        strict_counter: theme == Theme::Strict,
        no_openbsd: false,
        announce_refresh: None,
    }
}
