//! Everything the hosts send, as the switch hears it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike as _};

use crate::lab::Namespace;
use crate::packet::{Arp, Carp, Packet, Vrrp, parse};

/// A position in a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

/// One frame that a host sent.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When the switch received it (the kernel's timestamp, on our monotonic clock).
    pub at: Instant,
    /// Name of the host that sent it, or `HOST-IF` when it came from another interface than `eth0`.
    pub host: Arc<str>,
    /// Its parsed content.
    pub packet: Packet,
}

impl Captured {
    /// As an advertisement of the given host.
    #[must_use]
    pub fn carp_from(&self, host: &str) -> Option<&Carp> {
        match &self.packet {
            Packet::Carp(carp) if *self.host == *host => Some(carp),
            Packet::Carp(_) | Packet::Vrrp(_) | Packet::Arp(_) => None,
        }
    }

    /// As an ARP packet of the given host.
    #[must_use]
    pub fn arp_from(&self, host: &str) -> Option<&Arp> {
        match &self.packet {
            Packet::Arp(arp) if *self.host == *host => Some(arp),
            Packet::Carp(_) | Packet::Vrrp(_) | Packet::Arp(_) => None,
        }
    }

    /// As a VRRP packet of the given host.
    #[must_use]
    pub fn vrrp_from(&self, host: &str) -> Option<&Vrrp> {
        match &self.packet {
            Packet::Vrrp(vrrp) if *self.host == *host => Some(vrrp),
            Packet::Carp(_) | Packet::Vrrp(_) | Packet::Arp(_) => None,
        }
    }
}

/// A packet socket on every port of the switch. It captures each frame once, where the frame enters the switch.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    packets: Mutex<Vec<Captured>>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Capture {
    pub(crate) fn open(switch: &Namespace) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (ready, outcome) = mpsc::channel();
        let thread = thread::spawn({
            let (switch, shared) = (switch.clone(), Arc::clone(&shared));
            move || match switch
                .join()
                .context("failed to enter the switch")
                .and_then(|()| open_socket())
            {
                Ok(socket) => {
                    let _ = ready.send(Ok(()));
                    listen(&socket, &shared);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        });
        outcome.recv().context("the capture thread died")??;
        Ok(Self {
            shared,
            thread: Some(thread),
            started: Instant::now(),
        })
    }

    /// The current end of the capture.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.shared.lock().len())
    }

    /// Waits for a frame from `mark` on for which `pick` returns a value.
    ///
    /// # Errors
    /// When none comes within `within`; the message contains `what` and what came instead.
    pub fn wait_after<T>(
        &self,
        mark: Mark,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&Captured) -> Option<T>,
    ) -> Result<(Captured, T)> {
        let deadline = Instant::now() + within;
        let mut next = mark.0;
        let mut packets = self.shared.lock();
        loop {
            for captured in packets.iter().skip(next) {
                if let Some(value) = pick(captured) {
                    return Ok((captured.clone(), value));
                }
            }
            next = packets.len();
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(packets);
                bail!(
                    "not on the wire within {within:?}: {what}\n{}",
                    self.summary(mark)
                );
            };
            (packets, _) = self
                .shared
                .changed
                .wait_timeout(packets, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for an advertisement of `host` from `mark` on.
    ///
    /// # Errors
    /// When none comes within `within`.
    pub fn advertisement(
        &self,
        mark: Mark,
        host: &str,
        within: Duration,
    ) -> Result<(Captured, Carp)> {
        self.wait_after(
            mark,
            &format!("an advertisement of {host}"),
            within,
            |captured| captured.carp_from(host).cloned(),
        )
    }

    /// Waits until `host` has sent `count` advertisements from `mark` on.
    ///
    /// # Errors
    /// When it takes longer than `within`.
    pub fn advertisements_reach(
        &self,
        mark: Mark,
        host: &str,
        count: usize,
        within: Duration,
    ) -> Result<()> {
        let mut left = count;
        let what = format!("{count} advertisements of {host}");
        self.wait_after(mark, &what, within, |captured| {
            left -= usize::from(captured.carp_from(host).is_some());
            (left == 0).then_some(())
        })?;
        Ok(())
    }

    /// Everything from `mark` on.
    #[must_use]
    pub fn after(&self, mark: Mark) -> Vec<Captured> {
        self.shared.lock().iter().skip(mark.0).cloned().collect()
    }

    /// All advertisements of `host` from `mark` on.
    #[must_use]
    pub fn advertisements(&self, mark: Mark, host: &str) -> Vec<(Instant, Carp)> {
        let pick = |captured: &Captured| {
            captured
                .carp_from(host)
                .map(|carp| (captured.at, carp.clone()))
        };
        self.shared
            .lock()
            .iter()
            .skip(mark.0)
            .filter_map(pick)
            .collect()
    }

    /// The frames from `mark` on as text, one line each.
    #[must_use]
    pub fn summary(&self, mark: Mark) -> String {
        let mut text = "--- on the wire:\n".to_owned();
        for Captured { at, host, packet } in self.after(mark) {
            let after = at.saturating_duration_since(self.started).as_millis();
            let _ = match packet {
                Packet::Carp(carp) => writeln!(
                    text,
                    "{after:>7} ms {host}: CARP vhid {} advbase {} advskew {} from {} to {}",
                    carp.vhid, carp.advbase, carp.advskew, carp.source, carp.destination
                ),
                Packet::Vrrp(vrrp) => writeln!(
                    text,
                    "{after:>7} ms {host}: VRRPv{} vrid {} priority {} from {}",
                    vrrp.version, vrrp.vrid, vrrp.priority, vrrp.source
                ),
                Packet::Arp(arp) => writeln!(
                    text,
                    "{after:>7} ms {host}: ARP {} {} at {} for {}",
                    if arp.reply { "reply" } else { "request" },
                    arp.sender_address,
                    arp.sender,
                    arp.target_address
                ),
            };
        }
        text
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Captured>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_socket() -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("failed to open a packet socket")?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // Room for bursts while the machine is busy.
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    // The time within which a stop is noticed.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

/// Interface index to the name of the host at the other end of the cable.
fn port_names() -> HashMap<usize, Arc<str>> {
    let interfaces = if_nameindex();
    let ports = interfaces.iter().flatten().filter_map(|interface| {
        let name = interface.name().to_string_lossy();
        let host = name.strip_prefix("to-")?;
        Some((interface.index() as usize, Arc::from(host)))
    });
    ports.collect()
}

fn listen(socket: &OwnedFd, shared: &Shared) {
    let mut buffer = vec![0; 65536];
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut ports = HashMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<LinkAddr>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let Ok(message) = received else {
            continue; // the timeout
        };
        let Some(link) = message.address else {
            continue;
        };
        if link.pkttype() == libc::PACKET_OUTGOING {
            continue;
        }
        let at = message.cmsgs().into_iter().flatten().find_map(|control| {
            let ControlMessageOwned::ScmTimestampns(stamp) = control else {
                return None;
            };
            Some(monotonic(stamp))
        });
        let length = message.bytes;
        let Some(packet) = parse(&buffer[..length]) else {
            continue;
        };
        if !ports.contains_key(&link.ifindex()) {
            ports = port_names(); // plugged in since
        }
        let Some(host) = ports.get(&link.ifindex()) else {
            continue; // the bridge itself
        };
        shared.lock().push(Captured {
            at: at.unwrap_or_else(Instant::now),
            host: Arc::clone(host),
            packet,
        });
        shared.changed.notify_all();
    }
}

/// The kernel's time stamps use the wall clock, so only the age is taken from them.
fn monotonic(stamp: TimeSpec) -> Instant {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let age = now.saturating_sub(Duration::from(stamp));
    Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
}
