//! An attacker on the switch without the password, who records every advertisement and sends it again.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::inject::{Injector, link_address};
use crate::lab::Host;
use crate::packet::{Carp, Mac, Packet, checksum, parse};
use crate::wait::eventually;

/// Offsets in an Ethernet frame with a 20-byte IPv4 header.
const ETHER_SOURCE: usize = 6;
const IP: usize = 14;
const IP_SOURCE: usize = IP + 12;
const CARP: usize = IP + 20;

/// A recorded advertisement, or a copy that is altered outside of the digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// When it was heard.
    pub at: Instant,
    frame: Vec<u8>,
}

impl Recording {
    /// Its parsed content.
    ///
    /// # Panics
    /// Never, because only advertisements are recorded.
    #[must_use]
    pub fn carp(&self) -> Carp {
        match parse(&self.frame) {
            Some(Packet::Carp(carp)) => carp,
            Some(Packet::Vrrp(_) | Packet::Arp(_)) | None => {
                panic!("only advertisements are recorded")
            }
        }
    }

    /// The whole frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// With another priority.
    #[must_use]
    pub fn shown(mut self, advbase: u8, advskew: u8) -> Self {
        self.frame[CARP + 2] = advskew;
        self.frame[CARP + 5] = advbase;
        self.fixed()
    }

    /// With another byte 4, OpenBSD's demotion.
    #[must_use]
    pub fn demoted(mut self, demotion: u8) -> Self {
        self.frame[CARP + 4] = demotion;
        self.fixed()
    }

    /// From another address.
    #[must_use]
    pub fn from(mut self, source: Ipv4Addr) -> Self {
        self.frame[IP_SOURCE..IP_SOURCE + 4].copy_from_slice(&source.octets());
        self.fixed()
    }

    /// With another Ethernet source.
    #[must_use]
    pub fn ether_source(mut self, mac: Mac) -> Self {
        self.frame[ETHER_SOURCE..ETHER_SOURCE + 6].copy_from_slice(&mac.0);
        self
    }

    /// With correct checksums, which need no password.
    fn fixed(mut self) -> Self {
        for (start, end, field) in [(IP, CARP, IP + 10), (CARP, CARP + 36, CARP + 6)] {
            self.frame[field..field + 2].fill(0);
            let sum = checksum(&self.frame[start..end]).to_be_bytes();
            self.frame[field..field + 2].copy_from_slice(&sum);
        }
        self
    }
}

/// An action for each advertisement at the moment it is heard.
type Reaction = Box<dyn FnMut(&Recording) + Send>;

/// A host that records all advertisements on the switch and can send.
pub struct Attacker {
    injector: Injector,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    recordings: Mutex<Vec<Recording>>,
    reaction: Mutex<Option<Reaction>>,
    stop: AtomicBool,
}

impl Attacker {
    /// Starts recording on `eth0` of `host`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(host: &Host) -> Result<Self> {
        let socket = host.enter(listening_socket)??;
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || listen(&socket, &shared)
        });
        Ok(Self {
            injector: Injector::open(host)?,
            shared,
            thread: Some(thread),
        })
    }

    /// Sends it to everybody.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn send(&self, recording: &Recording) -> Result<()> {
        self.injector.send(&recording.frame)
    }

    /// Everything heard so far from a source, oldest first.
    #[must_use]
    pub fn heard(&self, source: Ipv4Addr) -> Vec<Recording> {
        let mut all = lock(&self.shared.recordings).clone();
        all.retain(|recording| recording.carp().source == source);
        all
    }

    /// The highest counter heard so far, of any group; peers continue above it.
    #[must_use]
    pub fn highest_counter(&self) -> Option<u64> {
        let all = lock(&self.shared.recordings);
        all.iter().map(|recording| recording.carp().counter).max()
    }

    /// Waits until `count` advertisements of a source have been recorded, and returns all of them, oldest first.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub fn recorded(
        &self,
        source: Ipv4Addr,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Recording>> {
        let what = format!("{count} advertisements of {source} to be recorded");
        eventually(&what, within, || {
            let heard = self.heard(source);
            Ok((heard.len() >= count).then_some(heard))
        })
    }

    /// Deletes all recordings.
    pub fn forget(&self) {
        lock(&self.shared.recordings).clear();
    }

    /// Performs this action for each advertisement from now on, as soon as it is heard.
    pub fn react(&self, reaction: impl FnMut(&Recording) + Send + 'static) {
        *lock(&self.shared.reaction) = Some(Box::new(reaction));
    }

    /// Only records from now on.
    pub fn calm_down(&self) {
        *lock(&self.shared.reaction) = None;
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packet socket on `eth0` of the present namespace that hears everything.
pub(crate) fn listening_socket() -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("failed to open a packet socket")?;
    bind(socket.as_raw_fd(), &link_address("eth0")?).context("failed to bind to eth0")?;
    // The time within which a stop is noticed.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, shared: &Shared) {
    let mut buffer = vec![0; 2048];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, Some(from))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else {
            continue; // the timeout
        };
        let frame = &buffer[..length];
        let is_carp = matches!(parse(frame), Some(Packet::Carp(_)));
        // The attacker's own packets are not recorded; and IP options would move the offsets.
        if from.pkttype() == libc::PACKET_OUTGOING || !is_carp || frame[IP] != 0x45 {
            continue;
        }
        let recording = Recording {
            at: Instant::now(),
            frame: frame.to_vec(),
        };
        if let Some(reaction) = lock(&shared.reaction).as_mut() {
            reaction(&recording);
        }
        lock(&shared.recordings).push(recording);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::Forgery;

    #[test]
    fn an_altered_copy_has_right_checksums_and_the_digest_of_the_original() {
        let address = [10, 9, 0, 100].into();
        let original = Recording {
            at: Instant::now(),
            frame: Forgery::new([10, 9, 0, 1].into(), 7, "secret", address).frame(),
        };
        let altered = original
            .clone()
            .shown(255, 254)
            .demoted(3)
            .from([10, 9, 1, 0].into())
            .carp();
        assert!(altered.checksums_valid);
        assert!(altered.is_authentic("secret", &[address]));
        assert_eq!(altered.source, Ipv4Addr::new(10, 9, 1, 0));
        assert_eq!(
            (altered.advbase, altered.advskew, altered.demotion),
            (255, 254, 3)
        );
        assert_eq!(altered.counter, original.carp().counter);
    }
}
