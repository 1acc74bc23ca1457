//! Types and rules that the kernel program and the daemon share.
//!
//! | Module | What it is |
//! |---|---|
//! | [`layout`] | keys and values of eBPF maps, and the maps' names |
//! | [`event`] | the record of an advertisement, as it goes through the ring buffers |
//! | [`counters`] | the list of outcomes of an advertisement |
//! | [`classify`] | from a frame to a verdict: the same code for XDP, tcx, the socket path and host tests |
//! | [`admission`] | which advertisements the kernel side lets the daemon hear |
//! | [`hmac`] | the digests that a virtual host accepts, in the form that the kernel program checks |
//!
//! A module uses only those after it in this order: `classify`, `event`, `layout`, `admission`, `hmac`, `counters`. They
//! do not depend on the protocol core, nor does the core depend on them. The daemon converts between the two.

pub mod admission;
pub mod classify;
pub mod counters;
pub mod event;
pub mod hmac;
pub mod layout;
