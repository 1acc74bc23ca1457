//! Who answers for the virtual address, all the time.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::arp_request;
use crate::inject::Injector;
use crate::lab::Host;
use crate::packet::{Mac, Packet};
use crate::{Capture, Mark};

/// Time between two questions, unless told otherwise. An answer belongs to the latest question.
pub const PACE: Duration = Duration::from_millis(40);

/// A neighbour that asks by ARP, again and again, who has an address. It sits on a host of its own, because an answer
/// would refresh the asking host's ARP entry: the client's must be right by the hosts' announcements alone.
#[derive(Debug)]
pub struct Witness {
    name: String,
    address: Ipv4Addr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One question and everyone who answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When the question crossed the switch.
    pub asked: Instant,
    /// Who answered; two owners show up as two MACs.
    pub owners: BTreeSet<Mac>,
}

impl Witness {
    /// Starts asking from `host`.
    ///
    /// # Errors
    /// When a packet socket cannot be had.
    pub fn start(host: &Host, address: Ipv4Addr) -> Result<Self> {
        Self::every(PACE, host, address)
    }

    /// The same at another pace.
    ///
    /// # Errors
    /// When a packet socket cannot be had.
    pub fn every(pace: Duration, host: &Host, address: Ipv4Addr) -> Result<Self> {
        let injector = Injector::open(host)?;
        let question = arp_request(host.mac(), host.address(), address);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // A question that is not sent is one sighting less.
                    let _ = injector.send(&question);
                    thread::sleep(pace);
                }
            }
        });
        Ok(Self {
            name: host.name().to_owned(),
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// What it saw from `mark` on, oldest first; without the last question, whose answers may be under way.
    #[must_use]
    pub fn sightings(&self, capture: &Capture, mark: Mark) -> Vec<Sighting> {
        let mut sightings = Vec::<Sighting>::new();
        for captured in capture.after(mark) {
            let Packet::Arp(arp) = &captured.packet else {
                continue;
            };
            if !arp.reply && *captured.host == *self.name {
                sightings.push(Sighting {
                    asked: captured.at,
                    owners: BTreeSet::new(),
                });
            } else if arp.reply
                && arp.sender_address == self.address
                && let Some(last) = sightings.last_mut()
            {
                last.owners.insert(arp.sender);
            }
        }
        sightings.pop();
        sightings
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}
