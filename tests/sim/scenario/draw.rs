//! Draws a scenario from a seed.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{Family, Profile};

use super::super::model::Dialect;
use super::super::network::Weather;
use super::super::packet::Group;
use super::super::rng::Rng;
use super::mishap::{draw_mishap, draw_rare};
use super::plan::draw_plan;
use super::{
    Fault, Finale, Implementation, Member, START, Scenario, Theme, ms, reading_of_demotion_is_one,
    undecided_ties,
};

impl Scenario {
    /// Draws the run that belongs to a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // More than a third with an attacker: all of Attack, and half of Strict.
        let theme = match rng.between(0, 19) {
            0..=6 => Theme::Ours,
            7..=11 => Theme::Mixed,
            12..=17 => Theme::Attack,
            _ => Theme::Strict,
        };
        Self::draw(seed, theme, &mut rng)
    }

    fn draw(seed: u64, theme: Theme, rng: &mut Rng) -> Self {
        let fast = rng.chance(250);
        // Strict counters have runs with an attacker, who must change nothing, and runs with every fault.
        let powerless = theme == Theme::Strict && rng.chance(500);
        let latency = if powerless {
            // A host that is woken by a forgery handles the next genuine packet earlier. Only without latency, a run
            // with the attacker and one without are comparable to the nanosecond.
            Duration::ZERO
        } else if fast {
            Duration::from_micros(500)
        } else {
            ms(rng.pick(&[1, 1, 5, 20]))
        };
        let programs = draw_programs(theme, rng);
        // An attacker who must change nothing must not be able to fill the ring; the kernel's ring has room for
        // thousands.
        let ring = if powerless {
            usize::MAX
        } else {
            rng.pick(&[3, 8, 8, 1_000])
        };
        let weather = draw_weather(powerless, fast, &programs, rng);
        let group = draw_group(&programs, rng);
        let margin = 4 * (weather.delay_max + latency);
        let members = loop {
            let members = draw_members(powerless, &programs, fast, rng);
            if members.iter().all(|listener| {
                members
                    .iter()
                    .all(|speaker| patient(listener, speaker, margin))
            }) {
                break members;
            }
        };
        let undecided_ties = undecided_ties(&members, &group);
        let impatient = members.iter().any(|b| {
            members
                .iter()
                .any(|m| b.master_down() <= m.interval(true) + margin)
        });
        // Every demoted NetBSD has 240, and equal hosts yield to each other.
        let levels = programs.contains(&Implementation::Model(Dialect::NetBsd));
        let demotion_divides = impatient || levels || !reading_of_demotion_is_one(members.iter());
        let undo_demotion = demotion_divides || rng.chance(500);
        let horizon = if fast {
            ms(rng.between(500, 4_000))
        } else {
            ms(rng.between(5_000, 60_000))
        };
        let quiet_at = START + horizon;
        let mut faults = Vec::new();
        let count = rng.between(0, 10);
        for _ in 0..count {
            draw_fault(powerless, &members, &group, horizon, rng, &mut faults);
        }
        // They have a stream of their own, so that they shift nothing else.
        let mut kernel = Rng::new(seed.rotate_left(32) ^ 0x6b65_726e_656c);
        let mishaps = if powerless || kernel.chance(400) {
            0
        } else {
            kernel.between(1, 6)
        };
        for _ in 0..mishaps {
            draw_mishap(&members, horizon, &mut kernel, &mut faults);
        }
        let mut rare = Rng::new(seed.rotate_left(16) ^ 0x7261_7265);
        if !powerless && rare.chance(RARE) {
            for _ in 0..rare.between(1, 3) {
                draw_rare(&members, horizon, &mut rare, &mut faults);
            }
        }
        let second = (!powerless && kernel.chance(300)).then(|| Group {
            vhid: if group.vhid == 255 { 1 } else { group.vhid + 1 },
            password: group.password,
            inet: vec![Ipv4Addr::new(192, 0, 2, 150)],
            inet6: match kernel.chance(500) {
                true => vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 2, 0)],
                false => Vec::new(),
            },
        });
        if second.is_some() {
            for _ in 0..kernel.between(0, 3) {
                let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
                let host = kernel.index(members.len());
                let at = START + ms(kernel.between(0, horizon_ms));
                let until = at + ms(kernel.between(1, horizon_ms));
                faults.extend([(at, Fault::Remove(host)), (until, Fault::Add(host))]);
            }
        }
        let mut plans = Vec::new();
        if theme == Theme::Attack || powerless {
            // At random, by plan, or both.
            let planned = rng.between(0, 3);
            if powerless || planned < 2 {
                draw_attack(horizon, rng, &mut faults);
            }
            for _ in 0..planned {
                let into = (&mut plans, &mut faults);
                draw_plan(powerless, &members, horizon, rng, into);
            }
        }
        // Send errors, and addresses that are lost too often, leave a demotion that is visible only to its owner.
        let mut lost = vec![0; members.len()];
        let mut seen = |fault: &Fault| !(demotion_divides && hides_demotion(fault, &mut lost));
        faults.retain(|(at, fault)| *at < quiet_at && seen(fault));
        faults.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            theme,
            group,
            members,
            weather,
            latency,
            ring,
            second,
            prefix: kernel.pick(&[32, 24, 24, 16]),
            notifications: kernel.pick(&[4, 64, 1_000]),
            programs: kernel.chance(900),
            faults,
            plans,
            quiet_at,
            undecided_ties,
            demotion_divides,
            undo_demotion,
            finale: rng.pick(&[None, Some(Finale::Crash), Some(Finale::Stop)]),
        }
    }
}

/// Whether a fault may demote a host invisibly; `lost` counts how often each host loses addresses.
fn hides_demotion(fault: &Fault, lost: &mut [u8]) -> bool {
    let Fault::Mishap(host, mishap) = *fault else {
        return matches!(fault, Fault::SendErrors(_));
    };
    if mishap.loses_addresses() {
        lost[host] += 1;
        return lost[host] > RESTORED;
    }
    mishap.keeps_from_serving()
}

/// How many of a thousand runs have rare mishaps.
const RARE: u64 = 200;

/// The number of times that a carpd restores an address before it gives way.
const RESTORED: u8 = 3;

fn draw_weather(
    powerless: bool,
    fast: bool,
    programs: &[Implementation],
    rng: &mut Rng,
) -> Weather {
    let delay_max = if fast {
        Duration::from_micros(rng.between(50, 500))
    } else {
        ms(rng.pick(&[1, 2, 20, 100]))
    };
    let delay_min = if rng.chance(500) {
        delay_max / 2
    } else {
        Duration::from_micros(10)
    };
    // FreeBSD and NetBSD yield to their own reflection, as to any equal.
    let yields = [Dialect::FreeBsd, Dialect::NetBsd].map(Implementation::Model);
    let reflects = !yields.iter().any(|program| programs.contains(program)) && rng.chance(300);
    let loses = !powerless && rng.chance(400);
    Weather {
        delay_min,
        delay_max,
        loss: if loses {
            rng.pick(&[5, 50, 300, 700])
        } else {
            0
        },
        duplicates: if rng.chance(300) {
            rng.pick(&[10, 200])
        } else {
            0
        },
        reflections: if reflects { rng.pick(&[50, 1000]) } else { 0 },
    }
}

fn draw_programs(theme: Theme, rng: &mut Rng) -> Vec<Implementation> {
    let hosts = rng.pick(&[1, 2, 2, 2, 3, 3, 4, 5, 6]);
    let profile = rng.pick(&[
        Profile::Ucarp,
        Profile::Ucarp,
        Profile::FreeBsd,
        Profile::OpenBsd,
    ]);
    let carpd = Implementation::Carpd(profile);
    let foreign = match theme {
        Theme::Ours | Theme::Strict => return vec![carpd; hosts],
        Theme::Mixed => true,
        Theme::Attack => rng.chance(300),
    };
    // Usually the profile fits the peers. One run in four mixes everything.
    let kin: &[Dialect] = match profile {
        Profile::Ucarp => &[Dialect::Ucarp],
        Profile::FreeBsd if rng.chance(300) => &[Dialect::FreeBsd, Dialect::NetBsd],
        Profile::FreeBsd => &[Dialect::FreeBsd],
        Profile::OpenBsd => &[Dialect::OpenBsd],
    };
    let zoo = rng.chance(250);
    (0..hosts.max(2))
        .map(|host| match (foreign && host > 0 && rng.chance(600), zoo) {
            (false, _) => carpd,
            (true, false) => Implementation::Model(rng.pick(kin)),
            (true, true) => Implementation::Model(rng.pick(&[
                Dialect::Ucarp,
                Dialect::FreeBsd,
                Dialect::OpenBsd,
                Dialect::NetBsd,
            ])),
        })
        .collect()
}

fn draw_group(programs: &[Implementation], rng: &mut Rng) -> Group {
    let ucarp = programs.contains(&Implementation::Model(Dialect::Ucarp));
    let inet_only = ucarp || programs.contains(&Implementation::Model(Dialect::NetBsd));
    let families = if inet_only { 0 } else { rng.between(0, 4) };
    // ucarp supports exactly one address.
    let inet_count = if ucarp { 1 } else { rng.byte(1, 3) };
    let inet = (0..inet_count)
        .map(|n| Ipv4Addr::new(192, 0, 2, 100 + n))
        .collect();
    let inet6 = (0..rng.byte(1, 2))
        .map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n.into()))
        .collect();
    let password: &'static [u8] = rng.pick(&[b"secret".as_slice(), b"x", b"1234567890123456789"]);
    let (inet, inet6) = match families {
        0 | 1 => (inet, Vec::new()),
        2 => (Vec::new(), inet6),
        _ => (inet, inet6),
    };
    Group {
        vhid: rng.byte(1, 255),
        password,
        inet,
        inet6,
    }
}

fn draw_members(
    powerless: bool,
    programs: &[Implementation],
    fast: bool,
    rng: &mut Rng,
) -> Vec<Member> {
    let varied = rng.chance(200);
    let alike = rng.chance(150);
    let deadratio = if rng.chance(700) { 3 } else { rng.byte(1, 5) };
    let preempt = rng.chance(500);
    let every_third = rng.chance(300);
    // A host that starts late knows no counters yet, and believes the first one.
    let together = powerless || rng.chance(500);
    let mut third_octets: Vec<u8> = (0..6).collect();
    let common_skew = if fast {
        rng.byte(4, 60)
    } else {
        rng.byte(0, 254)
    };
    programs
        .iter()
        .zip(1_u8..)
        .map(|(&program, number)| {
            let advbase = if fast {
                0
            } else if varied {
                rng.byte(1, 4)
            } else {
                1
            };
            let advskew = if alike {
                common_skew
            } else if fast {
                rng.byte(4, 60)
            } else {
                rng.byte(0, 254)
            };
            let bsd =
                matches!(program, Implementation::Model(dialect) if dialect != Dialect::Ucarp);
            // The timers of ucarp and NetBSD make advbase 0 flap, and FreeBSD refuses it.
            let foreign_fast = advbase == 0
                && matches!(program, Implementation::Model(dialect) if dialect != Dialect::OpenBsd);
            // Raw and numeric order of the addresses differ: 10.9.1.x against 10.9.0.y.
            let octet = third_octets.remove(rng.index(third_octets.len()));
            let last = if rng.chance(500) {
                number
            } else {
                250 - number
            };
            let inet = Ipv4Addr::new(10, 9, octet, last);
            let inet6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, octet.into(), rng.byte(1, 9).into());
            Member {
                program,
                advbase: if foreign_fast { 1 } else { advbase },
                advskew,
                deadratio: if bsd { 3 } else { deadratio },
                preempt: if every_third {
                    rng.chance(333)
                } else {
                    preempt
                },
                sources: [inet.into(), inet6.into()],
                script: if rng.chance(300) {
                    ms(rng.between(1, 6_000))
                } else {
                    Duration::ZERO
                },
                start: START
                    + if together || rng.chance(400) {
                        ms(rng.between(0, 10))
                    } else {
                        ms(rng.between(0, 8_000))
                    },
                mortal: rng.chance(300),
            }
        })
        .collect()
}

fn draw_fault(
    powerless: bool,
    members: &[Member],
    group: &Group,
    horizon: Duration,
    rng: &mut Rng,
    faults: &mut Vec<(Instant, Fault)>,
) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    let start = START + ms(rng.between(0, horizon_ms));
    // A process that hangs before it listens also starts late.
    let start = if powerless {
        start.max(START + ms(20))
    } else {
        start
    };
    let end = start
        + if rng.chance(300) {
            ms(rng.between(1, 300))
        } else {
            ms(rng.between(300, horizon_ms.max(301)))
        };
    let host = rng.index(members.len());
    let other = rng.index(members.len());
    let carpd = members[host].is_carpd();
    let family = if group.uses(Family::Inet) && rng.chance(500) {
        Family::Inet
    } else {
        Family::Inet6
    };
    let mut pair = |first, last| faults.extend([(start, first), (end, last)]);
    // A host that missed an advertisement believes a replay of it.
    let kinds = if powerless { 4 } else { 13 };
    match rng.between(0, kinds) {
        0 => pair(Fault::Hang(host), Fault::Resume(host)),
        1 if carpd => {
            // Without this number, the seeds that found faults would be other runs.
            let _ = rng.index(3);
            faults.push((start, Fault::StepDown(host)));
        }
        2 | 3 => pair(
            Fault::Demote(host, rng.pick(&[1, 10, 100, 240, 255])),
            Fault::Demote(host, 0),
        ),
        4 => pair(
            Fault::Demote(host, rng.byte(1, 255)),
            Fault::Demote(host, rng.byte(1, 255)),
        ),
        5 => pair(Fault::Crash(host), Fault::Start(host)),
        6 => pair(Fault::Stop(host), Fault::Start(host)),
        7 => pair(Fault::LinkDown(host), Fault::LinkUp(host)),
        8 if carpd => pair(
            Fault::SourceLost(host, family),
            Fault::SourceBack(host, family),
        ),
        9 if carpd => pair(Fault::SendErrors(host), Fault::SendsAgain(host)),
        10 => pair(
            Fault::Cut(rng.chance(500).then_some(family), host, other),
            Fault::Heal,
        ),
        11 => pair(Fault::Partition(rng.byte(1, 62)), Fault::Heal),
        12 => {
            // A flapping link.
            let (mut at, period) = (start, ms(rng.between(20, 2_000)));
            for _ in 0..rng.between(2, 8) {
                faults.extend([
                    (at, Fault::LinkDown(host)),
                    (at + period, Fault::LinkUp(host)),
                ]);
                at = at + 2 * period;
            }
        }
        13 => pair(Fault::Loss(rng.pick(&[50, 500, 1000])), Fault::Loss(0)),
        _ => pair(Fault::Crash(host), Fault::Start(host)),
    }
}

fn draw_attack(horizon: Duration, rng: &mut Rng, faults: &mut Vec<(Instant, Fault)>) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    for _ in 0..rng.between(1, 3) {
        let mut at = START + ms(rng.between(0, horizon_ms));
        let pace = rng.pick(&[100, 10_000, 300_000, 1_000_000]);
        for _ in 0..rng.between(1, 60) {
            faults.push((at, Fault::Inject(rng.next_u64())));
            at = at + Duration::from_micros(rng.between(1, pace));
        }
    }
}

/// Whether the two hosts' timers decide clearly: the listener either waits for the speaker's next advertisement with
/// time to spare, or is the better one and gives up on it long before.
fn patient(listener: &Member, speaker: &Member, margin: Duration) -> bool {
    let is_ucarp = matches!(
        speaker.program,
        Implementation::Carpd(Profile::Ucarp) | Implementation::Model(Dialect::Ucarp)
    );
    // With advbase 0, a carpd allows a BSD its ticks, which can bring its patience close to the interval.
    let patience = if is_ucarp || speaker.advbase > 0 {
        listener.master_down()
    } else {
        listener.patience()
    };
    let interval = speaker.interval(false);
    patience > interval + margin
        || (listener.rank() < speaker.rank() && patience + margin < interval)
}
