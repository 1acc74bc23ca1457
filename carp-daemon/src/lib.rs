//! The daemon: it owns every file descriptor and carries out what `carp_common::proto` decides.
//!
//! | Module | What it is |
//! |---|---|
//! | [`api`] | what the daemon shows of itself: events and status, as values |
//! | [`cli`] | ucarp's options to raw words |
//! | [`config`] | raw words to a checked configuration, and what it takes to change one into another |
//! | [`engine`] | the event loop: input in, actions out, wait for the next deadline |
//! | [`serve`] | the engine's caller: opens the host, lets it have its turns, ends in an orderly way |
//! | [`host`] | `io` as the engine sees it |
//! | [`io`] | what touches the system: datapath, sockets, netlink, scripts, clocks |
//! | [`detach`] | `carpd --detach`: what a killed carpd left attached goes |
//! | [`lock`] | one process per interface and vhid |
//! | [`log`] | ucarp's log lines |
//! | [`privileges`] | what the process may do, and giving up the rest |
//! | [`daemonize`] | into the background, with the errors of the start reported by the parent |
//! | `sys` | the system calls that no crate wraps |
#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod config;
pub mod daemonize;
pub mod detach;
pub mod engine;
pub mod host;
pub mod io;
pub mod lock;
pub mod log;
pub mod privileges;
pub mod serve;
mod sys;
