//! Links and addresses of the network namespace.

use std::io;
use std::time::Duration;

use super::Host;
use crate::engine::effects::Netlink;
use crate::io::netlink::{Address, Link, Monitor, MonitorDrained, NetlinkEvent, Order};

impl Netlink for Host {
    fn notifications(&mut self, visit: &mut dyn FnMut(NetlinkEvent)) -> io::Result<MonitorDrained> {
        match &mut self.monitor {
            Some(monitor) => monitor.drain(visit),
            None => Ok(MonitorDrained::All),
        }
    }

    fn watch_anew(&mut self) -> io::Result<()> {
        self.monitor = None;
        self.monitor = Some(Monitor::new()?);
        Ok(())
    }

    fn links(&mut self) -> io::Result<Vec<Link>> {
        self.netlink.links()
    }

    fn addresses(&mut self) -> io::Result<Vec<Address>> {
        self.netlink.addresses()
    }

    fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        self.netlink.link(ifindex)
    }

    fn give(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        self.netlink.give_all(orders)
    }

    fn give_later(&mut self, orders: Vec<Order>) {
        self.outcomes = None;
        self.netlink.give_later(orders);
    }

    fn take_outcomes(&mut self) -> Option<Vec<io::Result<()>>> {
        self.outcomes.take()
    }

    fn is_overdue(&self) -> bool {
        self.netlink.is_overdue()
    }

    fn finish(&mut self, limit: Duration) -> bool {
        self.netlink.finish(limit)
    }

    fn port(&self) -> u32 {
        self.netlink.port()
    }
}
