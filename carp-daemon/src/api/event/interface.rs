//! Events about interfaces: links, the addresses to send from, and how they are listened to.

use std::net::Ipv4Addr;

use carp_common::wire::ether::MacAddress;

use super::events;

/// Why advertisements do not arrive any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The socket or ring buffer failed, with this error.
    Receive(String),
    /// Another program took carpd's off the interface.
    Detached,
    /// Another program is where carpd's was.
    Replaced,
}

events! {
    /// How an interface is listened to.
    Datapath
    /// Advertisements are received, by the first choice or as the driver allows.
    Attached {
        /// The interface, the rung and the refusals of those before it.
        summary: String,
    } => Info "datapath-attached",
    /// Advertisements are received in a way that someone should know of.
    FellBack {
        /// The interface, the rung and the refusals of those before it.
        summary: String,
    } => Warning "datapath-fell-back",
    /// The datapath refused something about a virtual host. Reported once until it is programmed again.
    Refused {
        /// The rung, while there is one.
        rung: Option<String>,
        /// Why.
        error: String,
    } => Error "datapath-refused",
    /// Another program changed a virtual host's entry in the kernel's map.
    EntryChanged => Warning "datapath-entry-changed",
    /// Advertisements do not arrive any more: attaching anew.
    Lost {
        /// Why not.
        loss: Loss,
    } => Warning "datapath-lost",
    /// Advertisements do not arrive again, so soon that attaching waits.
    LostAgain {
        /// Why not.
        loss: Loss,
    } => Error "datapath-lost-again",
    /// Attaching anew failed.
    ReattachFailed {
        /// Why.
        error: String,
    } => Error "datapath-reattach-failed",
    /// A VRRP router uses a VRID that is a vhid here.
    VrrpSameVhid {
        /// Both use the virtual MAC address of that number.
        shares_mac: bool,
    } => Warning "vrrp-same-vhid",
    /// A peer sends its advertisements to a single host.
    UnicastPeer => Warning "unicast-peer",
}

/// What an interface is a port of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// An interface.
    Known {
        /// What it is, as the kernel names it: `bridge`, `bond`, `team`, `openvswitch`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// One that is not known, by its index.
    Unknown(u32),
}

events! {
    /// Interfaces.
    Link
    /// An interface was configured by another name of it.
    OtherName {
        /// The name in the configuration.
        configured: String,
    } => Info "interface-other-name",
    /// An interface does not exist at the start.
    Awaited => Warning "interface-awaited",
    /// An interface disappeared.
    Gone {
        /// The name that is waited for.
        awaited: String,
    } => Warning "interface-gone",
    /// An interface is there, and cannot be served yet.
    Unservable {
        /// Why not.
        error: String,
    } => Error "interface-unservable",
    /// An interface is down when it is opened.
    Down => Warning "interface-down",
    /// An interface has another MAC address.
    MacChanged {
        /// The new one.
        mac: MacAddress,
    } => Info "interface-mac-changed",
    /// An interface has another name. The event is in the place of the old one.
    Renamed {
        /// The new one.
        name: String,
    } => Warning "interface-renamed",
    /// An interface became a port of another one, which takes all that arrives.
    Enslaved {
        /// The other one.
        upper: Upper,
    } => Warning "interface-enslaved",
    /// An interface is no longer a port of another one.
    Released => Info "interface-released",
}

events! {
    /// The addresses that advertisements come from.
    Source
    /// An interface has no address to send from.
    Missing => Warning "source-missing",
    /// The address that `--srcip` names is on no interface at the start.
    FixedAbsent {
        /// The address.
        source: Ipv4Addr,
    } => Warning "fixed-source-absent",
    /// The address that `--srcip` names was on this host, and is no longer.
    FixedGone {
        /// The address.
        source: Ipv4Addr,
    } => Warning "fixed-source-gone",
    /// The address that `--srcip` names is on this host again.
    FixedBack {
        /// The address.
        source: Ipv4Addr,
    } => Info "fixed-source-back",
}
