//! A continuous record of the hosts that answer for the virtual address.

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

/// The default time between two requests. An answer belongs to the latest request.
pub const PACE: Duration = Duration::from_millis(40);

/// A neighbour that repeatedly asks for an address by ARP. It runs on a separate host, because an answer
/// would refresh the asking host's ARP entry, and the client's must be correct because of the announcements alone.
#[derive(Debug)]
pub struct Witness {
    name: String,
    address: Ipv4Addr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One request and all hosts that answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When the request crossed the switch.
    pub asked: Instant,
    /// The MAC addresses that answered; two owners appear as two.
    pub owners: BTreeSet<Mac>,
}

impl Witness {
    /// Starts asking from `host`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(host: &Host, address: Ipv4Addr) -> Result<Self> {
        Self::every(PACE, host, address)
    }

    /// The same with another interval.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn every(pace: Duration, host: &Host, address: Ipv4Addr) -> Result<Self> {
        let injector = Injector::open(host)?;
        let question = arp_request(host.mac(), host.address(), address);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // A request that is not sent only costs one sighting.
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

    /// Its sightings from `mark` on, oldest first, without the last request, whose answers may still be under way.
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
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}
