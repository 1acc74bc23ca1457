//! Tests with digests, headers and packets that other implementations made.
//!
//! `hmac.json` contains digests and whole CARP headers of the three dialects. A program that shares no code with
//! carpd computed them from the sources of ucarp 1.5.2, FreeBSD 14 and OpenBSD (`ip_carp.c` r1.370).
//!
//! `bsds.rs` contains captured frames of FreeBSD and OpenBSD kernels on a link with carpd.
//!
//! `../captures/*.pcap` contain what a ucarp 1.5.2 at 192.0.2.1 sent when it became MASTER, including its gratuitous
//! ARP.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests read committed data; what they cannot read fails the test"
)]

mod bsds;
mod captures;
mod digests;
