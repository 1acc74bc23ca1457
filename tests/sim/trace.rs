//! The events of a run in words, kept only if they will be read.

use carp_common::proto::Action;
use carp_common::time::Instant;

use super::packet::{Packet, read};
use super::scenario::START;

/// The lines of one run.
#[derive(Debug, Default)]
pub struct Trace {
    wanted: bool,
    lines: Vec<String>,
}

impl Trace {
    /// Keeps lines only if wanted; a run is repeated for its trace.
    #[must_use]
    pub const fn new(wanted: bool) -> Self {
        Self {
            wanted,
            lines: Vec::new(),
        }
    }

    /// Whether lines are kept.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Adds an event of one host.
    pub fn note(&mut self, now: Instant, who: &str, what: impl FnOnce() -> String) {
        if self.wanted {
            let time = now.saturating_duration_since(START);
            self.lines.push(format!(
                "{:>5}.{:09} {who:<12} {}",
                time.as_secs(),
                time.subsec_nanos(),
                what()
            ));
        }
    }

    /// Adds an action of a host.
    pub fn action(&mut self, now: Instant, who: &str, action: &Action) {
        self.note(now, who, || match action {
            Action::SendAdvertisement { family, payload } => {
                format!("  sends {family} {}", ad(payload))
            }
            Action::Report(change) => {
                format!("  {} -> {}: {:?}", change.from, change.to, change.reason)
            }
            Action::ProgramDatapath(standing) => format!(
                "  datapath {}, owns for {:?}, alive for {:?}",
                standing.state,
                standing.owns_until.saturating_duration_since(now),
                standing.alive_until.saturating_duration_since(now)
            ),
            Action::ClaimAddresses
            | Action::ReleaseAddresses
            | Action::Announce(_)
            | Action::Notify(_) => format!("  {action:?}"),
        });
    }

    /// Adds a packet on its way.
    pub fn packet(&mut self, now: Instant, who: &str, verb: &str, packet: &Packet) {
        self.note(now, who, || {
            format!(
                "{verb} {} from {}: {}",
                packet.family,
                packet.source,
                ad(&packet.payload)
            )
        });
    }

    /// Appends the lines of another trace.
    pub fn absorb(&mut self, other: &mut Self) {
        self.lines.append(&mut other.lines);
    }

    /// Returns all lines, in order.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

fn ad(payload: &[u8]) -> String {
    match read(payload) {
        Some(ad) => format!(
            "advbase {} advskew {} demotion {} counter {:016x}",
            ad.advbase, ad.advskew, ad.demotion, ad.counter
        ),
        None => format!("{} bytes of garbage", payload.len()),
    }
}
