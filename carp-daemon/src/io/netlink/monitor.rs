//! Receives the kernel's notifications about links and addresses.

use std::io;
use std::task::{Context, Poll, ready};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::NetlinkEvent;
use super::message::{self, Body};
use crate::sys;

/// Size of the buffer for one datagram. Notifications are smaller, and the kernel never sends more at once than it
/// can itself read.
const BUFFER_LEN: usize = 32 * 1024;

/// Size of the receive buffer. Unit: bytes, of which the kernel takes about 1 KiB for each notification. It is large
/// because listing everything anew, which an overrun makes necessary, costs more the more there is.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Datagrams that are read in a row before the caller gets to do other work.
const AT_ONCE: usize = 1024;

/// Listens for changes of links and addresses.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

/// The result of one call of [`Monitor::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum MonitorDrained {
    /// All notifications were read.
    All,
    /// There may be more. Call it again soon.
    More,
    /// Notifications are lost, because the socket overran or one was too long. List everything again.
    Overrun,
}

impl Monitor {
    /// Starts listening. Take the dump afterwards, so that no change is missed in between.
    ///
    /// # Errors
    /// Returns any error of `socket(2)`, `bind(2)` and of registering with the runtime.
    pub fn new() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // A size beyond net.core.rmem_max requires CAP_NET_ADMIN. Without it we get as much as any process.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        socket.bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
        // From here on only the kernel can send to the socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket: sys::watch(socket)?,
            buffer: Vec::with_capacity(BUFFER_LEN),
        })
    }

    /// Ready when there are notifications to [`drain`](Self::drain).
    ///
    /// # Errors
    /// Returns any error of the runtime.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The readiness is cleared by `drain`, which reads until nothing is left.
        ready!(self.socket.poll_read_ready(context))?.retain_ready();
        Poll::Ready(Ok(()))
    }

    /// Calls `visit` for the notifications received so far. One call reads a bounded number of them.
    ///
    /// That includes those that the runtime has not seen yet: an order of the same turn has changed the kernel's tables, and
    /// the engine looks at its own tables next.
    ///
    /// # Errors
    /// Returns any error of `recv(2)`, except for an overrun, which is a result.
    pub fn drain(&mut self, mut visit: impl FnMut(NetlinkEvent)) -> io::Result<MonitorDrained> {
        let mut overrun = false;
        for _ in 0..AT_ONCE {
            self.buffer.clear();
            let buffer = &mut self.buffer;
            let mut received = self.socket.get_ref().recv(buffer, libc::MSG_TRUNC);
            if is_empty(&received) {
                // The runtime forgets the readiness only if it sees for itself that nothing is left.
                received = self.socket.try_io(Interest::READABLE, |socket| {
                    socket.recv(buffer, libc::MSG_TRUNC)
                });
            }
            match received {
                Ok(length) if length > self.buffer.len() => overrun = true,
                Ok(_length) => message::for_each(&self.buffer, |message| {
                    if let Body::Event(event) = message.body {
                        visit(event);
                    }
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(if overrun {
                        MonitorDrained::Overrun
                    } else {
                        MonitorDrained::All
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overrun = true,
                Err(error) => return Err(error),
            }
        }
        Ok(if overrun {
            MonitorDrained::Overrun
        } else {
            MonitorDrained::More
        })
    }
}

fn is_empty(received: &io::Result<usize>) -> bool {
    let error = received.as_ref().err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_USERSOCK;

    use super::*;

    #[tokio::test]
    async fn a_notification_is_heard_before_the_runtime_has_seen_it() {
        // Any process may send to such a socket, and the kernel sends nothing to it.
        let mut socket = Socket::new(NETLINK_USERSOCK).unwrap();
        socket.set_non_blocking(true).unwrap();
        let address = socket.bind_auto().unwrap();
        let mut monitor = Monitor {
            socket: sys::watch(socket).unwrap(),
            buffer: Vec::with_capacity(BUFFER_LEN),
        };
        assert_eq!(monitor.drain(|_| ()).unwrap(), MonitorDrained::All);
        let sender = Socket::new(NETLINK_USERSOCK).unwrap();
        // It is too long for the buffer, which shows that it was read.
        sender.send_to(&[0; 2 * BUFFER_LEN], &address, 0).unwrap();
        assert_eq!(monitor.drain(|_| ()).unwrap(), MonitorDrained::Overrun);
        assert_eq!(monitor.drain(|_| ()).unwrap(), MonitorDrained::All);
        // The runtime may still report it, and forgets that once the socket was found empty.
        tokio::task::yield_now().await;
        assert_eq!(monitor.drain(|_| ()).unwrap(), MonitorDrained::All);
        let ready =
            std::future::poll_fn(|context| Poll::Ready(monitor.poll_readable(context).is_ready()));
        assert!(!ready.await);
    }
}
