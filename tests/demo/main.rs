//! A failover on real packets, for people: `cargo xtask demo`.
//!
//! Two processes: this one waits, and cleans up however the show ends; the show ([`show`]) runs in a child. So Ctrl-C,
//! a panic and SIGKILL to the show all leave nothing behind. That is looked for at the end: processes, namespaces, and
//! what carpd keeps under `/run/carpd` for them, such as pinned programs.

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

/// Tells the child that it is the show; every process it starts inherits it, so we can tell them from all others.
const MARK: &str = "CARPD_DEMO";

/// Exit status of a program that Ctrl-C ended, as shells report it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let result = if env::var_os(MARK).is_some() {
        // What the supervisor blocked for itself, our daemons would inherit.
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

/// What asks us to stop.
fn interruptions() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect()
}

fn supervise() -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("needs root: it makes network namespaces and attaches XDP programs");
    }
    // Blocked, they wait in the descriptor instead of ending us.
    interruptions().thread_block()?;
    let interrupted = SignalFd::with_flags(
        &interruptions(),
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?;

    let mark = std::process::id().to_string();
    let mut show = Command::new(env::current_exe()?)
        .env(MARK, &mark)
        // Ctrl-C reaches every process of the terminal's foreground group; what to do about it is decided here.
        .process_group(0)
        .spawn()
        .context("failed to start the show")?;
    let pid = show.id();
    let mut stopped = false;
    // Known by number, because that is how the rest of them is known when their names are gone.
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
        // It has said why.
        ExitCode::FAILURE
    })
}

/// Removes what the show has left and looks whether anything remains.
fn clean_up(show: u32, mark: &str, networks: &BTreeSet<Network>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes_with(mark).is_empty() && Instant::now() < deadline {
        for pid in processes_with(mark) {
            // Gone in the meantime is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    // With nobody left to make another: its labs are orphans now, if there are any.
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

/// Ids of the processes that descend from our show.
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

/// Namespaces of labs that the show made.
fn namespaces_of(show: u32) -> Vec<String> {
    let prefix = format!("carp-lab-{show}-");
    let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}
