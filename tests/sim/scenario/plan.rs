//! What an attacker has made up his mind to do, beyond striking at random.

use std::time::Duration;

use carp_common::time::Instant;

use super::{Fault, Member, START, Scenario, interval, ms};
use crate::sim::rng::Rng;

/// One way of using what he hears, for a while.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What he sends, and when.
    pub ploy: Ploy,
    /// What he makes of the part that no digest covers.
    pub shown: Shown,
    /// Under whose address.
    pub disguise: Disguise,
    /// Whether a ucarp's frames come from a BSD's MAC address, and the reverse.
    pub other_mac: bool,
    /// Whether he comes first only where nobody is answered, so that the answers are genuine.
    pub spares_answers: bool,
    /// Whom it reaches, as a bit mask of hosts.
    pub targets: u64,
    /// Since when.
    pub from: Instant,
    /// Until when.
    pub until: Instant,
}

/// What he sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ploy {
    /// A copy of each advertisement, that much before the genuine one arrives if the way is that long.
    Overtake(Duration),
    /// At each stroke a recording.
    Repeat {
        /// Whose; anybody's.
        of: Option<usize>,
        /// How many have been heard since, at least, if there were so many.
        age: usize,
        /// The first one that was chosen again and again, and not another one each time.
        same: bool,
    },
    /// At each stroke the next one of what a host sent, up to its last, as if it lived.
    Rising {
        /// Whose.
        of: usize,
        /// How many before its last he begins.
        tail: usize,
    },
    /// At each stroke the next one of what a host sent before the plan began, which is when the host was started again;
    /// after the last the first.
    Past {
        /// Whose.
        of: usize,
    },
}

/// Priority and byte 4 of what he sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As it was heard.
    AsHeard,
    /// This advbase and advskew.
    Priority(u8, u8),
    /// This byte 4.
    Byte4(u8),
}

/// The source address of what he sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disguise {
    /// That of whom he heard it from.
    Sender,
    /// That of this host.
    Host(usize),
    /// One that wins every tie.
    TieWinner,
}

impl Scenario {
    /// Adds a plan that strikes every so often.
    pub fn attack(&mut self, plan: Plan, every: Duration) {
        schedule(self.plans.len(), &plan, every, &mut self.faults);
        self.plans.push(plan);
    }

    /// Whether something altered arrives somewhere before what was altered.
    #[must_use]
    pub fn attacker_comes_first(&self) -> bool {
        let overtakes = |plan: &Plan| matches!(plan.ploy, Ploy::Overtake(_));
        self.plans.iter().any(overtakes)
    }
}

/// Most strokes of one plan.
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

/// Draws a plan with its strokes, and what the plan waits for.
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
    // Where he must change nothing, he may neither come first nor kill.
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
        // By chance of its own: seeds that found a fault before it was drawn draw the rest as they did.
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
