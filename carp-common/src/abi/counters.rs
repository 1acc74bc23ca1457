//! The list of outcomes of a frame of protocol 112, and of a frame that the fence covers.
//!
//! The kernel program and the socket path use the same counters. Only the kernel program uses those of admission
//! (authentication and the checks after it). A frame of protocol 112 raises exactly one of `passed-…`, `dropped-…`,
//! `delivered`, `suspects-delivered` and `datapath-events-lost`; `received-…` and `passed-vrrp-same-vhid` count in addition.
//! The names and the order of checks follow `netstat -s -p carp` of the BSDs.

use crate::drop_reason::DropReason;

/// Calls a macro with the list of counters.
///
/// An entry is `(variant, name, description)`, or `(variant, reason)` with a
/// [`DropReason`](crate::drop_reason::DropReason) that has the name. The entries are in groups:
///
/// - `received`: advertisements, before any check
/// - `dropped`: advertisements that end in the kernel, by reason
/// - `fenced`: other frames that end in the kernel
/// - `delivered`: advertisements that went to the daemon or were lost on the way
/// - `passed`: frames that are left to the stack
#[macro_export]
macro_rules! for_each_counter {
    ($callback:ident) => {
        $callback! {
            received {
                (ReceivedInetPackets, "received-inet-packets",
                    "IPv4 advertisements for a configured vhid and group, before any further check (ipackets)")
                (ReceivedInet6Packets, "received-inet6-packets",
                    "IPv6 advertisements for a configured vhid and group, before any further check (ipackets6)")
            }
            dropped {
                (DroppedWrongTtl, WrongTtl)
                (DroppedShortPacket, ShortPacket)
                (DroppedBadChecksum, BadChecksum)
                (DroppedBadVersion, BadVersion)
                (DroppedOwnSource, OwnSource)
                (DroppedBadAuthentication, BadAuthentication)
                (DroppedDuplicate, Duplicate)
                (DroppedRateLimited, RateLimited)
            }
            fenced {
                (DroppedFenced, "dropped-fenced",
                    "a question for an address that the host may no longer answer for, or something it would say in its name")
            }
            delivered {
                (SuspectsDelivered, "suspects-delivered",
                    "from our own address, or no accepted digest matches, but shown to the daemon to warn of it")
                (Delivered, "delivered",
                    "handed to the daemon; with the kernel program that means: authentic")
                (DatapathEventsLost, "datapath-events-lost",
                    "valid, but the buffer to the daemon was full")
            }
            passed {
                (PassedUnknownVhid, "passed-unknown-vhid",
                    "CARP, untagged, with a vhid that is not configured here")
                (PassedOtherVlan, "passed-other-vlan",
                    "CARP in a VLAN in which its vhid is not configured")
                (PassedOtherGroup, "passed-other-group",
                    "CARP with a configured vhid, sent to another multicast group or as a broadcast")
                (PassedUnicast, "passed-unicast",
                    "CARP with a configured vhid, sent to a single host, as a BSD does that was given a peer's address")
                (PassedVrrp, "passed-vrrp",
                    "VRRP, version 2 or 3")
                (PassedVrrpSameVhid, "passed-vrrp-same-vhid",
                    "VRRP with a VRID that equals a configured vhid of that link: both would use one virtual MAC")
                (PassedFragment, "passed-fragment",
                    "a fragment of protocol 112, which no advertisement is")
                (PassedMalformed, "passed-malformed",
                    "protocol 112, but neither CARP nor VRRP: other lengths, broken IP headers")
                (PassedLeftover, "passed-leftover",
                    "would have been dropped, but the daemon is silent for so long that the program may be a leftover")
            }
        }
    };
}

macro_rules! define {
    (
        received { $(($received:ident, $received_name:literal, $received_doc:literal))* }
        dropped { $(($dropped:ident, $reason:ident))* }
        $($group:ident { $(($variant:ident, $name:literal, $doc:literal))* })*
    ) => {
        /// A statistic of the receive path. There is one for each outcome of a frame.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter {
            $(
                #[doc = $received_doc]
                $received,
            )*
            $(
                #[doc = concat!("dropped for [`DropReason::", stringify!($reason), "`]")]
                $dropped,
            )*
            $($(
                #[doc = $doc]
                $variant,
            )*)*
        }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: [Self; [$($received_name,)* $(stringify!($dropped),)* $($($name,)*)*].len()] =
                [$(Self::$received,)* $(Self::$dropped,)* $($(Self::$variant,)*)*];

            /// Returns the name in logs and status output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$received => $received_name,)*
                    $(Self::$dropped => DropReason::$reason.name(),)*
                    $($(Self::$variant => $name,)*)*
                }
            }
        }
    };
}

for_each_counter!(define);

impl Counter {
    /// The number of counters.
    #[expect(clippy::cast_possible_truncation, reason = "a handful")]
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Returns the index into an array of counters.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_listed_in_index_order_under_distinct_names() {
        let mut names = std::collections::BTreeSet::new();
        for (index, counter) in Counter::ALL.iter().enumerate() {
            let name = counter.name();
            assert_eq!(usize::try_from(counter.index()), Ok(index), "{name}");
            assert!(names.insert(name), "{name} twice");
            assert!(
                name.bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            );
        }
    }

    #[test]
    fn each_is_named_after_its_group() {
        macro_rules! check {
            ($($group:ident { $(($variant:ident, $($rest:tt)*))* })*) => {$($(
                let group = stringify!($group);
                let counter = Counter::$variant;
                assert!(counter.name().contains(group) || counter == Counter::DatapathEventsLost);
            )*)*};
        }
        for_each_counter!(check);
    }
}
