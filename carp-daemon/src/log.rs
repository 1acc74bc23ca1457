//! Writes log lines in ucarp's form to the console and to syslog. The engine never waits for either.
//!
//! A console line is `YYYY-MM-DDTHH:MM:SS.uuuuuu+HH:MM: [LEVEL] text` in local time, with one write for each line.
//! WARNING and ERROR go to standard error, the rest to standard output. A syslog line is `text` from `carpd[pid]`,
//! with its severity. The fields of an event follow its message as ` name=value`.
//!
//! Under systemd, a stream that leads to the journal gets `<PRIORITY>text`, because the journal has its own clock and
//! reads the prefix (sd-daemon(3)). Syslog would bring the same line to the journal a second time, so it is then not
//! used unless a facility was named, or carpd will leave the console.
//!
//! | Module | What it does |
//! |---|---|
//! | `line` | makes the text of a line, with its severity |
//! | `limit` | limits the lines of the whole process |
//! | `background` | runs a thread for each destination |
//! | `console`, `syslog` | write to the destinations |
//! | [`event`] | has the text of each event of the engine |
//! | [`status`] | has the lines for SIGUSR1 |

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

/// The crates whose INFO and DEBUG lines are shown. Others only show WARN and ERROR.
const OUR_CRATES: [&str; 4] = ["carpd", "carp_daemon", "carp_common", "carp_ebpf"];

/// The target of the XDP program's reports, as `aya-log` names it.
pub(crate) const PROGRAM_TARGET: &str = "carp_ebpf";

/// Number of reports about packets in one second. Further ones are only counted, because anyone on the link can cause
/// them.
const REPORTS_PER_SECOND: u32 = 20;

/// The lines to log, and their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Log DEBUG lines of our own crates too (`-D`).
    pub debug: bool,
    /// The syslog facility (`-f`).
    pub syslog: Destination,
}

/// `--facility`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// The option is not given: facility `daemon`, unless the console is the journal.
    #[default]
    Default,
    /// The option names a facility, which is always used.
    Facility(Facility),
    /// `none`: syslog is not used.
    None,
}

/// The running logger.
#[derive(Clone, Debug)]
pub struct Logger {
    sink: Arc<Sink>,
}

/// The time for which the end waits for lines that are not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

impl Logger {
    /// Logs only to syslog from now on, because the console belongs to another program or to none.
    pub fn leave_console(&self) {
        let console = self.sink.lock().console.take();
        if let Some(console) = console {
            console.flush(LAST_LINES);
        }
    }

    /// Waits for a limited time until the last lines are written.
    pub fn finish(&self) {
        let begun = clock::now();
        let outputs = self.sink.lock();
        for output in outputs.console.iter().chain(&outputs.syslog) {
            output.flush(LAST_LINES.saturating_sub(clock::now().saturating_duration_since(begun)));
        }
    }
}

/// Returns a warning, with its remedy, if a daemon that leaves the console would log nowhere.
#[must_use]
pub fn silence_in_background(settings: LogSettings) -> Option<String> {
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
/// Call it once, after the last `fork`: syslog lines carry the process id of this moment. With `leaves_console` only
/// syslog remains later, so it is used from the beginning.
///
/// # Errors
///
/// Returns an error if a destination gets no thread, or the process has a logger already.
pub fn init(settings: LogSettings, leaves_console: bool) -> io::Result<Logger> {
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

/// The destinations of lines. A caller never waits for them.
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

/// Converts `tracing` events to lines.
struct Lines(Arc<Sink>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0
            .write(line::severity_of(event.metadata()), &line::text(event));
    }
}

/// Converts `log` records to lines. The XDP program's reports arrive through that crate.
struct Records {
    sink: Arc<Sink>,
    reports: Mutex<Reports>,
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The number of reports about packets in the current second.
#[derive(Debug, Default)]
struct Reports {
    second: u64,
    seen: u32,
}

impl Reports {
    /// Returns `None` if one more report must not be shown, and otherwise how many were left out in the last second
    /// with reports.
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
