//! The text of a line.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write};

use chrono::{DateTime, Utc};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

pub use crate::api::Severity;

/// Longest line, in bytes and with its newline, on any destination.
///
/// ucarp's own limit, and `PIPE_BUF`: a write of no more than this to a pipe is whole or does not happen.
pub const MAX_LINE: usize = 4096;

/// Target of the events that are [`Severity::Notice`]: `tracing` has no such level.
pub const NOTICE: &str = "carp_daemon::notice";

/// The severity of an event of the crate `tracing`.
pub fn severity_of(metadata: &Metadata<'_>) -> Severity {
    match *metadata.level() {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warning,
        Level::INFO if metadata.target() == NOTICE => Severity::Notice,
        Level::INFO => Severity::Info,
        Level::DEBUG | Level::TRACE => Severity::Debug,
    }
}

/// The severity of a record of the crate `log`.
pub fn severity_of_record(level: log::Level) -> Severity {
    match level {
        log::Level::Error => Severity::Error,
        log::Level::Warn => Severity::Warning,
        log::Level::Info => Severity::Info,
        log::Level::Debug | log::Level::Trace => Severity::Debug,
    }
}

/// A severity as ucarp prints it.
pub const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
        Severity::Notice => "NOTICE",
        Severity::Info => "INFO",
        Severity::Debug => "DEBUG",
    }
}

/// One line, before a destination gives it its shape.
#[derive(Clone, Debug)]
pub struct Line {
    /// How much it matters.
    pub severity: Severity,
    /// When it was written, which may be long before it is read.
    pub at: DateTime<Utc>,
    /// Printable, and at most [`MAX_LINE`] bytes long.
    pub text: String,
}

impl Line {
    /// Of this moment.
    #[expect(
        clippy::disallowed_methods,
        reason = "log lines carry the time of day, for people"
    )]
    pub fn new(severity: Severity, text: &str) -> Self {
        let mut text = printable(text).into_owned();
        cut(&mut text, MAX_LINE);
        Self {
            severity,
            at: Utc::now(),
            text,
        }
    }

    /// What a destination writes when it has room again.
    pub fn about_losses(lost: u64) -> Self {
        Self::new(
            Severity::Warning,
            &format!("{lost} log lines were lost here: the reader of the log did not keep up"),
        )
    }
}

/// Message first, then ` name=value` for each field.
pub fn text(event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    fields.message + &fields.rest
}

/// The same text with control characters escaped: what a peer, a script or a file name brings along must not start
/// lines of its own or move the terminal's cursor.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

/// Cuts the line to at most `limit` bytes, at a character boundary.
pub fn cut(line: &mut String, limit: usize) {
    let end = (0..=limit.min(line.len()))
        .rev()
        .find(|&end| line.is_char_boundary(end));
    line.truncate(end.unwrap_or_default());
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else if value.is_empty() || value.contains([' ', '"', '=']) {
            // Writing to a String cannot fail.
            let _ = write!(self.rest, " {}={value:?}", field.name());
        } else {
            let _ = write!(self.rest, " {}={value}", field.name());
        }
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        // How many lines like this one were left out: hardly ever any.
        if (field.name(), value) != ("suppressed", 0) {
            self.add(field, &value.to_string());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.add(field, &text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt};

    use super::*;

    struct Keep(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(text(event));
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("failed to add address")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn fields_follow_the_message() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Keep(Arc::clone(&kept)));
        let error = Outer(std::io::Error::other("no such device"));
        let error: &(dyn Error + 'static) = &error;
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("Switching to state: {}", "MASTER");
            tracing::warn!(suppressed = 0_u64, "nothing left out");
            tracing::warn!(suppressed = 3_u64, "more like it");
            tracing::info!(vhid = 7, ifname = "eth0", reason = %"master timed out", "state changed");
            tracing::error!(error, empty = "", "stopped");
        });
        assert_eq!(
            *kept.lock().unwrap(),
            [
                "Switching to state: MASTER",
                "nothing left out",
                "more like it suppressed=3",
                "state changed vhid=7 ifname=eth0 reason=\"master timed out\"",
                "stopped error=\"failed to add address: no such device\" empty=\"\"",
            ]
        );
    }

    #[test]
    fn control_characters_are_escaped_and_text_is_not() {
        assert_eq!(printable("a\nb\u{1b}[2J\tü"), "a\\nb\\u{1b}[2J\\tü");
        assert!(matches!(printable("10.0.0.1 — ok"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_line_is_cut_at_a_character() {
        for (limit, kept) in [
            (0, ""),
            (1, ""),
            (2, "é"),
            (3, "é"),
            (4, "éé"),
            (5, "éé"),
            (1000, "éé"),
        ] {
            let mut line = "éé".to_owned();
            cut(&mut line, limit);
            assert_eq!(line, kept, "{limit}");
        }
    }
}
