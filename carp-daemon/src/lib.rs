//! The daemon. It owns every file descriptor, and carries out what `carp_common::proto` decides.
//!
//! | Module | What it does |
//! |---|---|
//! | [`api`] | represents events and status as plain values |
//! | [`cli`] | turns ucarp's options into raw words |
//! | [`config`] | checks raw words, and plans the change from one configuration to another |
//! | [`engine`] | runs the event loop: feeds inputs, carries out actions, waits for the next deadline |
//! | [`serve`] | opens the host, gives the engine its turns, and ends in an orderly way |
//! | [`host`] | implements the engine's effects with `io` |
//! | [`io`] | touches the system: datapath, sockets, netlink, scripts, clocks |
//! | [`detach`] | implements `carpd --detach`, which removes what a killed carpd left attached |
//! | [`lock`] | admits one process per interface and vhid |
//! | [`log`] | writes ucarp's log lines |
//! | [`privileges`] | gives up privileges that serving does not require |
//! | [`daemonize`] | puts carpd into the background; the parent reports errors of the start |
//! | `sys` | wraps the system calls that no crate wraps |
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
