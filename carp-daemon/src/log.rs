//! Logging in ucarp's line shape, to the console and to syslog, without ever waiting for either.
//!
//! Console: `YYYY-MM-DDTHH:MM:SS.uuuuuu: [LEVEL] text`, local time, one write per line; WARNING and ERROR go to
//! standard error, the rest to standard output. Syslog: `[LEVEL] text` from `carpd[pid]`. The fields of an event
//! follow its message as ` name=value`.
//!
//! Under systemd a stream that is the journal gets `<PRIORITY>[LEVEL] text`: the journal has its own clock and reads
//! the prefix (sd-daemon(3)). Syslog would only bring the same line to the same place again, so it stays silent then
//! unless a facility was asked for.

mod console;
mod line;
mod syslog;

use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use console::Console;
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

impl Logger {
    /// From now on only syslog hears us: the console belongs to somebody else, or nobody.
    pub fn leave_console(&self) {
        self.sink.lock().console = None;
    }
}

/// Installs the logger for `tracing` and for crates that use `log`, for the whole process.
///
/// Call once, after the last `fork`: syslog lines carry the process id of this moment.
///
/// # Panics
///
/// When called twice.
pub fn init(settings: Settings) -> Logger {
    let console = Console::new();
    let facility = match settings.syslog {
        Destination::Default => (!console.is_journal()).then_some(Facility::DAEMON),
        Destination::Facility(facility) => Some(facility),
        Destination::None => None,
    };
    let outputs = Outputs {
        console: Some(console),
        syslog: facility.map(Syslog::new),
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
        .init();
    log::set_max_level(if settings.debug {
        log::LevelFilter::Debug
    } else {
        log::LevelFilter::Info
    });
    let records = Records {
        sink: Arc::clone(&sink),
        reports: Mutex::default(),
    };
    log::set_boxed_logger(Box::new(records)).expect("logging is set up once");
    Logger { sink }
}

/// Where lines end; whatever a destination does, the caller goes on.
#[derive(Debug)]
struct Sink {
    outputs: Mutex<Outputs>,
    debug: bool,
}

#[derive(Debug)]
struct Outputs {
    console: Option<Console>,
    syslog: Option<Syslog>,
}

impl Sink {
    fn lock(&self) -> std::sync::MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, level: Level, text: &str) {
        let text = line::printable(text);
        let now = chrono::Local::now();
        let mut outputs = self.lock();
        if let Some(console) = &mut outputs.console {
            console.write(level, &now, &text);
        }
        if let Some(syslog) = &mut outputs.syslog {
            syslog.write(level, &now, &text);
        }
    }
}

/// Turns `tracing` events into lines.
struct Lines(Arc<Sink>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.write(*event.metadata().level(), &line::text(event));
    }
}

/// Turns `log` records into lines: the XDP program's reports arrive through that crate.
struct Records {
    sink: Arc<Sink>,
    reports: Mutex<Reports>,
}

/// How many reports about packets the present second has seen.
#[derive(Debug, Default)]
struct Reports {
    second: i64,
    seen: u32,
}

impl Reports {
    /// Whether one more may be shown; with it, how many were not in the last second that had any.
    fn admit(&mut self, second: i64) -> Option<u32> {
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
                let second = chrono::Utc::now().timestamp();
                let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
                match reports.admit(second) {
                    None => return,
                    Some(0) => {}
                    Some(left_out) => {
                        let text = format!("{left_out} reports about packets were left out");
                        self.sink.write(Level::DEBUG, &text);
                    }
                }
            }
            let level = match record.level() {
                log::Level::Error => Level::ERROR,
                log::Level::Warn => Level::WARN,
                log::Level::Info => Level::INFO,
                log::Level::Debug => Level::DEBUG,
                log::Level::Trace => Level::TRACE,
            };
            self.sink.write(level, &record.args().to_string());
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
