//! Watches for other hosts that claim our addresses: by ARP for IPv4, by neighbour discovery for IPv6.
//!
//! Filters in the kernel accept only packets that a host on Ethernet may believe, so ordinary and broken ones do not wake
//! the daemon. After a packet was read, the next read follows a second later: a flood costs one wake-up a second and two
//! small buffers.

mod filter;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::wire::arp::{self, Arp, MARK};
use carp_common::wire::discovery::Neighbour;
use carp_common::wire::ether::{self, MacAddress};
use carp_common::wire::ip::{IPV6_HEADER_LEN, Ipv6Header};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::netlink::Link;
use crate::sys;

/// Time between two reads after a packet was read.
const PAUSE: Duration = Duration::from_secs(1);

/// Size of a receive buffer. Unit: bytes, of which the kernel takes about 1 KiB for each frame.
const RECEIVE_BUFFER: usize = 32 << 10;

/// Frames that one read takes from a socket. The buffer holds fewer, unless more arrive meanwhile.
const FRAMES_AT_ONCE: usize = 64;

/// Longest frame that is read. Unit: bytes. Neighbour discovery with more options is not believed.
const FRAME_MAX: usize = 1514;

/// Watches the ARP and the neighbour discovery of one interface.
#[derive(Debug)]
pub struct NeighbourWatch {
    ifindex: u32,
    arp: Tap,
    /// Sees every IPv6 packet of the interface, so it is bound only while an IPv6 address is watched. It is open all the
    /// time, so that no descriptor is needed when this host becomes MASTER.
    discovery: Tap,
    paused_until: Option<Instant>,
}

/// A socket that receives what its filter accepts.
#[derive(Debug)]
struct Tap {
    socket: AsyncFd<Socket>,
    readable: bool,
}

/// A packet by which another host claims an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourClaim {
    /// The address.
    pub address: IpAddr,
    /// The station at which it is, according to the packet.
    pub station: MacAddress,
    /// The packet carries the mark of a carpd's announcement.
    pub is_marked: bool,
}

impl NeighbourClaim {
    /// Returns `None` for a frame that no host on Ethernet would believe.
    fn parse(frame: &[u8]) -> Option<Self> {
        let (header, packet) = frame.split_first_chunk::<{ ether::HEADER_LEN }>()?;
        let (address, station, length) = match ether::Header::parse(header).ether_type {
            ether::TYPE_ARP => {
                let arp = Arp::parse(packet)?;
                (arp.sender_ip.into(), arp.sender_mac, arp::PACKET_LEN)
            }
            ether::TYPE_IPV6 => {
                let neighbour = Neighbour::parse(packet)?;
                let ip = Ipv6Header::parse(packet.first_chunk()?)?;
                let length = IPV6_HEADER_LEN + ip.payload_len;
                (neighbour.address.into(), neighbour.station, length)
            }
            _ => return None,
        };
        Some(Self {
            address,
            station,
            is_marked: packet.get(length..)?.starts_with(&MARK),
        })
    }
}

/// The claims of one read.
#[derive(Debug, Default)]
pub struct NeighbourClaims {
    /// The claims. With more than `EXACT_MAX` addresses of a family, some may be of addresses that are not watched.
    pub claims: Vec<NeighbourClaim>,
    /// Number of packets that were dropped because a buffer was full.
    pub lost: u64,
}

impl Tap {
    /// Opens the socket, which receives nothing yet.
    fn open(filter: &[SockFilter]) -> io::Result<Self> {
        // With protocol 0 no frame arrives before the filter is attached and the interface chosen.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(filter)?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        sys::ignore_outgoing(socket.as_fd())?;
        Ok(Self {
            socket: sys::watch(socket)?,
            readable: false,
        })
    }

    fn choose(&self, filter: &[SockFilter]) -> io::Result<()> {
        self.socket.get_ref().attach_filter(filter)
    }

    /// Receives frames of this type from now on; with 0 none.
    fn bind(&self, ifindex: u32, ether_type: u16) -> io::Result<()> {
        sys::bind_to_interface(self.socket.get_ref().as_fd(), ifindex, ether_type)
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The readiness is cleared before the socket is read, so a frame that arrives in between sets it again.
        ready!(self.socket.poll_read_ready(context))?.clear_ready();
        self.readable = true;
        Poll::Ready(Ok(()))
    }

    /// Reads what waits. Returns whether there was anything, even if it was an error.
    fn read(&mut self, found: &mut NeighbourClaims) -> (bool, io::Result<()>) {
        self.readable = false;
        let mut any = false;
        let mut frame = [0; FRAME_MAX];
        let socket = self.socket.get_ref();
        for _ in 0..FRAMES_AT_ONCE {
            match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => found.claims.extend(NeighbourClaim::parse(&frame[..length])),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR | Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => {}
                Err(errno) => return (true, Err(errno.into())),
            }
            any = true;
        }
        let drops = sys::take_drops(socket.as_fd());
        (any, drops.map(|lost| found.lost += u64::from(lost)))
    }
}

impl NeighbourWatch {
    /// Opens the watch. It watches no address yet.
    ///
    /// # Errors
    /// Returns EPERM without CAP_NET_RAW, and any other error of the system calls.
    pub fn open(link: &Link) -> io::Result<Self> {
        let watch = Self {
            ifindex: link.index,
            arp: Tap::open(&filter::arp(&[]))?,
            discovery: Tap::open(&filter::discovery(&[]))?,
            paused_until: None,
        };
        watch.arp.bind(link.index, ether::TYPE_ARP)?;
        Ok(watch)
    }

    /// Watches these addresses from now on.
    ///
    /// # Errors
    /// Returns any error of `setsockopt(2)` or `bind(2)`.
    pub fn choose(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let (mut inet, mut inet6) = (Vec::new(), Vec::new());
        for address in addresses {
            match *address {
                IpAddr::V4(address) => inet.push(address),
                IpAddr::V6(address) => inet6.push(address),
            }
        }
        let chosen = self.arp.choose(&filter::arp(&inet));
        let ether_type = if inet6.is_empty() {
            0
        } else {
            ether::TYPE_IPV6
        };
        let chosen6 = self.discovery.choose(&filter::discovery(&inet6));
        let bound = chosen6.and_then(|()| self.discovery.bind(self.ifindex, ether_type));
        chosen.and(bound)
    }

    /// Returns when to call [`take`](Self::take) next although no socket is reported as readable.
    #[must_use]
    pub const fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Ready when there are packets to [`take`](Self::take), and the last read was at least a second ago.
    ///
    /// # Errors
    /// Returns any error of the runtime.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.paused_until.is_some() {
            return Poll::Pending;
        }
        let mut ready = Poll::Pending;
        // Both are asked, so that either wakes the daemon.
        for tap in [&mut self.arp, &mut self.discovery] {
            if let Poll::Ready(result) = tap.poll_readable(context) {
                result?;
                ready = Poll::Ready(Ok(()));
            }
        }
        ready
    }

    /// Returns the claims since the last read, if it is time for another read.
    ///
    /// # Errors
    /// Returns any error of `recv(2)`, except for a link that is down or gone: netlink reports that.
    pub fn take(&mut self, now: Instant) -> io::Result<NeighbourClaims> {
        let rested = self.paused_until.take_if(|until| *until <= now).is_some();
        let mut found = NeighbourClaims::default();
        let mut outcome = Ok(());
        for tap in [&mut self.arp, &mut self.discovery] {
            if !tap.readable && !rested {
                continue;
            }
            let (any, read) = tap.read(&mut found);
            if any {
                self.paused_until = Some(now + PAUSE);
            }
            outcome = outcome.and(read);
        }
        outcome.map(|()| found)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use carp_common::wire::discovery;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
    const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

    fn claim(address: impl Into<IpAddr>, is_marked: bool) -> Option<NeighbourClaim> {
        Some(NeighbourClaim {
            address: address.into(),
            station: MAC,
            is_marked,
        })
    }

    #[test]
    fn an_announcement_of_a_carpd_is_told_from_others() {
        let parse = NeighbourClaim::parse;
        let announced = arp::announcement_frame(MAC, ADDRESS);
        assert_eq!(parse(&announced), claim(ADDRESS, true));
        let mut padded = [0; arp::ANNOUNCEMENT_LEN];
        padded[..arp::FRAME_LEN].copy_from_slice(&arp::gratuitous_frame(MAC, ADDRESS));
        assert_eq!(parse(&padded), claim(ADDRESS, false));
        assert_eq!(parse(&padded[..arp::FRAME_LEN]), claim(ADDRESS, false));

        let announced = discovery::announcement_frame(MAC, ADDRESS6, true);
        assert_eq!(parse(&announced), claim(ADDRESS6, true));
        let others = discovery::unsolicited_frame(MAC, ADDRESS6, true);
        assert_eq!(parse(&others), claim(ADDRESS6, false));
    }

    #[test]
    fn other_frames_claim_nothing() {
        let mut frame = discovery::announcement_frame(MAC, ADDRESS6, true);
        for length in 0..discovery::FRAME_LEN {
            assert_eq!(NeighbourClaim::parse(&frame[..length]), None, "{length}");
        }
        frame[12] = 0x08;
        assert_eq!(NeighbourClaim::parse(&frame), None, "another type");
        let probe = discovery::probe_frame(MAC, ADDRESS6);
        assert_eq!(NeighbourClaim::parse(&probe), None);
    }
}
