//! The plans of an attacker, in addition to random strokes.

use std::time::Duration;

use carp_common::time::Instant;

use super::{Fault, Member, START, Scenario, interval, ms};
use crate::sim::rng::Rng;

/// One way of using recordings for a while.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The packets of the attacker, and their times.
    pub ploy: Ploy,
    /// The values of the fields that no digest covers.
    pub shown: Shown,
    /// The source address.
    pub disguise: Disguise,
    /// Whether a ucarp's frames come from a BSD's MAC address, and the reverse.
    pub other_mac: bool,
    /// Whether the attacker delivers first only if the genuine advertisement is not an answer, so that answers are
    /// genuine.
    pub spares_answers: bool,
    /// The hosts that the packets reach, as a bit mask.
    pub targets: u64,
    /// The beginning.
    pub from: Instant,
    /// The end.
    pub until: Instant,
}

/// The packets of the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ploy {
    /// A copy of each advertisement, this much before the genuine one arrives if that is under way so long.
    Overtake(Duration),
    /// A recording at each stroke.
    Repeat {
        /// The host whose recordings are used; `None`: any.
        of: Option<usize>,
        /// The least number of recordings heard since, if there are that many.
        age: usize,
        /// Whether the recording that was chosen first is repeated, rather than another one each time.
        same: bool,
    },
    /// At each stroke the next recording of a host, up to its last, as if it lived.
    Rising {
        /// The host.
        of: usize,
        /// The number of recordings before its last at which the attacker begins.
        tail: usize,
    },
    /// At each stroke the next recording of a host from before the plan began, which is when the host was started
    /// again; after the last, the first.
    Past {
        /// The host.
        of: usize,
    },
}

/// Priority and byte 4 of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The values of the recording.
    AsHeard,
    /// This advbase and advskew.
    Priority(u8, u8),
    /// This byte 4.
    Byte4(u8),
}

/// The source address of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disguise {
    /// The address from which it was heard.
    Sender,
    /// The address of this host.
    Host(usize),
    /// An address that wins every tie.
    TieWinner,
}

impl Scenario {
    /// Adds a plan with a stroke per this time.
    pub fn attack(&mut self, plan: Plan, every: Duration) {
        schedule(self.plans.len(), &plan, every, &mut self.faults);
        self.plans.push(plan);
    }

    /// Whether an altered copy arrives before the genuine advertisement anywhere.
    #[must_use]
    pub fn attacker_comes_first(&self) -> bool {
        let overtakes = |plan: &Plan| matches!(plan.ploy, Ploy::Overtake(_));
        self.plans.iter().any(overtakes)
    }
}

/// The maximal number of strokes of one plan.
const STROKES: usize = 600;

fn schedule(number: usize, plan: &Plan, every: Duration, faults: &mut Vec<(Instant, Fault)>) {
    if matches!(plan.ploy, Ploy::Overtake(_)) {
        faults.push((plan.from, Fault::Stroke(number)));
        return;
    }
    let mut at = plan.from;
    for _ in 0..STROKES {
        if at >= plan.until {
            break;
        }
        faults.push((at, Fault::Stroke(number)));
        at = at + every;
    }
}

fn number_of(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(START).as_nanos()).expect("584 years at most")
}

/// Draws a plan with its strokes, and the event that it waits for.
pub(super) fn draw_plan(
    powerless: bool,
    members: &[Member],
    horizon: Duration,
    rng: &mut Rng,
    (plans, faults): (&mut Vec<Plan>, &mut Vec<(Instant, Fault)>),
) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    let everyone = (1 << members.len()) - 1;
    let host = rng.index(members.len());
    let mut from = START + ms(rng.between(0, horizon_ms * 3 / 4));
    let until = from + ms(rng.between(horizon_ms / 10, horizon_ms));
    let until = until.min(START + horizon);
    let pace = interval(members[host].advbase, members[host].advskew);
    let every = pace / rng.pick(&[1, 1, 3]);
    // An attacker who must change nothing may neither deliver first nor kill.
    let ploy = match rng.between(0, if powerless { 2 } else { 7 }) {
        0..=2 => Ploy::Repeat {
            of: rng.chance(700).then_some(host),
            age: rng.pick(&[0, 1, 17, 33, 1_000]),
            same: rng.chance(400),
        },
        3 | 4 => Ploy::Overtake(rng.pick(&[
            Duration::ZERO,
            Duration::from_micros(1),
            ms(5),
            Duration::MAX,
        ])),
        5 | 6 => Ploy::Rising {
            of: host,
            tail: rng.pick(&[1, 5, 40, 1_000]),
        },
        _ => Ploy::Past { of: host },
    };
    let shown = match rng.between(0, 9) {
        0..=2 => Shown::Priority(0, 0),
        3..=5 => Shown::Priority(255, 255),
        6 => Shown::Byte4(rng.pick(&[1, 240, 255])),
        7 => Shown::Priority(rng.byte(0, 3), rng.byte(0, 255)),
        _ => Shown::AsHeard,
    };
    let disguise = match rng.between(0, 9) {
        0..=5 => Disguise::Sender,
        6 | 7 => Disguise::Host(rng.index(members.len())),
        _ => Disguise::TieWinner,
    };
    let dies = if rng.chance(700) {
        Fault::Crash(host)
    } else {
        Fault::Stop(host)
    };
    match ploy {
        Ploy::Rising { .. } => {
            faults.push((from, dies));
            from = from + every.mul_f64(0.001) * u32::from(rng.byte(0, 255));
        }
        Ploy::Past { .. } => {
            let back = from + ms(rng.between(0, horizon_ms / 4));
            faults.extend([(from, dies), (back, Fault::Start(host))]);
            from = back;
        }
        Ploy::Overtake(_) | Ploy::Repeat { .. } => {}
    }
    let plan = Plan {
        ploy,
        shown,
        disguise,
        other_mac: rng.chance(150),
        // It draws from a stream of its own, so that seeds that found a fault earlier draw the rest as before.
        spares_answers: Rng::new(number_of(from)).chance(300),
        targets: if rng.chance(500) {
            everyone
        } else {
            rng.next_u64() & everyone
        },
        from,
        until,
    };
    schedule(plans.len(), &plan, every, faults);
    plans.push(plan);
}
