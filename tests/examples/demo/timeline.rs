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
        println!("  {:<34}{:>14}{:>18}", "", "takeover", "client's outage");
        for act in acts {
            println!(
                "  {:<34}{:>14}{:>18}",
                act.name,
                span(act.takeover),
                span(act.outage)
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

/// Milliseconds: the resolution that a client with a probe every 10 ms allows.
pub fn span(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
