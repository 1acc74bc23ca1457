//! Listens to the advertisements of thousands of virtual hosts and keeps the figures that matter for each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use carp_tests::Host;
use carp_tests::packet::{self, Packet};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike as _};

/// A packet socket on every interface of a host.
#[derive(Debug)]
pub struct Ear {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By interface and vhid.
    heard: Mutex<HashMap<(usize, u8), Heard>>,
    stop: AtomicBool,
}

/// The advertisements of one virtual host.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// By the kernel's clock.
    first: Duration,
    last: Duration,
    /// The longest time between two.
    longest: Duration,
    /// The number of advertisements after the first.
    more: u32,
    /// The greatest delay of one after the time at which it was due, counted from the first on.
    behind: Duration,
}

/// The configuration of all virtual hosts here.
pub const INTERVAL: Duration = Duration::from_secs(1);

impl Heard {
    fn again(&mut self, at: Duration) {
        self.more += 1;
        let due = self.first + INTERVAL * self.more;
        self.behind = self.behind.max(at.saturating_sub(due));
        self.longest = self.longest.max(at.saturating_sub(self.last));
        self.last = at;
    }
}

impl Ear {
    /// Starts listening.
    ///
    /// # Errors
    /// Returns an error if a packet socket cannot be opened.
    pub fn open(host: &Host) -> Result<Self> {
        let socket = host.enter(open_socket)??;
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || listen(&socket, &shared)
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns how many virtual hosts were heard.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lock().len()
    }

    /// Returns the longest time without an advertisement of one virtual host, including a time that lasts until now.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let heard = self.shared.lock();
        let silences = heard
            .values()
            .map(|heard| heard.longest.max(now.saturating_sub(heard.last)));
        silences.max().unwrap_or_default()
    }

    /// Returns the greatest delay of an advertisement behind the grid that its virtual host's first one began.
    #[must_use]
    pub fn behind_the_grid(&self) -> Duration {
        let heard = self.shared.lock();
        let behind = heard.values().map(|heard| heard.behind);
        behind.max().unwrap_or_default()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread printed its panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, u8), Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
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
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, shared: &Shared) {
    let mut buffer = [0; 256];
    let mut control = nix::cmsg_space!(TimeSpec);
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
        let stamp = message.cmsgs().into_iter().flatten().find_map(|control| {
            let ControlMessageOwned::ScmTimestampns(stamp) = control else {
                return None;
            };
            Some(Duration::from(stamp))
        });
        let (Some(at), length) = (stamp, message.bytes) else {
            continue;
        };
        let id = match buffer.get(..length).and_then(packet::parse) {
            Some(Packet::Carp(carp)) => carp.vhid,
            Some(Packet::Vrrp(vrrp)) => vrrp.vrid,
            Some(Packet::Arp(_)) | None => continue,
        };
        let mut all = shared.lock();
        match all.entry((link.ifindex(), id)) {
            Entry::Vacant(entry) => {
                entry.insert(Heard {
                    first: at,
                    last: at,
                    longest: Duration::ZERO,
                    more: 0,
                    behind: Duration::ZERO,
                });
            }
            Entry::Occupied(entry) => entry.into_mut().again(at),
        }
    }
}
