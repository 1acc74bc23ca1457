//! What the kernel side, the daemon, the simulator and the tests of carpd share.
//!
//! | Module | What it is | Feature |
//! |---|---|---|
//! | [`units`] | vhid, advbase, advskew, demotion, address family | |
//! | [`time`] | monotonic nanoseconds, the kernel helper's clock | |
//! | [`wire`] | CARP, Ethernet, IP, ARP: bytes to values and back | |
//! | [`classify`] | a frame to a verdict, written once for XDP, the socket path and host tests | |
//! | [`guard`] | which advertisements the kernel side lets the daemon hear |
//! | [`sha1`] | HMAC-SHA1 in the form that a kernel program can finish | |
//! | [`shared`] | keys, values and events that pass through eBPF maps | `user` adds `aya::Pod` |
//! | [`proto`] | the protocol core: decides, never acts | `proto` |
//!
//! The crate is `no_std`: the compiler refuses a socket or a clock here.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "proto")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod classify;
pub mod guard;
#[cfg(feature = "proto")]
pub mod proto;
pub mod sha1;
pub mod shared;
pub mod time;
pub mod units;
pub mod wire;
