//! Settings whose values are a fixed set of names.

use carp_common::units::Profile;

use super::{Datapath, Fence};

/// A setting whose values are a fixed set of names. The same names are used for reading and for display.
pub trait Named: Copy + 'static {
    /// Every value, in the order in which help lists them.
    const ALL: &'static [Self];

    /// Returns the name of this value.
    fn name(self) -> &'static str;

    /// Returns the value with this name.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.name() == name)
    }
}

impl Named for Datapath {
    const ALL: &'static [Self] = &[
        Self::Auto,
        Self::XdpNative,
        Self::XdpGeneric,
        Self::Tcx,
        Self::Socket,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Socket => "socket",
        }
    }
}

impl Named for Fence {
    const ALL: &'static [Self] = &[Self::Arp, Self::All, Self::Off];

    fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::All => "all",
            Self::Off => "off",
        }
    }
}

impl Named for Profile {
    const ALL: &'static [Self] = &[Self::Ucarp, Self::FreeBsd, Self::OpenBsd];

    fn name(self) -> &'static str {
        match self {
            Self::Ucarp => "ucarp",
            Self::FreeBsd => "freebsd",
            Self::OpenBsd => "openbsd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that every value is found by its name. This fails if one is missing in `ALL` or two have the same name.
    fn is_complete<T: Named + PartialEq>(next: fn(T) -> Option<T>) -> usize {
        let mut count = 0;
        let mut value = T::ALL.first().copied();
        while let Some(present) = value {
            assert!(T::named(present.name()) == Some(present));
            count += 1;
            value = next(present);
        }
        count
    }

    #[test]
    fn every_value_is_listed_and_found_by_its_name() {
        let datapaths = is_complete(|it| match it {
            Datapath::Auto => Some(Datapath::XdpNative),
            Datapath::XdpNative => Some(Datapath::XdpGeneric),
            Datapath::XdpGeneric => Some(Datapath::Tcx),
            Datapath::Tcx => Some(Datapath::Socket),
            Datapath::Socket => None,
        });
        let fences = is_complete(|it| match it {
            Fence::Arp => Some(Fence::All),
            Fence::All => Some(Fence::Off),
            Fence::Off => None,
        });
        let profiles = is_complete(|it| match it {
            Profile::Ucarp => Some(Profile::FreeBsd),
            Profile::FreeBsd => Some(Profile::OpenBsd),
            Profile::OpenBsd => None,
        });
        assert_eq!((datapaths, fences, profiles), (5, 3, 3));
        assert_eq!(Datapath::named("XDP-native"), None);
    }
}
