//! Tests of every option in every spelling.

use clap::Arg;

use super::*;

/// Each option with a value that differs from its default. A flag has no value.
const OPTIONS: [(&str, Option<&str>); 37] = [
    ("interface", Some("eth1")),
    ("srcip", Some("10.0.0.9")),
    ("vhid", Some("0x2a")),
    ("vhosts", Some("VHOSTS")),
    ("pass", Some("hate")),
    ("passfile", Some("PASSFILE")),
    ("addr", Some("10.0.0.2/24")),
    ("advbase", Some("5")),
    ("advskew", Some("5")),
    ("deadratio", Some("5")),
    ("preempt", None),
    ("profile", Some("openbsd")),
    ("strict_counter", None),
    ("no_openbsd", None),
    ("upscript", Some("/up")),
    ("downscript", Some("/down")),
    ("xparam", Some("-a b")),
    ("neutral", None),
    ("shutdown", None),
    ("script_timeout", Some("5")),
    ("mcast", Some("224.0.0.19")),
    ("nomcast", None),
    ("own_mac", None),
    ("announce_refresh", Some("60")),
    ("ignoreifstate", None),
    ("wait_interface", None),
    ("datapath", Some("tcx")),
    ("fence", Some("all")),
    ("lease", Some("60")),
    ("realtime", None),
    ("state_dir", Some("/tmp/heard")),
    ("detach", Some("eth1")),
    ("daemonize", None),
    ("facility", Some("local3")),
    ("debug", None),
    ("help", None),
    ("version", None),
];

/// Options that need no others.
const ALONE: [&str; 4] = ["vhosts", "detach", "help", "version"];

/// Returns the spellings `-k 3`, `-k3`, `--advskew 3`, `--advskew=3`, and for a flag `-P`, `--preempt`.
fn both_spellings(option: &Arg, value: Option<&str>) -> Vec<Vec<String>> {
    let short = option.get_short().map(|letter| format!("-{letter}"));
    let aliases = option.get_visible_aliases().unwrap_or_default();
    let long = option.get_long().into_iter().chain(aliases);
    let long: Vec<_> = long.map(|name| format!("--{name}")).collect();
    let mut spellings = Vec::new();
    for name in short.iter().chain(&long) {
        spellings.push(
            std::iter::once(name.as_str())
                .chain(value)
                .map(str::to_owned)
                .collect(),
        );
    }
    if let Some(value) = value {
        spellings.extend(short.iter().map(|name| vec![format!("{name}{value}")]));
        spellings.extend(long.iter().map(|name| vec![format!("{name}={value}")]));
    }
    spellings
}

#[test]
fn every_option_means_the_same_in_its_short_and_its_long_spelling() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let passfile = file("password", "two words\nsecond line\n");
    let vhosts = file(
        "vhosts",
        &format!("-v 7 -i eth0 -a 10.0.0.1 -o {passfile}\n"),
    );
    let read = |id: &str, words: &[String]| {
        let required = match id {
            id if ALONE.contains(&id) => &REQUIRED[..1],
            "addr" => &REQUIRED[..REQUIRED.len() - 2],
            _ => &REQUIRED[..],
        };
        let argv = required
            .iter()
            .copied()
            .chain(words.iter().map(String::as_str));
        let request = parse(argv.map(OsString::from).collect());
        request.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    let unchanged = read("", &[]);
    let mut command = Arguments::command();
    command.build();
    for option in command.get_arguments() {
        let id = option.get_id().as_str();
        let (_, value) = OPTIONS
            .iter()
            .find(|(known, _)| *known == id)
            .unwrap_or_else(|| panic!("{id} is missing in OPTIONS"));
        let value = value.map(|value| match value {
            "VHOSTS" => &vhosts,
            "PASSFILE" => &passfile,
            other => other,
        });
        let spellings = both_spellings(option, value);
        let first = read(id, &spellings[0]);
        assert_ne!(first, unchanged, "{:?} must change something", spellings[0]);
        for spelling in &spellings[1..] {
            assert_eq!(
                read(id, spelling),
                first,
                "{spelling:?} and {:?}",
                spellings[0]
            );
        }
    }
}

#[test]
fn a_default_that_help_shows_is_the_one_that_counts() {
    let unchanged = parsed(&[]).unwrap();
    let mut command = Arguments::command();
    command.build();
    let mut found = 0;
    for option in command.get_arguments() {
        if let [default] = option.get_default_values()
            && option.get_action().takes_values()
        {
            found += 1;
            let word = format!(
                "--{}={}",
                option.get_long().unwrap(),
                default.to_str().unwrap()
            );
            assert_eq!(parsed(&[&word]).unwrap(), unchanged, "{word}");
        }
    }
    assert_eq!(found, 9, "options with a default in the help");
}

/// The spellings of an option, and the change that each must cause.
type Spelling = (&'static [&'static [&'static str]], fn(&Invocation) -> bool);

#[test]
fn every_option_works_in_every_spelling() {
    let table: [Spelling; 35] = [
        (
            &[
                &["-i", "eth1"],
                &["-ieth1"],
                &["--interface", "eth1"],
                &["--int=eth1"],
            ],
            |run| run.config.vhosts[0].interface == "eth1",
        ),
        (
            &[
                &["-s", "10.0.0.9"],
                &["--srcip=10.0.0.9"],
                &["--srcip", "10.0.0.9"],
                &["--sr=10.0.0.9"],
            ],
            |run| run.config.vhosts[0].source == Some(Ipv4Addr::new(10, 0, 0, 9)),
        ),
        (
            &[
                &["-m", "224.0.0.19"],
                &["--mcast", "224.0.0.19"],
                &["--mcastip=224.0.0.19"],
                &["--mcasti", "224.0.0.19"],
                &["--m=224.0.0.19"],
            ],
            |run| run.config.vhosts[0].group == Ipv4Addr::new(224, 0, 0, 19),
        ),
        (
            &[
                &["-v", "42"],
                &["-v0x2a"],
                &["--vhid=0x2a"],
                &["--v=42"],
                &["--vh", "42"],
            ],
            |run| run.config.vhosts[0].election.vhid.get() == 42,
        ),
        (
            &[
                &["-p", "hate"],
                &["-phate"],
                &["--pass=hate"],
                &["--pass", "hate"],
                &["-Pp", "hate"],
            ],
            |run| run.config.vhosts[0].election.key == Key::new(b"hate").unwrap(),
        ),
        (
            &[&["-P"], &["--preempt"], &["--pre"], &["--pr"], &["-PP"]],
            |run| run.config.vhosts[0].election.preempt,
        ),
        (&[&["-n"], &["--neutral"], &["--ne"]], |run| {
            run.config.vhosts[0].neutral
        }),
        (
            &[
                &["-a", "10.0.0.2/24"],
                &["--addr=10.0.0.2/24"],
                &["--add=10.0.0.2/24"],
            ],
            |run| {
                let address = &run.config.vhosts[0].addresses[0];
                address.address == Ipv4Addr::new(10, 0, 0, 2) && address.prefix == 24
            },
        ),
        (&[&["-b", "5"], &["--advbase=5"], &["--advb=5"]], |run| {
            run.config.vhosts[0].election.advbase == AdvBase(5)
        }),
        (&[&["-k", "5"], &["--advskew=5"], &["--advs=5"]], |run| {
            run.config.vhosts[0].election.advskew == AdvSkew(5)
        }),
        (&[&["-r", "5"], &["--deadratio=5"], &["--dea=5"]], |run| {
            run.config.vhosts[0].election.deadratio == DeadRatio::new(5).unwrap()
        }),
        (
            &[&["-u", "/up"], &["--upscript=/up"], &["--u", "/up"]],
            |run| {
                let vhost = &run.config.vhosts[0];
                vhost.scripts.up.as_deref() == Some("/up".as_ref())
                    && vhost.ownership == Ownership::Scripts
            },
        ),
        (
            &[
                &["-d", "/down"],
                &["--downscript=/down"],
                &["--do", "/down"],
            ],
            |run| {
                let vhost = &run.config.vhosts[0];
                vhost.scripts.down.as_deref() == Some("/down".as_ref())
                    && vhost.ownership == Ownership::Native
            },
        ),
        (
            &[
                &["-x", "-a b"],
                &["-x-a b"],
                &["--xparam=-a b"],
                &["--x", "-a b"],
            ],
            |run| run.config.vhosts[0].scripts.xparam.as_deref() == Some("-a b".as_ref()),
        ),
        (&[&["-z"], &["--shutdown"], &["--sh"]], |run| {
            run.config.vhosts[0].release_at_exit
        }),
        (&[&["-B"], &["--daemonize"], &["--da"]], |run| run.daemonize),
        (&[&["-S"], &["--ignoreifstate"], &["--ig"]], |run| {
            run.config.vhosts[0].ignore_carrier
        }),
        (&[&["-M"], &["--nomcast"], &["--no"]], |run| {
            run.config.vhosts[0].broadcast
        }),
        (
            &[
                &["-f", "local3"],
                &["--facility=LOCAL3"],
                &["--f", "local3"],
            ],
            |run| run.log.syslog == log::Destination::Facility("local3".parse().unwrap()),
        ),
        (&[&["-f", "none"], &["--facility=none"]], |run| {
            run.log.syslog == log::Destination::None
        }),
        (&[&["-D"], &["--debug"], &["--deb"]], |run| {
            run.log.debug && run.config.debug
        }),
        (&[&["--wait-interface"]], |run| run.config.wait_interface),
        (
            &[&["--datapath=xdp-native"], &["--datapath", "xdp-native"]],
            |run| run.config.datapath == Datapath::XdpNative,
        ),
        (
            &[&["--profile=openbsd"], &["--profile", "openbsd"]],
            |run| run.config.vhosts[0].election.profile == Profile::OpenBsd,
        ),
        (&[&["--strict-counter"], &["--str"]], |run| {
            run.config.vhosts[0].election.strict_counter
        }),
        (&[&["--no-openbsd"], &["--no-o"]], |run| {
            run.config.vhosts[0].election.no_openbsd
        }),
        (&[&["--own-mac"], &["--ow"]], |run| {
            run.config.vhosts[0].own_mac
        }),
        (
            &[&["--announce-refresh=60"], &["--announce-refresh", "60"]],
            |run| run.config.vhosts[0].election.announce_refresh == Some(Duration::from_secs(60)),
        ),
        (
            &[
                &["--state-dir=/tmp/heard"],
                &["--state-dir", "/tmp/heard"],
                &["--sta=/tmp/heard"],
            ],
            |run| {
                run.config
                    .state_directory
                    .as_ref()
                    .is_some_and(|wanted| wanted.path.as_os_str() == "/tmp/heard" && wanted.create)
            },
        ),
        (&[&["--fence=all"], &["--fence", "all"]], |run| {
            run.config.fence == Fence::All
        }),
        (&[&["--fence=off"]], |run| run.config.fence == Fence::Off),
        (&[&["--lease=60"], &["--lease", "0x3c"]], |run| {
            run.config.lease == Lease::Fixed(Duration::from_secs(60))
        }),
        (&[&["--lease=0"]], |run| run.config.lease == Lease::Off),
        (&[&["--realtime"], &["--re"]], |run| run.config.realtime),
        (
            &[&["--script-timeout=5"], &["--script-timeout", "5"]],
            |run| run.config.vhosts[0].scripts.timeout == Duration::from_secs(5),
        ),
    ];
    let unchanged = parsed(&[]).unwrap();
    for (spellings, holds) in table {
        assert!(!holds(&unchanged), "{spellings:?} must change something");
        for spelling in spellings {
            let run = parsed(spelling).unwrap_or_else(|error| panic!("{spelling:?}: {error}"));
            assert!(holds(&run), "{spelling:?}");
        }
    }
}

#[test]
fn every_abbreviation_that_ucarp_understands_means_the_same() {
    let mut command = Arguments::command();
    command.build();
    for (name, takes_value) in UCARP_OPTIONS {
        let abbreviations = (1..=name.len())
            .map(|length| &name[..length])
            .filter(|abbreviation| {
                *abbreviation == name
                    || UCARP_OPTIONS
                        .iter()
                        .filter(|(other, _)| other.starts_with(abbreviation))
                        .count()
                        == 1
            });
        for abbreviation in abbreviations {
            let mut line = vec!["carpd".to_owned(), format!("--{abbreviation}")];
            if takes_value {
                line.push("1".to_owned());
            }
            // Values are checked only after the option was recognised.
            let shown = match command.clone().try_get_matches_from(line) {
                Ok(matches) => {
                    let id = if name == "mcastip" { "mcast" } else { name };
                    assert_eq!(
                        matches.value_source(id),
                        Some(clap::parser::ValueSource::CommandLine),
                        "--{abbreviation} must mean --{name}"
                    );
                    continue;
                }
                Err(error) => error,
            };
            assert!(
                matches!(
                    shown.kind(),
                    ErrorKind::ValueValidation | ErrorKind::DisplayHelp
                ),
                "--{abbreviation} must mean --{name}: {shown}"
            );
        }
    }
}
