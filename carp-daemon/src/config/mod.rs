//! The configuration, from the operator's words to the changes that a running daemon has to make.
//!
//! [`raw`] words → [`check()`] → [`Config`] → [`diff()`] → [`Plan`]. A [`Config`] is complete and in range; only
//! the system can still refuse it (an interface that is not there, a hook that is taken), which is a run-time error. Two
//! configurations can be compared at any time: a password that the daemon has wiped is compared by its fingerprint.
//!
//! | Module | What it is |
//! |---|---|
//! | [`raw`] | unchecked words with their places |
//! | [`mod@check`] | the rules; each mistake names its place and the accepted values |
//! | [`mod@diff`] | the plan from one configuration to another: keep, change in place, restart, add, remove |
//! | `names` | settings whose values are a fixed set of names |
//! | `summary` | the first lines of a log |

pub mod check;
pub mod diff;
#[cfg(test)]
pub mod example;
mod names;
pub mod raw;
mod summary;

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use carp_common::proto::Settings;
use carp_common::units::Vhid;

pub use check::{Checked, Mistake, check};
pub use diff::{Plan, diff};
pub use names::Named;

/// Everything one process serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The virtual hosts, each on its interface; several may share one.
    pub vhosts: Vec<VhostConfig>,
    /// How advertisements are received.
    pub datapath: Datapath,
    /// What the kernel keeps from a MASTER's addresses when the daemon stops deciding (`--fence`).
    pub fence: Fence,
    /// Lifetime of the addresses that native mode assigns, renewed while MASTER (`--lease`).
    pub lease: Lease,
    /// Wait for an absent interface instead of failing (`--wait-interface`).
    pub wait_interface: bool,
    /// Real-time scheduling and locked memory (`--realtime`).
    pub realtime: bool,
    /// Where what was heard is kept over a restart; `None`: nowhere (`--state-dir`).
    pub state_directory: Option<StateDirectory>,
    /// Let the XDP program explain its rejections (`--debug`).
    pub debug: bool,
}

/// A directory for what carpd keeps over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDirectory {
    /// Absolute.
    pub path: PathBuf,
    /// Make it when it is not there: it was asked for by name.
    pub create: bool,
}

/// One (interface, vhid).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostConfig {
    /// Interface name; resolved (the first usable one) before this value exists.
    pub interface: String,
    /// The core's settings. Its addresses are those of `addresses`.
    pub election: Settings,
    /// Fixed source address (`-s`); the interface's first address when absent.
    pub source: Option<Ipv4Addr>,
    /// IPv4 group (`--mcast`), [`DEFAULT_GROUP`] by default.
    pub group: Ipv4Addr,
    /// Advertisements travel as Ethernet broadcast and the group is not joined (`-M`).
    pub broadcast: bool,
    /// Advertisements come from the interface's own MAC address instead of the virtual one (`--own-mac`).
    pub own_mac: bool,
    /// Carrier does not matter (`-S`).
    pub ignore_carrier: bool,
    /// The virtual addresses with their prefix lengths, as native mode assigns them.
    pub addresses: Vec<VirtualAddress>,
    /// Who adds and removes the addresses.
    pub ownership: Ownership,
    /// What to run on a change of state, whoever owns the addresses.
    pub scripts: Scripts,
    /// Run the release (down script) at exit unless BACKUP (`-z`). Native mode always releases.
    pub release_at_exit: bool,
    /// Do not run the down script at start (`-n`).
    pub neutral: bool,
}

/// The identity of a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VhostId {
    /// The interface.
    pub interface: String,
    /// The vhid on that interface.
    pub vhid: Vhid,
}

impl fmt::Display for VhostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} id {}", self.interface, self.vhid)
    }
}

/// CARP's own group (IANA); VRRP has the same.
pub const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// A virtual address and how native mode assigns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address; it enters the HMAC.
    pub address: IpAddr,
    /// Prefix length, 0..=32 or 0..=128; it does not enter the HMAC.
    pub prefix: u8,
}

/// An IPv4 subnet, by one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Any of them.
    pub address: Ipv4Addr,
    /// 0..=32.
    pub prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix.min(32)))
            .unwrap_or(0)
    }

    /// Its first address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.address.to_bits() & self.mask())
    }

    /// Whether it holds the address.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) & self.mask() == 0
    }

    /// What the address is in this subnet when no host can have it.
    #[must_use]
    pub fn reserved(self, address: Ipv4Addr) -> Option<String> {
        // A subnet of one or two addresses has no others (RFC 3021).
        if self.prefix > 30 || !self.contains(address) {
            return None;
        }
        let part = match address.to_bits() & !self.mask() {
            0 => "network",
            host if host == !self.mask() => "broadcast",
            _ => return None,
        };
        Some(format!("the {part} address of {self}"))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// Who adds and removes the virtual addresses.
///
/// An up script decides: who gives one gets exactly ucarp's behaviour. A down script alone leaves the addresses to
/// carpd and is a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// carpd, by netlink, tagged with [`ADDRESS_PROTOCOL`].
    Native,
    /// The scripts, exactly as with ucarp.
    Scripts,
}

/// Up and down scripts, run as `SCRIPT INTERFACE ADDRESS [XPARAM]` with the prefix length in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    /// On becoming MASTER. Present exactly when the scripts own the addresses.
    pub up: Option<PathBuf>,
    /// On becoming BACKUP, and at start unless `neutral`.
    pub down: Option<PathBuf>,
    /// Third argument.
    pub xparam: Option<OsString>,
    /// A script that runs longer is ended: TERM, then KILL.
    pub timeout: Duration,
}

/// `--lease`: how long the addresses of native mode outlive the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// As short as the master-down time allows.
    #[default]
    Auto,
    /// So long.
    Fixed(Duration),
    /// For good.
    Off,
}

/// `--datapath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// Native XDP, else tcx, else an AF_PACKET socket; on a veth tcx first.
    #[default]
    Auto,
    /// Native (driver) XDP or an error.
    XdpNative,
    /// Generic (skb) XDP or an error: it copies every packet of the link.
    XdpGeneric,
    /// A tcx program at ingress or an error: any device, Linux 6.6.
    Tcx,
    /// AF_PACKET with a classic BPF filter: needs no CAP_BPF, but has no fence.
    Socket,
}

/// `--fence`: what the kernel drops once the daemon of a MASTER is dead, stopped or starved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// ARP requests and neighbour solicitations for the virtual addresses: this host no longer claims them.
    #[default]
    Arp,
    /// Every packet to the virtual addresses; costs a lookup for each packet of the link.
    All,
    /// Nothing: a dead MASTER goes on answering.
    Off,
}

/// `IFA_PROTO` of the addresses that native mode assigns, so that a later start recognises what an earlier one left.
/// 0..=3 are the kernel's own (`IFAPROT_*`, include/uapi/linux/if_addr.h, kernel 5.18); 112 is CARP's IP protocol.
pub const ADDRESS_PROTOCOL: u8 = 112;

impl Config {
    /// A number that tells these options, passwords included, from others; for comparison between two processes of one
    /// host only.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        struct Text(DefaultHasher);
        impl Write for Text {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut text = Text(DefaultHasher::new());
        write!(text, "{self:?}").expect("hashing never fails");
        for vhost in &self.vhosts {
            // Prints as `***`.
            vhost.election.key.fingerprint().hash(&mut text.0);
        }
        text.0.finish()
    }
}

impl VhostConfig {
    /// Returns its identity.
    #[must_use]
    pub fn id(&self) -> VhostId {
        VhostId {
            interface: self.interface.clone(),
            vhid: self.election.vhid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_knows_its_members_and_what_is_reserved_in_it() {
        let subnet = |prefix| Subnet {
            address: Ipv4Addr::new(10, 77, 1, 9),
            prefix,
        };
        let inside = |prefix| subnet(prefix).contains(Ipv4Addr::new(10, 77, 0, 255));
        assert_eq!(
            [0, 16, 23, 24, 32].map(inside),
            [true, true, true, false, false]
        );
        let reserved = |prefix, last| subnet(prefix).reserved(Ipv4Addr::new(10, 77, 1, last));
        assert_eq!(
            reserved(24, 255).as_deref(),
            Some("the broadcast address of 10.77.1.0/24")
        );
        assert_eq!(
            reserved(30, 8).as_deref(),
            Some("the network address of 10.77.1.8/30")
        );
        assert_eq!(reserved(31, 8), None);
        assert_eq!(reserved(16, 0), None);
        assert_eq!(reserved(24, 9), None);
    }
}
