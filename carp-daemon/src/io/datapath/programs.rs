//! The attachments of carpd's programs: at the ingress of the interfaces that are served, and at the egress of all.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use carp_common::time::Instant;

use super::egress::{Egress, Leaving};
use super::hook::{Attachment, HookLoss};
use super::pins::Pins;
use super::program::Program;
use super::sight::Sight;
use crate::api::event::kernel;
use crate::api::{Outbox, Place};
use crate::config::Fence;
use crate::io::chain::Chain;
use crate::io::netlink::{Client, Link};

/// The attached programs, which other processes can detach.
pub struct Programs {
    /// Those at ingress, by the index of their interface.
    attachments: BTreeMap<u32, Attachment>,
    /// Those at egress. `None` without a fence, or if the kernel refused the program.
    egress: Option<Egress>,
    /// It was told already that the kernel refused the program for egress.
    is_egress_refused: bool,
    outbox: Outbox,
}

impl Programs {
    /// Returns a value without programs, which sends its events to `outbox`.
    #[must_use]
    pub const fn new(outbox: Outbox) -> Self {
        Self {
            attachments: BTreeMap::new(),
            egress: None,
            is_egress_refused: false,
            outbox,
        }
    }

    /// Keeps the program that was attached to an interface.
    pub fn insert(&mut self, ifindex: u32, attachment: Attachment) {
        self.attachments.insert(ifindex, attachment);
    }

    /// Detaches the program of an interface. Does nothing if there is none.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some(attachment) = self.attachments.remove(&ifindex) {
            attachment.detach();
        }
    }

    /// Returns the programs at ingress.
    #[must_use]
    pub const fn attachments(&self) -> &BTreeMap<u32, Attachment> {
        &self.attachments
    }

    /// Returns whether the programs that fence an interface outlive this process.
    #[must_use]
    pub fn are_pinned(&self, ifindex: u32) -> bool {
        let attachment = self.attachments.get(&ifindex);
        attachment.is_some_and(Attachment::is_pinned)
            && self.egress.as_ref().is_none_or(Egress::is_pinned)
    }

    /// Returns what other processes did to the program on an interface.
    #[must_use]
    pub fn loss(&self, ifindex: u32, netlink: &mut Client) -> Option<HookLoss> {
        self.attachments.get(&ifindex)?.loss(netlink)
    }

    /// Returns every program that other processes can detach.
    #[must_use]
    pub fn sights(&self) -> Vec<Sight> {
        let served = self.attachments.values().filter_map(Attachment::sight);
        let covered = self.egress.iter().flat_map(Egress::sights);
        served.chain(covered).collect()
    }

    /// Loads the program for egress if there is a fence.
    pub fn prepare_egress(&mut self, program: &mut Program, pins: &Pins, fence: Fence) {
        if fence == Fence::Off || self.egress.is_some() || self.is_egress_refused {
            return;
        }
        match program.prepare_egress() {
            Ok(program) => {
                let outbox = self.outbox.clone();
                self.egress = Some(Egress::open(program, pins.egress(), fence, outbox));
            }
            Err(error) => {
                self.is_egress_refused = true;
                let error = Chain(&error).to_string();
                self.outbox
                    .tell(Place::Process, kernel::Egress::Refused { error });
            }
        }
    }

    /// Takes over the programs at egress that dead carpds left, in a network namespace with these interfaces, and covers the
    /// interfaces that are served.
    pub fn start_cover(&mut self, program: &mut Program, pins: &Pins, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            let others = pins.other_egress();
            program.start_egress(egress, &others, links, &self.attachments);
        }
    }

    /// Follows the interfaces of the network namespace, which are all of these. The fence covers what leaves on each.
    pub fn cover(&mut self, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            egress.cover(links, &self.attachments);
        }
    }

    /// Returns when interfaces are left to be covered.
    #[must_use]
    pub fn covers_at(&self) -> Option<Instant> {
        self.egress.as_ref().and_then(Egress::due)
    }

    /// Follows the interfaces as [`cover`](Self::cover) does, and tries again what the kernel refused before.
    pub fn cover_refused(&mut self, links: &BTreeMap<u32, Link>) {
        if let Some(egress) = &mut self.egress {
            egress.forget_refusals();
        }
        self.cover(links);
    }

    /// Checks the programs at egress, and attaches those again that other processes detached.
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

    /// Ready when an interface was covered, or the kernel refused to.
    pub fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.egress {
            Some(egress) => egress.poll_news(context),
            None => Poll::Pending,
        }
    }

    /// Stops following the interfaces. With `keep` the programs at egress stay, because addresses are still fenced.
    pub fn close_egress(&mut self, keep: bool) -> Option<Leaving> {
        Some(self.egress.take()?.close(keep))
    }
}
