//! One statistic per reason.

use crate::drop_reason::DropReason;

/// The number of reasons why an advertisement is dropped.
const REASONS: usize = DropReason::ALL.len();

/// Declares the counters once: a field, its documentation, and its name in status output. Those of the dropped
/// advertisements stand between the received and all others.
macro_rules! counters {
    (
        { $($(#[$received_doc:meta])* $received:ident => $received_name:literal,)+ }
        { $($(#[$doc:meta])* $field:ident => $name:literal,)+ }
    ) => {
        /// The events of one virtual host since its start. Every field only grows.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$received_doc])* pub $received: u64,)+
            /// Advertisements that were dropped, in the order of [`DropReason::ALL`].
            pub dropped: [u64; REASONS],
            $($(#[$doc])* pub $field: u64,)+
        }

        impl Counters {
            /// Every counter with its name in kebab case. The core never has some of the reasons for dropping, whose
            /// counters stay 0.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                let received = [$(($received_name, self.$received)),+];
                let dropped = self.dropped;
                let dropped = DropReason::ALL.into_iter().map(DropReason::name).zip(dropped);
                received.into_iter().chain(dropped).chain([$(($name, self.$field)),+])
            }
        }
    };
}

impl Counters {
    /// Returns how many advertisements were dropped for a reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Counts an advertisement that is dropped.
    pub const fn drop_for(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

counters! {
    {
        /// Advertisements handed to us in IPv4 (BSD: ipackets).
        received_inet_packets => "received-inet-packets",
        /// Advertisements handed to us in IPv6 (ipackets6).
        received_inet6_packets => "received-inet6-packets",
    }
    {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn names_are_the_fields_in_kebab_case() {
        let source = include_str!("counters.rs");
        let dropped = DropReason::ALL.map(DropReason::name);
        for (name, value) in Counters::default().iter() {
            let field: String = name.replace('-', "_");
            assert!(
                source.contains(&std::format!("    {field} => \"{name}\","))
                    ^ dropped.contains(&name),
                "{name}"
            );
            assert_eq!(value, 0);
        }
    }

    #[test]
    fn each_name_shows_its_own_field() {
        let mut counters = Counters {
            conflicting_masters: 5,
            ..Counters::default()
        };
        for _ in 0..3 {
            counters.drop_for(DropReason::Duplicate);
        }
        assert_eq!(counters.dropped(DropReason::Duplicate), 3);
        let shown: std::vec::Vec<_> = counters.iter().filter(|(_, value)| *value != 0).collect();
        assert_eq!(
            shown,
            [("dropped-duplicate", 3), ("conflicting-masters", 5)]
        );
    }
}
