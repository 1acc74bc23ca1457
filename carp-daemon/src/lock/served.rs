//! Holds the locks of a daemon's virtual hosts, and answers processes that ask for them.
//!
//! A process that connects to a lock receives the fingerprint of the options that the owner was started with, if it
//! runs as root or as the owner's user. A second start thus notices that the same is running already (`ifup` runs
//! hooks again). An owner that is stopping does not answer, so that the next start waits for it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::Vhid;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::unix::AsyncFd;

use super::{LockError, LockHolder, PATIENCE, address_name, bind, vhid_name};
use crate::io::clock;
use crate::sys::{self, Descriptor};

/// Time between two attempts while waiting.
const RETRY: Duration = Duration::from_millis(20);

/// Questions that are answered at once. The next ones are answered after [`PAUSE`], so that questions do not delay
/// the election.
const AT_ONCE: usize = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// Size of a fingerprint. Unit: bytes.
const ANSWER_LEN: usize = size_of::<u64>();

/// The locks that one virtual host needs.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The interface.
    pub ifindex: u32,
    /// The interface's name, for errors.
    pub interface: &'a str,
    /// The vhid, locked on that interface.
    pub vhid: Vhid,
    /// The addresses, locked in the whole network namespace.
    pub addresses: Vec<IpAddr>,
}

/// A lock that this process holds.
#[derive(Debug)]
struct Taken {
    ifindex: u32,
    /// The virtual host that it was taken for.
    vhid: Vhid,
    name: String,
    listener: UnixListener,
}

impl Taken {
    const fn owner(&self) -> (u32, Vhid) {
        (self.ifindex, self.vhid)
    }
}

/// Every lock of this process's virtual hosts.
#[derive(Debug)]
pub struct Locks {
    /// The locks, each by a number that is never used again.
    held: BTreeMap<u64, Taken>,
    next: u64,
    /// Readable when a process asks. One epoll instance covers all locks and costs the runtime one registration.
    questions: AsyncFd<Descriptor<Epoll>>,
    fingerprint: u64,
    /// There may be more questions, but they are not answered before this time.
    paused_until: Option<Instant>,
}

impl Locks {
    /// Creates an empty set of locks. `fingerprint` is that of the options that this process was started with.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptor is left.
    pub fn new(fingerprint: u64) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            held: BTreeMap::new(),
            next: 0,
            questions: sys::watch(Descriptor(epoll))?,
            fingerprint,
            paused_until: None,
        })
    }

    /// Takes the locks of a virtual host. Those of them that it holds stay with it all the time, and those that it needs no
    /// longer are released. If `patient`, this waits for an owner that may be stopping, and blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if another process, or another virtual host of this one, holds one of them. Then it holds the same
    /// locks as before. If `patient`, the error tells whether
    /// that process has the same fingerprint ([`LockError::Same`]), another one ([`LockError::Other`]), or did not answer
    /// ([`LockError::Silent`]).
    pub fn acquire(&mut self, wanted: &Wanted<'_>, patient: bool) -> Result<(), LockError> {
        let Wanted {
            ifindex,
            interface,
            vhid,
            ref addresses,
        } = *wanted;
        let patience = if patient { PATIENCE } else { Duration::ZERO };
        let deadline = clock::now() + patience;
        let what = format!("vhid {vhid} on {interface}");
        let owner = (ifindex, vhid);
        let mut wanted = vec![(vhid_name(ifindex, vhid), what.clone())];
        wanted.extend(addresses.iter().map(|address| {
            let what = format!("{what}: its address {address}");
            (address_name(*address), what)
        }));
        let first = self.next;
        let taken = wanted
            .iter()
            .try_for_each(|(name, what)| self.take(owner, name, what, deadline));
        self.held.retain(|number, lock| match taken {
            Ok(()) => lock.owner() != owner || wanted.iter().any(|(name, _)| *name == lock.name),
            Err(_) => *number < first,
        });
        taken
    }

    /// Releases the locks of an interface.
    pub fn release(&mut self, ifindex: u32) {
        // Closing a socket removes it from the epoll instance.
        self.held.retain(|_, lock| lock.ifindex != ifindex);
    }

    /// Releases the locks of one virtual host, except that of an address that another virtual host of this process has
    /// locked.
    pub fn release_one(&mut self, wanted: &Wanted<'_>) {
        let owner = (wanted.ifindex, wanted.vhid);
        self.held.retain(|_, lock| lock.owner() != owner);
    }

    /// Returns when postponed questions are to be answered.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Answers the processes that ask. Later questions wake the task again.
    ///
    /// # Errors
    ///
    /// Returns any error of `epoll_wait(2)`.
    pub fn poll_questions(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.paused_until.is_some_and(|until| clock::now() < until) {
            return Ok(());
        }
        self.paused_until = None;
        while let Poll::Ready(guard) = self.questions.poll_read_ready(context) {
            let mut guard = guard?;
            let mut asked = [EpollEvent::empty(); AT_ONCE];
            let number = self
                .questions
                .get_ref()
                .0
                .wait(&mut asked, EpollTimeout::ZERO)?;
            if number == 0 {
                guard.clear_ready();
                continue;
            }
            for event in &asked[..number] {
                if let Some(lock) = self.held.get(&event.data()) {
                    answer(&lock.listener, self.fingerprint);
                }
            }
            self.paused_until = Some(clock::now() + PAUSE);
            return Ok(());
        }
        Ok(())
    }

    fn take(
        &mut self,
        owned_by: (u32, Vhid),
        name: &str,
        what: &str,
        deadline: Instant,
    ) -> Result<(), LockError> {
        let mut held = self.held.values();
        if held.any(|lock| lock.owner() == owned_by && lock.name == name) {
            return Ok(());
        }
        let mut owner = LockHolder::UNKNOWN;
        let mut waited = false;
        loop {
            if let Some(listener) = bind(name)? {
                return self.keep(owned_by, name, listener);
            }
            let left = deadline.saturating_duration_since(clock::now());
            let (connection, seen) = super::owner(name);
            if seen != LockHolder::UNKNOWN {
                owner = seen;
            }
            let theirs = connection.and_then(|connection| ask(connection, left));
            match theirs {
                Some(theirs) if theirs == self.fingerprint && owner.is_trusted() => {
                    return Err(LockError::Same {
                        what: what.to_owned(),
                        owner,
                    });
                }
                Some(_) if owner.is_trusted() => {
                    return Err(LockError::Other {
                        what: what.to_owned(),
                        owner,
                    });
                }
                // The owner did not answer, so it may be about to end.
                None if !left.is_zero() => {
                    waited = true;
                    thread::sleep(RETRY.min(left));
                }
                None if waited => {
                    return Err(LockError::Silent {
                        what: what.to_owned(),
                        owner,
                    });
                }
                Some(_) | None => {
                    return Err(LockError::Busy {
                        what: what.to_owned(),
                        owner,
                    });
                }
            }
        }
    }

    fn keep(
        &mut self,
        (ifindex, vhid): (u32, Vhid),
        name: &str,
        listener: UnixListener,
    ) -> Result<(), LockError> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
        self.questions
            .get_ref()
            .0
            .add(&listener, event)
            .map_err(|errno| LockError::Socket {
                action: "watch",
                name: name.to_owned(),
                source: errno.into(),
            })?;
        let lock = Taken {
            ifindex,
            vhid,
            name: name.to_owned(),
            listener,
        };
        self.held.insert(self.next, lock);
        self.next += 1;
        Ok(())
    }
}

/// Answers one process. It does not matter if that process is gone, or is not permitted to know.
fn answer(listener: &UnixListener, fingerprint: u64) {
    let Ok((mut connection, _)) = listener.accept() else {
        return;
    };
    let credentials = getsockopt(&connection, PeerCredentials);
    let may_know = credentials.is_ok_and(|peer| {
        let credentials = Some((peer.pid(), peer.uid()));
        LockHolder { credentials }.is_trusted()
    });
    if may_know {
        // The buffer of a new connection has room for the answer.
        let _ = connection
            .set_nonblocking(true)
            .and_then(|()| connection.write_all(&fingerprint.to_ne_bytes()));
    }
}

/// Returns the fingerprint if the owner sends it within `patience`.
fn ask(connection: OwnedFd, patience: Duration) -> Option<u64> {
    if patience.is_zero() {
        return None;
    }
    let mut connection = UnixStream::from(connection);
    connection.set_nonblocking(false).ok()?;
    connection.set_read_timeout(Some(patience)).ok()?;
    let mut bytes = [0; ANSWER_LEN];
    connection.read_exact(&mut bytes).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::Held;
    use super::*;

    /// No interface has this index, so no carpd of this machine interferes.
    const NO_INTERFACE: u32 = u32::MAX - 7;

    fn wanted(vhid: u8, last: u8) -> Wanted<'static> {
        Wanted {
            ifindex: NO_INTERFACE,
            interface: "eth0",
            vhid: Vhid::new(vhid).unwrap(),
            // The address is of a range reserved for documentation.
            addresses: vec![Ipv4Addr::new(192, 0, 2, last).into()],
        }
    }

    /// Runs a test with the locks of two daemons that have these fingerprints.
    fn two(first: u64, second: u64, test: impl FnOnce(&mut Locks, &mut Locks)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        test(
            &mut Locks::new(first).unwrap(),
            &mut Locks::new(second).unwrap(),
        );
    }

    #[test]
    fn a_vhid_and_an_address_have_one_owner_and_looking_takes_nothing() {
        two(1, 2, |first, second| {
            let serves = |vhid| {
                let held = Held::look().unwrap();
                held.serves(NO_INTERFACE, Vhid::new(vhid).unwrap())
            };
            assert!(!serves(7));
            first.acquire(&wanted(7, 1), false).unwrap();
            assert!(serves(7) && !serves(8));
            let pid = std::process::id();
            let same_vhid = second.acquire(&wanted(7, 2), false).unwrap_err();
            assert_eq!(
                same_vhid.to_string(),
                format!("vhid 7 on eth0 is already served by pid {pid}")
            );
            let same_address = second.acquire(&wanted(8, 1), false).unwrap_err();
            assert_eq!(
                same_address.to_string(),
                format!("vhid 8 on eth0: its address 192.0.2.1 is already served by pid {pid}")
            );
            second.release(NO_INTERFACE);
            second.acquire(&wanted(8, 2), false).unwrap();
            assert!(serves(7));
            first.release(NO_INTERFACE);
            assert!(!serves(7));
            second.acquire(&wanted(7, 1), false).unwrap();
        });
    }

    #[test]
    fn another_address_costs_a_virtual_host_no_lock_that_it_still_needs() {
        two(1, 2, |first, second| {
            first.acquire(&wanted(21, 21), false).unwrap();
            let number = |locks: &Locks| *locks.held.keys().next().unwrap();
            let vhid = number(first);
            first.acquire(&wanted(21, 22), false).unwrap();
            assert_eq!((number(first), first.held.len()), (vhid, 2), "never free");
            second.acquire(&wanted(22, 21), false).unwrap();
            first.acquire(&wanted(21, 21), false).unwrap_err();
            second.acquire(&wanted(23, 22), false).unwrap_err();
            assert_eq!((number(first), first.held.len()), (vhid, 2), "as before");
            assert_eq!(second.held.len(), 2);
        });
    }

    #[test]
    fn releasing_a_virtual_host_leaves_an_address_to_another_one_of_ours() {
        two(1, 2, |first, second| {
            first.acquire(&wanted(17, 11), false).unwrap();
            first.acquire(&wanted(18, 11), false).unwrap_err();
            first.release_one(&wanted(18, 11));
            second.acquire(&wanted(20, 11), false).unwrap_err();
            first.release_one(&wanted(17, 11));
            second.release(NO_INTERFACE);
            second.acquire(&wanted(19, 11), false).unwrap();
        });
    }
}
