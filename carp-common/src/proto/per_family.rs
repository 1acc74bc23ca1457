//! A pair of values, one for each address family.

use core::ops::{Index, IndexMut};

use crate::units::Family;

/// A value for IPv4 and one for IPv6, indexed by [`Family`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// The value for IPv4.
    pub inet: T,
    /// The value for IPv6.
    pub inet6: T,
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;
    fn index(&self, family: Family) -> &T {
        match family {
            Family::Inet => &self.inet,
            Family::Inet6 => &self.inet6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Inet => &mut self.inet,
            Family::Inet6 => &mut self.inet6,
        }
    }
}
