//! Logging in ucarp's line shape, to the console and to syslog, without the engine ever waiting for either.
//!
//! Console: `YYYY-MM-DDTHH:MM:SS.uuuuuu+HH:MM: [LEVEL] text`, local time, one write per line; WARNING and ERROR go to
//! standard error, the rest to standard output. Syslog: `text` from `carpd[pid]`, with its severity. The fields of an event
//! follow its message as ` name=value`.
//!
//! Under systemd a stream that is the journal gets `<PRIORITY>text`: the journal has its own clock and reads the prefix
//! (sd-daemon(3)). Syslog would only bring the same line to the same place again, so it stays silent then unless a facility was
//! asked for, or the console will be left.
//!
//! | Module | What it is |
//! |---|---|
//! | `line` | the text of a line, and how much it matters |
//! | `limit` | a bound on the lines of the whole process |
//! | `background` | a thread for each destination |
//! | `console`, `syslog` | the destinations |
//! | [`event`] | the text of each event of the engine |
//! | [`status`] | what SIGUSR1 shows |

mod background;
mod console;
pub mod event;
mod limit;
mod line;
pub mod status;
mod syslog;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::io::clock;
use background::Output;
use console::Console;
use limit::Limit;
pub(crate) use line::NOTICE;
use line::{Line, Severity};
use syslog::Syslog;
pub use syslog::{Facility, UnknownFacility};

/// Crates whose INFO and DEBUG lines are ours to show; of others only WARN and ERROR.
const OUR_CRATES: [&str; 4] = ["carpd", "carp_daemon", "carp_common", "carp_ebpf"];

/// Where the XDP program's reports come from, as `aya-log` names it.
pub(crate) const PROGRAM_TARGET: &str = "carp_ebpf";

/// Reports about packets in one second; the rest of them is only counted. Anyone on the link can provoke them.
const REPORTS_PER_SECOND: u32 = 20;

/// What to log, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// DEBUG lines of our own crates too (`-D`).
    pub debug: bool,
    /// `-f`.
    pub syslog: Destination,
}

/// `--facility`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Not given: facility `daemon`, unless the console is the journal already.
    #[default]
    Default,
    /// Asked for by name: always.
    Facility(Facility),
    /// `none`: never.
    None,
}

/// The running logger.
#[derive(Clone, Debug)]
pub struct Logger {
    sink: Arc<Sink>,
}

/// How long the end waits for what was not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

impl Logger {
    /// From now on only syslog hears us: the console belongs to somebody else, or nobody.
    pub fn leave_console(&self) {
        let console = self.sink.lock().console.take();
        if let Some(console) = console {
            console.flush(LAST_LINES);
        }
    }

    /// Waits until the last lines are written, for a bounded time.
    pub fn finish(&self) {
        let begun = clock::now();
        let outputs = self.sink.lock();
        for output in outputs.console.iter().chain(&outputs.syslog) {
            output.flush(LAST_LINES.saturating_sub(clock::now().saturating_duration_since(begun)));
        }
    }
}

/// Why a daemon that leaves the console would log nowhere, and what to do about it.
#[must_use]
pub fn silence_in_background(settings: Settings) -> Option<String> {
    let why = match settings.syslog {
        Destination::None => "--facility none turns syslog off".to_owned(),
        Destination::Default | Destination::Facility(_) => match syslog::look() {
            Ok(()) => return None,
            Err(cause) => format!("no log daemon listens at /dev/log ({cause})"),
        },
    };
    Some(format!(
        "warning: with --daemonize (-B) the log goes to syslog alone, and {why}: nothing will be logged; start a log \
         daemon, or run carpd in the foreground under a service manager"
    ))
}

/// Installs the logger for `tracing` and for crates that use `log`, for the whole process.
///
/// Call once, after the last `fork`: syslog lines carry the process id of this moment. With `leaves_console` syslog is what
/// remains, so it is used from the beginning.
///
/// # Errors
///
/// When a destination gets no thread, or the process has a logger already.
pub fn init(settings: Settings, leaves_console: bool) -> io::Result<Logger> {
    let console = Console::new();
    let facility = match settings.syslog {
        Destination::Default => {
            (leaves_console || !console.is_journal()).then_some(Facility::DAEMON)
        }
        Destination::Facility(facility) => Some(facility),
        Destination::None => None,
    };
    let outputs = Outputs {
        console: Some(Output::start(console)?),
        syslog: facility
            .map(|facility| Output::start(Syslog::new(facility)))
            .transpose()?,
        limit: Limit::default(),
    };
    let sink = Arc::new(Sink {
        outputs: Mutex::new(outputs),
        debug: settings.debug,
    });
    let own = if settings.debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let targets = OUR_CRATES.into_iter().fold(
        Targets::new().with_default(LevelFilter::WARN),
        |targets, name| targets.with_target(name, own),
    );
    tracing_subscriber::registry()
        .with(Lines(Arc::clone(&sink)).with_filter(targets))
        .try_init()
        .map_err(io::Error::other)?;
    log::set_max_level(if settings.debug {
        log::LevelFilter::Debug
    } else {
        log::LevelFilter::Info
    });
    let records = Records {
        sink: Arc::clone(&sink),
        reports: Mutex::default(),
    };
    log::set_boxed_logger(Box::new(records)).map_err(io::Error::other)?;
    Ok(Logger { sink })
}

/// Where lines end; whatever a destination does, the caller goes on.
#[derive(Debug)]
struct Sink {
    outputs: Mutex<Outputs>,
    debug: bool,
}

#[derive(Debug)]
struct Outputs {
    console: Option<Output>,
    syslog: Option<Output>,
    limit: Limit,
}

impl Sink {
    fn lock(&self) -> std::sync::MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, severity: Severity, text: &str) {
        let line = Line::new(severity, text);
        let mut outputs = self.lock();
        match outputs.limit.admit(line.at.timestamp()) {
            None => return,
            Some(0) => {}
            Some(held_back) => {
                outputs.write(&Line::new(Severity::Warning, &limit::about(held_back)));
            }
        }
        outputs.write(&line);
    }
}

impl Outputs {
    fn write(&self, line: &Line) {
        if let Some(console) = &self.console {
            console.write(line);
        }
        if let Some(syslog) = &self.syslog {
            syslog.write(line);
        }
    }
}

/// Turns `tracing` events into lines.
struct Lines(Arc<Sink>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0
            .write(line::severity_of(event.metadata()), &line::text(event));
    }
}

/// Turns `log` records into lines: the XDP program's reports arrive through that crate.
struct Records {
    sink: Arc<Sink>,
    reports: Mutex<Reports>,
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How many reports about packets the present second has seen.
#[derive(Debug, Default)]
struct Reports {
    second: u64,
    seen: u32,
}

impl Reports {
    /// Whether one more may be shown; with it, how many were not in the last second that had any.
    fn admit(&mut self, second: u64) -> Option<u32> {
        let mut left_out = 0;
        if second != self.second {
            left_out = self.seen.saturating_sub(REPORTS_PER_SECOND);
            *self = Self { second, seen: 0 };
        }
        self.seen = self.seen.saturating_add(1);
        (self.seen <= REPORTS_PER_SECOND).then_some(left_out)
    }
}

impl log::Log for Records {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let crate_name = metadata.target().split("::").next().unwrap_or_default();
        let most = match (OUR_CRATES.contains(&crate_name), self.sink.debug) {
            (false, _) => log::Level::Warn,
            (true, false) => log::Level::Info,
            (true, true) => log::Level::Debug,
        };
        metadata.level() <= most
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            if record.target().starts_with(PROGRAM_TARGET) {
                let second = clock::now().as_nanos() / NANOS_PER_SECOND;
                let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
                match reports.admit(second) {
                    None => return,
                    Some(0) => {}
                    Some(left_out) => {
                        let text = format!("{left_out} reports about packets were left out");
                        self.sink.write(Severity::Debug, &text);
                    }
                }
            }
            let severity = line::severity_of_record(record.level());
            self.sink.write(severity, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_reports_becomes_a_few_lines_a_second_and_a_count() {
        let mut reports = Reports::default();
        let flood: Vec<_> = (0..100).map(|_| reports.admit(7)).collect();
        assert_eq!(flood.iter().flatten().count(), 20);
        assert_eq!(reports.admit(8), Some(80));
        assert_eq!(reports.admit(8), Some(0));
    }
}
