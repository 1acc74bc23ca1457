//! The protocol core: decides, never acts.
//!
//! One [`VirtualHost`] is one election: one vhid on one interface. It has no socket, no clock and no thread; time and
//! randomness are arguments, so the daemon, the simulator and the fuzzers run the same code.
//!
//! | Module | What it is |
//! |---|---|
//! | [`vhost`] | states, transitions, deadlines |
//! | [`election`] | pure comparison of two advertisers |
//! | [`auth`] | HMAC-SHA1 over vhid, addresses and counter |
//! | [`key`] | the password, padded and wiped, and its fingerprint |
//! | [`addresses`] | the virtual addresses in the digest's order |
//! | [`evidence`] | what an authentic advertisement proves |
//! | [`patience`] | when silence counts |
//! | [`heard`] | the counters that were heard before |
//! | [`sequence`] | the counters that we send |
//! | [`demotion`] | named causes and their sum |
//! | [`counters`] | one statistic per reason |
//! | [`outlook`] | what would happen next |
//! | [`conflict`] | other hosts that claim the addresses |
//! | [`tenure`] | how long we are MASTER, how long alive |
//! | [`rate_limit`] | the first at once, then few |
//! | `memory` | what was heard and sent, as bytes |
//! | `peer` | one source, and what it showed |
//! | `proof` | the kinds of evidence |
//! | `better`, `doubt`, `queue`, `send_errors`, `per_family` | the state machine's parts |

pub mod addresses;
pub mod auth;
mod better;
pub mod conflict;
pub mod counters;
pub mod demotion;
mod doubt;
pub mod election;
pub mod evidence;
pub mod heard;
pub mod key;
mod memory;
pub mod outlook;
pub mod patience;
mod peer;
mod per_family;
mod proof;
mod queue;
pub mod rate_limit;
mod send_errors;
pub mod sequence;
pub mod tenure;
pub mod vhost;

use core::net::IpAddr;

use crate::time::Instant;
pub use crate::units::{AdvBase, AdvSkew, DeadRatio, Demotion, Family, Profile, State, Vhid};
use crate::wire::advertisement::HEADER_LEN;

pub use addresses::AddressSet;
pub use auth::Authenticator;
pub use counters::Counters;
pub use demotion::DemotionCause;
pub use key::{Key, PasswordTooLong};
pub use tenure::Standing;
pub use vhost::VirtualHost;

/// The settings of one election. They are fixed at the start; everything that changes at run time arrives as an [`Input`].
///
/// The configuration holds this very value, so comparing two configurations compares what the core was given. A key
/// that was wiped still equals itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Virtual host id.
    pub vhid: Vhid,
    /// Whole seconds of our advertisement interval.
    pub advbase: AdvBase,
    /// Fraction of our advertisement interval.
    pub advskew: AdvSkew,
    /// Silence factor.
    pub deadratio: DeadRatio,
    /// Take over from a worse MASTER without waiting for its silence.
    pub preempt: bool,
    /// The implementation that this host imitates.
    pub profile: Profile,
    /// The virtual addresses, part of every digest. A family is in use when it has an address here.
    pub addresses: AddressSet,
    /// The password, padded.
    pub key: Key,
    /// All peers are carpd: reject every counter that does not rise.
    pub strict_counter: bool,
    /// No peer is an OpenBSD, whose counter never changes: a counter that was heard before proves nothing.
    pub no_openbsd: bool,
    /// Time between two announcements of a MASTER after those of its takeover; `None` for no more announcements.
    pub announce_refresh: Option<crate::time::Duration>,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A CARP payload already matched to this vhid and group; not yet authenticated.
    Advertisement {
        /// Family of the packet that carried it.
        family: Family,
        /// Its sender and its time of arrival.
        origin: Origin,
        /// The IP payload: 36 bytes when well formed.
        payload: &'a [u8],
    },
    /// The interface gained or lost its carrier (or was created, deleted, set up or down).
    LinkChanged(LinkState),
    /// The source address we send from; `None` while the interface has none. A family in use without a source
    /// keeps the host in INIT when no family has one.
    SourceChanged {
        /// Family of the address.
        family: Family,
        /// The address, of that family.
        source: Option<IpAddr>,
    },
    /// The interface has another Ethernet address: a MASTER's clients and switches must learn it.
    StationChanged,
    /// One cause of demotion changed to this amount; zero undoes it.
    DemotionChanged {
        /// The cause.
        cause: DemotionCause,
        /// How much it adds now.
        amount: Demotion,
    },
    /// The outcome of an [`Action::SendAdvertisement`]. Three failures in a row demote, and as many successes undo that.
    SendCompleted {
        /// Family that was sent.
        family: Family,
        /// How it went.
        outcome: SendOutcome,
    },
    /// The kernel side refused an [`Action::ProgramDatapath`] or lost what it was told, so that nothing would be heard: the host
    /// is in INIT until it works again.
    DatapathChanged(DatapathState),
    /// An [`Action::ClaimAddresses`] was carried out (the up script ended, the address is there): announce again.
    ClaimCompleted,
    /// Advertisements arrived but were lost, because we were stopped for so long that their buffer overflowed. Then silence
    /// proves nothing, and a BACKUP listens for a whole master-down time again.
    AdvertisementsLost,
    /// An operator's command.
    Command(Command),
    /// Bow out if MASTER, release, then INIT for good.
    Shutdown,
}

/// The sender of an advertisement and its time of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// IP source.
    pub source: IpAddr,
    /// Ethernet source. CARP's own virtual MAC addresses tell ucarp (00:00:5e:00:00:vhid) from the BSDs (…:01:vhid).
    pub ethernet_source: [u8; 6],
    /// When the kernel received it, which may be long before we are told.
    pub arrival: Instant,
}

/// Carrier and administrative state together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Frames can flow.
    Up,
    /// They cannot.
    Down,
}

/// Whether the kernel side does what [`Action::ProgramDatapath`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathState {
    /// It does, or would if asked.
    Works,
    /// It refuses, or is no longer able to.
    Refuses,
}

/// Result of sending one advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Handed to the device.
    Sent,
    /// No memory or no room in the queue (ENOBUFS, ENOMEM).
    NoMemory,
    /// Refused otherwise (ENETDOWN, EPERM, …).
    Failed,
}

/// An operator's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// USR2: bow out when MASTER, be BACKUP, and do not take over for `hold`; then listen for a full
    /// master-down time.
    StepDown {
        /// How long to stay away (ucarp: 3 s).
        hold: core::time::Duration,
    },
}

/// Something to do, in the order in which it is polled.
///
/// A transition begins with [`Action::Report`], so that a log has the cause before its effects, and
/// [`Action::ProgramDatapath`]: a host that leaves MASTER falls silent before anybody hears that he may take over. Then
///
/// - a new MASTER claims the addresses, advertises and announces;
/// - one that yields releases the addresses, and then sends its last advertisement;
/// - one that bows out, because it was told to stop or to step down, does that first, so that its successor need not wait,
///   and then releases the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Tell the kernel side what holds from now on: with each transition, and whenever a deadline moves. Report back with
    /// [`Input::DatapathChanged`] when it refuses, and when it would accept that again.
    ProgramDatapath(Standing),
    /// Put one advertisement on the wire; report back with [`Input::SendCompleted`].
    SendAdvertisement {
        /// Family to send in.
        family: Family,
        /// The complete CARP header.
        payload: [u8; HEADER_LEN],
    },
    /// Add the virtual addresses, or run the up script; report back with [`Input::ClaimCompleted`].
    ClaimAddresses,
    /// Remove the virtual addresses, or run the down script.
    ReleaseAddresses,
    /// Gratuitous ARP, or unsolicited neighbour advertisements, for every virtual address of the family.
    Announce(Family),
    /// The state changed.
    Report(Transition),
    /// Report something; the rate is limited already.
    Notify(Notice),
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Why.
    pub reason: Reason,
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Link and source address are there: start listening.
    Started,
    /// The MASTER was silent for the master-down time.
    MasterTimedOut,
    /// We preempt, and it advertised worse than we would.
    PreemptingWorseMaster,
    /// The MASTER is more demoted than we are (OpenBSD profile).
    PreemptingMoreDemotedMaster,
    /// It advertises so rarely that it would time out: a bow-out, or a badly configured peer.
    MasterWillTimeOut,
    /// A better host advertised.
    BetterMasterAdvertised,
    /// An equal host advertised and won the tie.
    TieLost,
    /// The operator said so.
    Requested,
    /// No carrier, or the interface is gone or down.
    LinkDown,
    /// The kernel side delivers nothing.
    DatapathRefused,
    /// The interface lost its last usable source address.
    NoSourceAddress,
    /// Orderly stop.
    Shutdown,
}

/// Something other than a state change that an operator should know.
///
/// The core limits the rate: it reports the first of a kind at once, and then at most one per [`vhost::NOTICE_INTERVAL`]. Each
/// contains in `suppressed` how many were not reported since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// ucarp's "Bad digest": wrong password, vhid or virtual address somewhere.
    BadDigest {
        /// Who sent it.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// Two hosts advertise the same advbase and advskew; said once per peer, as far as its memory reaches.
    EqualSettings {
        /// The other one.
        source: IpAddr,
    },
    /// Our own advertisement came back (hairpin port, bond, mirror).
    OwnEcho {
        /// The address it carried as its source.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// We are MASTER and a worse MASTER advertised: the link healed, or someone preempts wrongly.
    WorseMasterAdvertised {
        /// The other one.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// advbase, advskew or demotion changed under one replay counter: advertisements are altered on their way.
    Tampered {
        /// The source it carried, which may be forged.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// Strict counters: an authentic advertisement did not rise above what was heard and sent before.
    StaleCounter {
        /// The source it carried, which may be forged.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// We took over although a host advertises, because counters that were heard before are no sign of life.
    Unproven {
        /// The source that they carried, which may be forged.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// A source claims to be the better MASTER, and did not answer several challenges: it is a recording, or a host that does
    /// not hear us.
    Unanswered {
        /// The source that it carried, which may be forged.
        source: IpAddr,
        /// How many were not reported since the last notice.
        suppressed: u64,
    },
    /// Send errors reached the limit: we advertise ourselves as worse until sending works again.
    Suppressed,
    /// Sending works again.
    Unsuppressed,
}

impl Settings {
    /// Whether the family has a virtual address.
    #[must_use]
    pub fn uses(&self, family: Family) -> bool {
        match family {
            Family::Inet => !self.addresses.inet().is_empty(),
            Family::Inet6 => !self.addresses.inet6().is_empty(),
        }
    }
}

/// The two families, in the order in which they are advertised.
pub const FAMILIES: [Family; 2] = [Family::Inet, Family::Inet6];
