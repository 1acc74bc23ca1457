//! The reasons why an advertisement is dropped.
//!
//! The kernel program, the socket path and the protocol core check different things, but a reason has one name, whoever finds
//! it. Counters and log lines take the names from here.

/// Declares the reasons.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// Why an advertisement is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order in which they are shown.
            pub const ALL: [Self; [$($name,)+].len()] = [$(Self::$variant,)+];

            /// Returns the name of the counter of the dropped advertisements, in logs and status output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// The virtual host is in INIT, where no advertisement counts.
    NotRunning => "dropped-not-running",
    /// The TTL or hop limit is not 255, so it was routed from another link (BSD: badttl).
    WrongTtl => "dropped-wrong-ttl",
    /// The frame ends before the IP header says it does, or there are fewer than 36 bytes (badlen).
    ShortPacket => "dropped-short-packet",
    /// The checksum over the 36 bytes is wrong (badsum).
    BadChecksum => "dropped-bad-checksum",
    /// The vhid is that of another virtual host, or 0, which no host can have (badvhid).
    BadVhid => "dropped-bad-vhid",
    /// The version is not 2, or the type is not advertisement (badver).
    BadVersion => "dropped-bad-version",
    /// The authentication length is not 7 words. This may be a VRRP packet.
    BadAuthLength => "dropped-bad-auth-length",
    /// The source is the address that this host sends from: its own advertisement came back, or somebody replays it.
    OwnSource => "dropped-own-source",
    /// The digest matches no accepted form (badauth).
    BadAuthentication => "dropped-bad-authentication",
    /// It is our own, reflected. Unlike with `OwnSource`, it was authenticated before.
    OwnEcho => "dropped-own-echo",
    /// Counters are strict, and this one did not rise.
    StaleCounter => "dropped-stale-counter",
    /// It is authentic, but the same as one before, within a quarter of the interval that it advertises.
    Duplicate => "dropped-duplicate",
    /// It is authentic and no duplicate, but there are more than anybody sends: replays of captured advertisements.
    RateLimited => "dropped-rate-limited",
    /// The priority differs from that of an earlier one with this counter: one of them was altered on its way.
    Tampered => "dropped-tampered",
    /// It is authentic, but its counter proves nothing: it was heard before.
    Unproven => "dropped-unproven",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_order_under_distinct_names() {
        let mut names = std::collections::BTreeSet::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let name = reason.name();
            assert!(names.insert(name), "{name} twice");
            let rest = name.strip_prefix("dropped-").unwrap();
            assert!(rest.bytes().all(|it| it.is_ascii_lowercase() || it == b'-'));
        }
    }
}
