//! What the engine tells the datapath about the interfaces that the fence covers at egress.

use std::collections::BTreeMap;

use carp_common::time::Instant;
use tracing::warn;

use super::{Chain, Datapath, Egress};
use crate::config::Fence;
use crate::io::netlink::{Client, Link};

impl Datapath {
    /// Loads the program for egress, where there is a fence.
    pub(super) fn prepare_egress(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if self.fence == Fence::Off || self.egress.is_some() || self.egress_refused {
            return;
        }
        match kernel.prepare_egress() {
            Ok(program) => self.egress = Some(Egress::open(program, &self.pins, self.fence)),
            Err(error) => {
                self.egress_refused = true;
                warn!(
                    "the fence covers what comes in, not what this host says: {}",
                    Chain(&error)
                );
            }
        }
    }

    /// Takes over the programs at egress that dead ones left, of a network namespace with these interfaces, and covers
    /// those that are served.
    pub fn start_cover(&mut self, links: &BTreeMap<u32, Link>) {
        if let (Some(kernel), Some(egress)) = (&mut self.kernel, &mut self.egress) {
            let others = self.pins.other_egress();
            kernel.start_egress(egress, &others, links, &self.attachments);
        }
        self.adopt_links();
    }

    /// Follows the interfaces of the network namespace, of which these are all: the fence covers what leaves on each.
    pub fn cover(&mut self, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            egress.cover(links, &self.attachments);
        }
    }

    /// When interfaces are left to be covered.
    #[must_use]
    pub fn covers_at(&self) -> Option<Instant> {
        self.egress.as_ref().and_then(Egress::due)
    }

    /// The same, and tries again what the kernel refused before.
    pub fn cover_refused(&mut self, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            egress.forget_refusals();
        }
        self.cover(links);
    }

    /// Covers anew what others uncovered.
    pub fn look_at_cover(
        &mut self,
        links: &BTreeMap<u32, Link>,
        netlink: &mut Client,
        now: Instant,
    ) {
        let egress = self.egress.as_mut();
        if egress.is_some_and(|egress| egress.look(links, netlink, now)) {
            self.cover(links);
        }
    }
}
