//! A cable that can lose, duplicate, delay and reorder frames, separately in each direction.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::inject::link_address;
use crate::lab::{Host, Namespace};
use crate::packet::{Mac, PROTOCOL};

/// What a cable does to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// Nothing.
    #[default]
    Good,
    /// All frames are lost.
    Lost,
    /// Each arrives twice.
    Doubled,
    /// The second of every two frames arrives first.
    Swapped,
    /// Each arrives later by this time.
    Late(Duration),
    /// Each arrives, and comes back to its sender as well.
    Mirrored,
    /// Only frames from this station arrive, as at a hypervisor's port that passes no other address.
    OnlyFrom(Mac),
    /// All frames except IP protocol 112 arrive.
    WithoutCarp,
}

/// A cable between a host's `eth0` and the switch that this process implements: frames pass through two packet sockets
/// and two threads. It is perfect until changed. Dropping it cuts the host off.
///
/// A capture still shows what the host sends where it enters the cable, even if the cable loses it.
#[derive(Debug)]
pub struct Cable {
    from_host: Arc<Direction>,
    to_host: Arc<Direction>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Direction {
    quality: Mutex<Quality>,
    stop: AtomicBool,
}

/// The time within which a waiting frame, or the end, is noticed.
const TICK_MS: i64 = 5;

impl Cable {
    /// Replaces the cable of `host`'s `eth0`.
    ///
    /// # Errors
    /// When the system refuses an interface or a packet socket.
    pub fn splice(host: &Host) -> Result<Self> {
        let (near, far) = (host.port("eth0"), format!("far-{}", host.name()));
        let plug = format!("plug-{}", host.name());
        let switch = host.switch();
        switch.ip(&format!("link add {far} type veth peer name {plug}"))?;
        for interface in [&far, &plug] {
            switch.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
        }
        switch.ip(&format!("link set {near} nomaster"))?;
        switch.ip(&format!("link set {plug} master br0"))?;
        switch.ip(&format!("link set {plug} up"))?;
        switch.ip(&format!("link set {far} up"))?;
        crate::eventually("the far end is connected", Duration::from_secs(10), || {
            let state = switch.ip(&format!("-o -d link show {plug}"))?;
            Ok(state.contains("state forwarding").then_some(()))
        })?;
        let host_side = Arc::new(End::open(switch, &near)?);
        let switch_side = Arc::new(End::open(switch, &far)?);
        let (from_host, to_host) = (
            Arc::new(Direction::default()),
            Arc::new(Direction::default()),
        );
        let relay = |direction: &Arc<Direction>, input: &Arc<End>, output: &Arc<End>| {
            let (direction, input, output) =
                (Arc::clone(direction), Arc::clone(input), Arc::clone(output));
            thread::spawn(move || relay(&direction, &input, &output))
        };
        let threads = vec![
            relay(&from_host, &host_side, &switch_side),
            relay(&to_host, &switch_side, &host_side),
        ];
        Ok(Self {
            from_host,
            to_host,
            threads,
        })
    }

    /// Changes the direction from the host.
    pub fn from_host(&self, quality: Quality) {
        *self.from_host.lock() = quality;
    }

    /// Changes the direction to the host.
    pub fn to_host(&self, quality: Quality) {
        *self.to_host.lock() = quality;
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for direction in [&self.from_host, &self.to_host] {
            direction.stop.store(true, Ordering::Relaxed);
        }
        for thread in self.threads.drain(..) {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, Quality> {
        self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives and sends on one interface.
#[derive(Debug)]
struct End {
    socket: OwnedFd,
    ifindex: usize,
}

impl End {
    fn open(switch: &Namespace, interface: &str) -> Result<Self> {
        switch.enter(|| -> Result<Self> {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .context("failed to open a packet socket")?;
            bind(socket.as_raw_fd(), &link_address(interface)?)
                .with_context(|| format!("failed to bind to {interface}"))?;
            let timeout = TimeVal::milliseconds(TICK_MS);
            setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
            let ifindex = usize::try_from(if_nametoindex(interface)?)?;
            Ok(Self { socket, ifindex })
        })?
    }

    /// The next frame that arrives here within a tick.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let (length, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer).ok()?;
        let from = from?;
        // Before it was bound, the socket heard every interface.
        let came_in = from.pkttype() != libc::PACKET_OUTGOING && from.ifindex() == self.ifindex;
        came_in.then_some(&buffer[..length])
    }

    /// Sends a frame. A host whose interface is down refuses it; the frame is lost, as on any cable.
    fn send(&self, frame: &[u8]) {
        let _ = send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
    }
}

fn relay(direction: &Direction, input: &End, output: &End) {
    let mut buffer = vec![0; 65536];
    let mut waiting = VecDeque::<(Instant, Vec<u8>)>::new();
    let mut held = None::<Vec<u8>>;
    while !direction.stop.load(Ordering::Relaxed) {
        let received = input.receive(&mut buffer);
        let quality = *direction.lock();
        if let Some(frame) = received {
            match quality {
                Quality::Good => output.send(frame),
                Quality::Lost => {}
                Quality::Doubled => {
                    output.send(frame);
                    output.send(frame);
                }
                Quality::Swapped => match held.take() {
                    Some(first) => {
                        output.send(frame);
                        output.send(&first);
                    }
                    None => held = Some(frame.to_vec()),
                },
                Quality::Late(by) => waiting.push_back((Instant::now() + by, frame.to_vec())),
                Quality::OnlyFrom(station) => {
                    if frame.get(6..12) == Some(&station.0[..]) {
                        output.send(frame);
                    }
                }
                Quality::WithoutCarp => {
                    if frame.get(12..14) != Some(&[8, 0][..]) || frame.get(23) != Some(&PROTOCOL) {
                        output.send(frame);
                    }
                }
                Quality::Mirrored => {
                    output.send(frame);
                    input.send(frame);
                }
            }
        }
        if quality != Quality::Swapped
            && let Some(frame) = held.take()
        {
            output.send(&frame);
        }
        while let Some((due, frame)) = waiting.pop_front() {
            if due > Instant::now() {
                waiting.push_front((due, frame));
                break;
            }
            output.send(&frame);
        }
    }
}
