//! Floods: as many frames to one host as one core can send.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind,
    sendmmsg, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use nix::{setsockopt_impl, sockopt_impl};

use crate::daemons::PASSWORD;
use crate::inject::{Forgery, link_address};
use crate::lab::Host;
use crate::packet::{CARP_LEN, GROUP, Mac, PROTOCOL, checksum};
use crate::sim::rng::Rng;

// Bypasses the queueing discipline and all sockets that watch the sending interface, such as the lab's capture, which
// a flood would overload.
sockopt_impl!(
    /// `PACKET_QDISC_BYPASS` of packet(7).
    QdiscBypass,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_QDISC_BYPASS,
    bool
);

/// The virtual address of the lab's groups.
const ADDRESS: [u8; 4] = [10, 9, 0, 100];

/// The packets of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CARP for the right vhid with a wrong digest; each frame has a counter of its own.
    Forged,
    /// Protocol 112 to the group, everything behind the IP header at random.
    Garbage,
    /// Valid VRRP of another group.
    Vrrp,
    /// One captured, authentic advertisement of the host's own group, repeated.
    Replayed,
    /// VRRPv2 for the right VRID with a wrong password: a forged flood for keepalived.
    ForgedVrrp2,
    /// VRRPv3 for the right VRID with a wrong checksum: version 3 has no authentication that could be wrong.
    ForgedVrrp3,
    /// VRRPv2 of the right VRID with the lab's password: the MASTER's own.
    ReplayedVrrp2,
    /// Valid VRRPv3 of the right VRID: the MASTER's own.
    ReplayedVrrp3,
}

impl Kind {
    /// The frames to repeat, for vhid (VRID) `vhid`. `captured` is the frame to replay.
    ///
    /// # Panics
    /// When a replay has nothing to replay.
    #[must_use]
    pub fn frames(self, source: Ipv4Addr, vhid: u8, captured: Option<&Forgery>) -> Vec<Vec<u8>> {
        /// Different frames, so that remembering one is not enough.
        const VARIETY: u64 = 512;
        let forged = |counter| {
            Forgery::new(source, vhid, "not the password", Ipv4Addr::UNSPECIFIED)
                .with(|forgery| {
                    forgery.advbase = 0;
                    forgery.advskew = 1;
                    forgery.counter = counter;
                })
                .frame()
        };
        match self {
            Self::Forged => (0..VARIETY).map(forged).collect(),
            Self::Garbage => {
                let mut random = Rng::new(112);
                let mut garbage = |_| {
                    let mut payload = [0; CARP_LEN];
                    payload.fill_with(|| random.next_u64().to_le_bytes()[0]);
                    ip_frame(source, &payload)
                };
                (0..VARIETY).map(&mut garbage).collect()
            }
            Self::Vrrp => vec![ip_frame(source, &vrrp2(vhid.wrapping_add(100), 1, [0; 8]))],
            Self::Replayed => vec![captured.expect("a frame to replay").frame()],
            Self::ForgedVrrp2 => vec![ip_frame(source, &vrrp2(vhid, 1, *b"mistaken"))],
            Self::ForgedVrrp3 => vec![ip_frame(source, &vrrp3(source, vhid, 1, 0xffff))],
            Self::ReplayedVrrp2 => {
                let mut password = [0; 8];
                password[..PASSWORD.len()].copy_from_slice(PASSWORD.as_bytes());
                vec![ip_frame(source, &vrrp2(vhid, MASTER_PRIORITY, password))]
            }
            Self::ReplayedVrrp3 => vec![ip_frame(source, &vrrp3(source, vhid, MASTER_PRIORITY, 0))],
        }
    }
}

/// An IPv4 packet of protocol 112 to the group.
fn ip_frame(source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0xc0];
    let length = u16::try_from(20 + payload.len()).expect("a short payload");
    header.extend(length.to_be_bytes());
    header.extend([0, 1, 0x40, 0, 255, PROTOCOL, 0, 0]);
    header.extend(source.octets());
    header.extend(GROUP.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    let mut frame = Vec::new();
    frame.extend(Mac::of_group(GROUP).0);
    frame.extend([2, 0, 0, 0, 0, 0x99, 0x08, 0x00]);
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// The priority of keepalived as MASTER in benchmarks.
const MASTER_PRIORITY: u8 = 150;

/// RFC 2338 with authentication type 1 (RFC 3768 took it away, keepalived still has it), one address, an interval of 1 s.
fn vrrp2(vrid: u8, priority: u8, password: [u8; 8]) -> Vec<u8> {
    let mut packet = vec![0x21, vrid, priority, 1, 1, 1, 0, 0];
    packet.extend(ADDRESS);
    packet.extend(password);
    let sum = checksum(&packet).to_be_bytes();
    packet[6..8].copy_from_slice(&sum);
    packet
}

/// RFC 5798, one address, an interval of 1 s; its checksum is wrong in the bits of `error`.
fn vrrp3(source: Ipv4Addr, vrid: u8, priority: u8, error: u16) -> Vec<u8> {
    let mut packet = vec![0x31, vrid, priority, 1, 0, 100, 0, 0];
    packet.extend(ADDRESS);
    // The sum is over a pseudo-header too: addresses, protocol, length.
    let mut summed = [source.octets(), GROUP.octets(), [0, PROTOCOL, 0, 12]].concat();
    summed.extend(&packet);
    let sum = (checksum(&summed) ^ error).to_be_bytes();
    packet[6..8].copy_from_slice(&sum);
    packet
}

/// A running flood from the switch port of one host to that host alone, as fast as one core can; ends when dropped.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    started: Instant,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    stop: AtomicBool,
}

/// The volume of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Frames that the device took.
    pub frames: u64,
    /// The time that it took.
    pub time: Duration,
}

impl Volume {
    /// Frames a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let nanos = self.time.as_nanos().max(1);
        u64::try_from(u128::from(self.frames) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

/// Frames handed to the kernel in one call.
const BATCH: u16 = 64;

impl Flood {
    /// Starts sending `frames` in turn to `host`, on processor `cpu` when one is given, and at `rate` frames a second
    /// when one is given.
    ///
    /// Without a rate the receiver's queue (256 frames on a veth) overflows now and then, and loses others' frames too.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    ///
    /// # Panics
    /// When there are no frames.
    pub fn towards(
        host: &Host,
        frames: Vec<Vec<u8>>,
        cpu: Option<usize>,
        rate: Option<u32>,
    ) -> Result<Self> {
        assert!(!frames.is_empty(), "a flood of nothing");
        let port = host.port("eth0");
        let socket = host.switch().enter(|| bypassing_socket(&port))??;
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                send_all(&socket, &frames, rate, &shared);
            }
        });
        Ok(Self {
            shared,
            started: Instant::now(),
            thread: Some(thread),
        })
    }

    /// How much was sent so far.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume {
            frames: self.shared.sent.load(Ordering::Relaxed),
            time: self.started.elapsed(),
        }
    }

    /// Ends it, and returns how much was sent.
    #[must_use]
    pub fn finish(self) -> Volume {
        self.volume()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

/// The number of frames to a host's `eth0` that were lost so far because its queue was full.
///
/// # Errors
/// When the system refuses.
pub fn overflows(host: &Host) -> Result<u64> {
    let port = host.port("eth0");
    let shown = host.switch().ip(&format!("-s -o link show {port}"))?;
    // TX: bytes packets errors dropped …, and their values behind the next backslash.
    let values = shown
        .split("TX:")
        .nth(1)
        .and_then(|sent| sent.split('\\').nth(1));
    let dropped = values.and_then(|values| values.split_whitespace().nth(3));
    dropped
        .and_then(|dropped| dropped.parse().ok())
        .with_context(|| format!("no statistics of a port in {shown}"))
}

/// Binds the calling thread to one processor, if that processor exists.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

fn bypassing_socket(interface: &str) -> Result<OwnedFd> {
    let link = link_address(interface)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )
    .context("failed to open a packet socket")?;
    bind(socket.as_raw_fd(), &link).with_context(|| format!("failed to bind to {interface}"))?;
    setsockopt(&socket, QdiscBypass, &true)?;
    setsockopt(&socket, sockopt::SndBuf, &(4 << 20))?;
    Ok(socket)
}

fn send_all(socket: &OwnedFd, frames: &[Vec<u8>], rate: Option<u32>, shared: &Shared) {
    let addresses = [None::<LinkAddr>; BATCH as usize];
    let mut headers = MultiHeaders::preallocate(BATCH.into(), None);
    // A whole number of batches, each frame as often as any other.
    let slices: Vec<[IoSlice<'_>; 1]> = frames
        .iter()
        .cycle()
        .take(frames.len() * usize::from(BATCH))
        .map(|frame| [IoSlice::new(frame)])
        .collect();
    let pause = rate.map(|rate| Duration::from_secs(1) * u32::from(BATCH) / rate);
    let mut due = Instant::now();
    for batch in slices.chunks(BATCH.into()).cycle() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Some(pause) = pause {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A late batch does not make a later one early, which would be a burst.
            due = due.max(Instant::now() - pause) + pause;
        }
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            batch,
            addresses,
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(results) => {
                let count = results.count() as u64;
                shared.sent.fetch_add(count, Ordering::Relaxed);
            }
            // The receiver's queue is full: what did not fit is lost, as on a wire.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
            Err(_gone) => return,
        }
    }
}
