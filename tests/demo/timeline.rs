//! What the audience sees.

use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

/// Prints what happens with the time since the start.
pub struct Timeline {
    start: Instant,
    colour: bool,
}

/// One measured act, for the closing table.
pub struct Act {
    /// What was done.
    pub name: &'static str,
    /// From the deed to the first advertisement of the new MASTER.
    pub takeover: Duration,
    /// The longest time in which the client got no answer.
    pub outage: Duration,
}

impl Timeline {
    /// Time zero is now. Colours only where somebody watches.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            colour: stdout().is_terminal(),
        }
    }

    /// Something was done.
    pub fn deed(&self, at: Instant, text: &str) {
        self.line(at, "33", text);
    }

    /// Something came of it.
    pub fn result(&self, at: Instant, text: &str) {
        self.line(at, "32", text);
    }

    /// More about the line before.
    pub fn detail(&self, text: &str) {
        println!("            {text}");
    }

    /// The closing table.
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

/// Whole milliseconds, for what depends on the moment of the deed.
pub fn span(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// Tenths of a millisecond, for what the wire tells.
pub fn span_exact(duration: Duration) -> String {
    let tenths = duration.as_micros() / 100;
    format!("{}.{} ms", tenths / 10, tenths % 10)
}

/// An outage, no finer than the client's pace can tell.
pub fn outage_text(outage: Duration) -> String {
    if outage.is_zero() {
        "less than 10 ms".to_owned()
    } else {
        span(outage)
    }
}
