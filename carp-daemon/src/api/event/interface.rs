//! Events about interfaces: links, source addresses, and reception.

use std::net::Ipv4Addr;

use carp_common::units::Family;
use carp_common::wire::ether::MacAddress;

use super::events;

/// The reason why advertisements do not arrive any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The socket or ring buffer failed, with this error.
    Receive(String),
    /// Another process detached carpd's program from the interface.
    Detached,
    /// Another process replaced carpd's program.
    Replaced,
}

events! {
    /// Reception on an interface.
    Datapath
    /// Advertisements are received by the first choice, or as well as the driver allows.
    Attached {
        /// The interface, the rung and the refusals of those before it.
        summary: String,
    } => Info "datapath-attached",
    /// Advertisements are received in a way that the operator should know of.
    FellBack {
        /// The interface, the rung and the refusals of those before it.
        summary: String,
    } => Warning "datapath-fell-back",
    /// The datapath refused an order about a virtual host. This is reported once until the virtual host is programmed
    /// again.
    Refused {
        /// The rung, if there is one.
        rung: Option<String>,
        /// The error.
        error: String,
    } => Error "datapath-refused",
    /// The process ends, and the datapath still refuses to change what it knows about a virtual host.
    Left => Error "datapath-left",
    /// Another program changed a virtual host's entry in the kernel's map.
    EntryChanged => Warning "datapath-entry-changed",
    /// Advertisements do not arrive any more. carpd attaches its program anew.
    Lost {
        /// The reason.
        loss: Loss,
    } => Warning "datapath-lost",
    /// Advertisements stopped arriving again so soon that carpd waits before it attaches anew.
    LostAgain {
        /// The reason.
        loss: Loss,
    } => Error "datapath-lost-again",
    /// Attaching anew failed.
    ReattachFailed {
        /// The error.
        error: String,
    } => Error "datapath-reattach-failed",
    /// A VRRP router uses a VRID that is also a vhid here.
    VrrpSameVhid {
        /// Both use the virtual MAC address of that number.
        shares_mac: bool,
    } => Warning "vrrp-same-vhid",
    /// A peer sends its advertisements to a single host.
    UnicastPeer => Warning "unicast-peer",
}

/// The interface that another one is a port of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// An interface that carpd knows.
    Known {
        /// Its kind, as the kernel names it: `bridge`, `bond`, `team`, `openvswitch`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// An interface that carpd does not know, by its index.
    Unknown(u32),
}

events! {
    /// Interfaces.
    Link
    /// The configuration uses another name of an interface.
    OtherName {
        /// The name in the configuration.
        configured: String,
    } => Info "interface-other-name",
    /// An interface does not exist at the start.
    Awaited => Warning "interface-awaited",
    /// An interface disappeared.
    Gone {
        /// The name that carpd waits for.
        awaited: String,
    } => Warning "interface-gone",
    /// An interface exists, but cannot be served yet.
    Unservable {
        /// The error.
        error: String,
    } => Error "interface-unservable",
    /// An interface is down when it is opened.
    Down => Warning "interface-down",
    /// The MAC address of an interface changed.
    MacChanged {
        /// The new MAC address.
        mac: MacAddress,
    } => Info "interface-mac-changed",
    /// The name of an interface changed. The place of the event is the old name.
    Renamed {
        /// The new name.
        name: String,
    } => Warning "interface-renamed",
    /// An interface became a port of another one, which takes all frames that arrive.
    Enslaved {
        /// The other interface.
        upper: Upper,
    } => Warning "interface-enslaved",
    /// An interface is no longer a port of another one.
    Released => Info "interface-released",
}

events! {
    /// The source addresses of advertisements.
    Source
    /// An interface has no address to send from.
    Missing {
        /// The family in which it has none.
        family: Family,
    } => Warning "source-missing",
    /// The address that `--srcip` names is on no interface at the start.
    FixedAbsent {
        /// The address.
        source: Ipv4Addr,
    } => Warning "fixed-source-absent",
    /// The address that `--srcip` names was on this host and disappeared.
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
