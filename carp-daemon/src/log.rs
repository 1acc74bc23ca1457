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
    log::set_boxed_logger(Box::new(Records(Arc::clone(&sink)))).expect("logging is set up once");
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
struct Records(Arc<Sink>);

impl log::Log for Records {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let crate_name = metadata.target().split("::").next().unwrap_or_default();
        let most = match (OUR_CRATES.contains(&crate_name), self.0.debug) {
            (false, _) => log::Level::Warn,
            (true, false) => log::Level::Info,
            (true, true) => log::Level::Debug,
        };
        metadata.level() <= most
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                log::Level::Error => Level::ERROR,
                log::Level::Warn => Level::WARN,
                log::Level::Info => Level::INFO,
                log::Level::Debug => Level::DEBUG,
                log::Level::Trace => Level::TRACE,
            };
            self.0.write(level, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}
