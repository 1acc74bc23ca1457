//! Every setting with its name, and whether a running daemon can change it.

/// A setting of one virtual host, apart from its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Seconds of the advertisement interval.
    Advbase,
    /// Fraction of the advertisement interval.
    Advskew,
    /// Silence factor.
    Deadratio,
    /// Take over from a worse MASTER.
    Preempt,
    /// The implementation whose habits we follow.
    Profile,
    /// The virtual addresses, their order and their prefix lengths.
    Addresses,
    /// The password.
    Password,
    /// Accept only counters that rise.
    StrictCounter,
    /// No peer is an OpenBSD.
    NoOpenbsd,
    /// Pace of the announcements of a MASTER.
    AnnounceRefresh,
    /// Fixed source address.
    Source,
    /// Multicast group.
    Group,
    /// Ethernet broadcast instead of multicast.
    Broadcast,
    /// The interface's own MAC address instead of the virtual one.
    OwnMac,
    /// Carrier does not matter.
    IgnoreCarrier,
    /// The owner of the addresses: carpd or the scripts.
    Ownership,
    /// The script run on becoming MASTER.
    UpScript,
    /// The script run on becoming BACKUP.
    DownScript,
    /// Third argument of the scripts.
    Xparam,
    /// Time limit of the scripts.
    ScriptTimeout,
    /// Run the release at exit.
    ReleaseAtExit,
    /// No down script at start.
    Neutral,
}

impl Setting {
    /// Returns the name for messages: the option's, where there is one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Advbase => "advbase",
            Self::Advskew => "advskew",
            Self::Deadratio => "deadratio",
            Self::Preempt => "preempt",
            Self::Profile => "profile",
            Self::Addresses => "addresses",
            Self::Password => "password",
            Self::StrictCounter => "strict-counter",
            Self::NoOpenbsd => "no-openbsd",
            Self::AnnounceRefresh => "announce-refresh",
            Self::Source => "srcip",
            Self::Group => "mcast",
            Self::Broadcast => "nomcast",
            Self::OwnMac => "own-mac",
            Self::IgnoreCarrier => "ignoreifstate",
            Self::Ownership => "owner of the addresses",
            Self::UpScript => "upscript",
            Self::DownScript => "downscript",
            Self::Xparam => "xparam",
            Self::ScriptTimeout => "script-timeout",
            Self::ReleaseAtExit => "shutdown",
            Self::Neutral => "neutral",
        }
    }

    /// Returns why a change restarts the virtual host; `None` if it is changed in place.
    #[must_use]
    pub const fn restart_reason(self) -> Option<&'static str> {
        match self {
            Self::Profile => {
                Some("the profiles differ in digests, ties and demotion, so peers must elect again")
            }
            Self::Group => Some("the peers in the old group must hear that this host leaves it"),
            Self::Ownership => Some("the owner that added the addresses must also remove them"),
            Self::Advbase
            | Self::Advskew
            | Self::Deadratio
            | Self::Preempt
            | Self::Addresses
            | Self::Password
            | Self::StrictCounter
            | Self::NoOpenbsd
            | Self::AnnounceRefresh
            | Self::Source
            | Self::Broadcast
            | Self::OwnMac
            | Self::IgnoreCarrier
            | Self::UpScript
            | Self::DownScript
            | Self::Xparam
            | Self::ScriptTimeout
            | Self::ReleaseAtExit
            | Self::Neutral => None,
        }
    }
}

/// A setting of the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcessSetting {
    /// The way advertisements are received.
    Datapath,
    /// The packets that the kernel drops when the daemon of a MASTER is dead.
    Fence,
    /// Lifetime of the addresses.
    Lease,
    /// Wait for an absent interface.
    WaitInterface,
    /// Real-time scheduling.
    Realtime,
    /// The directory that keeps the counters of peers over a restart.
    StateDirectory,
    /// Detailed reports.
    Debug,
}

impl ProcessSetting {
    /// Returns the name for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Datapath => "datapath",
            Self::Fence => "fence",
            Self::Lease => "lease",
            Self::WaitInterface => "wait-interface",
            Self::Realtime => "realtime",
            Self::StateDirectory => "state-dir",
            Self::Debug => "debug",
        }
    }

    /// Returns why a change needs another process; `None` if it is changed in place.
    #[must_use]
    pub const fn restart_reason(self) -> Option<&'static str> {
        match self {
            Self::Datapath | Self::Fence => {
                Some("the kernel programs are chosen and configured when they are loaded")
            }
            Self::Realtime => Some("the capabilities for it are given up when the start is over"),
            Self::StateDirectory => Some("the directory is read at the start"),
            Self::Debug => Some("the log and the kernel programs are set up for it at the start"),
            Self::Lease | Self::WaitInterface => None,
        }
    }
}
