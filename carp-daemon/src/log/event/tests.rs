//! Checks the full line of every event.

mod address;
mod election;
mod interface;
mod kernel;
mod process;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use carp_common::units::Vhid;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::*;
use crate::api::event::Cidr;
use crate::log::line;

/// An event and its line.
struct Row(Event, &'static str);

fn of_process(what: impl Into<What>, line: &'static str) -> Row {
    Row(Event::new(Place::Process, what), line)
}

fn of_interface(what: impl Into<What>, line: &'static str) -> Row {
    Row(Event::new(Place::Interface("eth0".to_owned()), what), line)
}

fn of_vhost(what: impl Into<What>, line: &'static str) -> Row {
    Row(Event::new(vhost(), what), line)
}

fn vhost() -> Place {
    Place::VirtualHost {
        interface: "eth0".to_owned(),
        vhid: vhid(7),
    }
}

fn vhid(id: u8) -> Vhid {
    Vhid::new(id).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    let (address, prefix) = text.split_once('/').unwrap();
    Cidr {
        address: ip(address),
        prefix: prefix.parse().unwrap(),
    }
}

fn error() -> String {
    "No such device".to_owned()
}

/// A layer that keeps the lines of all events in ucarp's console form, without the time.
#[derive(Clone, Default)]
struct Keep(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let severity = line::severity_name(line::severity_of(event.metadata()));
        let line = format!("[{severity}] {}", line::text(event));
        self.0.lock().unwrap().push(line);
    }
}

/// Returns the lines that these events become.
fn logged<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<String> {
    let keep = Keep::default();
    let subscriber = tracing_subscriber::registry().with(keep.clone());
    tracing::subscriber::with_default(subscriber, || events.into_iter().for_each(log));
    std::mem::take(&mut keep.0.lock().unwrap())
}

fn rows() -> Vec<Row> {
    let mut rows = election::rows();
    rows.extend(address::rows());
    rows.extend(interface::rows());
    rows.extend(kernel::rows());
    rows.extend(process::rows());
    rows
}

#[test]
fn every_event_has_its_line() {
    let rows = rows();
    let lines = logged(rows.iter().map(|Row(event, _)| event));
    assert_eq!(lines.len(), rows.len());
    for (Row(event, expected), line) in rows.iter().zip(lines) {
        assert_eq!(&line, expected, "{event:?}");
    }
}

#[test]
fn no_event_is_missing_from_the_table() {
    let tested: BTreeSet<_> = rows().iter().map(|Row(it, _)| it.what.name()).collect();
    let missing: Vec<_> = What::names().filter(|it| !tested.contains(it)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn suppressed_events_are_counted_in_the_line() {
    for Row(event, line) in rows() {
        // This event has a count of its own.
        if matches!(event.what, What::Memory(Memory::Ignored { .. })) {
            continue;
        }
        let expected = format!("{line} suppressed=12");
        assert_eq!(logged([&event.after(12)]), [expected]);
    }
}
