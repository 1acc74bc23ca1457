//! The damage that an attacker with recordings does.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use carp_tests::attack::Field;
use carp_tests::lab::note;
use carp_tests::toll::Watch;
use carp_tests::{
    Attack, Attacker, Cable, Capture, Carpd, Client, Daemon, Host, Lab, Toll, Witness,
};

use crate::report::{Cell, Column, Goal, Row, Side, Table};
use crate::scene::heard;
use crate::systems::{ADDRESS, Launch, Pace, Role, System, datapath};
use crate::{Findings, Plan};

const METHOD: &str = "\
The switch connects a MASTER that preempts, a BACKUP, a client that sends an ICMP echo request to the address every 20
ms, a neighbour that asks for the address by ARP every 20 ms, and an attacker without the password. The attacker records
every advertisement and resends recordings for ten of the MASTER's intervals, one per interval unless stated otherwise,
with other values in the fields that the digest does not cover, or from another source. *lost*: the sum of the client's
outages in that time. *changes*: state changes of both hosts, as logged. *two MASTERs*: the time in which both hosts
answered ARP, and the longest such time without a break. *nobody*: the time in which neither answered. All times are in
steps of the neighbour's interval. Old recordings are more than 40 advertisements old, and the BACKUP heard all of them.
For *a copy before each genuine one*, everything sent to the BACKUP arrives 15 ms late except the copy, so no host can
tell which of the two was altered. For *the MASTER is dead*, the MASTER is killed, its cable is cut, and everything that
it ever sent is played to its BACKUP. No takeover can come before the BACKUP's master-down time, and a takeover counts
as a change.";

/// The time between two probes of the client, and between two requests of the neighbour.
const PACE: Duration = Duration::from_millis(20);
/// How many of the MASTER's intervals an attack lasts.
const INTERVALS: u32 = 10;

/// The attacked daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Ucarp,
    Carpd,
    FastCarpd,
}

/// The attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Attacked(Attack),
    /// The MASTER is killed and cut off, and its recordings are played.
    Dead,
}

impl Target {
    fn name(self) -> String {
        let settings = match self {
            Self::Ucarp | Self::Carpd => System::Ucarp.settings(Pace::Default),
            Self::FastCarpd => "-b 0 -k 25 / -b 0 -k 50",
        };
        format!("{} ({settings})", self.system().name())
    }

    fn system(self) -> System {
        match self {
            Self::Ucarp => System::Ucarp,
            Self::Carpd | Self::FastCarpd => System::Carpd(datapath()),
        }
    }

    /// The MASTER's interval.
    const fn interval(self) -> Duration {
        match self {
            Self::Ucarp | Self::Carpd => Duration::from_secs(1),
            Self::FastCarpd => Duration::from_nanos(25 * 3_906_250),
        }
    }

    fn start(self, host: &Host, directory: &std::path::Path, role: Role) -> Result<Daemon> {
        let launch = match self {
            Self::Ucarp | Self::Carpd => {
                self.system()
                    .prepare(host, directory, role, Pace::Default, false)?
            }
            Self::FastCarpd => {
                let settings = match role {
                    Role::Master => "-b 0 -k 25 -P",
                    Role::Backup | Role::Lesser => "-b 0 -k 50",
                };
                let carpd = Carpd::for_address(ADDRESS, settings)?.datapath(&datapath());
                let launch = Launch::Carpd(carpd);
                launch.record(host, directory);
                launch
            }
        };
        launch.start(host)
    }
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let attacks = Attack::ALL.into_iter().map(Self::Attacked);
        attacks.chain([Self::Dead])
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Attacked(attack) => attack.name(),
            Self::Dead => "the MASTER is dead, and all its own are played",
        }
    }
}

/// Runs every attack against every target.
pub fn run(plan: Plan) -> Result<Findings> {
    let targets = match plan.quick {
        true => vec![Target::FastCarpd],
        false => vec![Target::Ucarp, Target::Carpd, Target::FastCarpd],
    };
    let rounds = plan.choose(1, 2);
    let mut found: Vec<(Case, Vec<Vec<Toll>>)> = Case::all()
        .map(|case| (case, vec![Vec::new(); targets.len()]))
        .collect();
    for round in 1..=rounds {
        for (case, tolls) in &mut found {
            note(&format!("  {}, {round} of {rounds}", case.name()));
            let case = *case;
            let outcomes = thread::scope(|scope| {
                let runs: Vec<_> = targets
                    .iter()
                    .map(|target| scope.spawn(move || one_run(case, *target)))
                    .collect();
                let joined = runs.into_iter().map(|run| run.join());
                joined
                    .map(|outcome| outcome.unwrap_or_else(|_| Err(anyhow!("panicked"))))
                    .collect::<Vec<_>>()
            });
            for ((target, tolls), outcome) in targets.iter().zip(tolls).zip(outcomes) {
                let toll =
                    outcome.with_context(|| format!("{}, {}", case.name(), target.name()))?;
                note(&format!("    {}: {toll}", target.name()));
                tolls.push(toll);
            }
        }
    }
    Ok(Findings {
        title: "Recordings",
        method: METHOD.to_owned(),
        goals: goals(&targets, &found),
        tables: found
            .into_iter()
            .map(|(case, tolls)| table(case, &targets, &tolls))
            .collect(),
        ..Findings::default()
    })
}

fn goals(targets: &[Target], found: &[(Case, Vec<Vec<Toll>>)]) -> Vec<Goal> {
    let of_carpd = |case: Case| {
        let found = found.iter().filter(move |(known, _)| *known == case);
        let tolls = found.flat_map(|(_, tolls)| targets.iter().zip(tolls));
        let ours = tolls.filter(|(target, _)| target.system().side() == Side::Ours);
        ours.flat_map(|(target, tolls)| tolls.iter().map(|toll| (*target, *toll)))
    };
    let resent = Case::all()
        .filter(|case| !matches!(case, Case::Dead | Case::Attacked(Attack::AlteredFirst)))
        .flat_map(of_carpd);
    let altered = of_carpd(Case::Attacked(Attack::AlteredFirst));
    vec![
        Goal::at_most(
            "resent recordings",
            0.0,
            "state changes",
            resent.map(|(_, toll)| toll.changes as f64),
        ),
        Goal::at_most(
            "two MASTERs when an altered copy comes first",
            1.0,
            "intervals",
            altered.map(|(target, toll)| {
                (toll.longest_two.saturating_sub(PACE)).as_secs_f64()
                    / target.interval().as_secs_f64()
            }),
        ),
    ]
}

fn table(case: Case, targets: &[Target], tolls: &[Vec<Toll>]) -> Table {
    const FIRST: &str = "What a BACKUP hears first may be believed until the genuine one is there: nothing about it is wrong.";
    let less = |name: &str| match case {
        Case::Attacked(Attack::AlteredFirst) => Column::less(name).because(FIRST),
        Case::Attacked(_) | Case::Dead => Column::less(name),
    };
    let rows = targets.iter().zip(tolls).map(|(target, tolls)| {
        let seconds = |pick: fn(&Toll) -> Duration| {
            let picked = tolls.iter().map(|toll| pick(toll).as_secs_f64());
            Cell::Samples(picked.collect())
        };
        Row {
            name: target.name(),
            side: target.system().side(),
            cells: vec![
                seconds(|toll| toll.lost),
                Cell::Samples(tolls.iter().map(|toll| toll.changes as f64).collect()),
                seconds(|toll| toll.two),
                seconds(|toll| toll.longest_two),
                seconds(|toll| toll.nobody),
                seconds(|toll| toll.watched),
            ],
        }
    });
    Table {
        title: case.name().to_owned(),
        columns: vec![
            less("lost, s"),
            // A takeover from a dead MASTER is correct.
            match case {
                Case::Dead => Column::of("changes"),
                Case::Attacked(_) => less("changes"),
            },
            less("two MASTERs, s"),
            less("at a time, s"),
            less("nobody, s"),
            Column::of("watched, s"),
        ],
        rows: rows.collect(),
        drawn: None,
    }
}

/// A pair in its own lab, attacked once. Fields are dropped in order, the lab last.
struct Pair {
    client: Client,
    witness: Witness,
    attacker: Attacker,
    master: Daemon,
    backup: Daemon,
    cable: Option<Cable>,
    capture: Capture,
    a: Host,
    b: Host,
    _lab: Lab,
    _scratch: tempfile::TempDir,
}

const WAIT: Duration = Duration::from_secs(20);

impl Pair {
    fn start(target: Target, cable: bool) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let lab = Lab::new()?;
        let capture = lab.capture()?;
        let (a, b) = (lab.host("a", "10.9.0.1/16")?, lab.host("b", "10.9.0.2/16")?);
        let (c, w) = (lab.host("c", "10.9.0.3/16")?, lab.host("w", "10.9.0.4/16")?);
        let attacker = Attacker::start(&lab.host("x", "10.9.0.66/16")?)?;
        let cable = cable.then(|| Cable::splice(&b)).transpose()?;
        let system = target.system();
        let master = target.start(&a, scratch.path(), Role::Master)?;
        heard(&capture, capture.mark(), &system, "a", 1)?;
        let backup = target.start(&b, scratch.path(), Role::Backup)?;
        heard(&capture, capture.mark(), &system, "a", 3)?;
        attacker.forget();
        let client = Client::start(&c, ADDRESS, PACE)?;
        client.wait_for_answer(WAIT)?;
        Ok(Self {
            client,
            witness: Witness::every(PACE, &w, ADDRESS)?,
            attacker,
            master,
            backup,
            cable,
            capture,
            a,
            b,
            _lab: lab,
            _scratch: scratch,
        })
    }

    fn watch(&self) -> Watch {
        Watch::begin(&self.capture, &[&self.master, &self.backup])
    }

    fn toll(&self, watch: &Watch) -> Result<Toll> {
        watch.toll(
            &self.capture,
            &self.client,
            &self.witness,
            &[&self.master, &self.backup],
        )
    }
}

fn one_run(case: Case, target: Target) -> Result<Toll> {
    let interval = target.interval();
    match case {
        Case::Attacked(attack) => {
            let pair = Pair::start(target, attack.needs_cable())?;
            let field = Field {
                attacker: &pair.attacker,
                master: &pair.a,
                backup: &pair.b,
                cable: pair.cable.as_ref(),
                interval,
            };
            attack.prepare(&field)?;
            let watch = pair.watch();
            attack.run(&field, INTERVALS)?;
            pair.toll(&watch)
        }
        Case::Dead => {
            let mut pair = Pair::start(target, false)?;
            let source = pair.a.address();
            let mut tape = pair.attacker.recorded(source, 12, WAIT)?;
            // The last one may not have arrived.
            tape.pop();
            let watch = pair.watch();
            pair.a.isolate()?;
            pair.master.kill()?;
            let begin = Instant::now();
            let mut played = tape.iter().cycle();
            while begin.elapsed() < interval * INTERVALS {
                pair.attacker
                    .send(played.next().context("the tape has no end")?)?;
                thread::sleep(interval);
            }
            pair.toll(&watch)
        }
    }
}
