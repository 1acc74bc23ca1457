//! Notifications of links and addresses that wait for a process.

use std::collections::VecDeque;

use carp_daemon::io::netlink::{Address, MonitorDrained, NetlinkEvent};

/// The number of notifications that are read before the process does something else.
const AT_ONCE: usize = 64;

/// The queue of a netlink socket. While no process watches, nothing is queued.
#[derive(Debug)]
pub struct Monitor {
    queue: VecDeque<NetlinkEvent>,
    room: usize,
    overrun: bool,
    watched: bool,
    /// Addresses that were added or changed without the knowledge of the process, since it last listed them.
    untold: Vec<Address>,
}

impl Monitor {
    /// Creates a socket with room for this many notifications, which no process has opened yet.
    #[must_use]
    pub const fn new(room: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            room,
            overrun: false,
            watched: false,
            untold: Vec::new(),
        }
    }

    /// Opens a socket for a process; notifications of an earlier socket are lost.
    pub fn watch(&mut self) {
        self.close();
        self.watched = true;
    }

    /// Closes the socket.
    pub fn close(&mut self) {
        self.lose_queue();
        self.overrun = false;
        self.watched = false;
    }

    /// Queues a notification.
    pub fn tell(&mut self, event: NetlinkEvent) {
        if !self.watched {
            return;
        }
        if self.queue.len() < self.room {
            if let NetlinkEvent::Address(address) = &event {
                self.untold.retain(|untold| !untold.is_same(address));
            }
            self.queue.push_back(event);
        } else {
            self.overrun = true;
            self.lose(event);
        }
    }

    /// Discards the queued notifications, as if there had been no room for them.
    pub fn overrun(&mut self) {
        self.overrun = self.watched;
        self.lose_queue();
    }

    fn lose_queue(&mut self) {
        for event in std::mem::take(&mut self.queue) {
            self.lose(event);
        }
    }

    fn lose(&mut self, event: NetlinkEvent) {
        if let NetlinkEvent::Address(address) = event {
            self.untold.push(address);
        }
    }

    /// Notes that the process has listed everything.
    pub fn is_listed(&mut self) {
        self.untold.clear();
    }

    /// Whether the process cannot know the latest change of an address unless it lists everything.
    #[must_use]
    pub fn is_untold(&self, address: &Address) -> bool {
        self.untold.iter().any(|untold| untold.is_same(address))
    }

    /// Whether the socket is readable.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.overrun || !self.queue.is_empty()
    }

    /// Delivers the queued notifications.
    pub fn drain(&mut self, visit: &mut dyn FnMut(NetlinkEvent)) -> MonitorDrained {
        let count = self.queue.len().min(AT_ONCE);
        self.queue.drain(..count).for_each(visit);
        if std::mem::take(&mut self.overrun) {
            MonitorDrained::Overrun
        } else if self.queue.is_empty() {
            MonitorDrained::All
        } else {
            MonitorDrained::More
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(monitor: &mut Monitor) -> (MonitorDrained, usize) {
        let mut count = 0;
        let heard = monitor.drain(&mut |_| count += 1);
        (heard, count)
    }

    #[test]
    fn a_full_queue_loses_notifications_and_reports_it_once() {
        let mut monitor = Monitor::new(2);
        let gone = |ifindex| NetlinkEvent::LinkGone { ifindex };
        monitor.tell(gone(1));
        assert_eq!(
            heard(&mut monitor),
            (MonitorDrained::All, 0),
            "nobody watched"
        );
        monitor.watch();
        (1..=3).for_each(|ifindex| monitor.tell(gone(ifindex)));
        assert!(monitor.is_readable());
        assert_eq!(heard(&mut monitor), (MonitorDrained::Overrun, 2));
        assert_eq!(heard(&mut monitor), (MonitorDrained::All, 0));
        monitor.overrun();
        monitor.watch();
        assert!(!monitor.is_readable(), "a new socket has lost nothing");
    }

    #[test]
    fn an_address_whose_notification_was_lost_is_untold_until_everything_is_listed() {
        let mut monitor = Monitor::new(1);
        monitor.watch();
        let told = [1, 2, 3].map(|last| Address::new(2, [10, 0, 0, last].into(), 32, 0));
        for address in told {
            monitor.tell(NetlinkEvent::Address(address));
        }
        let untold = |monitor: &Monitor| told.map(|it| monitor.is_untold(&it));
        assert_eq!(untold(&monitor), [false, true, true], "it has room for one");
        monitor.watch();
        assert_eq!(untold(&monitor), [true; 3], "nobody reads the old queue");
        monitor.tell(NetlinkEvent::Address(told[2]));
        assert_eq!(untold(&monitor), [true, true, false]);
        monitor.is_listed();
        assert_eq!(untold(&monitor), [false; 3]);
    }

    #[test]
    fn a_long_queue_is_read_in_parts() {
        let mut monitor = Monitor::new(100);
        monitor.watch();
        (0..100).for_each(|ifindex| monitor.tell(NetlinkEvent::LinkGone { ifindex }));
        assert_eq!(heard(&mut monitor), (MonitorDrained::More, 64));
        assert_eq!(heard(&mut monitor), (MonitorDrained::All, 36));
    }
}
