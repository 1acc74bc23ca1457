//! The packet sockets of the interfaces that have no kernel program.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::task::{Context, Poll};

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{VhostKey, VhostValue};
use carp_common::time::Instant;

use super::batch::{Batch, Drained};
use super::socket::Receiver;
use crate::io::netlink::Link;

/// The packet sockets, by the index of their interface.
#[derive(Debug, Default)]
pub struct Sockets {
    receivers: BTreeMap<u32, Receiver>,
    /// The interfaces whose socket failed and was closed, and why.
    failures: Vec<(u32, io::Error)>,
}

impl Sockets {
    /// Listens on an interface.
    ///
    /// # Errors
    /// Returns EPERM without CAP_NET_RAW, or any other error of the system calls.
    pub fn open(&mut self, link: &Link) -> io::Result<()> {
        self.receivers.insert(link.index, Receiver::open(link)?);
        Ok(())
    }

    /// Stops listening on an interface. Does nothing if there is no socket.
    pub fn close(&mut self, ifindex: u32) {
        self.receivers.remove(&ifindex);
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
        let failed_before = self.failures.len();
        for (ifindex, receiver) in &mut self.receivers {
            match receiver.drain(now, vhosts, batch) {
                Ok(Drained::Empty) => {}
                Ok(Drained::Later) => drained = Drained::Later,
                Ok(Drained::Full) => {
                    drained = Drained::Full;
                    break;
                }
                Err(error) => self.failures.push((*ifindex, error)),
            }
        }
        for (ifindex, _) in &self.failures[failed_before..] {
            self.receivers.remove(ifindex);
        }
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

    /// Returns the sum of one counter over all sockets.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        let sockets = self.receivers.values();
        sockets.fold(0, |sum, socket| sum.wrapping_add(socket.count_of(counter)))
    }
}
