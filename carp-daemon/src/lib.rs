//! The daemon.

pub mod config;
pub mod daemonize;
pub mod lock;
pub mod log;
mod sys;
