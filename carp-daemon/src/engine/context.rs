//! The context that every room of the engine sees and acts through.

use std::collections::BTreeSet;
use std::io;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::effects::Effects;
use super::interface::Interface;
use super::namespace::Namespace;
use super::pace::{REPORT_INTERVAL, RETRY_INTERVAL};
use super::registry::InstanceId;
use crate::api::event::address::Assignment;
use crate::api::event::process::{Netlink, NetlinkRequest};
use crate::api::{Event, Place, What};
use crate::config::Lease;
use crate::io::netlink::{Address, Order};

/// The host, the known state of its network namespace, and the time of the turn.
#[derive(Debug)]
pub struct Context<E> {
    /// The host.
    pub effects: E,
    /// When the turn began.
    pub now: Instant,
    /// Its links and addresses.
    pub namespace: Namespace,
    /// The option that says how long addresses outlive carpd.
    pub lease: Lease,
    /// Whether an interface may be absent at the start.
    pub wait_interface: bool,
    /// Whether the process ends.
    pub stopping: bool,
    /// Whether the turn leaves work behind, so that the next one must not wait.
    pub busy: bool,
    /// The time of the next attempt at opening, attaching and programming after a failure.
    pub retry_at: Option<Instant>,
    /// The indexes of the interfaces that are open.
    pub open: BTreeSet<u32>,
    /// Virtual hosts whose deadlines may have changed.
    pub touched: Vec<InstanceId>,
    /// Limits the log lines about stalls.
    pub stall_limit: RateLimit,
    /// Limits the log lines about links and addresses that cannot be listed or watched.
    pub netlink_limit: RateLimit,
}

/// The view of one interface, for the rooms of a virtual host on it.
pub struct Site<'a, E> {
    /// The interface.
    pub interface: &'a mut Interface,
    /// Everything else.
    pub cx: &'a mut Context<E>,
}

impl<E: Effects> Context<E> {
    /// Closes an interface, which may be gone.
    pub fn close(&mut self, ifindex: u32) {
        self.open.remove(&ifindex);
        self.effects.close(ifindex);
    }

    /// Reports an event.
    pub fn tell(&mut self, place: &Place, what: impl Into<What>) {
        self.tell_after(0, place, what);
    }

    /// Reports an event, with the number of events like it that were suppressed.
    pub fn tell_after(&mut self, suppressed: u64, place: &Place, what: impl Into<What>) {
        let event = Event::new(place.clone(), what).after(suppressed);
        self.effects.tell(event);
    }

    /// Updates the tables with the changes that netlink has reported.
    pub fn listen(&mut self) {
        match self.namespace.listen(&mut self.effects) {
            Ok(more) => self.busy |= more,
            Err(error) => self.complain_about_netlink(NetlinkRequest::Watch, &error),
        }
    }

    /// Updates the tables before addresses are removed. If notifications were lost, everything is listed at once, because an
    /// address may belong to another program by now. If they cannot be listed either, the tables stay as they
    /// were. The engine follows the changes together with all others of the turn.
    pub fn catch_up(&mut self) {
        self.listen();
        if self.namespace.is_stale()
            && let Err(error) = self.namespace.list(&mut self.effects)
        {
            self.complain_about_netlink(NetlinkRequest::List, &error);
        }
    }

    /// Reports that links and addresses cannot be watched or listed.
    pub fn complain_about_netlink(&mut self, request: NetlinkRequest, error: &io::Error) {
        if let Some(suppressed) = self.netlink_limit.admit(self.now, REPORT_INTERVAL) {
            let error = error.to_string();
            let failed = Netlink::Failed { request, error };
            self.tell_after(suppressed, &Place::Process, failed);
        }
    }

    /// Gives the kernel one order.
    ///
    /// # Errors
    /// Returns the kernel's error.
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
            // Another program was faster, or the interface is gone.
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

    /// Updates the tables after orders, and gives back addresses of others that they changed.
    pub fn look_back(&mut self) {
        self.listen();
        self.give_back();
    }

    /// Gives back the addresses that an order of carpd took from another program, because that program added them at the same
    /// moment. They get no lifetime, because the tables do not keep any: a lifetime that is too long ends with the owner's next
    /// renewal, and one that is too short would take the address away.
    pub fn give_back(&mut self) {
        while let Some(owed) = self.namespace.debts().take_due() {
            let given = self.give(Order::Renew(owed, None));
            let debts = self.namespace.debts();
            let address = owed.cidr();
            let left = match given {
                Ok(()) => {
                    debts.settle(&owed);
                    Assignment::LeftToOther { address }
                }
                Err(error) => {
                    let is_news = debts.refuse(&owed);
                    self.retry_soon();
                    if !is_news {
                        continue;
                    }
                    Assignment::LeaveFailed {
                        address,
                        error: error.to_string(),
                        retry: RETRY_INTERVAL,
                    }
                }
            };
            self.tell(&Place::Process, left);
        }
    }

    /// Tries again to give back what the kernel refused to take back. It may have done so although its answer was lost.
    pub fn give_back_again(&mut self) {
        self.listen();
        if self.namespace.debts().are_paid() {
            return;
        }
        if self.effects.is_overdue() {
            // Another order would only wait behind those that the kernel has not carried out yet.
            self.retry_soon();
            return;
        }
        self.namespace.debts().retry();
        self.give_back();
    }

    /// Plans another attempt at everything that failed.
    pub fn retry_soon(&mut self) {
        self.retry_at = Some(self.now + RETRY_INTERVAL);
    }
}
