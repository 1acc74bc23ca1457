//! Renders a status as log lines, for SIGUSR1.
//!
//! There are four lines for each virtual host: the state; values for programs; the same in words, with what comes
//! next; and the counters that are not 0. Each interface has one line.

use std::fmt::{Display, Write as _};
use std::time::{Duration, SystemTime};

use carp_common::proto::FAMILIES;
use carp_common::proto::election::BackupDecision;
use carp_common::proto::outlook::Outlook;
use carp_common::units::{AdvBase, AdvSkew, Priority, State};
use chrono::{DateTime, Local};
use tracing::{error, info};

use super::event::cause;
use crate::api::status::{InterfaceStatus, Lacking, Status, Survival, VirtualHostStatus};

/// Logs a status.
pub fn log(status: &Status) {
    for virtual_host in &status.virtual_hosts {
        for line in lines(virtual_host, status.taken_at) {
            info!("{line}");
        }
    }
    for InterfaceStatus { name, counters, .. } in &status.interfaces {
        match counters {
            Ok(counters) => {
                let all = counters.iter().copied();
                info!("counters on {name} datapath: {}", counted(all));
            }
            Err(error) => error!("{name}: {error}"),
        }
    }
}

/// Returns the lines of one virtual host.
fn lines(it: &VirtualHostStatus, taken_at: SystemTime) -> [String; 4] {
    let (place, state) = (&it.place, it.state);
    let more = [
        ("addresses-restored", it.addresses_restored),
        ("arp-conflicts", it.arp_conflicts),
        ("event-loop-stalls", it.stalls),
    ];
    let counters = it.counters.iter().chain(more);
    [
        format!("{state} on {place}"),
        format!("status on {place}: {}", values(it, taken_at)),
        format!("why on {place}: {}", explanation(it)),
        format!("counters on {place}: {}", counted(counters)),
    ]
}

/// Returns the line for programs: `name=value` for each value.
fn values(it: &VirtualHostStatus, taken_at: SystemTime) -> String {
    let mut line = String::new();
    add(&mut line, "datapath", or_none(it.datapath.as_ref()));
    add(
        &mut line,
        "fence-survives-kill",
        or_none(it.fence_survives_kill),
    );
    add(&mut line, "since", local_time(taken_at, it.lasted));
    let master = match it.state {
        State::Master => "this-host".to_owned(),
        State::Backup => or_none(it.heard.map(|heard| heard.source)),
        State::Init => or_none(None::<State>),
    };
    add(&mut line, "master", master);
    if let Some(heard) = it.heard {
        add(&mut line, "heard-ms-ago", heard.ago.as_millis());
    }
    match (it.state, it.due_in) {
        (State::Backup, Some(due)) => add(&mut line, "master-down-in-ms", due.as_millis()),
        (State::Master, Some(due)) => add(&mut line, "next-event-in-ms", due.as_millis()),
        (State::Init, _) | (State::Backup | State::Master, None) => {}
    }
    add(&mut line, "source", or_none(sources(it)));
    add(&mut line, "advertises", it.advertises);
    add(&mut line, "demotion", it.demotions.sum().0);
    add(&mut line, "worst-stall-ms", it.worst_stall.as_millis());
    line
}

/// Returns the line for people: since when, why, which host is MASTER, and what comes next.
fn explanation(it: &VirtualHostStatus) -> String {
    let why = it.cause.map_or("started", cause);
    let heard = it
        .heard
        .map(|heard| format!("{}, heard {} s ago", heard.source, seconds(heard.ago)));
    let next = match it.outlook {
        Outlook::Start { .. } => {
            format!("next: BACKUP when {}", it.lacks.map_or(NOTHING, lacking))
        }
        Outlook::TakeOver { after, at_once, .. } => {
            let master = heard.map_or("no MASTER was heard".to_owned(), |heard| {
                format!("MASTER is {heard}")
            });
            let preempts = match at_once {
                Some(it) if it.decision == BackupDecision::PreemptWorse => format!(
                    ", or at once from a MASTER with a higher advbase/advskew than {}",
                    it.above
                ),
                Some(it) if it.above == JUST_ABOVE_A_BOW_OUT => {
                    "; without --preempt a worse MASTER keeps the address until it bows out"
                        .to_owned()
                }
                Some(it) => format!(
                    "; without --preempt a worse MASTER keeps the address, unless its advbase/advskew is higher than {}",
                    it.above
                ),
                // No priority is worse than that of this host.
                None => String::new(),
            };
            let left = seconds(after);
            format!("{master}; next: takes over after {left} s more of silence{preempts}")
        }
        Outlook::Yield { better_than, .. } => {
            let others = heard.map_or("no other host was ever heard".to_owned(), |heard| {
                format!("the last other host was {heard}")
            });
            format!(
                "{others}; next: yields to a MASTER with a lower advbase/advskew than {better_than}{}",
                after_a_crash(it)
            )
        }
    };
    let (state, lasted) = (it.state, seconds(it.lasted));
    format!("{state} for {lasted} s: {why}; {next}")
}

/// The worst priority that is not a bow-out.
const JUST_ABOVE_A_BOW_OUT: Priority = Priority {
    advbase: AdvBase(255),
    advskew: AdvSkew(254),
};

/// The condition for leaving INIT after a shutdown.
const NOTHING: &str = "the cause is gone";

const fn lacking(it: Lacking) -> &'static str {
    match it {
        Lacking::Interface => "the interface is there",
        Lacking::Independence => "the interface is no port of another one",
        Lacking::Reception => "advertisements can be received",
        Lacking::Link => "the link is up",
        Lacking::FixedSource => "the --srcip address is back",
        Lacking::Source => "the interface has a source address",
    }
}

/// Describes what stops a MASTER whose daemon is killed from answering.
fn after_a_crash(it: &VirtualHostStatus) -> String {
    let lease = it.lease.map_or("its address stays".to_owned(), |lease| {
        format!("its address ends with its lease of {} s", lease.as_secs())
    });
    let kernel = match it.fence_survives_kill {
        Some(Survival::Yes | Survival::WithContainer) => "the kernel stops answering for it",
        Some(Survival::No) | None => "this host goes on answering",
    };
    format!("; if carpd is killed, {kernel} and {lease}")
}

/// Returns the counters that are not 0.
fn counted(counters: impl Iterator<Item = (&'static str, u64)>) -> String {
    let mut line = String::new();
    for (name, value) in counters.filter(|(_, value)| *value != 0) {
        add(&mut line, name, value);
    }
    if line.is_empty() {
        line += "all are 0";
    }
    line
}

/// Appends `name=value`, with a blank before it if the line is not empty.
fn add(line: &mut String, name: &str, value: impl Display) {
    let blank = if line.is_empty() { "" } else { " " };
    write!(line, "{blank}{name}={value}").expect("writing to a String cannot fail");
}

/// Returns the source addresses of all families.
fn sources(it: &VirtualHostStatus) -> Option<String> {
    let sources = FAMILIES.iter().filter_map(|family| it.sources[*family]);
    let sources: Vec<String> = sources.map(|source| source.to_string()).collect();
    (!sources.is_empty()).then(|| sources.join(","))
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64())
}

/// Returns the wall-clock time `before` the moment `taken_at`, by the clock's present setting.
fn local_time(taken_at: SystemTime, before: Duration) -> String {
    let time = DateTime::<Local>::from(taken_at) - before;
    time.format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use carp_common::proto::demotion::{DemotionCause, Demotions};
    use carp_common::proto::outlook::{AtOnce, Lack};
    use carp_common::proto::per_family::PerFamily;
    use carp_common::proto::{Counters, Reason};
    use carp_common::units::{Demotion, Vhid};

    use super::*;
    use crate::api::event::Place;
    use crate::api::event::election::Cause;
    use crate::api::status::Heard;

    const OURS: Priority = Priority {
        advbase: AdvBase(1),
        advskew: AdvSkew(100),
    };

    fn of(state: State, outlook: Outlook) -> VirtualHostStatus {
        VirtualHostStatus {
            place: Place::VirtualHost {
                interface: "eth0".to_owned(),
                vhid: Vhid::new(7).unwrap(),
            },
            state,
            lasted: Duration::from_millis(61_234),
            cause: None,
            heard: None,
            sources: PerFamily::default(),
            advertises: OURS,
            demotions: Demotions::default(),
            due_in: None,
            outlook,
            lacks: None,
            datapath: None,
            fence_survives_kill: None,
            lease: None,
            counters: Counters::default(),
            frames: None,
            addresses_restored: 0,
            arp_conflicts: 0,
            stalls: 0,
            worst_stall: Duration::ZERO,
        }
    }

    fn backup(at_once: Option<AtOnce>) -> VirtualHostStatus {
        of(
            State::Backup,
            Outlook::TakeOver {
                after: Duration::from_millis(2346),
                reason: Reason::MasterTimedOut,
                held: Duration::ZERO,
                at_once,
                heard: None,
            },
        )
    }

    fn preempts() -> AtOnce {
        AtOnce {
            above: OURS,
            decision: BackupDecision::PreemptWorse,
        }
    }

    fn master() -> VirtualHostStatus {
        let outlook = Outlook::Yield {
            better_than: OURS,
            heard: None,
        };
        of(State::Master, outlook)
    }

    /// Returns a moment in 2026.
    fn moment() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
    }

    fn heard() -> Option<Heard> {
        Some(Heard {
            source: "10.9.0.7".parse().unwrap(),
            ago: Duration::from_millis(520),
        })
    }

    #[test]
    fn a_virtual_host_has_four_lines() {
        let status = VirtualHostStatus {
            addresses_restored: 3,
            counters: Counters {
                transitions_to_master: 1,
                ..Counters::default()
            },
            ..master()
        };
        let lines = lines(&status, moment());
        assert_eq!(lines[0], "MASTER on eth0 id 7");
        assert!(lines[1].starts_with("status on eth0 id 7: datapath=none "));
        assert!(lines[2].starts_with("why on eth0 id 7: MASTER for 61.23 s: started; "));
        assert_eq!(
            lines[3],
            "counters on eth0 id 7: transitions-to-master=1 addresses-restored=3"
        );
    }

    /// Returns the text before and after the time of day.
    fn around_since(status: &VirtualHostStatus) -> (String, String) {
        let line = values(status, moment());
        let (before, rest) = line.split_once(" since=").unwrap();
        let (time, after) = rest.split_once(' ').unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        (before.to_owned(), after.to_owned())
    }

    #[test]
    fn values_are_those_of_the_state() {
        let nothing = ("datapath=none fence-survives-kill=none", "");
        let mut demotions = Demotions::default();
        demotions.set(DemotionCause::Link, Demotion(4));
        demotions.set(DemotionCause::Script, Demotion(3));
        let init = VirtualHostStatus {
            demotions,
            worst_stall: Duration::from_millis(812),
            ..of(State::Init, Outlook::Start { lacks: Lack::Link })
        };
        let backup = VirtualHostStatus {
            datapath: Some("tcx".to_owned()),
            fence_survives_kill: Some(Survival::WithContainer),
            heard: heard(),
            sources: PerFamily {
                inet: Some("10.9.0.5".parse().unwrap()),
                inet6: None,
            },
            due_in: Some(Duration::from_micros(2_345_999)),
            ..backup(None)
        };
        let master = VirtualHostStatus {
            heard: heard(),
            sources: PerFamily {
                inet: Some("10.9.0.5".parse().unwrap()),
                inet6: Some("fe80::5".parse().unwrap()),
            },
            due_in: Some(Duration::from_millis(7)),
            ..master()
        };
        for (status, before, after) in [
            (
                init,
                nothing.0,
                "master=none source=none advertises=1/100 demotion=7 worst-stall-ms=812",
            ),
            (
                backup,
                "datapath=tcx fence-survives-kill=until-the-container-ends",
                "master=10.9.0.7 heard-ms-ago=520 master-down-in-ms=2345 source=10.9.0.5 advertises=1/100 demotion=0 \
                 worst-stall-ms=0",
            ),
            (
                master,
                nothing.0,
                "master=this-host heard-ms-ago=520 next-event-in-ms=7 source=10.9.0.5,fe80::5 advertises=1/100 \
                 demotion=0 worst-stall-ms=0",
            ),
        ] {
            let (is_before, is_after) = around_since(&status);
            assert_eq!((is_before.as_str(), is_after.as_str()), (before, after));
        }
    }

    #[test]
    fn in_init_the_explanation_says_what_is_lacking() {
        for (lacks, text) in [
            (Some(Lacking::Interface), "the interface is there"),
            (
                Some(Lacking::Independence),
                "the interface is no port of another one",
            ),
            (Some(Lacking::Reception), "advertisements can be received"),
            (Some(Lacking::Link), "the link is up"),
            (Some(Lacking::FixedSource), "the --srcip address is back"),
            (Some(Lacking::Source), "the interface has a source address"),
            (None, "the cause is gone"),
        ] {
            let status = VirtualHostStatus {
                cause: Some(Cause::Election(Reason::LinkDown)),
                lacks,
                ..of(State::Init, Outlook::Start { lacks: Lack::Link })
            };
            assert_eq!(
                explanation(&status),
                format!("INIT for 61.23 s: link down; next: BACKUP when {text}")
            );
        }
    }

    #[test]
    fn a_backup_says_when_it_takes_over_and_from_whom_at_once() {
        // The outlook of the core: deadratio × advbase with the own advskew, and with advbase 0 only a bow-out.
        let [slow, bow_out] = [(3, 100), (255, 254)].map(|(advbase, advskew)| AtOnce {
            above: Priority {
                advbase: AdvBase(advbase),
                advskew: AdvSkew(advskew),
            },
            decision: BackupDecision::MasterWillTimeOut,
        });
        for (status, text) in [
            (
                backup(Some(preempts())),
                "BACKUP for 61.23 s: started; no MASTER was heard; next: takes over after 2.35 s more of silence, or at once \
                 from a MASTER with a higher advbase/advskew than 1/100",
            ),
            (
                VirtualHostStatus {
                    heard: heard(),
                    ..backup(Some(slow))
                },
                "BACKUP for 61.23 s: started; MASTER is 10.9.0.7, heard 0.52 s ago; next: takes over after 2.35 s more of \
                 silence; without --preempt a worse MASTER keeps the address, unless its advbase/advskew is higher than \
                 3/100",
            ),
            (
                backup(Some(bow_out)),
                "BACKUP for 61.23 s: started; no MASTER was heard; next: takes over after 2.35 s more of silence; without \
                 --preempt a worse MASTER keeps the address until it bows out",
            ),
            (
                backup(None),
                "BACKUP for 61.23 s: started; no MASTER was heard; next: takes over after 2.35 s more of silence",
            ),
        ] {
            assert_eq!(explanation(&status), text);
        }
    }

    #[test]
    fn a_master_says_to_whom_it_yields_and_what_a_crash_would_leave() {
        let alone = VirtualHostStatus {
            fence_survives_kill: Some(Survival::Yes),
            lease: Some(Duration::from_secs(5)),
            ..master()
        };
        let bare = VirtualHostStatus {
            cause: Some(Cause::Election(Reason::MasterTimedOut)),
            heard: heard(),
            fence_survives_kill: Some(Survival::No),
            ..master()
        };
        for (status, text) in [
            (
                alone,
                "MASTER for 61.23 s: started; no other host was ever heard; next: yields to a MASTER with a lower \
                 advbase/advskew than 1/100; if carpd is killed, the kernel stops answering for it and its address ends \
                 with its lease of 5 s",
            ),
            (
                bare,
                "MASTER for 61.23 s: no MASTER was heard for the master-down time; the last other host was 10.9.0.7, heard \
                 0.52 s ago; next: yields to a MASTER with a lower advbase/advskew than 1/100; if carpd is killed, this host \
                 goes on answering and its address stays",
            ),
        ] {
            assert_eq!(explanation(&status), text);
        }
    }

    #[test]
    fn counters_that_are_0_are_left_out() {
        let line = |values: [(&'static str, u64); 3]| counted(values.into_iter());
        assert_eq!(line([("a", 1), ("b", 0), ("c", 7)]), "a=1 c=7");
        assert_eq!(line([("a", 0), ("b", 0), ("c", 0)]), "all are 0");
    }

    #[test]
    fn the_time_of_a_moment_is_counted_back() {
        let now = moment();
        let read = |text: String| chrono::DateTime::parse_from_rfc3339(&text).unwrap();
        let minute = Duration::from_secs(60);
        let apart = read(local_time(now, Duration::ZERO)) - read(local_time(now, minute));
        assert_eq!(apart.num_seconds(), 60);
    }
}
