//! Everything that the kernel program, the daemon, the simulator and the tests of carpd share.
//!
//! | Module | What it contains | Feature |
//! |---|---|---|
//! | [`units`] | vhid, advbase, advskew, demotion, address family | |
//! | [`time`] | monotonic nanoseconds, on the clock of the kernel helper | |
//! | [`drop_reason`] | why an advertisement is dropped, under one name for everybody | |
//! | [`wire`] | CARP, Ethernet, IP, ARP: bytes to values and back | |
//! | [`digest`] | HMAC-SHA1, prepared so that only the counter is missing | |
//! | [`abi`] | the interface of kernel program and daemon: maps, counters, the classifier | `user` adds `aya::Pod` |
//! | [`proto`] | the protocol core, which decides and never acts | `proto` |
//!
//! The crate is `no_std`, so that the compiler refuses sockets and clocks here.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "proto")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod digest;
pub mod drop_reason;
#[cfg(feature = "proto")]
pub mod proto;
pub mod time;
pub mod units;
pub mod wire;
