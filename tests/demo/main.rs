//! Shows a failover on real packets to people: `cargo xtask demo`.
//!
//! There are two processes. The show ([`show`]) runs in a child; this process waits, and cleans up however the show
//! ends. Ctrl-C, a panic and SIGKILL to the show therefore leave nothing behind. That is checked at the end:
//! processes, namespaces, and carpd's files for them under `/run/carpd`, such as pinned programs.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that shows what happens in real time"
)]

mod show;
mod timeline;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use carp_tests::lab;
use carp_tests::residue::Network;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, geteuid};

/// The variable that tells the child that it is the show. Every process that it starts inherits the variable, which
/// tells them from all others.
const MARK: &str = "CARPD_DEMO";

/// Exit status of a program that Ctrl-C ended, as shells report it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let result = if env::var_os(MARK).is_some() {
        // Our daemons would inherit the signals that the supervisor blocked for itself.
        interruptions()
            .thread_unblock()
            .map_err(Into::into)
            .and_then(|()| show::run())
            .map(|()| ExitCode::SUCCESS)
    } else {
        supervise()
    };
    result.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Returns the signals that ask the demo to stop.
fn interruptions() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect()
}

fn supervise() -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("needs root: it makes network namespaces and attaches XDP programs");
    }
    // Blocked signals wait in the descriptor instead of ending this process.
    interruptions().thread_block()?;
    let interrupted = SignalFd::with_flags(
        &interruptions(),
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?;

    let mark = std::process::id().to_string();
    let mut show = Command::new(env::current_exe()?)
        .env(MARK, &mark)
        // Ctrl-C reaches every process of the terminal's foreground group, but this process decides what to do about
        // it.
        .process_group(0)
        .spawn()
        .context("failed to start the show")?;
    let pid = show.id();
    let mut stopped = false;
    // Networks are remembered by number, because leftovers are only known by number once the names are gone.
    let mut networks = BTreeSet::new();
    let status = loop {
        let names = namespaces_of(pid);
        networks.extend(names.iter().filter_map(|name| Network::named(name).ok()));
        if let Some(status) = show.try_wait()? {
            break status;
        }
        if !stopped && interrupted.read_signal()?.is_some() {
            eprintln!("\ninterrupted, cleaning up");
            show.kill()?;
            stopped = true;
        }
        thread::sleep(Duration::from_millis(20));
    };
    clean_up(pid, &mark, &networks)?;
    Ok(if stopped {
        ExitCode::from(INTERRUPTED)
    } else if status.success() {
        ExitCode::SUCCESS
    } else {
        // The show has printed the reason.
        ExitCode::FAILURE
    })
}

/// Removes what the show left, and checks whether anything remains.
fn clean_up(show: u32, mark: &str, networks: &BTreeSet<Network>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes_with(mark).is_empty() && Instant::now() < deadline {
        for pid in processes_with(mark) {
            // A process that has ended in the meantime is no error.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    // No process is left that could make another lab, so labs that still exist are orphans.
    lab::remove_orphans().context("failed to clean up")?;
    let (processes, namespaces) = (processes_with(mark), namespaces_of(show));
    let residue: Vec<_> = networks.iter().flat_map(|it| it.residue()).collect();
    if !processes.is_empty() || !namespaces.is_empty() || !residue.is_empty() {
        bail!("left behind: processes {processes:?}, namespaces {namespaces:?}, files {residue:?}");
    }
    println!(
        "cleaned up: no process, no namespace and no pinned program is left, and with them no interface"
    );
    Ok(())
}

/// Returns the ids of the processes that descend from the show.
fn processes_with(mark: &str) -> Vec<i32> {
    let variable = format!("{MARK}={mark}");
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == variable.as_bytes())
        })
        .collect()
}

/// Returns the namespaces of labs that the show made.
fn namespaces_of(show: u32) -> Vec<String> {
    let prefix = format!("carp-lab-{show}-");
    let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}
