//! What an advertisement costs a virtual host with many addresses.
//!
//! The command line gives a virtual host one address. This program therefore also starts the engine itself, in a process
//! of its own, with a configuration that has more: see [`serve()`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use carp_common::abi::layout::VhostKey;
use carp_common::proto::{AddressSet, Standing};
use carp_common::units::State;
use carp_daemon::cli::{self, Invocation, Task};
use carp_daemon::config::VirtualAddress;
use carp_daemon::engine::effects::{KernelProgram as _, Netlink as _, Receive as _};
use carp_daemon::io::datapath::{AddressOwner, Endpoints, Entry};
use carp_daemon::{host, log, serve};
use carp_tests::lab::note;
use carp_tests::{Daemon, Host, Lab, usage};

use crate::calls::Calls;
use crate::report::{Cell, Column, Goal, Row, Side, Table};
use crate::systems::datapath;
use crate::{Findings, Plan};

const METHOD: &str = "\
A MASTER alone with `-b 0 -k 1`, which advertises 256 times per second. The command line serves one address per vhid, so
the benchmark starts carpd's engine on the real host itself, with a configuration that contains more addresses. *map
writes* and *system calls* are those of the engine's thread per advertisement, counted with ptrace while the
advertisements were also counted on the wire; a map write is a `bpf(BPF_MAP_UPDATE_ELEM)`. *CPU* is the processor time
of the process per advertisement, in another window without ptrace. *renewal* is the time in which the daemon writes the
deadlines of a virtual host into the kernel's table: means of 1000, in turns with the other row, in a process that does
nothing else. The daemon of this section is built with the profile `bench`, which is slower than a release.";

const LEASES: &str = "The lease of each address is renewed once in a few seconds, so these renewals are shared by many \
advertisements.";

/// The numbers of addresses that are compared.
const COUNTS: [u8; 2] = [1, 16];
/// The first word of a process that [`serve()`]s.
pub const SERVE: &str = "--serve-addresses";
/// The first word of a process that measures [`renewals`].
pub const RENEW: &str = "--renew-addresses";
/// Renewals in one sample.
const BUNCH: u32 = 1000;

/// What advertisements cost in one run. Unit: per advertisement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    map_writes: f64,
    calls: f64,
    cpu_us: f64,
}

/// Compares one address with many.
pub fn run(plan: Plan) -> Result<Findings> {
    let window = plan.choose(Duration::from_secs(2), Duration::from_secs(4));
    let mut samples = BTreeMap::<u8, Vec<Sample>>::new();
    let mut renewals = BTreeMap::<u8, Vec<f64>>::new();
    for _ in 0..plan.choose(1, 3) {
        for count in COUNTS {
            note(&format!("  {}", name(count)));
            let sample = one(count, window).with_context(|| name(count))?;
            samples.entry(count).or_default().push(sample);
        }
        for (count, nanos) in renew(plan.choose(10, 50)).context("renewals")? {
            renewals.entry(count).or_default().extend(nanos);
        }
    }
    let row = |count: u8| {
        let pick =
            |pick: fn(&Sample) -> f64| Cell::Samples(samples[&count].iter().map(pick).collect());
        Row {
            name: name(count),
            side: if count == 1 { Side::Limit } else { Side::Ours },
            cells: vec![
                pick(|sample| sample.map_writes),
                pick(|sample| sample.calls),
                pick(|sample| sample.cpu_us),
                Cell::Samples(renewals[&count].clone()),
            ],
        }
    };
    let writes = samples.values().flatten().map(|sample| sample.map_writes);
    Ok(Findings {
        title: "Many addresses",
        method: METHOD.to_owned(),
        tables: vec![Table {
            title: "One advertisement of a MASTER".to_owned(),
            columns: vec![
                Column::less("map writes"),
                Column::less("system calls").because(LEASES),
                Column::less("CPU, µs").because(LEASES),
                Column::less("renewal, ns"),
            ],
            rows: COUNTS.map(row).into(),
            drawn: None,
        }],
        goals: vec![Goal::at_most(
            "one advertisement for 1 or 16 addresses",
            1.0,
            "writes",
            writes,
        )],
        ..Findings::default()
    })
}

fn name(count: u8) -> String {
    format!("{count} address{}", if count == 1 { "" } else { "es" })
}

/// Returns the nth address of a virtual host.
const fn address(index: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 1, index))
}

/// The command of a process of this program that does one of the jobs below, with carpd's words for a virtual host.
fn command(job: &[&str], host: &Host) -> Result<Command> {
    let carpd = format!(
        "carpd --datapath {} -i eth0 -s {} -f none -v 7 -p secret -a 10.9.1.0 -b 0 -k 1 -P",
        datapath(),
        host.address()
    );
    let mut command = Command::new(std::env::current_exe()?);
    command.args(job).args(carpd.split(' '));
    Ok(command)
}

fn one(count: u8, window: Duration) -> Result<Sample> {
    let lab = Lab::new()?;
    let host = lab.host("a", "10.9.0.1/16")?;
    let capture = lab.capture()?;
    let mut command = command(&[SERVE, &count.to_string()], &host)?;
    let mut daemon = Daemon::spawn(&host, "carpd", &mut command)?.quiet();
    let limit = Duration::from_secs(20);
    daemon.wait_for("Switching to state: MASTER", limit)?;
    for index in 0..count {
        if let IpAddr::V4(address) = address(index) {
            host.wait_for_address(address, true, limit)?;
        }
    }
    // The announcements of a new MASTER are repeated for a few seconds.
    thread::sleep(Duration::from_secs(4));
    let advertised = |mark| capture.advertisements(mark, "a").len() as f64;

    let pids = [daemon.pid()];
    let (mark, before) = (capture.mark(), usage::cpu_time(&pids)?);
    thread::sleep(window);
    let spent = usage::cpu_time(&pids)?.saturating_sub(before);
    let cpu_us = spent.as_secs_f64() * 1e6 / advertised(mark);

    let mark = capture.mark();
    let calls = Calls::of(daemon.pid(), window)?;
    let heard = advertised(mark);
    let sent = f64::from(calls.sent);
    ensure!(
        sent > 0.0 && (sent - heard).abs() <= 2.0 + heard / 100.0,
        "carpd sent {sent} advertisements, but {heard} advertisements were on the wire"
    );
    daemon.terminate(limit)?;
    Ok(Sample {
        map_writes: f64::from(calls.map_writes) / sent,
        calls: f64::from(calls.all) / sent,
        cpu_us,
    })
}

/// Lets another process measure renewals, and returns its samples for each number of addresses. Unit: nanoseconds.
fn renew(rounds: u32) -> Result<BTreeMap<u8, Vec<f64>>> {
    let lab = Lab::new()?;
    let host = lab.host("a", "10.9.0.1/16")?;
    let mut command = command(&[RENEW, &rounds.to_string()], &host)?;
    let mut process = Daemon::spawn(&host, "renewals", &mut command)?.quiet();
    let status = process.exit_code(Duration::from_secs(60))?;
    let mut samples = BTreeMap::new();
    for line in process.lines_with("renewals: ") {
        let words = line.text.trim_start_matches("renewals: ");
        let (count, nanos) = words.split_once(' ').context("short line")?;
        let nanos = nanos.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        samples.insert(count.parse()?, nanos);
    }
    ensure!(
        status == 0 && samples.len() == COUNTS.len(),
        "{}",
        process.transcript()
    );
    Ok(samples)
}

/// Does the job of a process that [`command`] started, if the first word names one.
pub fn work(words: &[OsString]) -> Option<Result<()>> {
    let (job, number) = (words.first()?.to_str()?, words.get(1)?.to_str()?);
    let words = words.get(2..)?.to_vec();
    match job {
        SERVE => Some(
            number
                .parse()
                .map_err(Into::into)
                .and_then(|count| serve(count, words)),
        ),
        RENEW => Some(
            number
                .parse()
                .map_err(Into::into)
                .and_then(|rounds| renewals(rounds, words)),
        ),
        _ => None,
    }
}

/// Parses carpd's words, which name one virtual host, and gives it this number of addresses.
fn invocation(count: u8, words: Vec<OsString>) -> Result<Invocation> {
    let Task::Run(mut invocation) = cli::parse(words)? else {
        bail!("these words start no carpd");
    };
    for vhost in &mut invocation.config.vhosts {
        let prefix = vhost.addresses.first().map_or(32, |it| it.prefix);
        let addresses = (0..count).map(address);
        vhost.election.addresses = AddressSet::new(addresses.clone());
        vhost.addresses = addresses
            .map(|address| VirtualAddress { address, prefix })
            .collect();
    }
    Ok(*invocation)
}

/// Serves a virtual host with this number of addresses, as `carpd` serves one, until SIGTERM.
fn serve(count: u8, words: Vec<OsString>) -> Result<()> {
    let invocation = invocation(count, words)?;
    let logger = log::init(invocation.log, false)?;
    runtime()?.block_on(serve::run(invocation.config, || Ok(())))?;
    logger.finish();
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Measures the renewals of virtual hosts that have different numbers of addresses and nothing else in common, in turns.
/// Prints `renewals: ADDRESSES NS NS …`.
fn renewals(rounds: u32, words: Vec<OsString>) -> Result<()> {
    let invocation = invocation(1, words)?;
    let runtime = runtime()?;
    let _context = runtime.enter();
    let mut host = host::Host::new(&invocation.config)?;
    let mut links = host.links()?.into_iter();
    let link = links.find(|link| link.name == "eth0").context("no eth0")?;
    host.prepare_programs()?;
    host.attach(&link)?;
    let now = carp_daemon::io::clock::now();
    let standing = Standing {
        state: State::Master,
        alive_until: now + Duration::from_secs(60),
        owns_until: now + Duration::from_secs(60),
    };
    let endpoints = [Endpoints {
        group: carp_daemon::config::DEFAULT_GROUP.into(),
        own: None,
    }];
    let refused = |refusal: carp_daemon::engine::effects::Refused| anyhow::anyhow!("{refusal:?}");
    let mut keys = Vec::new();
    let mut next = 0;
    for count in COUNTS {
        let vhid = carp_common::units::Vhid::new(count).context("0")?;
        let key = VhostKey::new(link.index, 0, vhid);
        let entry = Entry {
            endpoints: &endpoints,
            digests: &[],
            standing,
        };
        host.configure(key, &entry).map_err(refused)?;
        for _ in 0..count {
            let owner = AddressOwner {
                ifindex: link.index,
                vhid,
            };
            host.own(address(next), owner).map_err(refused)?;
            next += 1;
        }
        keys.push((count, key, Vec::new()));
    }
    for _ in 0..rounds {
        for (_, key, samples) in &mut keys {
            let start = Instant::now();
            for _ in 0..BUNCH {
                host.renew(*key, black_box(standing)).map_err(refused)?;
            }
            samples.push((start.elapsed() / BUNCH).as_nanos().to_string());
        }
    }
    for (count, key, samples) in keys {
        ensure!(host.is_intact(key), "the kernel has another entry");
        println!("renewals: {count} {}", samples.join(" "));
    }
    host.close(&[]);
    Ok(())
}
