//! Received advertisements and the state of the kernel program.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::VhostKey;
use carp_common::proto::Standing;
use carp_common::time::Instant;

use super::Host;
use crate::engine::effects::{KernelProgram, Links, Receive, Refused};
use crate::io::chain::Chain;
use crate::io::datapath::{
    self, AddressOwner, Batch, Choice, Counts, Drained, Endpoints, Entry, Fenced, HookLoss, Rung,
    Survival,
};

/// The longest time between two looks. A turn that comes for another reason may take the look half as long before.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl From<datapath::error::KernelError> for Refused {
    fn from(error: datapath::error::KernelError) -> Self {
        Self(Chain(&error).to_string())
    }
}

impl Receive for Host {
    fn prepare_programs(&mut self) -> Result<(), datapath::DatapathError> {
        self.datapath.prepare()
    }

    fn start_cover(&mut self, links: &Links) {
        self.datapath.start_cover(links);
    }

    fn attach(
        &mut self,
        link: &crate::io::netlink::Link,
    ) -> Result<Choice, datapath::DatapathError> {
        self.datapath.attach(link, &mut self.netlink)
    }

    fn attach_again(
        &mut self,
        link: &crate::io::netlink::Link,
    ) -> Result<Choice, datapath::DatapathError> {
        self.datapath.detach(link.index);
        self.datapath.attach(link, &mut self.netlink)
    }

    fn detach(&mut self, ifindex: u32) {
        self.datapath.detach(ifindex);
    }

    fn forget(&mut self, ifindex: u32) {
        self.datapath.forget(ifindex);
    }

    fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        self.datapath.drain(now, batch)
    }

    fn take_losses(&mut self) -> u64 {
        self.datapath.take_losses()
    }

    fn take_failures(&mut self) -> Vec<(u32, io::Error)> {
        self.datapath.sockets.take_failures()
    }

    fn loss(&mut self, ifindex: u32) -> Option<HookLoss> {
        self.datapath.programs.loss(ifindex, &mut self.netlink)
    }

    fn cover(&mut self, links: &Links) {
        self.datapath.programs.cover(links);
    }

    fn tend(&mut self, links: &Links, now: Instant) -> bool {
        if self
            .datapath
            .programs
            .covers_at()
            .is_some_and(|at| at <= now)
        {
            self.datapath.programs.cover(links);
        }
        if now >= self.tended_at + LOOK_INTERVAL / 2 {
            self.tended_at = now;
            // A thread looks, because the kernel may serve other processes first.
            self.lookout.begin(self.datapath.programs.sights());
            self.datapath.programs.cover_refused(links);
        }
        std::mem::take(&mut self.suspects_loss)
    }

    fn look_at_cover(&mut self, links: &Links, now: Instant) {
        self.datapath
            .programs
            .look_at_cover(links, &mut self.netlink, now);
    }

    fn next_tending(&self) -> Option<Instant> {
        // Only programs can be lost: no other process can close our socket.
        let has_programs = !self.datapath.programs.attachments().is_empty();
        let look = has_programs.then_some(self.tended_at + LOOK_INTERVAL);
        look.into_iter()
            .chain(self.datapath.programs.covers_at())
            .min()
    }

    fn rung(&self, ifindex: u32) -> Option<Rung> {
        self.datapath.rung(ifindex)
    }

    fn survival(&self, ifindex: u32) -> Survival {
        self.datapath.survival(ifindex)
    }

    fn counts(&mut self, ifindex: u32) -> Result<Counts, Refused> {
        Ok(self.datapath.counts(ifindex)?)
    }

    fn count(&mut self, counter: Counter) -> Result<u64, Refused> {
        Ok(self.datapath.count(counter)?)
    }

    fn counts_of(&mut self, key: VhostKey) -> Result<Counts, Refused> {
        Ok(self.datapath.counts_of(key)?)
    }

    fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, Refused> {
        Ok(self.datapath.counts_of_others(ifindex)?)
    }
}

impl KernelProgram for Host {
    fn configure(&mut self, key: VhostKey, entry: &Entry<'_>) -> Result<(), Refused> {
        Ok(self.datapath.entries.configure(key, entry)?)
    }

    fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), Refused> {
        Ok(self.datapath.entries.renew(key, standing)?)
    }

    fn set_endpoints(&mut self, key: VhostKey, endpoints: Endpoints) -> Result<(), Refused> {
        Ok(self.datapath.entries.set_endpoints(key, endpoints)?)
    }

    fn withdraw(&mut self, key: VhostKey) -> Result<(), Refused> {
        Ok(self.datapath.entries.remove(key)?)
    }

    fn is_intact(&mut self, key: VhostKey) -> bool {
        self.datapath.entries.is_intact(key)
    }

    fn own(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused> {
        Ok(self.datapath.entries.own(address, owner)?)
    }

    fn silence(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused> {
        Ok(self.datapath.entries.silence(address, owner)?)
    }

    fn disown(&mut self, fenced: Fenced) -> Result<(), Refused> {
        Ok(self.datapath.entries.disown(fenced)?)
    }

    fn fenced(&self) -> Vec<Fenced> {
        self.datapath.all_fenced()
    }

    fn remove_unowned_but(&mut self, links: &Links) {
        self.datapath.remove_unowned_but(links);
    }
}
