//! One statistic per reason.

/// Declares the counters once: a field, its documentation, and its name in status output.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)+) => {
        /// The events of one virtual host since its start. Every field only grows.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl Counters {
            /// Every counter with its name in kebab case, in order of declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$(($name, self.$field)),+].into_iter()
            }
        }
    };
}

counters! {
    /// Advertisements handed to us in IPv4 (BSD: ipackets).
    received_inet_packets => "received-inet-packets",
    /// Advertisements handed to us in IPv6 (ipackets6).
    received_inet6_packets => "received-inet6-packets",
    /// Received in INIT, where no packet counts.
    dropped_not_running => "dropped-not-running",
    /// Shorter than 36 bytes (badlen).
    dropped_short_packet => "dropped-short-packet",
    /// Checksum does not match (badsum).
    dropped_bad_checksum => "dropped-bad-checksum",
    /// For another vhid, or for vhid 0 (badvhid).
    dropped_bad_vhid => "dropped-bad-vhid",
    /// Neither version 2 nor an advertisement (badver).
    dropped_bad_version => "dropped-bad-version",
    /// Authentication length other than 7: VRRP, perhaps.
    dropped_bad_auth_length => "dropped-bad-auth-length",
    /// Digest matches no accepted form (badauth).
    dropped_bad_authentication => "dropped-bad-authentication",
    /// Our own advertisement, reflected.
    dropped_own_echo => "dropped-own-echo",
    /// Strict counters: it did not rise.
    dropped_stale_counter => "dropped-stale-counter",
    /// The same advertisement again, much faster than it announces.
    dropped_duplicate => "dropped-duplicate",
    /// Priority changed under one counter: altered on its way.
    dropped_tampered => "dropped-tampered",
    /// Authentic, but its counter proves nothing: it was heard before.
    dropped_unproven => "dropped-unproven",
    /// Times a MASTER asked a host that claimed to be better for a sign of life.
    challenges => "challenges",
    /// Advertisements sent in IPv4 (opackets).
    sent_inet_packets => "sent-inet-packets",
    /// Advertisements sent in IPv6 (opackets6).
    sent_inet6_packets => "sent-inet6-packets",
    /// Not sent for lack of memory or queue space (onomem).
    send_failed_memory_error => "send-failed-memory-error",
    /// Not sent for another reason.
    send_failed => "send-failed",
    /// Times we became MASTER (preempt).
    transitions_to_master => "transitions-to-master",
    /// Times we stopped being MASTER.
    transitions_from_master => "transitions-from-master",
    /// Advertisements of another MASTER heard while we were MASTER.
    conflicting_masters => "conflicting-masters",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn names_are_the_fields_in_kebab_case() {
        let source = include_str!("counters.rs");
        for (name, value) in Counters::default().iter() {
            let field: String = name.replace('-', "_");
            assert!(
                source.contains(&std::format!("    {field} => \"{name}\",")),
                "{name}"
            );
            assert_eq!(value, 0);
        }
    }

    #[test]
    fn each_name_shows_its_own_field() {
        let counters = Counters {
            dropped_duplicate: 3,
            conflicting_masters: 5,
            ..Counters::default()
        };
        let shown: std::vec::Vec<_> = counters.iter().filter(|(_, value)| *value != 0).collect();
        assert_eq!(
            shown,
            [("dropped-duplicate", 3), ("conflicting-masters", 5)]
        );
    }
}
