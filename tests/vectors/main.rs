//! Digests, headers and packets that others made.
//!
//! `hmac.json`: digests and whole CARP headers of the three dialects, computed from the sources of ucarp 1.5.2,
//! FreeBSD 14 and OpenBSD (`ip_carp.c` r1.370) by a program that shares no code with carpd.
//!
//! `bsds.rs`: frames of FreeBSD and OpenBSD kernels beside carpd, as captured.
//!
//! `../captures/*.pcap`: what a ucarp 1.5.2 at 192.0.2.1 sent when it became MASTER, its gratuitous ARP included.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests read committed data; what they cannot read fails the test"
)]

mod bsds;
mod captures;
mod digests;
