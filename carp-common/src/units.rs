//! The protocol's quantities, each with its own type, unit and range.

use core::fmt;
use core::num::NonZeroU8;
use core::time::Duration;

/// One step of advskew: exactly 1/256 s.
pub const SKEW_STEP: Duration = Duration::from_nanos(3_906_250);

/// Virtual host id. Range: 1..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vhid(NonZeroU8);

impl Vhid {
    /// `None` for 0, which no implementation accepts.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        match NonZeroU8::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Vhid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whole seconds of the advertisement interval. Unit: s. Range: 0..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvBase(pub u8);

/// Fraction of the advertisement interval, and so the rank among equals: lower is better.
/// Unit: 1/256 s. Range: 0..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvSkew(pub u8);

/// How many advbase seconds of silence make a MASTER dead. Range: 1..=255; 3 everywhere by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadRatio(NonZeroU8);

impl DeadRatio {
    /// `None` for 0: a MASTER would be dead before it could speak.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        match NonZeroU8::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The factor.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl Default for DeadRatio {
    fn default() -> Self {
        Self(NonZeroU8::MIN.saturating_add(2))
    }
}

/// Penalty that makes a host less eligible: the sum over named causes. Range: 0..=255, saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demotion(pub u8);

/// Address family of an advertisement. Each family in use has its own master-down timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, 224.0.0.18.
    Inet,
    /// IPv6, ff02::12.
    Inet6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Inet6 => "inet6",
        })
    }
}

/// A host's part in one election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// No link, no source address, or not started.
    Init,
    /// Listening; takes over when the MASTER falls silent.
    Backup,
    /// Answers for the virtual addresses and advertises.
    Master,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "INIT",
            Self::Backup => "BACKUP",
            Self::Master => "MASTER",
        })
    }
}

/// Which implementation's habits we follow on the wire and in the election; every digest form is accepted
/// whatever the profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// ucarp 1.5.2, and carpd itself.
    #[default]
    Ucarp,
    /// FreeBSD, pfSense, OPNsense.
    FreeBsd,
    /// OpenBSD: demotion travels in byte 4.
    OpenBsd,
}
