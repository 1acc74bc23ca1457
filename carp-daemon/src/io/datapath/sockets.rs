//! The packet sockets of the interfaces that have no kernel program.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::task::{Context, Poll};

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{VhostKey, VhostValue};
use carp_common::time::Instant;

use super::batch::{Batch, Drained};
use super::socket::Receiver;
use super::tally::Tally;
use crate::io::netlink::Link;

/// The packet sockets, by the index of their interface.
#[derive(Debug, Default)]
pub struct Sockets {
    receivers: BTreeMap<u32, Receiver>,
    /// What was counted on interfaces whose socket is closed. Another socket of the interface goes on from there.
    retired: BTreeMap<u32, Tally>,
    /// The interfaces whose socket failed and was closed, and why.
    failures: Vec<(u32, io::Error)>,
}

impl Sockets {
    /// Listens on an interface.
    ///
    /// # Errors
    /// Returns EPERM without CAP_NET_RAW, or any other error of the system calls.
    pub fn open(&mut self, link: &Link) -> io::Result<()> {
        let mut receiver = Receiver::open(link)?;
        self.close(link.index);
        receiver.tally = self.retired.remove(&link.index).unwrap_or_default();
        self.receivers.insert(link.index, receiver);
        Ok(())
    }

    /// Stops listening on an interface. Does nothing if there is no socket.
    pub fn close(&mut self, ifindex: u32) {
        if let Some(receiver) = self.receivers.remove(&ifindex) {
            self.retired.insert(ifindex, receiver.close());
        }
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.close(ifindex);
        self.retired.remove(&ifindex);
    }

    /// Returns what the sockets of an interface counted since the start. `None` if it never had one.
    #[must_use]
    pub fn tally(&self, ifindex: u32) -> Option<&Tally> {
        let receiver = self.receivers.get(&ifindex);
        receiver
            .map(|receiver| &receiver.tally)
            .or_else(|| self.retired.get(&ifindex))
    }

    /// Returns the socket of an interface.
    pub fn get(&mut self, ifindex: u32) -> Option<&mut Receiver> {
        self.receivers.get_mut(&ifindex)
    }

    /// Ready when a socket may have a frame.
    ///
    /// # Errors
    /// Returns any error of the runtime.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = false;
        for receiver in self.receivers.values() {
            if let Poll::Ready(result) = receiver.poll_readable(context) {
                result?;
                ready = true;
            }
        }
        match ready {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Fetches what arrived up to `now`, for these virtual hosts. A socket that fails is closed, and
    /// [`take_failures`](Self::take_failures) returns it.
    pub fn drain(
        &mut self,
        now: Instant,
        vhosts: &HashMap<VhostKey, VhostValue>,
        batch: &mut Batch,
    ) -> Drained {
        let mut drained = Drained::Empty;
        let mut failures = Vec::new();
        for (ifindex, receiver) in &mut self.receivers {
            match receiver.drain(now, vhosts, batch) {
                Ok(Drained::Empty) => {}
                Ok(Drained::Later) => drained = Drained::Later,
                Ok(Drained::Full) => {
                    drained = Drained::Full;
                    break;
                }
                Err(error) => failures.push((*ifindex, error)),
            }
        }
        for (ifindex, _) in &failures {
            self.close(*ifindex);
        }
        self.failures.append(&mut failures);
        drained
    }

    /// Returns the interfaces whose sockets failed since the last call, and why.
    pub fn take_failures(&mut self) -> Vec<(u32, io::Error)> {
        std::mem::take(&mut self.failures)
    }

    /// Returns how many frames did not fit into the sockets' buffers since the last call.
    pub fn take_losses(&mut self) -> u64 {
        self.receivers.values_mut().map(Receiver::take_losses).sum()
    }

    /// Returns the sum of one counter since the start, over all interfaces that are still there.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        let open = self.receivers.values().map(|receiver| &receiver.tally);
        let tallies = open.chain(self.retired.values());
        tallies.fold(0, |sum, tally| sum.wrapping_add(tally.one(counter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_closed_socket_stay_until_its_interface_is_gone() {
        let mut sockets = Sockets::default();
        for ifindex in [2, 3] {
            let mut tally = Tally::default();
            tally.count(Counter::Delivered, None);
            sockets.retired.insert(ifindex, tally);
        }
        assert_eq!(sockets.count(Counter::Delivered), 2);
        // There is no socket to close.
        sockets.close(2);
        let counted = |sockets: &Sockets| Some(sockets.tally(2)?.one(Counter::Delivered));
        assert_eq!(counted(&sockets), Some(1));
        sockets.forget(2);
        assert_eq!(counted(&sockets), None);
        assert_eq!(sockets.count(Counter::Delivered), 1);
    }
}
