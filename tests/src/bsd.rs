//! A model of a BSD kernel's CARP on real frames: enough of it to elect, to yield, and to show the faults of the real ones.
//!
//! Source: FreeBSD 13 and OpenBSD `ip_carp.c` (`carp_input_c`, `carp_setrun`, `carp_send_ad`), and observations of both
//! in a group with carpd.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{LinkAddr, recvfrom};

use crate::attacker::listening_socket;
use crate::daemons::PASSWORD;
use crate::inject::{Forgery, Injector};
use crate::lab::Host;
use crate::packet::{Carp, Packet, parse};

/// Which system's rules it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Its counter is the last one heard plus one, and it ignores byte 4.
    FreeBsd,
    /// Its counter never changes, and byte 4 is the demotion, which outranks the priority.
    OpenBsd,
}

/// One carp interface.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which system's rules it follows.
    pub dialect: Dialect,
    /// The only virtual address.
    pub address: Ipv4Addr,
    /// Unit: s.
    pub advbase: u8,
    /// Unit: 1/256 s.
    pub advskew: u8,
    /// OpenBSD's byte 4.
    pub demotion: u8,
    /// The first counter.
    pub counter: u64,
}

/// A carp interface with vhid 7 and the lab's password on a host. Only advertisements are modelled: it sends and answers
/// no ARP.
#[derive(Debug)]
pub struct Bsd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: Mutex<Settings>,
    transitions: Mutex<Vec<(Instant, bool)>>,
    stop: AtomicBool,
}

const VHID: u8 = 7;
/// The time within which changed settings, or the end, are noticed.
const LOOK: Duration = Duration::from_millis(5);

impl Bsd {
    /// Starts it on `eth0` of a host that has an address of its own, as MASTER or as BACKUP.
    ///
    /// # Errors
    /// When packet sockets cannot be opened.
    pub fn start(host: &Host, settings: Settings, master: bool) -> Result<Self> {
        let socket = host.enter(listening_socket)??;
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            transitions: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let mut kernel = Kernel {
            shared: Arc::clone(&shared),
            injector: Injector::open(host)?,
            source: host.address(),
            counter: settings.counter,
            master,
            due: Instant::now(),
        };
        let thread = thread::spawn(move || {
            kernel.outrank_programs();
            if master {
                kernel.enter(true);
            } else {
                kernel.listen_on();
            }
            let mut buffer = vec![0; 2048];
            while !kernel.shared.stop.load(Ordering::Relaxed) {
                let left = kernel.due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    kernel.timer();
                    continue;
                }
                // A receive timeout would be rounded up to jiffies, which is too coarse for an interval of 20 ms.
                let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                let ready = ppoll(&mut sockets, Some(left.min(LOOK).into()), None);
                if !matches!(ready, Ok(1..)) {
                    continue;
                }
                if let Ok((length, Some(from))) =
                    recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)
                    && from.pkttype() != libc::PACKET_OUTGOING
                    && let Some(Packet::Carp(carp)) = parse(&buffer[..length])
                {
                    kernel.hear(&carp);
                }
            }
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Sets the demotion; a rise is advertised at the end of the next interval, as in OpenBSD.
    pub fn demote(&self, demotion: u8) {
        lock(&self.shared.settings).demotion = demotion;
    }

    /// Whether it is MASTER.
    #[must_use]
    pub fn is_master(&self) -> bool {
        lock(&self.shared.transitions)
            .last()
            .is_some_and(|(_, master)| *master)
    }

    /// When it became MASTER (true) or BACKUP.
    #[must_use]
    pub fn transitions(&self) -> Vec<(Instant, bool)> {
        lock(&self.shared.transitions).clone()
    }
}

impl Drop for Bsd {
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

/// One step of advskew.
const STEP_NANOS: u64 = 3_906_250;

impl Settings {
    /// Time between two advertisements: rounded up to ticks, plus one.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let asked = Duration::from_secs(self.advbase.into())
            + Duration::from_nanos(STEP_NANOS * u64::from(self.advskew));
        let tick = match self.dialect {
            Dialect::FreeBsd => Duration::from_millis(1),
            Dialect::OpenBsd => Duration::from_millis(10),
        };
        let ticks = asked.as_nanos().div_ceil(tick.as_nanos()).max(1) + 1;
        tick * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// Silence after which it takes over.
    fn master_down(&self) -> Duration {
        let skew = Duration::from_nanos(STEP_NANOS * u64::from(self.advskew));
        match (self.advbase, self.advskew) {
            (0, 0) => Duration::from_millis(30),
            (0, _) => skew * 3,
            (advbase, _) => Duration::from_secs(advbase.into()) * 3 + skew,
        }
    }
}

/// The part of the kernel, in a thread.
struct Kernel {
    shared: Arc<Shared>,
    injector: Injector,
    source: Ipv4Addr,
    counter: u64,
    master: bool,
    /// The deadline of the only timer: the next advertisement, or the end of the master-down time.
    due: Instant,
}

impl Kernel {
    /// Raises the thread's priority, because a kernel's timers do not wait for programs. If `chrt` is missing, the
    /// model is sometimes late.
    fn outrank_programs(&self) {
        let this = nix::unistd::gettid().to_string();
        let _ = Command::new("chrt")
            .args(["-f", "-p", "50", &this])
            .status();
    }

    fn settings(&self) -> Settings {
        *lock(&self.shared.settings)
    }

    fn listen_on(&mut self) {
        self.due = Instant::now() + self.settings().master_down();
    }

    fn enter(&mut self, master: bool) {
        self.master = master;
        lock(&self.shared.transitions).push((Instant::now(), master));
        if master {
            self.advertise();
        } else {
            self.listen_on();
        }
    }

    fn timer(&mut self) {
        if self.master {
            self.advertise();
        } else {
            self.enter(true);
        }
    }

    fn advertise(&mut self) {
        let settings = self.settings();
        if settings.dialect == Dialect::FreeBsd {
            self.counter = self.counter.wrapping_add(1);
        }
        let frame = Forgery::new(self.source, VHID, PASSWORD, settings.address).with(|forgery| {
            forgery.advbase = settings.advbase;
            forgery.advskew = settings.advskew;
            forgery.counter = self.counter;
            match settings.dialect {
                Dialect::FreeBsd => forgery.tos = 0xe0,
                Dialect::OpenBsd => forgery.demotion = settings.demotion,
            }
        });
        // A cut cable loses everything.
        let _ = self.injector.send(&frame.frame());
        self.due = Instant::now() + settings.interval();
    }

    fn hear(&mut self, carp: &Carp) {
        let settings = self.settings();
        if carp.vhid != VHID || !carp.is_authentic(PASSWORD, &[settings.address]) {
            return;
        }
        let (ours, theirs) = (
            (settings.advbase, settings.advskew),
            (carp.advbase, carp.advskew),
        );
        let (yields, takes_over) = match settings.dialect {
            Dialect::FreeBsd => {
                self.counter = carp.counter;
                (ours >= theirs, false)
            }
            // The only replay check.
            Dialect::OpenBsd if carp.counter == self.counter => return,
            Dialect::OpenBsd => (
                (ours >= theirs && carp.demotion <= settings.demotion)
                    || carp.demotion < settings.demotion,
                carp.demotion > settings.demotion,
            ),
        };
        let waits = u16::from(settings.advbase) * 3;
        let will_time_out = settings.advbase > 0
            && (waits, settings.advskew) < (u16::from(carp.advbase), carp.advskew);
        if self.master {
            if yields {
                self.enter(false);
            }
        } else if takes_over || will_time_out {
            self.enter(true);
        } else {
            self.listen_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_that_were_measured() {
        let interval = |dialect, advbase, advskew| {
            let settings = Settings {
                dialect,
                address: [10, 0, 0, 10].into(),
                advbase,
                advskew,
                demotion: 0,
                counter: 0,
            };
            settings.interval().as_millis()
        };
        let openbsd = |advbase, advskew| interval(Dialect::OpenBsd, advbase, advskew);
        assert_eq!(
            [(0, 0), (0, 1), (0, 10), (0, 50), (1, 0), (1, 100)].map(|(b, s)| openbsd(b, s)),
            [20, 20, 50, 210, 1010, 1410]
        );
        assert_eq!(interval(Dialect::FreeBsd, 1, 0), 1001);
    }
}
