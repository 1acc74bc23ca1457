//! Texts of events about the process and what it depends on.

use std::fmt::{Formatter, Result};

use super::Lead;
use crate::api::event::Place;
use crate::api::event::process::{
    Memory, Netlink, NetlinkRequest, Process, Refusal, Run, Script, Stall,
};

pub(super) fn netlink(f: &mut Formatter<'_>, it: &Netlink) -> Result {
    match it {
        Netlink::Failed { request, error } => {
            let action = match request {
                NetlinkRequest::Watch => "watch",
                NetlinkRequest::List => "list",
            };
            write!(
                f,
                "failed to {action} links and addresses: {error}: going on with what was known, trying again"
            )
        }
        Netlink::Overrun => {
            f.write_str("netlink notifications were lost: listing links and addresses again")
        }
        Netlink::Unfinished { waited, addresses } => {
            write!(
                f,
                "the kernel has not carried out every change of addresses within {} s, stopping without it: these may stay:",
                waited.as_secs()
            )?;
            addresses.iter().try_for_each(|it| write!(f, " {it}"))
        }
    }
}

/// The lines about starting a script have ucarp's words.
pub(super) fn run(f: &mut Formatter<'_>, place: &Place, it: &Run) -> Result {
    match it {
        Run::Spawning { line } => write!(f, "Spawning [{line}]"),
        Run::Postponed { line, error } => {
            write!(f, "Unable to exec {line}, trying again: {error}")
        }
        Run::NotStartedInTime { line, limit } => write!(
            f,
            "Unable to exec {line} within {limit:?}: the file system of the script or of its interpreter does not answer"
        ),
        Run::NotStarted { line, error } => write!(f, "Unable to exec {line}: {error}"),
        Run::Overdue { line, limit } => write!(
            f,
            "script on {place} still runs after {limit:?}, ending it: [{line}]"
        ),
        Run::Succeeded { line } => write!(f, "script on {place} succeeded: [{line}]"),
        Run::Failed { line, status } => {
            write!(f, "script on {place} failed with {status}: [{line}]")
        }
        Run::Unknown { line, error } => write!(f, "failed to wait for [{line}]: {error}"),
        Run::NotSignalled {
            signal,
            group,
            error,
        } => write!(
            f,
            "failed to send {signal} to process group {group}: {error}"
        ),
        Run::WorkerEnded { error } => write!(f, "script worker ended: {error}"),
    }
}

pub(super) fn script(f: &mut Formatter<'_>, place: &Place, it: &Script) -> Result {
    let lead = Lead(place);
    match it {
        Script::Failed { retry } => write!(
            f,
            "{lead}its up script failed and the address is not on this host: advertising a worse priority until the script \
             works, and running it again every {} s",
            retry.as_secs()
        ),
        Script::Worked => write!(
            f,
            "{lead}its up script has worked: the configured priority again"
        ),
        Script::FailureExpired { quiet } => write!(
            f,
            "{lead}its up script last failed {} s ago: the configured priority again",
            quiet.as_secs()
        ),
    }
}

pub(super) fn memory(f: &mut Formatter<'_>, it: &Memory) -> Result {
    match it {
        Memory::NoDirectory => f.write_str(
            "no state directory: what is heard from peers will be forgotten at exit (give --state-dir DIR, or \
             StateDirectory=carpd in the systemd unit)",
        ),
        Memory::DirectoryFailed { error } => write!(
            f,
            "what is heard from peers will be forgotten at exit: {error}"
        ),
        Memory::Ignored { first, .. } => {
            f.write_str("ignored what was heard before: ")?;
            match first {
                Refusal::Damaged(path) => write!(
                    f,
                    "{} is damaged or of another version of carpd",
                    path.display()
                ),
                Refusal::Unreadable(error) => f.write_str(error),
            }
        }
        Memory::Recalled {
            recalled,
            total,
            directory,
        } => write!(
            f,
            "recalled what {recalled} of {total} virtual hosts heard before, from {}",
            directory.display()
        ),
        Memory::NotKept { error } => write!(
            f,
            "cannot keep what was heard from peers for the next start: {error}"
        ),
        Memory::Incomplete => f.write_str(
            "stopped without keeping all that was heard from peers: the disk is too slow",
        ),
    }
}

pub(super) fn stall(f: &mut Formatter<'_>, place: &Place, it: &Stall) -> Result {
    let lead = Lead(place);
    match it {
        Stall::Late { lateness, interval } => write!(
            f,
            "{lead}late by {} ms, the advertisement interval is {} ms: carpd was stopped, or this host is overloaded \
             (--realtime helps)",
            lateness.as_millis(),
            interval.as_millis()
        ),
        Stall::AdvertisementsLost { lost } => write!(
            f,
            "{lead}{lost} advertisements were lost while carpd was stopped: listening again"
        ),
    }
}

pub(super) fn process(f: &mut Formatter<'_>, it: &Process) -> Result {
    f.write_str(match it {
        Process::NotWaiting => "asked to stop again: not waiting for scripts",
        Process::Stopped => "carpd has stopped",
    })
}
