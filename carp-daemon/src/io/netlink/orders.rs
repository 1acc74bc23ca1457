//! Adding, renewing and deleting addresses: rtnetlink's requests, carried out before the call returns.
//!
//! rtnetlink is made for a connection task beside the caller. The kernel, however, carries out a route request inside
//! `sendmsg` and has queued the answer by the time that returns, so the connection is polled right here: an address is
//! there before the next advertisement leaves, in program order, and no task can fall behind.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BufMut;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_sys::{AsyncSocket, Socket, SocketAddr};
use rtnetlink::Handle;
use rtnetlink::proto::Connection;

use super::Address;

/// How often an unanswered request is looked at before we give up. The answer is there at the second look.
const LOOKS_MAX: u32 = 1000;

/// A connection for orders.
pub struct Orders {
    connection: Connection<RouteNetlinkMessage, PolledSocket>,
    handle: Handle,
}

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders").finish_non_exhaustive()
    }
}

impl Orders {
    /// Opens the socket.
    ///
    /// # Errors
    /// What `socket(2)` answers.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, _notifications) = rtnetlink::new_connection_with_socket()?;
        Ok(Self { connection, handle })
    }

    /// Adds an address, tagged with its protocol number, for `lease` or, with `None`, for good.
    ///
    /// # Errors
    /// `AlreadyExists` when the interface has it with this prefix length; else what the kernel answers.
    pub fn add_address(&mut self, address: &Address, lease: Option<Duration>) -> io::Result<()> {
        let request = self.assignment(address, lease);
        self.carry_out(request.execute())
    }

    /// Gives an address its whole `lease` again; adds it when it is not there.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn renew_address(&mut self, address: &Address, lease: Option<Duration>) -> io::Result<()> {
        let request = self.assignment(address, lease).replace();
        self.carry_out(request.execute())
    }

    /// Deletes an address.
    ///
    /// # Errors
    /// `AddrNotAvailable` when the interface does not have it; else what the kernel answers.
    pub fn delete_address(&mut self, address: &Address) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = match address.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = address.prefix;
        message.header.index = address.ifindex;
        message
            .attributes
            .push(AddressAttribute::Local(address.address));
        // Without it the kernel takes the first with that address, whatever its prefix length (`inet_rtm_deladdr`).
        message
            .attributes
            .push(AddressAttribute::Address(address.address));
        let request = self.handle.address().del(message);
        self.carry_out(request.execute())
    }

    fn assignment(
        &self,
        address: &Address,
        lease: Option<Duration>,
    ) -> rtnetlink::AddressAddRequest {
        let mut request =
            self.handle
                .address()
                .add(address.ifindex, address.address, address.prefix);
        let message = request.message_mut();
        // A /32 has no broadcast address of its own; the kernel's default is none, as with `ip address add`.
        message
            .attributes
            .retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        message
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::Other(
                address.protocol,
            )));
        message
            .attributes
            .push(AddressAttribute::CacheInfo(lifetime(lease)));
        if address.address.is_ipv6() {
            // The election has settled who owns it; duplicate address detection would only delay its use.
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
    }

    /// Polls the request and its connection in turn until the answer is there.
    fn carry_out(
        &mut self,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> io::Result<()> {
        let mut request = pin!(request);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..LOOKS_MAX {
            if let Poll::Ready(answer) = request.as_mut().poll(&mut context) {
                return answer.map_err(as_io_error);
            }
            if Pin::new(&mut self.connection).poll(&mut context).is_ready() {
                return Err(io::ErrorKind::NotConnected.into());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn as_io_error(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(refusal) = error {
        refusal.to_io()
    } else {
        io::Error::other(error)
    }
}

/// Preferred as long as it is valid: a deprecated address is not a source for new connections.
fn lifetime(lease: Option<Duration>) -> CacheInfo {
    // INFINITY_LIFE_TIME of the kernel.
    let seconds = lease.map_or(u32::MAX, |lease| {
        u32::try_from(lease.as_secs()).unwrap_or(u32::MAX)
    });
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = seconds;
    lifetime.ifa_valid = seconds;
    lifetime
}

/// A non-blocking socket for a connection that is polled by hand: nothing to read is `Pending`, and nobody is woken.
struct PolledSocket(Socket);

/// The outcome of a non-blocking call as a poll.
fn polled<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl AsyncSocket for PolledSocket {
    fn socket_ref(&self) -> &Socket {
        &self.0
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.0
    }

    fn new(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    fn poll_send(&self, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        polled(self.0.send(buffer, 0))
    }

    fn poll_send_to(
        &self,
        _: &mut Context<'_>,
        buffer: &[u8],
        address: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        polled(self.0.send_to(buffer, address, 0))
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        polled(self.0.recv(buffer, 0).map(|_| ()))
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        _: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        polled(self.0.recv_from(buffer, 0).map(|(_, address)| address))
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        polled(self.0.recv_from_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_order_says_why_and_the_next_is_answered_too() {
        let mut orders = Orders::new().unwrap();
        let nowhere = Address {
            ifindex: 0x7fff_fff0,
            address: [192, 0, 2, 1].into(),
            prefix: 32,
            protocol: 112,
        };
        let refused = |refusal: io::Error| {
            assert!(
                matches!(refusal.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
                "{refusal}"
            );
        };
        for _ in 0..3 {
            refused(orders.delete_address(&nowhere).unwrap_err());
            refused(orders.add_address(&nowhere, None).unwrap_err());
            refused(orders.renew_address(&nowhere, None).unwrap_err());
        }
    }
}
