//! The protocol core, which decides and never acts.
//!
//! One [`VirtualHost`] is one election: one vhid on one interface. It has no socket, no clock and no thread; time and
//! randomness are arguments, so the daemon, the simulator and the fuzzers run the same code.
//!
//! | Module | What it is |
//! |---|---|
//! | [`vhost`] | states, transitions, deadlines |
//! | [`drive`] | the loop that feeds a virtual host and carries out its actions |
//! | [`election`] | pure comparison of two advertisers |
//! | [`auth`] | HMAC-SHA1 over vhid, addresses and counter |
//! | [`key`] | the password, padded and wiped, and its fingerprint |
//! | [`addresses`] | the virtual addresses in the order of the digest |
//! | [`evidence`] | the value of an authentic advertisement as evidence |
//! | [`patience`] | the time at which silence counts |
//! | [`heard`] | the counters that were received |
//! | [`sequence`] | the counters that we send |
//! | [`demotion`] | named causes and their sum |
//! | [`probation`] | the end of a demotion after a time without failures |
//! | [`counters`] | a statistic for each reason |
//! | [`outlook`] | the next decision of a virtual host |
//! | [`conflict`] | other hosts that claim the addresses |
//! | [`tenure`] | deadlines of a MASTER and of its process |
//! | [`per_family`] | a value for each address family |
//! | [`rate_limit`] | the first message at once, then a few |
//! | `memory` | received and sent counters as bytes |
//! | `peer` | one source and its evidence |
//! | `proof` | the kinds of evidence |
//! | `better`, `doubt`, `queue`, `send_errors` | parts of the state machine |

pub mod addresses;
pub mod auth;
mod better;
pub mod conflict;
pub mod counters;
pub mod demotion;
mod doubt;
pub mod drive;
pub mod election;
pub mod evidence;
pub mod heard;
pub mod key;
mod memory;
pub mod outlook;
pub mod patience;
mod peer;
pub mod per_family;
pub mod probation;
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
    /// The whole seconds of our advertisement interval.
    pub advbase: AdvBase,
    /// The fraction of a second in our advertisement interval.
    pub advskew: AdvSkew,
    /// The multiple of advbase in the master-down time.
    pub deadratio: DeadRatio,
    /// Whether to take over from a worse MASTER that still advertises.
    pub preempt: bool,
    /// The implementation that this host imitates.
    pub profile: Profile,
    /// The virtual addresses, part of every digest. A family is in use when it has an address here.
    pub addresses: AddressSet,
    /// The padded password.
    pub key: Key,
    /// Whether all peers are carpd, so that a counter that does not rise is rejected.
    pub strict_counter: bool,
    /// Whether no peer is an OpenBSD, whose counter never changes. A counter that was heard before then proves nothing.
    pub no_openbsd: bool,
    /// Time between two announcements of a MASTER after those of its takeover; `None` for no more announcements.
    pub announce_refresh: Option<crate::time::Duration>,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A CARP payload for this vhid and group arrived. It is not authenticated yet.
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
    /// The source address of our advertisements changed. A host stays in INIT while no family that it uses has a source
    /// address.
    SourceChanged {
        /// Family of the address.
        family: Family,
        /// An address of that family; `None` if the interface has none.
        source: Option<IpAddr>,
    },
    /// The interface has another Ethernet address, which the clients and switches of a MASTER must learn.
    StationChanged,
    /// One cause of demotion changed to this amount; zero undoes it.
    DemotionChanged {
        /// The cause.
        cause: DemotionCause,
        /// The amount that it adds now.
        amount: Demotion,
    },
    /// The outcome of an [`Action::SendAdvertisement`]. Three failures in a row demote, and as many successes undo that.
    SendCompleted {
        /// Family of the advertisement.
        family: Family,
        /// The outcome.
        outcome: SendOutcome,
    },
    /// The kernel side refused an [`Action::ProgramDatapath`], or accepts them again, or lost its settings. The host would hear
    /// nothing, so it is in INIT until the kernel side works again.
    DatapathChanged(DatapathState),
    /// An [`Action::ClaimAddresses`] was carried out: the up script ended, or the address was added. The host announces again.
    ClaimCompleted,
    /// Advertisements arrived but were lost, because the process was stopped for so long that their buffer overflowed. Silence
    /// then proves nothing, and a BACKUP listens for a whole master-down time again.
    AdvertisementsLost,
    /// An operator's command.
    Command(Command),
    /// The process stops. A MASTER bows out and releases the addresses. The host is in INIT from then on.
    Shutdown,
}

/// The sender of an advertisement and its time of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// IP source address.
    pub source: IpAddr,
    /// Ethernet source address. Virtual MAC addresses distinguish ucarp (00:00:5e:00:00:vhid) from the BSDs (…:01:vhid).
    pub ethernet_source: [u8; 6],
    /// Time at which the kernel received it, which may be long before the core gets it.
    pub arrival: Instant,
}

/// The state of a link: its carrier and its administrative state together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The link can carry frames.
    Up,
    /// The link cannot carry frames.
    Down,
}

/// The ability of the kernel side to carry out an [`Action::ProgramDatapath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathState {
    /// The kernel side works.
    Works,
    /// The kernel side refuses, or does not work any more.
    Refuses,
}

/// The result of sending one advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The advertisement was handed to the device.
    Sent,
    /// There was no memory or no room in the queue (ENOBUFS, ENOMEM).
    NoMemory,
    /// It failed for another reason (ENETDOWN, EPERM, …).
    Failed,
}

/// Time for which an operator keeps a host away, as in ucarp.
pub const STEP_DOWN_HOLD: crate::time::Duration = crate::time::Duration::from_secs(3);

/// An operator's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Become BACKUP, after a bow-out if MASTER, and do not take over for `hold`. Then listen for a full master-down time. The
    /// daemon does this on SIGUSR2.
    StepDown {
        /// Time without a takeover: [`STEP_DOWN_HOLD`].
        hold: core::time::Duration,
    },
}

/// Something to do, in the order in which it is polled.
///
/// A transition begins with [`Action::Report`], so that a log has the cause before its effects, and
/// [`Action::ProgramDatapath`], so that a host that leaves MASTER is silent before another host learns that it may take over.
/// The rest depends on the transition:
///
/// - A new MASTER claims the addresses, advertises and announces.
/// - A MASTER that yields releases the addresses, and then sends its last advertisement.
/// - A MASTER that stops or steps down bows out first, so that its successor need not wait, and then releases the
///   addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Write the state and its deadlines to the kernel side. This comes with each transition and when a deadline moves. Report
    /// back with [`Input::DatapathChanged`] if the kernel side refuses, and when it accepts again.
    ProgramDatapath(Standing),
    /// Send one advertisement, and report back with [`Input::SendCompleted`].
    SendAdvertisement {
        /// Family of the packet.
        family: Family,
        /// The complete CARP header.
        payload: [u8; HEADER_LEN],
    },
    /// Add the virtual addresses or run the up script, and report back with [`Input::ClaimCompleted`].
    ClaimAddresses,
    /// Remove the virtual addresses, or run the down script.
    ReleaseAddresses,
    /// Send gratuitous ARP or unsolicited neighbour advertisements for every virtual address of the family.
    Announce(Family),
    /// Report a change of state.
    Report(Transition),
    /// Report a notice, whose rate is limited already.
    Notify(Notice),
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before it.
    pub from: State,
    /// The state after it.
    pub to: State,
    /// The reason for it.
    pub reason: Reason,
}

/// The reason for a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The link is up and has a source address, so the host starts to listen.
    Started,
    /// The MASTER was silent for the master-down time.
    MasterTimedOut,
    /// This host preempts, and the MASTER advertised a worse priority than ours.
    PreemptingWorseMaster,
    /// The MASTER advertised a higher demotion than ours (OpenBSD profile).
    PreemptingMoreDemotedMaster,
    /// The MASTER advertised such a long interval that it would time out: it bowed out, or is badly configured.
    MasterWillTimeOut,
    /// A better host advertised.
    BetterMasterAdvertised,
    /// A host with the same priority advertised and won the tie.
    TieLost,
    /// An operator requested it.
    Requested,
    /// The interface has no carrier, is down or was removed.
    LinkDown,
    /// The kernel side delivers no advertisements.
    DatapathRefused,
    /// The interface lost its last usable source address.
    NoSourceAddress,
    /// The process stops in order.
    Shutdown,
}

/// An event other than a state change that an operator should know about.
///
/// The core limits the rate of each kind. It reports the first one at once, and then at most one per
/// [`vhost::NOTICE_INTERVAL`]. `suppressed` is the number of those that were not reported since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A digest did not match (ucarp's "Bad digest"): a host has another password, vhid or virtual address.
    BadDigest {
        /// The source of the advertisement.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// Another host advertises the same advbase and advskew. It is reported once per peer while the peer is remembered.
    EqualSettings {
        /// The source address of the other host.
        source: IpAddr,
    },
    /// Our own advertisement came back, through a hairpin port, a bond or a mirror.
    OwnEcho {
        /// The source address in it.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// A worse MASTER advertised while we are MASTER: the link healed, or a host preempts wrongly.
    WorseMasterAdvertised {
        /// The source address of the other host.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// advbase, advskew or demotion changed under one replay counter, so advertisements are altered on their way.
    Tampered {
        /// The source address in it, which may be forged.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// With strict counters, the counter of an authentic advertisement was not above all counters heard and sent before.
    StaleCounter {
        /// The source address in it, which may be forged.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// We took over although a host advertises, because counters that were heard before are no sign of life.
    Unproven {
        /// The source address in them, which may be forged.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// A source that claims to be the better MASTER did not answer several challenges. It is a recording, or a host that does
    /// not hear us.
    Unanswered {
        /// The source address in it, which may be forged.
        source: IpAddr,
        /// Number of notices of this kind that were not reported since the last one.
        suppressed: u64,
    },
    /// Send errors reached the limit, so we advertise a worse priority until sending works again.
    Suppressed,
    /// Sending works again.
    Unsuppressed,
}

impl Settings {
    /// Returns whether the family has a virtual address.
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
