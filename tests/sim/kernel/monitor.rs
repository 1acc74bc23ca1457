//! Notifications of links and addresses that wait for a process.

use std::collections::VecDeque;

use carp_daemon::io::netlink::{MonitorDrained, NetlinkEvent};

/// The number of notifications that are read before the process does something else.
const AT_ONCE: usize = 64;

/// The queue of a netlink socket. While no process watches, nothing is queued.
#[derive(Debug)]
pub struct Monitor {
    queue: VecDeque<NetlinkEvent>,
    room: usize,
    overrun: bool,
    watched: bool,
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
        }
    }

    /// Opens a socket for a process; notifications of an earlier socket are lost.
    pub fn watch(&mut self) {
        self.close();
        self.watched = true;
    }

    /// Closes the socket.
    pub fn close(&mut self) {
        self.queue.clear();
        self.overrun = false;
        self.watched = false;
    }

    /// Queues a notification.
    pub fn tell(&mut self, event: NetlinkEvent) {
        if !self.watched {
            return;
        }
        if self.queue.len() < self.room {
            self.queue.push_back(event);
        } else {
            self.overrun = true;
        }
    }

    /// Discards the queued notifications, as if there had been no room for them.
    pub fn overrun(&mut self) {
        self.overrun = self.watched;
        self.queue.clear();
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
    fn a_long_queue_is_read_in_parts() {
        let mut monitor = Monitor::new(100);
        monitor.watch();
        (0..100).for_each(|ifindex| monitor.tell(NetlinkEvent::LinkGone { ifindex }));
        assert_eq!(heard(&mut monitor), (MonitorDrained::More, 64));
        assert_eq!(heard(&mut monitor), (MonitorDrained::All, 36));
    }
}
