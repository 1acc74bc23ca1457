//! What the kernel side, the daemon, the simulator and the tests of carpd share.
//!
//! | Module | What it is | Feature |
//! |---|---|---|
//! | [`units`] | vhid, advbase, advskew, demotion, address family | |
//! | [`time`] | monotonic nanoseconds, the kernel helper's clock | |
//! | [`wire`] | CARP, Ethernet, IP, ARP: bytes to values and back | |
//! | [`digest`] | HMAC-SHA1 prepared so that a counter finishes it | |
//! | [`abi`] | what kernel program and daemon share: maps, counters, the classifier | `user` adds `aya::Pod` |
//! | [`proto`] | the protocol core: decides, never acts | `proto` |
//!
//! The crate is `no_std`: the compiler refuses a socket or a clock here.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "proto")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod digest;
#[cfg(feature = "proto")]
pub mod proto;
pub mod time;
pub mod units;
pub mod wire;
