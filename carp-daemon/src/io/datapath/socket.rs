//! The packet socket of one interface. It works on every device and kernel and without CAP_BPF, but every packet of
//! protocol 112 is copied and wakes the daemon.
//!
//! A classic BPF filter in the kernel drops everything else. The classifier of the XDP program then runs here.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use carp_common::abi::admission::SAMPLE_INTERVAL_NS;
use carp_common::abi::classify::{Ingress, Match, Verdict, classify};
use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{Counts, VhostKey, VhostValue};
use carp_common::time::Instant;
use carp_common::units::Family;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::batch::{Batch, Drained};
use super::tally::Tally;
use crate::io::clock::ArrivalClock;
use crate::io::netlink::Link;
use crate::log::PROGRAM_TARGET;
use crate::sys::{self, PacketAuxdata};

/// The number of bytes of a frame that are read: Ethernet and two tags (22), the longest IPv4 header (60), CARP (36), and
/// room to see that a packet is longer. The filter returns it, so that a jumbo frame is not copied whole.
const SNAP_LEN: usize = 192;

/// The memory for frames that wait while the process is stopped. Unit: bytes. The kernel counts about 1 KiB for each frame.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The number of frames between two readings of the clocks while draining. It is small enough that a flood after a step of
/// the wall clock, when arrival times are unknown, cannot delay the daemon.
const REFRESH_INTERVAL: u32 = 256;

/// The time for which a turn drains frames of unknown arrival. They count as arrived at its beginning, so it is too short to
/// affect an election.
const UNKNOWN_FOR: Duration = Duration::from_millis(2);

/// The least time between two packets from our own address that are delivered, for each virtual host.
const SAMPLE_INTERVAL: Duration = Duration::from_nanos(SAMPLE_INTERVAL_NS);

/// One interface's packet socket.
#[derive(Debug)]
pub struct Receiver {
    socket: AsyncFd<Socket>,
    ifindex: u32,
    clock: ArrivalClock,
    /// What became of the frames.
    pub tally: Tally,
    /// The frames that were lost since the last call of [`Receiver::take_losses`].
    losses: u64,
    control: Vec<u8>,
    /// The time at which the next packet from our own address may be delivered, for each virtual host that had one.
    next_samples: HashMap<VhostKey, Instant>,
}

impl Receiver {
    /// Listens on an interface.
    ///
    /// # Errors
    /// Returns EPERM without CAP_NET_RAW, or any other error of the system calls.
    pub fn open(link: &Link) -> io::Result<Self> {
        // With protocol 0 no frame arrives before the filter is attached and the interface is chosen.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter())?;
        // Exceeding net.core.rmem_max takes CAP_NET_ADMIN. Without it the limit applies.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        sys::ignore_outgoing(socket.as_fd())?;
        sys::receive_auxdata(socket.as_fd())?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // Every EtherType, as with XDP, so that frames of a bridge port or with a VLAN tag arrive too.
        #[expect(clippy::cast_possible_truncation, reason = "3")]
        sys::bind_to_interface(socket.as_fd(), link.index, libc::ETH_P_ALL as u16)?;
        Ok(Self {
            socket: sys::watch(socket)?,
            ifindex: link.index,
            clock: ArrivalClock::new(),
            tally: Tally::default(),
            losses: 0,
            control: cmsg_space!(TimeSpec, libc::tpacket_auxdata),
            next_samples: HashMap::new(),
        })
    }

    /// Ready when there may be a frame.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Readiness is cleared before the socket is drained, so a frame that arrives in between makes it ready again.
        ready!(self.socket.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Fetches what arrived up to `now`, as far as the batch has room. A link that is down or gone is no error.
    pub fn drain(
        &mut self,
        now: Instant,
        vhosts: &HashMap<VhostKey, VhostValue>,
        batch: &mut Batch,
    ) -> io::Result<Drained> {
        let mut frames_until_refresh = 0;
        let mut frame = [0; SNAP_LEN];
        while !batch.is_full() {
            let received = match self.receive(&mut frame) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => {
                    self.clock.emptied(now);
                    return Ok(Drained::Empty);
                }
                Err(Errno::EINTR) => continue,
                // The link is down or gone. Netlink reports which, and earlier frames are still delivered.
                Err(Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if frames_until_refresh == 0 {
                self.clock.refresh();
                frames_until_refresh = REFRESH_INTERVAL;
            }
            frames_until_refresh -= 1;
            let arrival = self.clock.arrival(received.stamp);
            let frame = frame.get(..received.length).unwrap_or(&frame);
            self.classify(frame, received.stripped_tag, arrival, vhosts, batch);
            // Without known arrivals a turn lasts a fixed time, because otherwise a turn would drain one frame of a flood.
            let end_of_turn = match self.clock.is_trusted() {
                true => now,
                false => now + UNKNOWN_FOR,
            };
            if arrival > end_of_turn {
                return Ok(Drained::Later);
            }
        }
        Ok(Drained::Full)
    }

    fn classify(
        &mut self,
        frame: &[u8],
        stripped_tag: Option<u16>,
        arrival: Instant,
        vhosts: &HashMap<VhostKey, VhostValue>,
        batch: &mut Batch,
    ) {
        let ingress = Ingress {
            ifindex: self.ifindex,
            stripped_tag,
        };
        // The key of the virtual host. The classifier names its ledger instead, and sockets have no ledgers.
        let mut found = None;
        let verdict = classify(frame, ingress, |key| {
            let value = vhosts.get(key);
            found = value.map(|_| *key);
            value
        });
        match verdict {
            Verdict::Foreign => {}
            Verdict::Pass { counter, .. } => {
                let is_for_it = matches!(
                    counter,
                    Counter::PassedOtherGroup | Counter::PassedUnicast | Counter::PassedMalformed
                );
                self.tally.count(counter, found.filter(|_| is_for_it));
            }
            Verdict::Vrrp { same_vhid } => {
                self.tally.count(Counter::PassedVrrp, None);
                if same_vhid.is_some() {
                    self.tally.count(Counter::PassedVrrpSameVhid, found);
                }
            }
            Verdict::Drop { matched, reason } => {
                self.tally.count(received(matched.family), found);
                self.tally.count(reason, found);
                explain(frame, &matched, reason);
            }
            Verdict::Deliver {
                matched, own: true, ..
            } => {
                self.tally.count(received(matched.family), found);
                // As in the kernel program, samples are delivered, so that the daemon can warn about them.
                match matched.event(frame, arrival.as_nanos()) {
                    Some(event) if self.takes_sample(matched.key, arrival) => {
                        self.tally.count(Counter::SuspectsDelivered, found);
                        batch.push(event);
                    }
                    Some(_) | None => {
                        self.tally.count(Counter::DroppedOwnSource, found);
                        explain(frame, &matched, Counter::DroppedOwnSource);
                    }
                }
            }
            Verdict::Deliver { matched, .. } => {
                self.tally.count(received(matched.family), found);
                if let Some(event) = matched.event(frame, arrival.as_nanos()) {
                    self.tally.count(Counter::Delivered, found);
                    batch.push(event);
                }
            }
        }
    }

    /// Returns whether a packet from our own address should be delivered as a sample, as
    /// [`carp_common::abi::admission::History::takes_sample`] does in the kernel program.
    fn takes_sample(&mut self, key: VhostKey, arrival: Instant) -> bool {
        let next = self.next_samples.entry(key).or_insert(Instant::ZERO);
        let due = arrival >= *next;
        if due {
            *next = arrival + SAMPLE_INTERVAL;
        }
        due
    }

    fn receive(&mut self, frame: &mut [u8; SNAP_LEN]) -> Result<ReceivedFrame, Errno> {
        let mut buffers = [IoSliceMut::new(frame)];
        let descriptor = self.socket.get_ref().as_raw_fd();
        let message = recvmsg::<()>(
            descriptor,
            &mut buffers,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let mut received = ReceivedFrame {
            length: message.bytes,
            stamp: None,
            stripped_tag: None,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmTimestampns(stamp) = control {
                received.stamp = Some(Duration::from(stamp));
            } else if let ControlMessageOwned::Unknown(control) = control
                && control.cmsg_header.cmsg_level == libc::SOL_PACKET
                && control.cmsg_header.cmsg_type == libc::PACKET_AUXDATA
            {
                received.stripped_tag =
                    PacketAuxdata::parse(&control.data_bytes).and_then(|data| data.vlan_tci);
            }
        }
        Ok(received)
    }

    /// Returns every counter.
    pub fn counts(&mut self) -> Counts {
        self.fetch_losses();
        self.tally.all()
    }

    /// Closes the socket, and returns what it counted.
    pub fn close(mut self) -> Tally {
        self.fetch_losses();
        self.tally
    }

    /// Returns how many frames did not fit into the socket's buffer since the last call.
    pub fn take_losses(&mut self) -> u64 {
        self.fetch_losses();
        std::mem::take(&mut self.losses)
    }

    fn fetch_losses(&mut self) {
        // A socket that returns an error has no interface any more.
        let lost = u64::from(sys::take_drops(self.socket.get_ref().as_fd()).unwrap_or(0));
        self.tally.add(Counter::DatapathEventsLost, lost);
        self.losses += lost;
    }
}

/// The properties of a received frame.
#[derive(Clone, Copy, Debug)]
struct ReceivedFrame {
    /// The length of the frame in the buffer. Unit: bytes.
    length: usize,
    /// The arrival on the wall clock.
    stamp: Option<Duration>,
    stripped_tag: Option<u16>,
}

/// Logs why an advertisement for one of our virtual hosts was dropped, in the name and the words of the XDP program. The
/// logger shows these lines only with debug, and limits their rate.
fn explain(frame: &[u8], matched: &Match, reason: Counter) {
    let Some(source) = matched.source(frame) else {
        return;
    };
    let [a, b, c, d, ..] = source;
    let source = match matched.family {
        Family::Inet => IpAddr::from([a, b, c, d]),
        Family::Inet6 => IpAddr::from(source),
    };
    let (name, key) = (reason.name(), &matched.key);
    log::debug!(
        target: PROGRAM_TARGET,
        "{name} vhid {} ifindex {} vlan {} source {source}", key.vhid, key.ifindex, key.vlan
    );
}

const fn received(family: Family) -> Counter {
    match family {
        Family::Inet => Counter::ReceivedInetPackets,
        Family::Inet6 => Counter::ReceivedInet6Packets,
    }
}

/// `ip proto 112 or ip6 proto 112`.
///
/// The kernel has taken an outer VLAN tag out of the frame, so the offsets are those of an untagged frame. A frame with a
/// second tag is never for one of our virtual hosts. The filter drops it, because otherwise every packet of such a link would
/// wake the daemon.
fn filter() -> [SockFilter; 9] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    #[expect(clippy::cast_possible_truncation, reason = "a couple of hundred")]
    const ACCEPT: u32 = SNAP_LEN as u32;
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 1, 0, 0x0800),
        SockFilter::new(JUMP_EQUAL, 2, 4, 0x86dd),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 9),
        SockFilter::new(JUMP_EQUAL, 3, 2, 112),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
        SockFilter::new(JUMP_EQUAL, 1, 0, 112),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, ACCEPT),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Returns the length of what the filter leaves of a frame. It runs on any datagram socket.
    fn filtered(frame: &[u8]) -> Option<usize> {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let receiver = Socket::from(std::os::fd::OwnedFd::from(receiver));
        receiver.attach_filter(&filter()).unwrap();
        // On some kernels the sender gets an error if the filter drops the datagram.
        let _ = sender.send(frame);
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        receiver.recv(&mut buffer).ok()
    }

    fn frame(ether_type: u16, protocol_offset: usize, protocol: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length];
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame[protocol_offset] = protocol;
        frame
    }

    #[test]
    fn the_filter_lets_protocol_112_through_in_both_families_and_nothing_else() {
        assert_eq!(filtered(&frame(0x0800, 23, 112, 70)), Some(70));
        assert_eq!(filtered(&frame(0x86dd, 20, 112, 90)), Some(90));
        assert_eq!(filtered(&frame(0x0800, 23, 6, 70)), None);
        assert_eq!(filtered(&frame(0x86dd, 20, 58, 90)), None);
        // ARP and a second VLAN tag, with a 112 at either offset.
        for ether_type in [0x0806, 0x8100, 0x88a8] {
            assert_eq!(filtered(&frame(ether_type, 23, 112, 70)), None);
            assert_eq!(filtered(&frame(ether_type, 20, 112, 70)), None);
        }
        // Too short to have a protocol.
        assert_eq!(filtered(&frame(0x0800, 5, 112, 20)), None);
    }

    #[test]
    fn the_filter_cuts_long_frames() {
        assert_eq!(filtered(&frame(0x0800, 23, 112, 4000)), Some(SNAP_LEN));
    }
}
