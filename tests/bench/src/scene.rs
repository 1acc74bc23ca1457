//! A pair, its client, and an event: one run of a failover.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::{
    Cable, Capture, Captured, Client, Daemon, Host, Lab, Mark, Quality, Witness, witness,
};
use nix::sys::signal::Signal;

use carp_tests::process::signal_each;
use carp_tests::switch::Unplugging;

use crate::systems::{ADDRESS, Launch, Pace, Role, System};

/// What happens to the MASTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// SIGKILL, and the cable is cut.
    Crash,
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Term,
    /// SIGSTOP.
    Stop,
    /// The carrier is lost.
    Unplugged,
    /// A better host starts.
    Preempted,
    /// The cable is connected again after both were MASTER.
    Healed,
}

impl Event {
    /// All events, in the order of the tables.
    pub const ALL: [Self; 7] = [
        Self::Crash,
        Self::Kill,
        Self::Term,
        Self::Stop,
        Self::Unplugged,
        Self::Preempted,
        Self::Healed,
    ];

    /// Returns the name for titles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Kill => "kill",
            Self::Term => "term",
            Self::Stop => "stop",
            Self::Unplugged => "unplugged",
            Self::Preempted => "preempted",
            Self::Healed => "healed",
        }
    }

    /// Whether the BACKUP takes over because of silence, within a bound.
    pub const fn is_silence(self) -> bool {
        matches!(
            self,
            Self::Crash | Self::Kill | Self::Stop | Self::Unplugged
        )
    }

    /// Whether it takes seconds, so that several pairs can be measured at the same time.
    pub const fn takes_seconds(self, pace: Pace) -> bool {
        matches!(pace, Pace::Default) && matches!(self, Self::Crash | Self::Stop | Self::Unplugged)
    }
}

/// The measurements of one run. Unit: ms.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The client's longest outage.
    pub outage: f64,
    /// Whether the outage lasted until the end of the run.
    pub endless: bool,
    /// From the event to the first advertisement of the new MASTER.
    pub takeover: f64,
    /// The time in which both hosts answered.
    pub two_owners: f64,
}

/// A pair in its steady state. Fields are dropped in order, the lab last.
pub struct Scene<'a> {
    system: &'a System,
    pace: Pace,
    event: Event,
    master: Daemon,
    _backup: Option<Daemon>,
    /// The better host that is started by the event.
    better: Launch,
    unplugging: Option<Unplugging>,
    cable: Option<Cable>,
    capture: Capture,
    /// The position in the capture at which the steady state begins.
    settled: Mark,
    a: Host,
    b: Host,
    c: Host,
    w: Host,
    _lab: Lab,
    _scratch: tempfile::TempDir,
}

const WAIT: Duration = Duration::from_secs(20);
/// The longest observation; an outage that has not ended by then is unlimited.
const AFTERMATH_MOST: Duration = Duration::from_secs(8);

impl<'a> Scene<'a> {
    /// Does everything up to the event.
    pub fn set(system: &'a System, pace: Pace, event: Event) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let lab = Lab::new()?;
        let capture = lab.capture()?;
        let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
        let (c, w) = (lab.host("c", "10.9.0.3/16")?, lab.host("w", "10.9.0.4/16")?);
        let cable = matches!(event, Event::Crash | Event::Healed)
            .then(|| Cable::splice(&a))
            .transpose()?;
        let prepare = |host: &Host, role| system.prepare(host, scratch.path(), role, pace, false);
        let better = prepare(&a, Role::Master)?;
        // If the two have a rank, it must be the right one.
        let lesser = if matches!(event, Event::Preempted | Event::Healed) {
            Role::Lesser
        } else {
            Role::Backup
        };
        let lesser = prepare(&b, lesser)?;
        let (master, backup) = if event == Event::Preempted {
            let first = lesser.start(&b)?;
            heard(&capture, capture.mark(), system, "b", 1)?;
            (first, None)
        } else {
            let first = better.start(&a)?;
            heard(&capture, capture.mark(), system, "a", 1)?;
            (first, Some(lesser.start(&b)?))
        };
        let mut scene = Self {
            system,
            pace,
            event,
            master,
            _backup: backup,
            better,
            unplugging: (event == Event::Unplugged)
                .then(|| a.ready_to_unplug())
                .transpose()?,
            cable,
            settled: capture.mark(),
            capture,
            a,
            b,
            c,
            w,
            _lab: lab,
            _scratch: scratch,
        };
        let master = scene.master_name();
        heard(&scene.capture, scene.capture.mark(), system, master, 1)?;
        scene.settled = scene.capture.mark();
        if event == Event::Healed {
            scene.set_cable(Quality::Lost)?;
            heard(&scene.capture, scene.capture.mark(), system, "b", 2)?;
        }
        Ok(scene)
    }

    fn master_name(&self) -> &'static str {
        if self.event == Event::Preempted {
            "b"
        } else {
            "a"
        }
    }

    fn set_cable(&self, quality: Quality) -> Result<()> {
        let cable = self.cable.as_ref().context("the event has a cable")?;
        cable.from_host(quality);
        cable.to_host(quality);
        Ok(())
    }

    /// Lets the event happen, and measures what follows; `None` if no host took over.
    pub fn disturb(mut self) -> Result<Option<Sample>> {
        self.is_undisturbed()?;
        let (probe, question) = match self.pace {
            Pace::Default => (Duration::from_millis(5), witness::PACE),
            Pace::Fastest => (Duration::from_millis(1), Duration::from_millis(4)),
        };
        let client = Client::start(&self.c, ADDRESS, probe)?;
        let witness = Witness::every(question, &self.w, ADDRESS)?;
        client.wait_for_answer(WAIT)?;
        let pids = self.a.pids()?;
        let mark = self.capture.mark();
        let (at, better) = self.act(&pids)?;
        let takeover = if self.event == Event::Healed {
            thread::sleep(self.aftermath());
            self.silent_after(mark, at)
        } else {
            let new = if self.event == Event::Preempted {
                "a"
            } else {
                "b"
            };
            // Fails only if there is no packet.
            let first = heard(&self.capture, mark, self.system, new, 1).ok();
            first.map(|first| first.at.saturating_duration_since(at))
        };
        if self.event == Event::Stop {
            signal_all(&pids, Signal::SIGCONT)?;
        }
        let Some(takeover) = takeover else {
            return Ok(None);
        };
        // The wait is the measurement.
        thread::sleep(self.aftermath());
        let is_out = || {
            client
                .outages(at)
                .last()
                .is_some_and(|last| last.until.is_none())
        };
        while is_out() && at.elapsed() < takeover + AFTERMATH_MOST {
            thread::sleep(Duration::from_millis(50));
        }
        let sightings = witness.sightings(&self.capture, mark);
        let double = sightings.iter().filter(|seen| seen.owners.len() > 1);
        let sample = Sample {
            outage: ms(client.longest_outage(at)),
            endless: is_out(),
            takeover: ms(takeover),
            two_owners: ms(question) * double.count() as f64,
        };
        drop(better);
        Ok(Some(sample))
    }

    /// Checks that this pair was not disturbed by the events of others.
    fn is_undisturbed(&self) -> Result<()> {
        if self.event == Event::Healed {
            return Ok(());
        }
        let other = if self.event == Event::Preempted {
            "a"
        } else {
            "b"
        };
        let all = self.capture.after(self.settled);
        let two = all
            .iter()
            .any(|captured| self.system.advertises(captured, other));
        ensure!(!two, "the pair was disturbed before its event");
        Ok(())
    }

    /// Performs the event. Returns when it began, and the daemon that it started. Nothing slow comes between the time
    /// and the act.
    fn act(&mut self, pids: &[u32]) -> Result<(Instant, Option<Daemon>)> {
        let mut at = Instant::now();
        let mut better = None;
        match self.event {
            Event::Crash => {
                self.set_cable(Quality::Lost)?;
                signal_all(pids, Signal::SIGKILL)?;
            }
            Event::Kill => signal_all(pids, Signal::SIGKILL)?,
            Event::Term => self.master.signal(Signal::SIGTERM)?,
            Event::Stop => signal_all(pids, Signal::SIGSTOP)?,
            Event::Unplugged => {
                let unplugging = self.unplugging.take().context("the event has a cable")?;
                at = unplugging.unplug()?;
            }
            Event::Preempted => better = Some(self.better.start(&self.a)?),
            Event::Healed => self.set_cable(Quality::Good)?,
        }
        Ok((at, better))
    }

    fn aftermath(&self) -> Duration {
        match (self.event, self.pace) {
            // Long enough to see that a host is silent that advertises every 1.4 s.
            (Event::Healed, _) => Duration::from_secs(4),
            (_, Pace::Default) => Duration::from_secs(2),
            (_, Pace::Fastest) => Duration::from_secs(1),
        }
    }

    /// Returns the time from `at` to the last advertisement of the host that stopped advertising; `None` if none did.
    fn silent_after(&self, mark: Mark, at: Instant) -> Option<Duration> {
        let all = self.capture.after(mark);
        let last = |host: &str| {
            let of_host = |captured: &&Captured| self.system.advertises(captured, host);
            let found = all.iter().rev().find(of_host);
            // A host that sent nothing at all was silent at once.
            found.map_or(at, |captured| captured.at)
        };
        let last = last(self.a.name()).min(last(self.b.name()));
        let silent = last.elapsed() > 2 * self.system.interval(self.pace);
        silent.then(|| last.saturating_duration_since(at))
    }
}

/// Signals all of them, children first: if a parent died first, its children would stop in an orderly way.
fn signal_all(pids: &[u32], signal: Signal) -> Result<()> {
    signal_each(pids.iter().rev(), signal)
}

/// Waits for `count` advertisements of a host.
pub fn heard(
    capture: &Capture,
    mark: Mark,
    system: &System,
    host: &str,
    count: usize,
) -> Result<Captured> {
    let mut left = count;
    let (captured, ()) = capture.wait_after(
        mark,
        &format!("advertisements of {host}"),
        WAIT,
        |captured| {
            left -= usize::from(system.advertises(captured, host));
            (left == 0).then_some(())
        },
    )?;
    Ok(captured)
}

/// Formats it for tables.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
