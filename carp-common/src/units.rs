//! The protocol's quantities, each with a type, a unit and a range of its own.

use core::fmt;
use core::net::IpAddr;
use core::num::NonZeroU8;
use core::time::Duration;

/// One step of advskew: exactly 1/256 s.
pub const SKEW_STEP: Duration = Duration::from_nanos(SKEW_STEP_NANOS);
const SKEW_STEP_NANOS: u64 = 3_906_250;

/// Virtual host id. Range: 1..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vhid(NonZeroU8);

impl Vhid {
    /// Returns `None` for 0, which no implementation accepts.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        match NonZeroU8::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Returns the number on the wire.
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

impl AdvSkew {
    /// Returns the fraction as time. Unit: nanoseconds, exact. Range: 0 to 255 steps.
    #[must_use]
    pub fn duration(self) -> Duration {
        SKEW_STEP * u32::from(self.0)
    }
}

/// The interval of a host's advertisements, and therefore its rank: the smaller pair wins the election.
///
/// The order is (advbase, advskew). No other order is used anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority {
    /// Whole seconds.
    pub advbase: AdvBase,
    /// 256ths of a second.
    pub advskew: AdvSkew,
}

impl Priority {
    /// The priority that a leaving MASTER advertises, so that a BACKUP takes over without waiting.
    pub const BOW_OUT: Self = Self {
        advbase: AdvBase(255),
        advskew: AdvSkew(255),
    };

    /// Returns the time between two advertisements: advbase s + advskew/256 s, or 1/256 s if both are 0.
    ///
    /// Unit: nanoseconds, exact. Range: 3 906 250 ns to just under 256 s.
    /// Source: OpenBSD `ip_carp.c` r1.370, `carp_send_ad`.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.interval_nanos())
    }

    /// Returns the same as a number, for the kernel program, which has no room for the checks of [`Duration`].
    #[inline(always)]
    #[must_use]
    pub const fn interval_nanos(self) -> u64 {
        let (advbase, advskew) = (self.advbase.0 as u64, self.advskew.0 as u64);
        let steps = 256 * advbase + advskew;
        let steps = if steps == 0 { 1 } else { steps };
        steps * SKEW_STEP_NANOS
    }

    /// Returns the silence after which a backup takes over: deadratio × advbase s + advskew/256 s.
    ///
    /// With advbase 0 the factor applies to advskew instead, and at least to one step of it. With ucarp's formula the
    /// silence would be as long as the interval, and the state would flap.
    ///
    /// Unit: nanoseconds, exact. Range, at deadratio 3: 11.7 ms (both values 0) to 766 s.
    /// Source: OpenBSD `ip_carp.c` r1.370, `carp_setrun`, BACKUP case; ucarp 1.5.2 for deadratio and for advskew
    /// outside the factor.
    #[must_use]
    pub fn master_down_time(self, deadratio: DeadRatio) -> Duration {
        let factor = u32::from(deadratio.get());
        if self.advbase.0 == 0 {
            self.skew_or_one_step() * factor
        } else {
            seconds(self.advbase) * factor + self.advskew.duration()
        }
    }

    /// Returns advskew, or one step if the interval would be zero.
    fn skew_or_one_step(self) -> Duration {
        if self.advbase.0 == 0 && self.advskew.0 == 0 {
            SKEW_STEP
        } else {
            self.advskew.duration()
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.advbase.0, self.advskew.0)
    }
}

fn seconds(advbase: AdvBase) -> Duration {
    Duration::from_secs(u64::from(advbase.0))
}

/// The number of advbase seconds of silence after which a MASTER counts as dead. Range: 1..=255. The default is 3 in
/// every implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadRatio(NonZeroU8);

impl DeadRatio {
    /// Returns `None` for 0, with which a MASTER would be dead before it could advertise.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        match NonZeroU8::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Returns the factor.
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

/// A penalty that makes a host less eligible. It is the sum over named causes. Range: 0..=255, saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demotion(pub u8);

impl Demotion {
    /// No penalty.
    pub const NONE: Self = Self(0);

    /// Returns the sum of two penalties.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// The address family of an advertisement. Each family in use has its own master-down timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, 224.0.0.18.
    Inet,
    /// IPv6, ff02::12.
    Inet6,
}

impl Family {
    /// Returns the family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Inet,
            IpAddr::V6(_) => Self::Inet6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Inet6 => "inet6",
        })
    }
}

/// The state of a host in one election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// There is no link or no source address, or the host has not started.
    Init,
    /// The host listens, and takes over if the MASTER falls silent.
    Backup,
    /// The host answers for the virtual addresses and advertises.
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

/// The implementation that this host imitates on the wire and in the election. It accepts every form of digest with
/// every profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// ucarp 1.5.2, and carpd itself.
    #[default]
    Ucarp,
    /// FreeBSD, pfSense, OPNsense.
    FreeBsd,
    /// OpenBSD, which sends its demotion in byte 4.
    OpenBsd,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(advbase: u8, advskew: u8) -> Priority {
        Priority {
            advbase: AdvBase(advbase),
            advskew: AdvSkew(advskew),
        }
    }

    #[test]
    fn intervals_are_exact() {
        for (advbase, advskew, nanos) in [
            (0, 0, 3_906_250),
            (0, 1, 3_906_250),
            (0, 26, 101_562_500),
            (0, 255, 996_093_750),
            (1, 0, 1_000_000_000),
            (1, 1, 1_003_906_250),
            (1, 100, 1_390_625_000),
            (2, 255, 2_996_093_750),
            (255, 0, 255_000_000_000),
            (255, 255, 255_996_093_750),
        ] {
            assert_eq!(
                priority(advbase, advskew).interval().as_nanos(),
                nanos,
                "{advbase}/{advskew}"
            );
        }
    }

    #[test]
    fn master_down_times_are_exact() {
        for (advbase, advskew, deadratio, nanos) in [
            (0, 0, 3, 11_718_750),
            (0, 0, 1, 3_906_250),
            (0, 1, 3, 11_718_750),
            (0, 26, 3, 304_687_500),
            (0, 255, 3, 2_988_281_250),
            (1, 0, 3, 3_000_000_000),
            (1, 0, 1, 1_000_000_000),
            (1, 100, 3, 3_390_625_000),
            (1, 100, 1, 1_390_625_000),
            (255, 255, 3, 765_996_093_750),
            (255, 255, 255, 65_025_996_093_750),
        ] {
            let deadratio = DeadRatio::new(deadratio).unwrap();
            let down = priority(advbase, advskew).master_down_time(deadratio);
            assert_eq!(
                down.as_nanos(),
                nanos,
                "{advbase}/{advskew} at {deadratio:?}"
            );
        }
    }

    #[test]
    fn equal_settings_never_time_out_between_two_advertisements() {
        for advbase in 0..=255 {
            for advskew in 0..=255 {
                let priority = priority(advbase, advskew);
                assert!(
                    priority.master_down_time(DeadRatio::default()) >= priority.interval() * 2,
                    "{priority}"
                );
            }
        }
    }

    #[test]
    fn advbase_ranks_before_advskew() {
        let ascending = [
            priority(0, 0),
            priority(0, 255),
            priority(1, 0),
            priority(1, 1),
            priority(2, 0),
        ];
        assert!(ascending.is_sorted());
        assert!(
            ascending
                .iter()
                .all(|priority| *priority < Priority::BOW_OUT)
        );
    }

    #[test]
    fn zero_is_neither_a_vhid_nor_a_deadratio() {
        assert_eq!(Vhid::new(0), None);
        assert_eq!(DeadRatio::new(0), None);
        assert_eq!(DeadRatio::default().get(), 3);
    }

    #[test]
    fn demotions_add_up_to_255_at_most() {
        assert_eq!(Demotion(200).saturating_add(Demotion(50)), Demotion(250));
        assert_eq!(Demotion(200).saturating_add(Demotion(100)), Demotion(255));
    }
}
