//! What every room of the engine sees and acts through.

use std::io;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::effects::Effects;
use super::interface::Interface;
use super::namespace::Namespace;
use super::pace::{REPORT_INTERVAL, RETRY_INTERVAL};
use super::registry::InstanceId;
use crate::api::event::address::Assignment;
use crate::api::event::process::{Netlink, Request};
use crate::api::{Event, Place, What};
use crate::config::Lease;
use crate::io::netlink::{Address, Order};

/// The host, what is known about its network namespace, and the time of the turn.
#[derive(Debug)]
pub struct Context<E> {
    /// The host.
    pub effects: E,
    /// When the turn began.
    pub now: Instant,
    /// Its links and addresses.
    pub namespace: Namespace,
    /// How long addresses outlive us.
    pub lease: Lease,
    /// An interface may be absent at the start.
    pub wait_interface: bool,
    /// Everything ends.
    pub stopping: bool,
    /// Something was left behind: do not wait before the next turn.
    pub busy: bool,
    /// Something could not be opened, attached or programmed: when to try again.
    pub retry_at: Option<Instant>,
    /// Virtual hosts whose deadlines may have changed.
    pub touched: Vec<InstanceId>,
    /// Of lines about stalls.
    pub stall_limit: RateLimit,
    /// Of lines about links and addresses that cannot be listed or watched.
    pub netlink_limit: RateLimit,
}

/// One interface, for the rooms of a virtual host on it.
pub struct Site<'a, E> {
    /// The interface.
    pub interface: &'a mut Interface,
    /// Everything else.
    pub cx: &'a mut Context<E>,
}

impl<E: Effects> Context<E> {
    /// Does something that takes a while, such as attaching; what follows counts from its end.
    pub fn after<T>(
        &mut self,
        first: impl FnOnce(&mut Self) -> T,
        then: impl FnOnce(&mut Self, T),
    ) {
        let began = self.now;
        let done = first(self);
        self.now = self.effects.now();
        then(self, done);
        // What arrived meanwhile was not heard yet, so the turn goes on judging by its own time.
        self.now = began;
    }

    /// Tells what happened.
    pub fn tell(&mut self, place: &Place, what: impl Into<What>) {
        self.tell_after(0, place, what);
    }

    /// Tells what happened, after so many like it that were suppressed.
    pub fn tell_after(&mut self, suppressed: u64, place: &Place, what: impl Into<What>) {
        let event = Event::new(place.clone(), what).after(suppressed);
        self.effects.tell(event);
    }

    /// Takes what netlink told so far into the tables.
    pub fn listen(&mut self) {
        match self.namespace.listen(&mut self.effects) {
            Ok(more) => self.busy |= more,
            Err(error) => self.complain_about_netlink(Request::Watch, &error),
        }
    }

    /// The same before addresses are removed. Where notifications were lost, everything is listed at once, because
    /// what is out of date may be somebody else's by now. What follows from that is seen to with the other changes.
    pub fn catch_up(&mut self) {
        self.listen();
        if self.namespace.is_blind()
            && let Err(error) = self.namespace.list(&mut self.effects)
        {
            self.complain_about_netlink(Request::List, &error);
        }
    }

    /// Says that links and addresses are not known for certain.
    pub fn complain_about_netlink(&mut self, request: Request, error: &io::Error) {
        if let Some(suppressed) = self.netlink_limit.admit(self.now, REPORT_INTERVAL) {
            let error = error.to_string();
            let failed = Netlink::Failed { request, error };
            self.tell_after(suppressed, &Place::Process, failed);
        }
    }

    /// Gives one order.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn give(&mut self, order: Order) -> io::Result<()> {
        let outcome = self.effects.give(&[order]).pop();
        outcome.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Deletes an address, unless it is gone already.
    ///
    /// # Errors
    /// Returns the kernel's refusal. `TimedOut` means that the kernel may still delete the address.
    pub fn delete(&mut self, place: &Place, address: &Address) -> io::Result<()> {
        match self.give(Order::Delete(*address)) {
            Ok(()) => {
                let address = address.cidr();
                self.tell(place, Assignment::Removed { address });
                self.look_back();
                Ok(())
            }
            // Someone else was faster, or the interface is gone.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EADDRNOTAVAIL | libc::ENODEV)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Looks what the orders just given met, and gives back what was not ours.
    pub fn look_back(&mut self) {
        self.listen();
        self.give_back();
    }

    /// Gives back what an order of ours took from somebody else, because he put it there at the same moment.
    pub fn give_back(&mut self) {
        for taken in self.namespace.take_taken() {
            let address = taken.cidr();
            let left = match self.give(Order::Renew(taken, None)) {
                Ok(()) => Assignment::LeftToOther { address },
                Err(error) => Assignment::LeaveFailed {
                    address,
                    error: error.to_string(),
                },
            };
            self.tell(&Place::Process, left);
        }
    }

    /// Something failed that may work in a moment.
    pub fn retry_soon(&mut self) {
        self.retry_at = Some(self.now + RETRY_INTERVAL);
    }
}
