//! The text of a line.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write};

use chrono::{DateTime, Utc};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

pub use crate::api::Severity;

/// Size of the longest line, with its newline, on any destination. Unit: bytes.
///
/// It is ucarp's own limit, and `PIPE_BUF`: a write of up to this size to a pipe is complete or does not happen.
pub const MAX_LINE: usize = 4096;

/// The target of events that are [`Severity::Notice`], for which `tracing` has no level.
pub const NOTICE: &str = "carp_daemon::notice";

/// Returns the severity of an event of the crate `tracing`.
pub fn severity_of(metadata: &Metadata<'_>) -> Severity {
    match *metadata.level() {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warning,
        Level::INFO if metadata.target() == NOTICE => Severity::Notice,
        Level::INFO => Severity::Info,
        Level::DEBUG | Level::TRACE => Severity::Debug,
    }
}

/// Returns the severity of a record of the crate `log`.
pub fn severity_of_record(level: log::Level) -> Severity {
    match level {
        log::Level::Error => Severity::Error,
        log::Level::Warn => Severity::Warning,
        log::Level::Info => Severity::Info,
        log::Level::Debug | log::Level::Trace => Severity::Debug,
    }
}

/// Returns the name of a severity as ucarp prints it.
pub const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
        Severity::Notice => "NOTICE",
        Severity::Info => "INFO",
        Severity::Debug => "DEBUG",
    }
}

/// One line, before a destination puts it into its form.
#[derive(Clone, Debug)]
pub struct Line {
    /// The importance of the line.
    pub severity: Severity,
    /// The time of the event, which may be long before the line is read.
    pub at: DateTime<Utc>,
    /// The text: printable, and at most [`MAX_LINE`] bytes long.
    pub text: String,
}

impl Line {
    /// Creates a line with the current time.
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

    /// Returns the line that a destination writes when it has room again.
    pub fn about_losses(lost: u64) -> Self {
        Self::new(
            Severity::Warning,
            &format!("{lost} log lines were lost here: the reader of the log did not keep up"),
        )
    }
}

/// Returns the text of an event: the message, then ` name=value` for each field.
pub fn text(event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    fields.message + &fields.rest
}

/// Returns the text with control characters escaped. Text from a peer, a script or a file name must not begin new
/// lines or move the terminal's cursor.
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
        // The number of suppressed events is 0 in most cases, and then not shown.
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
