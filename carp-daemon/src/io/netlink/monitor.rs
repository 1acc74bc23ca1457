//! The kernel's notifications about links and addresses.

use std::io;
use std::task::{Context, Poll, ready};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Event;
use super::message::{self, Body};
use crate::sys;

/// Larger than any single notification; the kernel never sends more at once than it can read back.
const BUFFER_LEN: usize = 32 * 1024;

/// Bytes of memory for notifications that wait, of which the kernel takes about 1 KiB for each. Listing everything anew,
/// after there was no room, costs more the more there is.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Datagrams that are read before the caller may do something else.
const AT_ONCE: usize = 1024;

/// Listens for changes of links and addresses.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

/// What one call of [`Monitor::drain`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Heard {
    /// Everything there was.
    All,
    /// There may be more: look again soon.
    More,
    /// Notifications are lost, because the socket overran or one was too long: ask for everything again.
    Overrun,
}

impl Monitor {
    /// Starts listening; take the dump afterwards, so that no change falls between the two.
    ///
    /// # Errors
    /// What `socket(2)`, `bind(2)` and the runtime's registration answer.
    pub fn new() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Beyond net.core.rmem_max takes CAP_NET_ADMIN; without it we get as much as anybody.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        socket.bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
        // From here on nobody but the kernel can send to it.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket: sys::watch(socket)?,
            buffer: Vec::with_capacity(BUFFER_LEN),
        })
    }

    /// Ready when there is something to [`drain`](Self::drain).
    ///
    /// # Errors
    /// What the runtime answers.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The readiness is cleared by `drain`, which reads until there is nothing left.
        ready!(self.socket.poll_read_ready(context))?.retain_ready();
        Poll::Ready(Ok(()))
    }

    /// Calls `visit` for the notifications received so far, a bounded number at a time.
    ///
    /// # Errors
    /// What `recv(2)` answers, except for an overrun, which is a result.
    pub fn drain(&mut self, mut visit: impl FnMut(Event)) -> io::Result<Heard> {
        let mut overrun = false;
        for _ in 0..AT_ONCE {
            self.buffer.clear();
            let buffer = &mut self.buffer;
            let received = self.socket.try_io(Interest::READABLE, |socket| {
                socket.recv(buffer, libc::MSG_TRUNC)
            });
            match received {
                Ok(length) if length > self.buffer.len() => overrun = true,
                Ok(_length) => message::for_each(&self.buffer, |message| {
                    if let Body::Event(event) = message.body {
                        visit(event);
                    }
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(if overrun { Heard::Overrun } else { Heard::All });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overrun = true,
                Err(error) => return Err(error),
            }
        }
        Ok(if overrun { Heard::Overrun } else { Heard::More })
    }
}
