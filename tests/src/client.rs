//! A client that uses the virtual address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::inject::Injector;
use crate::lab::Host;
use crate::packet::{Mac, checksum};
use crate::wait::eventually;
use crate::{Capture, Mark};

/// An outage of the virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first unanswered probe was sent.
    pub from: Instant,
    /// When the next answered probe was sent; `None` while it lasts.
    pub until: Option<Instant>,
}

impl Outage {
    /// Its duration so far.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let end = self.until.unwrap_or_else(Instant::now);
        end.saturating_duration_since(self.from)
    }
}

/// Sends ICMP echo requests to one address at a steady pace through the host's ordinary network stack, so that its
/// ARP cache decides which host they reach, as for any client.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Index: ICMP sequence number (and its wraps).
    probes: Mutex<Vec<Probe>>,
    stop: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    sent: Instant,
    answered: bool,
}

/// A later answer does not count: a packet that waited in the client's ARP queue during an outage must not
/// shorten it.
const PATIENCE: Duration = Duration::from_millis(200);

impl Client {
    /// Starts probing `target` from `host`, one probe per `interval`.
    ///
    /// # Errors
    /// When a raw socket cannot be opened.
    pub fn start(host: &Host, target: Ipv4Addr, interval: Duration) -> Result<Self> {
        let socket = Arc::new(host.enter(open_socket)??);
        let shared = Arc::new(Shared::default());
        let sender = thread::spawn({
            let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
            move || send_probes(&socket, &shared, target, interval)
        });
        let receiver = thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive_answers(&socket, &shared, target)
        });
        Ok(Self {
            shared,
            threads: vec![sender, receiver],
        })
    }

    /// Waits until a probe sent from now on is answered.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub fn wait_for_answer(&self, within: Duration) -> Result<()> {
        let from = Instant::now();
        eventually("the virtual address answers the client", within, || {
            let probes = self.shared.lock();
            let fresh = probes.iter().rev().take_while(|probe| probe.sent >= from);
            Ok(fresh.into_iter().any(|probe| probe.answered).then_some(()))
        })
    }

    /// All outages since `from`, oldest first. A probe that may still be answered ends the record.
    #[must_use]
    pub fn outages(&self, from: Instant) -> Vec<Outage> {
        let probes = self.shared.lock();
        let settled = Instant::now().checked_sub(PATIENCE).unwrap_or(from);
        let mut outages = Vec::<Outage>::new();
        for probe in probes.iter().filter(|probe| probe.sent >= from) {
            match outages.last_mut().filter(|outage| outage.until.is_none()) {
                Some(outage) if probe.answered => outage.until = Some(probe.sent),
                Some(_) => {}
                None if probe.answered => {}
                None if probe.sent > settled => break,
                None => outages.push(Outage {
                    from: probe.sent,
                    until: None,
                }),
            }
        }
        outages
    }

    /// The longest outage since `from`; zero when there was none.
    #[must_use]
    pub fn longest_outage(&self, from: Instant) -> Duration {
        self.outages(from)
            .iter()
            .map(Outage::duration)
            .max()
            .unwrap_or_default()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Probe>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_socket() -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .context("failed to open an ICMP socket")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const IDENTIFIER: u16 = 0x4341;

fn send_probes(socket: &OwnedFd, shared: &Shared, target: Ipv4Addr, interval: Duration) {
    let [a, b, c, d] = target.octets();
    let target = SockaddrIn::new(a, b, c, d, 0);
    let mut next = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        let number = {
            let mut probes = shared.lock();
            probes.push(Probe {
                sent: Instant::now(),
                answered: false,
            });
            probes.len() - 1
        };
        let mut request = [0; 16];
        request[0] = ECHO_REQUEST;
        request[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
        request[8..16].copy_from_slice(&(number as u64).to_be_bytes());
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
        // "No route to host" while nobody answers ARP is an unanswered probe like any other.
        let _ = sendto(
            socket.as_raw_fd(),
            &request,
            &target,
            MsgFlags::MSG_DONTWAIT,
        );
        // After a stall of the machine, continue from here rather than with a burst.
        next = (next + interval).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive_answers(socket: &OwnedFd, shared: &Shared, target: Ipv4Addr) {
    let mut buffer = [0; 2048];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else {
            continue; // the timeout
        };
        let Some(number) = answered_probe(&buffer[..length], target) else {
            continue;
        };
        let mut probes = shared.lock();
        let probe = usize::try_from(number)
            .ok()
            .and_then(|number| probes.get_mut(number));
        if let Some(probe) = probe
            && probe.sent.elapsed() < PATIENCE
        {
            probe.answered = true;
        }
    }
}

/// The probe's number, if this IP packet is an answer of `target` to one of our probes.
fn answered_probe(packet: &[u8], target: Ipv4Addr) -> Option<u64> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let icmp = packet.get(header_len..)?;
    let ours = Ipv4Addr::from(source) == target
        && *icmp.first()? == ECHO_REPLY
        && *icmp.get(4..6)? == IDENTIFIER.to_be_bytes();
    let number = icmp.get(8..16)?.try_into().ok()?;
    ours.then_some(u64::from_be_bytes(number))
}

/// Asks for `address` by ARP from `host`, and returns the MAC addresses that answer within `window`. Bypasses every ARP
/// cache, so two owners appear as two MAC addresses.
///
/// # Errors
/// When the request cannot be sent.
pub fn owners(
    host: &Host,
    capture: &Capture,
    address: Ipv4Addr,
    window: Duration,
) -> Result<BTreeSet<Mac>> {
    let mark = capture.mark();
    let injector = Injector::open(host)?;
    injector.send(&arp_request(host.mac(), host.address(), address))?;
    thread::sleep(window);
    Ok(answers(capture, mark, address))
}

fn answers(capture: &Capture, mark: Mark, address: Ipv4Addr) -> BTreeSet<Mac> {
    let all = capture.after(mark);
    let replies = all
        .iter()
        .filter_map(|captured| captured.arp_from(&captured.host));
    let replies = replies.filter(|arp| arp.reply && arp.sender_address == address);
    replies.map(|arp| arp.sender).collect()
}

/// An ARP request as a frame.
#[must_use]
pub fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(Mac::BROADCAST.0);
    frame.extend(mac.0);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}
