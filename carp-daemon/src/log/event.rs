//! Renders events as log lines. No other module has their texts.
//!
//! | Module | What it has |
//! |---|---|
//! | `election`, `address`, `interface`, `kernel`, `process` | the texts of the module of `api::event` with that name |

mod address;
mod election;
mod interface;
mod kernel;
mod process;
#[cfg(test)]
mod tests;

use std::fmt;

use carp_common::units::Vhid;
use tracing::{debug, error, info, warn};

use super::NOTICE;
use crate::api::event::process::Memory;
use crate::api::event::{Event, Place, Severity, What, election::Election};

pub(super) use election::cause;

/// Logs an event.
pub fn log(event: &Event) {
    let (text, suppressed) = (Text(event), event.suppressed);
    if let What::Election(Election::StateChanged { from, cause, .. }) = &event.what {
        // This is ucarp's line, which people search for. The rest follows as fields.
        let interface = event.place.interface();
        let vhid = event.place.vhid().map(Vhid::get);
        let reason = election::cause(*cause);
        info!(target: NOTICE, interface, vhid, %from, reason, suppressed, "{text}");
        return;
    }
    if let What::Memory(Memory::Ignored { others, .. }) = &event.what {
        warn!(others = (*others > 0).then_some(*others), "{text}");
        return;
    }
    match event.what.severity() {
        Severity::Error => error!(suppressed, "{text}"),
        Severity::Warning => warn!(suppressed, "{text}"),
        Severity::Notice => info!(target: NOTICE, suppressed, "{text}"),
        Severity::Info => info!(suppressed, "{text}"),
        Severity::Debug => debug!(suppressed, "{text}"),
    }
}

/// The message of an event, without its fields.
struct Text<'a>(&'a Event);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { place, what, .. } = self.0;
        match what {
            What::Election(it) => election::election(f, place, it),
            What::Transmit(it) => election::transmit(f, place, it),
            What::Conflict(it) => election::conflict(f, place, it),
            What::Assignment(it) => address::assignment(f, place, it),
            What::Restore(it) => address::restore(f, place, it),
            What::Placement(it) => address::placement(f, place, it),
            What::Predecessor(it) => address::predecessor(f, place, it),
            What::Datapath(it) => interface::datapath(f, place, it),
            What::Pin(it) => kernel::pin(f, it),
            What::Layout(it) => kernel::layout(f, it),
            What::Ingress(it) => kernel::ingress(f, place, it),
            What::Egress(it) => kernel::egress(f, place, it),
            What::Link(it) => interface::link(f, place, it),
            What::Source(it) => interface::source(f, place, it),
            What::Netlink(it) => process::netlink(f, it),
            What::Run(it) => process::run(f, place, it),
            What::Script(it) => process::script(f, place, it),
            What::Memory(it) => process::memory(f, it),
            What::Stall(it) => process::stall(f, place, it),
            What::Process(it) => process::process(f, it),
        }
    }
}

/// A place in front of a sentence about it: nothing for the process, else the place with a colon.
struct Lead<'a>(&'a Place);

impl fmt::Display for Lead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Process => Ok(()),
            place @ (Place::Interface(_) | Place::VirtualHost { .. }) => write!(f, "{place}: "),
        }
    }
}
