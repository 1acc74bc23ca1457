//! What the kernel program and the daemon share.
//!
//! | Module | What it is |
//! |---|---|
//! | [`layout`] | keys and values of eBPF maps, and the maps' names |
//! | [`event`] | the record of an advertisement, as it goes through the ring buffers |
//! | [`counters`] | the one list of what can become of an advertisement |
//! | [`classify`] | a frame to a verdict, written once for XDP, tcx, the socket path and host tests |
//! | [`admission`] | which advertisements the kernel side lets the daemon hear |
//! | [`hmac`] | the digests that a virtual host accepts, as the kernel program checks them |
//!
//! Each uses only what stands below it in the order `classify`, `event`, `layout`, `admission`, `hmac` and `counters`. The protocol
//! core knows none of them, and they do not know the core: the daemon hands over what either needs.

pub mod admission;
pub mod classify;
pub mod counters;
pub mod event;
pub mod hmac;
pub mod layout;
