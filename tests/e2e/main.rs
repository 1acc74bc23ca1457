//! carpd on real packets, between network namespaces. Needs root; see [`carp_tests::lab!`].
//!
//! `CARP_TEST_DATAPATH` chooses how carpd receives (`xdp-native` if it is not set). Where possible, a test checks its
//! claim on the wire and from a client, not in carpd's log.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests wait for what real time brings"
)]

mod addresses;
mod announcements;
mod arp;
mod attachment;
mod attacks;
mod bsd;
mod demo;
mod election;
mod faults;
mod fence;
mod floods;
mod footprint;
mod groups;
mod health;
mod hostile;
mod interop;
mod keepalived;
mod lab;
mod locks;
mod logs;
mod memory;
mod mistakes;
mod options;
mod own_mac;
mod ports;
mod privileges;
mod rungs;
mod scripts;
mod shared_link;
mod signals;
mod startup;
mod support;
mod syslog;
mod takeover;
mod ties;
mod vhosts;
