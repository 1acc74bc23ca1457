//! Named causes of demotion and their sum.

use crate::units::{AdvSkew, Demotion, Profile};

/// The reason why a host is less eligible than it was configured to be. Each cause is counted apart and can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DemotionCause {
    /// A tracked interface lost its link.
    Link,
    /// A script requested it.
    Script,
    /// Our advertisements do not leave.
    SendErrors,
    /// Someone keeps removing our virtual addresses.
    LostAddresses,
    /// The operator requested it.
    Administrator,
}

impl DemotionCause {
    /// Every cause, in order of declaration.
    pub const ALL: [Self; 5] = [
        Self::Link,
        Self::Script,
        Self::SendErrors,
        Self::LostAddresses,
        Self::Administrator,
    ];

    /// Name in status output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Script => "script",
            Self::SendErrors => "send-errors",
            Self::LostAddresses => "lost-addresses",
            Self::Administrator => "administrator",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// The amount that each cause adds at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demotions([Demotion; DemotionCause::ALL.len()]);

impl Demotions {
    /// Replaces the amount of one cause; [`Demotion::NONE`] undoes it.
    pub fn set(&mut self, cause: DemotionCause, amount: Demotion) {
        self.0[cause.index()] = amount;
    }

    /// The amount of one cause.
    #[must_use]
    pub fn get(&self, cause: DemotionCause) -> Demotion {
        self.0[cause.index()]
    }

    /// The sum over all causes, 255 at most.
    #[must_use]
    pub fn sum(&self) -> Demotion {
        self.0
            .iter()
            .copied()
            .fold(Demotion::NONE, Demotion::saturating_add)
    }

    /// Every cause with its amount.
    pub fn iter(&self) -> impl Iterator<Item = (DemotionCause, Demotion)> + use<> {
        let amounts = *self;
        DemotionCause::ALL
            .into_iter()
            .map(move |cause| (cause, amounts.get(cause)))
    }
}

/// Worst advskew that demotion leads to, so that a demoted host still ranks before a bow-out.
/// Source: FreeBSD `ip_carp.c`, `CARP_MAXSKEW`.
pub const DEMOTED_ADVSKEW_MAX: AdvSkew = AdvSkew(240);

/// The advskew to advertise: demotion adds to it up to [`DEMOTED_ADVSKEW_MAX`], and never improves a worse one.
/// OpenBSD does not change the advskew, because it sends the demotion in a separate byte.
#[must_use]
pub fn advertised_advskew(configured: AdvSkew, demotion: Demotion, profile: Profile) -> AdvSkew {
    match profile {
        Profile::OpenBsd => configured,
        Profile::Ucarp | Profile::FreeBsd => {
            let demoted = AdvSkew(configured.0.saturating_add(demotion.0)).min(DEMOTED_ADVSKEW_MAX);
            demoted.max(configured)
        }
    }
}

/// Byte 4 of the advertisement: OpenBSD's demotion, zero from everyone else.
#[must_use]
pub fn advertised_demotion(demotion: Demotion, profile: Profile) -> Demotion {
    match profile {
        Profile::OpenBsd => demotion,
        Profile::Ucarp | Profile::FreeBsd => Demotion::NONE,
    }
}

/// The demotion of a host that cannot send: enough to be the worst for FreeBSD and ucarp, and 1 for OpenBSD.
/// Source: FreeBSD `net.inet.carp.senderr_demotion_factor`; OpenBSD `ip_carp.c` r1.370, `carp_send_ad`.
#[must_use]
pub fn send_error_demotion(profile: Profile) -> Demotion {
    match profile {
        Profile::OpenBsd => Demotion(1),
        Profile::Ucarp | Profile::FreeBsd => Demotion(DEMOTED_ADVSKEW_MAX.0),
    }
}

/// The demotion of a host that cannot keep its virtual addresses. It serves as little as a host that cannot send.
#[must_use]
pub fn lost_addresses_demotion(profile: Profile) -> Demotion {
    send_error_demotion(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_kept_apart_and_undone_one_by_one() {
        let mut demotions = Demotions::default();
        demotions.set(DemotionCause::Link, Demotion(10));
        demotions.set(DemotionCause::Administrator, Demotion(100));
        demotions.set(DemotionCause::Link, Demotion(20));
        assert_eq!(demotions.sum(), Demotion(120));
        demotions.set(DemotionCause::Administrator, Demotion::NONE);
        assert_eq!(demotions.sum(), Demotion(20));
        assert_eq!(
            demotions
                .iter()
                .map(|(cause, amount)| (cause.name(), amount.0))
                .collect::<std::vec::Vec<_>>(),
            [
                ("link", 20),
                ("script", 0),
                ("send-errors", 0),
                ("lost-addresses", 0),
                ("administrator", 0)
            ]
        );
    }

    #[test]
    fn the_sum_stops_at_255() {
        let mut demotions = Demotions::default();
        for cause in DemotionCause::ALL {
            demotions.set(cause, Demotion(100));
        }
        assert_eq!(demotions.sum(), Demotion(255));
    }

    #[test]
    fn demotion_worsens_advskew_up_to_240_but_never_improves_it() {
        for (configured, demotion, ucarp_and_freebsd) in [
            (0, 0, 0),
            (0, 10, 10),
            (100, 50, 150),
            (100, 200, 240),
            (240, 1, 240),
            (254, 0, 254),
            (254, 9, 254),
        ] {
            for (profile, expected) in [
                (Profile::Ucarp, ucarp_and_freebsd),
                (Profile::FreeBsd, ucarp_and_freebsd),
                (Profile::OpenBsd, configured),
            ] {
                let advertised =
                    advertised_advskew(AdvSkew(configured), Demotion(demotion), profile);
                assert_eq!(
                    advertised,
                    AdvSkew(expected),
                    "{configured} + {demotion}, {profile:?}"
                );
            }
        }
    }

    #[test]
    fn only_openbsd_puts_demotion_into_byte_4() {
        assert_eq!(
            advertised_demotion(Demotion(7), Profile::Ucarp),
            Demotion(0)
        );
        assert_eq!(
            advertised_demotion(Demotion(7), Profile::FreeBsd),
            Demotion(0)
        );
        assert_eq!(
            advertised_demotion(Demotion(7), Profile::OpenBsd),
            Demotion(7)
        );
    }

    #[test]
    fn send_errors_demote_by_the_profile() {
        assert_eq!(send_error_demotion(Profile::Ucarp), Demotion(240));
        assert_eq!(send_error_demotion(Profile::FreeBsd), Demotion(240));
        assert_eq!(send_error_demotion(Profile::OpenBsd), Demotion(1));
    }
}
