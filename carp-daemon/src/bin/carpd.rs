//! carpd's entry point: arguments, background, logging and exit status, and nothing else.
#![deny(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use carp_daemon::cli::{self, Invocation, Task};
use carp_daemon::daemonize::{self, Process, Readiness};
use carp_daemon::detach;
use carp_daemon::engine;
use carp_daemon::io::scripts::check;
use carp_daemon::lock;
use carp_daemon::log::{self, Logger};
use carp_daemon::privileges::{self, Needs, realtime};
use carp_daemon::serve;
use tracing::{error, info, warn};

/// Exit status for a wrong usage or configuration.
const EXIT_USAGE: u8 = 1;
/// Exit status for a failure at run time.
const EXIT_RUN_TIME: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().collect()) {
        Ok(Task::Print(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ok(Task::Run(invocation)) => start(*invocation),
        Ok(Task::Detach(interface)) => detach(&interface),
        Err(refusal) => {
            complain(&format!("{:#}", anyhow::Error::new(refusal)));
            EXIT_USAGE.into()
        }
    }
}

/// Runs `--detach` and prints what was removed. It succeeds if there is nothing to remove, and fails if a carpd is
/// alive or the system refuses.
fn detach(interface: &str) -> ExitCode {
    let outcome = detach::from(interface).and_then(|detached| {
        for name in &detached.removed {
            print(&format!("removed the {name} program from {interface}\n"));
        }
        match detached.refused.into_iter().next() {
            Some(refusal) => Err(refusal.into()),
            None if detached.removed.is_empty() => {
                print(&format!("no carpd left anything on {interface}\n"));
                Ok(())
            }
            None => Ok(()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            complain(&format!("error: {:#}", anyhow::Error::new(refusal)));
            EXIT_RUN_TIME.into()
        }
    }
}

/// Splits off the daemon if requested. This happens before there are threads, a runtime or connections, because those
/// would not survive it.
fn start(mut invocation: Invocation) -> ExitCode {
    // Both processes hold the password in memory.
    if let Err(cause) = privileges::hide_memory() {
        invocation.warnings.push(format!(
            "a core dump of this process would hold the password: {cause}"
        ));
    }
    match check::check(&invocation.config.vhosts) {
        Ok(warnings) => invocation.warnings.extend(warnings),
        Err(refusal) => {
            complain(&refusal.to_string());
            return EXIT_USAGE.into();
        }
    }
    if !invocation.daemonize {
        return serve(invocation, None);
    }
    if let Some(warning) = log::silence_in_background(invocation.log) {
        complain(&warning);
    }
    match daemonize::daemonize() {
        Ok(Process::Daemon(readiness)) => serve(invocation, Some(readiness)),
        Ok(Process::Parent(report)) => {
            match (report.status, report.message.as_str()) {
                (_, "") => {}
                (0, message) => complain(message),
                (_, message) => complain(&format!("error: {message}")),
            }
            report.status.into()
        }
        Err(cause) => {
            complain(&format!("error: failed to go into the background: {cause}"));
            EXIT_RUN_TIME.into()
        }
    }
}

/// Runs until asked to stop. `readiness` is present if a parent waits for the result of the start.
fn serve(invocation: Invocation, readiness: Option<Readiness>) -> ExitCode {
    let logger = match log::init(invocation.log, readiness.is_some()) {
        Ok(logger) => logger,
        Err(cause) => {
            let message = format!("failed to start a thread that writes the log: {cause}");
            match readiness {
                Some(readiness) => readiness.ended(EXIT_RUN_TIME, &message),
                None => complain(&format!("error: {message}")),
            }
            return EXIT_RUN_TIME.into();
        }
    };
    let status = serve_logged(invocation, readiness, &logger);
    logger.finish();
    status.into()
}

fn serve_logged(invocation: Invocation, readiness: Option<Readiness>, logger: &Logger) -> u8 {
    invocation.config.log_summary();
    for note in &invocation.notes {
        info!("{note}");
    }
    for warning in &invocation.warnings {
        warn!("{warning}");
    }
    let mut readiness = readiness;
    let result = run(invocation, || {
        if let Some(readiness) = readiness.take() {
            leave(logger, readiness);
        }
    });
    let Err(failure) = result else {
        return 0;
    };
    let message = format!("{failure:#}");
    let status = match failure.downcast_ref() {
        Some(engine::EngineError::Lock(lock::LockError::Same { .. })) => 0,
        Some(engine::EngineError::NotEthernet(_) | engine::EngineError::Unworkable(_)) => {
            EXIT_USAGE
        }
        Some(_) | None => EXIT_RUN_TIME,
    };
    if readiness.is_some() {
        // The parent prints the message on the console.
        logger.leave_console();
    }
    if status == 0 {
        info!("{message}");
    } else {
        error!("{message}");
    }
    if let Some(readiness) = readiness.take() {
        readiness.ended(status, &message);
    }
    status
}

/// Serves. Gives up the privileges that serving does not require before reporting that carpd is ready.
fn run(invocation: Invocation, on_ready: impl FnOnce()) -> anyhow::Result<()> {
    if invocation.config.realtime {
        realtime::enter()?;
    }
    let needs = Needs::of(&invocation.config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(serve::run(invocation.config, || {
        needs.give_up_the_rest()?;
        on_ready();
        Ok(())
    }))?;
    Ok(())
}

/// Gives the console back to the operator, and reports success to the parent.
fn leave(logger: &Logger, readiness: Readiness) {
    logger.leave_console();
    if let Err(cause) = readiness.ready() {
        warn!("failed to turn the standard streams to /dev/null: {cause}");
    }
}

fn print(text: &str) {
    // An error means that the reader has closed the pipe and has read enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    // An error means that there is nowhere left to complain.
    let _ = writeln!(io::stderr(), "{text}");
}
