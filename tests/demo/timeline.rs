//! The output for the audience.

use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

/// Prints events with the time since the start.
pub struct Timeline {
    start: Instant,
    colour: bool,
}

/// One measured act, for the closing table.
pub struct Act {
    /// The event that caused the takeover.
    pub name: &'static str,
    /// The time from that event to the first advertisement of the new MASTER.
    pub takeover: Duration,
    /// The longest time in which the client got no answer.
    pub outage: Duration,
}

impl Timeline {
    /// Starts the timeline now. Colours are only used on a terminal.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            colour: stdout().is_terminal(),
        }
    }

    /// Prints an event that the show caused.
    pub fn deed(&self, at: Instant, text: &str) {
        self.line(at, "33", text);
    }

    /// Prints the result of an event.
    pub fn result(&self, at: Instant, text: &str) {
        self.line(at, "32", text);
    }

    /// Prints a detail of the line before.
    pub fn detail(&self, text: &str) {
        println!("            {text}");
    }

    /// Prints the closing table.
    pub fn table(&self, acts: &[Act]) {
        println!();
        println!("  {:<34}{:>12}{:>20}", "", "takeover", "client's outage");
        for act in acts {
            println!(
                "  {:<34}{:>12}{:>20}",
                act.name,
                span_exact(act.takeover),
                outage_text(act.outage)
            );
        }
        println!();
    }

    fn line(&self, at: Instant, colour: &str, text: &str) {
        let time = at.saturating_duration_since(self.start).as_millis();
        let (begin, end) = if self.colour {
            (format!("\x1b[{colour}m"), "\x1b[0m")
        } else {
            (String::new(), "")
        };
        println!(
            "{:>4}.{:03} s  {begin}{text}{end}",
            time / 1000,
            time % 1000
        );
    }
}

/// Formats whole milliseconds, for times that depend on the moment of the event.
pub fn span(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// Formats tenths of a millisecond, for times measured on the wire.
pub fn span_exact(duration: Duration) -> String {
    let tenths = duration.as_micros() / 100;
    format!("{}.{} ms", tenths / 10, tenths % 10)
}

/// Formats an outage, not more precisely than the client's pace permits.
pub fn outage_text(outage: Duration) -> String {
    if outage.is_zero() {
        "less than 10 ms".to_owned()
    } else {
        span(outage)
    }
}
