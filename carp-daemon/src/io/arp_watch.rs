//! Watches for ARP packets whose sender claims one of our addresses.
//!
//! A filter in the kernel accepts only packets that a host on Ethernet would believe, so ordinary and broken ARP does
//! not wake the daemon. After a packet was read, the next read follows a second later: a flood costs one wake-up a
//! second and a small buffer.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::wire::arp::{ANNOUNCEMENT_LEN, Arp, FRAME_LEN, MARK};
use carp_common::wire::ether;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::netlink::Link;
use crate::sys;

/// Time between two reads after a packet was read.
const PAUSE: Duration = Duration::from_secs(1);

/// Size of the receive buffer. Unit: bytes, of which the kernel takes about 1 KiB for each frame.
const RECEIVE_BUFFER: usize = 32 << 10;

/// Frames that one read takes. The buffer holds fewer, unless more arrive meanwhile.
const FRAMES_AT_ONCE: usize = 64;

/// Number of addresses up to which the filter compares each one. More are covered by one range.
const EXACT_MAX: usize = 64;

/// Watches the ARP traffic of one interface.
#[derive(Debug)]
pub struct ArpWatch {
    socket: AsyncFd<Socket>,
    readable: bool,
    paused_until: Option<Instant>,
}

/// An ARP packet whose sender claims an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpClaim {
    /// The packet.
    pub arp: Arp,
    /// The packet carries the mark of a carpd's announcement.
    pub is_marked: bool,
}

impl ArpClaim {
    /// Returns `None` for a frame that no host on Ethernet would believe.
    fn parse(frame: &[u8]) -> Option<Self> {
        Some(Self {
            arp: Arp::parse(frame.get(ether::HEADER_LEN..)?)?,
            is_marked: frame.get(FRAME_LEN..)?.starts_with(&MARK),
        })
    }
}

/// The packets of one read.
#[derive(Debug, Default)]
pub struct ArpClaims {
    /// The packets. With more than `EXACT_MAX` addresses, some may claim addresses that are not watched.
    pub claims: Vec<ArpClaim>,
    /// Number of packets that were dropped because the buffer was full.
    pub lost: u64,
}

impl ArpWatch {
    /// Opens the socket. It watches no address yet.
    ///
    /// # Errors
    /// Returns EPERM without CAP_NET_RAW, and any other error of the system calls.
    pub fn open(link: &Link) -> io::Result<Self> {
        // With protocol 0 no frame arrives before the filter is attached and the interface chosen.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter(&[]))?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        sys::ignore_outgoing(socket.as_fd())?;
        #[expect(clippy::cast_possible_truncation, reason = "0x0806")]
        sys::bind_to_interface(socket.as_fd(), link.index, libc::ETH_P_ARP as u16)?;
        Ok(Self {
            socket: sys::watch(socket)?,
            readable: false,
            paused_until: None,
        })
    }

    /// Watches these addresses from now on.
    ///
    /// # Errors
    /// Returns any error of `setsockopt(2)`.
    pub fn choose(&self, addresses: &[Ipv4Addr]) -> io::Result<()> {
        self.socket.get_ref().attach_filter(&filter(addresses))
    }

    /// Returns when to call [`take`](Self::take) next although the socket is not reported as readable.
    #[must_use]
    pub fn paused_until(&self) -> Option<Instant> {
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
        // The readiness is cleared before the socket is read, so a frame that arrives in between sets it again.
        ready!(self.socket.poll_read_ready(context))?.clear_ready();
        self.readable = true;
        Poll::Ready(Ok(()))
    }

    /// Returns the packets since the last read, if it is time for another read.
    ///
    /// # Errors
    /// Returns any error of `recv(2)`, except for a link that is down or gone: netlink reports that.
    pub fn take(&mut self, now: Instant) -> io::Result<ArpClaims> {
        let rested = self.paused_until.take_if(|until| *until <= now).is_some();
        let mut found = ArpClaims::default();
        if !std::mem::take(&mut self.readable) && !rested {
            return Ok(found);
        }
        let mut frame = [0; ANNOUNCEMENT_LEN];
        let socket = self.socket.get_ref();
        for _ in 0..FRAMES_AT_ONCE {
            match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => found.claims.extend(ArpClaim::parse(&frame[..length])),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR | Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => {}
                Err(errno) => {
                    self.paused_until = Some(now + PAUSE);
                    return Err(errno.into());
                }
            }
            self.paused_until = Some(now + PAUSE);
        }
        found.lost = sys::take_drops(socket.as_fd())?.into();
        Ok(found)
    }
}

/// Offsets in a frame. The kernel has already removed VLAN tags.
const HARDWARE_TYPE: u32 = 14;
const PROTOCOL_TYPE: u32 = 14 + 2;
const LENGTHS: u32 = 14 + 4;
const SENDER_IP: u32 = 14 + 14;
const TARGET_IP: u32 = 14 + 24;
/// Offset of the ancillary data that classifies the destination (`SKF_AD_OFF` + `SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// The frame is for another station, or for a VLAN that does not exist here.
const OTHER_HOST: u32 = 3;

/// Returns the filter `arp src host A or arp src host B …`. It accepts complete packets of the types that
/// [`Arp::parse`] knows, sent to this host or to everyone.
fn filter(addresses: &[Ipv4Addr]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let reject = || SockFilter::new(RETURN, 0, 0, 0);
    let accept = || SockFilter::new(RETURN, 0, 0, u32::MAX);
    let mut program = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQUAL, 0, 1, OTHER_HOST),
        reject(),
        // The kernel rejects a frame when the filter reads beyond its end.
        SockFilter::new(LOAD_WORD, 0, 0, TARGET_IP),
        SockFilter::new(LOAD_HALF, 0, 0, HARDWARE_TYPE),
        SockFilter::new(JUMP_EQUAL, 2, 0, 1),
        SockFilter::new(JUMP_EQUAL, 1, 0, 6),
        reject(),
        SockFilter::new(LOAD_HALF, 0, 0, PROTOCOL_TYPE),
        SockFilter::new(JUMP_EQUAL, 1, 0, 0x0800),
        reject(),
        SockFilter::new(LOAD_HALF, 0, 0, LENGTHS),
        SockFilter::new(JUMP_EQUAL, 1, 0, 0x0604),
        reject(),
        SockFilter::new(LOAD_WORD, 0, 0, SENDER_IP),
    ];
    let numbers = addresses.iter().map(|address| address.to_bits());
    if addresses.len() <= EXACT_MAX {
        for number in numbers {
            // If the address differs, continue with the next comparison.
            program.push(SockFilter::new(JUMP_EQUAL, 0, 1, number));
            program.push(accept());
        }
    } else if let (Some(first), Some(last)) = (numbers.clone().min(), numbers.max()) {
        program.push(SockFilter::new(JUMP_GREATER_OR_EQUAL, 0, 2, first));
        program.push(SockFilter::new(JUMP_GREATER, 1, 0, last));
        program.push(accept());
    }
    program.push(reject());
    program
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use carp_common::wire::arp::{announcement_frame, gratuitous_frame, probe_frame};
    use carp_common::wire::ether::MacAddress;

    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    /// Returns whether the filter accepts the frame. Filters work on any datagram socket.
    fn passes(addresses: &[Ipv4Addr], frame: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let receiver = Socket::from(OwnedFd::from(receiver));
        receiver.attach_filter(&filter(addresses)).unwrap();
        // On some kernels the sender gets an error when the filter rejects its datagram.
        let _ = sender.send(frame);
        receiver
            .recv(&mut [std::mem::MaybeUninit::uninit(); FRAME_LEN])
            .is_ok()
    }

    fn addresses(count: u8) -> Vec<Ipv4Addr> {
        (0..count)
            .map(|last| [10, 0, 0, 100 + last].into())
            .collect()
    }

    fn announced(watched: &[Ipv4Addr], address: [u8; 4]) -> bool {
        passes(watched, &gratuitous_frame(MAC, address.into()))
    }

    #[test]
    fn only_senders_with_a_watched_address_pass() {
        assert!(!announced(&[], [10, 0, 0, 100]));
        for count in [1, 2, 64, 65, 100] {
            let watched = addresses(count);
            assert!(announced(&watched, [10, 0, 0, 100]), "first of {count}");
            assert!(
                announced(&watched, [10, 0, 0, 99 + count]),
                "last of {count}"
            );
            assert!(!announced(&watched, [10, 0, 0, 99]), "before {count}");
            assert!(
                !announced(&watched, [10, 0, 0, 100 + count]),
                "after {count}"
            );
        }
    }

    #[test]
    fn what_passes_is_what_parses() {
        let address = addresses(1)[0];
        let frame = gratuitous_frame(MAC, address);
        for length in 0..=FRAME_LEN {
            let passes = passes(&[address], &frame[..length]);
            assert_eq!(passes, length == FRAME_LEN, "{length} bytes");
        }
        // Change each bit of types, lengths and operation.
        for offset in ether::HEADER_LEN..ether::HEADER_LEN + 8 {
            for value in (0..8).map(|bit| frame[offset] ^ (1 << bit)).chain([6]) {
                let mut changed = frame;
                changed[offset] = value;
                let parses = Arp::parse(&changed[ether::HEADER_LEN..]).is_some();
                assert_eq!(passes(&[address], &changed), parses, "{value} at {offset}");
            }
        }
    }

    #[test]
    fn an_announcement_of_a_carpd_is_told_from_others() {
        let address = addresses(1)[0];
        let marked = |frame: &[u8]| ArpClaim::parse(frame).unwrap().is_marked;
        assert!(marked(&announcement_frame(MAC, address)));
        let mut padded = [0; ANNOUNCEMENT_LEN];
        padded[..FRAME_LEN].copy_from_slice(&gratuitous_frame(MAC, address));
        assert!(!marked(&padded) && !marked(&padded[..FRAME_LEN]));
    }

    #[test]
    fn questions_for_a_watched_address_do_not_pass() {
        let address = addresses(1)[0];
        assert!(!passes(&[address], &probe_frame(MAC, address)));
    }
}
