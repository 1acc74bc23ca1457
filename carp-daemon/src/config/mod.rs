//! The configuration, from the operator's words to the changes that a running daemon has to make.
//!
//! [`raw`] words → [`check()`] → [`Config`] → [`diff()`] → [`Plan`]. A [`Config`] is complete and in range; only
//! the system can still refuse it (an interface that is not there, a hook that is taken), which is a run-time error. Two
//! configurations can be compared at any time: a password that the daemon has wiped is compared by its fingerprint.
//!
//! | Module | What it does |
//! |---|---|
//! | [`raw`] | represents unchecked words with their places |
//! | [`mod@check`] | applies the rules; each mistake names its location and the accepted values |
//! | [`mod@diff`] | plans the change from one configuration to another: keep, change in place, restart, add, remove |
//! | `names` | names the values of settings that have a fixed set of them |
//! | `summary` | logs the configuration at the start |

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

/// The configuration of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The virtual hosts. Several may share an interface.
    pub vhosts: Vec<VhostConfig>,
    /// The way in which advertisements are received.
    pub datapath: Datapath,
    /// The packets that the kernel blocks for a MASTER's addresses when the daemon stops deciding (`--fence`).
    pub fence: Fence,
    /// Lifetime of the addresses that native mode assigns, renewed while MASTER (`--lease`).
    pub lease: Lease,
    /// Wait for an absent interface instead of failing (`--wait-interface`).
    pub wait_interface: bool,
    /// Real-time scheduling and locked memory (`--realtime`).
    pub realtime: bool,
    /// The directory that keeps what was heard over a restart. `None`: nothing is kept (`--state-dir`).
    pub state_directory: Option<StateDirectory>,
    /// Let the XDP program explain its rejections (`--debug`).
    pub debug: bool,
}

/// The directory for files that survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDirectory {
    /// An absolute path.
    pub path: PathBuf,
    /// Create it if it is missing, because the operator named it.
    pub create: bool,
}

/// The configuration of one virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostConfig {
    /// The name of the interface. The default, the first usable one, has been resolved before.
    pub interface: String,
    /// The core's settings. Their addresses are those of `addresses`.
    pub election: Settings,
    /// The fixed source address (`-s`). `None`: the interface's first address.
    pub source: Option<Ipv4Addr>,
    /// The IPv4 multicast group (`--mcast`), [`DEFAULT_GROUP`] by default.
    pub group: Ipv4Addr,
    /// Send advertisements as Ethernet broadcast and do not join the group (`-M`).
    pub broadcast: bool,
    /// Send advertisements from the interface's own MAC address instead of the virtual one (`--own-mac`).
    pub own_mac: bool,
    /// Ignore the carrier (`-S`).
    pub ignore_carrier: bool,
    /// The virtual addresses with their prefix lengths, as native mode assigns them.
    pub addresses: Vec<VirtualAddress>,
    /// The owner of the addresses, which adds and removes them.
    pub ownership: Ownership,
    /// The scripts to run on a change of state, whoever owns the addresses.
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

/// CARP's multicast group (IANA). VRRP uses the same.
pub const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// A virtual address, and the prefix length with which native mode assigns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address. It is part of the HMAC.
    pub address: IpAddr,
    /// The prefix length, 0..=32 or 0..=128. It is not part of the HMAC.
    pub prefix: u8,
}

/// An IPv4 subnet, given by one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Any address of the subnet.
    pub address: Ipv4Addr,
    /// The prefix length, 0..=32.
    pub prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix.min(32)))
            .unwrap_or(0)
    }

    /// Returns the first address of the subnet.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.address.to_bits() & self.mask())
    }

    /// Returns whether the subnet contains the address.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) & self.mask() == 0
    }

    /// Returns what the address is in this subnet if no host can have it.
    #[must_use]
    pub fn reserved(self, address: Ipv4Addr) -> Option<String> {
        // In a subnet of one or two addresses hosts can have all of them (RFC 3021).
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

/// The owner of the virtual addresses, which adds and removes them.
///
/// An up script decides: with one, carpd behaves exactly as ucarp. A down script alone is a notification, and carpd
/// owns the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// carpd adds and removes them by netlink, tagged with [`ADDRESS_PROTOCOL`].
    Native,
    /// The scripts add and remove them, exactly as with ucarp.
    Scripts,
}

/// The up and down scripts, run as `SCRIPT INTERFACE ADDRESS [XPARAM]` with the prefix length in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    /// The script for becoming MASTER. It is present exactly if the scripts own the addresses.
    pub up: Option<PathBuf>,
    /// The script for becoming BACKUP. It also runs at the start unless `neutral`.
    pub down: Option<PathBuf>,
    /// The third argument.
    pub xparam: Option<OsString>,
    /// The time limit. A script that runs longer is ended with TERM, then KILL.
    pub timeout: Duration,
}

/// `--lease`: how long the addresses of native mode stay after the daemon died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// As short as the master-down time allows.
    #[default]
    Auto,
    /// This long.
    Fixed(Duration),
    /// Without limit.
    Off,
}

/// `--datapath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// Native XDP, else tcx, else an AF_PACKET socket. On a veth tcx comes first.
    #[default]
    Auto,
    /// Native (driver) XDP. carpd exits if it is not available.
    XdpNative,
    /// Generic (skb) XDP, which copies every packet of the link. carpd exits if it is not available.
    XdpGeneric,
    /// A tcx program at ingress, on any device (Linux 6.6). carpd exits if it is not available.
    Tcx,
    /// AF_PACKET with a classic BPF filter. It needs no CAP_BPF, but has no fence.
    Socket,
}

/// `--fence`: what the kernel drops once the daemon of a MASTER is dead, stopped or starved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// ARP requests and neighbour solicitations for the virtual addresses, so that this host no longer claims them.
    #[default]
    Arp,
    /// Every packet to the virtual addresses. This costs a lookup for each packet of the link.
    All,
    /// Nothing. A dead MASTER continues to answer.
    Off,
}

/// `IFA_PROTO` of the addresses that native mode assigns. A later start recognises by it what an earlier one left.
/// 0..=3 are the kernel's own (`IFAPROT_*`, include/uapi/linux/if_addr.h, kernel 5.18); 112 is CARP's IP protocol.
pub const ADDRESS_PROTOCOL: u8 = 112;

impl Config {
    /// Returns a number that differs for different options, including passwords. It may only be compared between two
    /// processes of one host.
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
            // The key itself prints as `***`.
            vhost.election.key.fingerprint().hash(&mut text.0);
        }
        text.0.finish()
    }
}

impl VhostConfig {
    /// Returns the identity of the virtual host.
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
