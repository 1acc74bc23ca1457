use std::net::Ipv4Addr;
use std::time::Duration;

use carp_common::proto::Key;
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Profile};

use super::*;
use crate::config::{Datapath, Fence, Lease, Ownership, VhostConfig};

mod mistakes;
mod spellings;

const REQUIRED: [&str; 8] = [
    "carpd",
    "--interface=eth0",
    "-v",
    "7",
    "-p",
    "love",
    "-a",
    "10.0.0.1",
];

/// Parses the required options and these. An address among them replaces the required one. Tests always get a warning
/// about hiding the password, because it is not in the arguments of this process.
fn parsed(more: &[&str]) -> Result<Invocation, CliError> {
    let has_address = more
        .first()
        .is_some_and(|word| word.starts_with("-a") || word.starts_with("--add"));
    let required = REQUIRED.len() - if has_address { 2 } else { 0 };
    let argv = REQUIRED[..required].iter().chain(more);
    let argv = argv.map(OsString::from).collect();
    parse(argv).map(|request| match request {
        Task::Run(invocation) => *invocation,
        other @ (Task::Print(_) | Task::Detach(_)) => panic!("instead: {other:?}"),
    })
}

fn vhost(more: &[&str]) -> VhostConfig {
    parsed(more)
        .unwrap_or_else(|error| panic!("{more:?}: {error}"))
        .config
        .vhosts
        .remove(0)
}

fn refused(line: &[&str]) -> String {
    match parse(line.iter().map(OsString::from).collect()) {
        Err(error) => error.to_string(),
        Ok(request) => panic!("accepted {line:?}: {request:?}"),
    }
}

#[test]
fn required_options_alone_give_ucarps_defaults() {
    let invocation = parsed(&[]).unwrap();
    assert_eq!(
        invocation.log,
        log::LogSettings {
            debug: false,
            syslog: log::Destination::Default
        }
    );
    assert!(!invocation.daemonize && !invocation.config.wait_interface && !invocation.config.debug);
    assert_eq!(invocation.config.datapath, Datapath::Auto);
    assert_eq!(invocation.config.fence, Fence::Arp);
    assert_eq!(invocation.config.lease, Lease::Auto);
    assert!(!invocation.config.realtime && !invocation.config.vhosts[0].election.strict_counter);
    let vhost = &invocation.config.vhosts[0];
    assert_eq!(
        (vhost.interface.as_str(), vhost.election.vhid.get()),
        ("eth0", 7)
    );
    assert_eq!(
        (
            vhost.election.advbase.0,
            vhost.election.advskew.0,
            vhost.election.deadratio.get()
        ),
        (1, 0, 3)
    );
    assert_eq!(
        (vhost.source, vhost.group),
        (None, Ipv4Addr::new(224, 0, 0, 18))
    );
    assert_eq!(vhost.election.key, Key::new(b"love").unwrap());
    assert_eq!(vhost.election.profile, Profile::Ucarp);
    assert!(
        !vhost.election.preempt
            && !vhost.neutral
            && !vhost.release_at_exit
            && !vhost.broadcast
            && !vhost.ignore_carrier
    );
    assert_eq!(vhost.ownership, Ownership::Native);
    assert_eq!(
        (
            &vhost.scripts.up,
            &vhost.scripts.down,
            &vhost.scripts.xparam
        ),
        (&None, &None, &None)
    );
    assert_eq!(vhost.scripts.timeout, Duration::from_secs(60));
}

/// ucarp's long options, to determine what `getopt_long` makes of an abbreviation.
const UCARP_OPTIONS: [(&str, bool); 22] = [
    ("interface", true),
    ("srcip", true),
    ("mcastip", true),
    ("vhid", true),
    ("pass", true),
    ("passfile", true),
    ("preempt", false),
    ("neutral", false),
    ("addr", true),
    ("help", false),
    ("advbase", true),
    ("advskew", true),
    ("upscript", true),
    ("downscript", true),
    ("deadratio", true),
    ("debug", false),
    ("shutdown", false),
    ("daemonize", false),
    ("ignoreifstate", false),
    ("nomcast", false),
    ("facility", true),
    ("xparam", true),
];

#[test]
fn last_of_a_repeated_option_counts_and_of_pass_and_passfile_too() {
    assert_eq!(vhost(&["-v", "8", "--vhid=9"]).election.vhid.get(), 9);
    assert_eq!(vhost(&["-v", "300", "--vhid=9"]).election.vhid.get(), 9);
    assert_eq!(
        vhost(&["-p", "hate", "--pass=envy"]).election.key,
        Key::new(b"envy").unwrap()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "filed\n").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        vhost(&["-o", path]).election.key,
        Key::new(b"filed").unwrap()
    );
    assert_eq!(
        vhost(&["-o", path, "-p", "hate"]).election.key,
        Key::new(b"hate").unwrap()
    );
    assert_eq!(
        vhost(&["-o", "/nowhere", "-p", "hate", "-o", path])
            .election
            .key,
        Key::new(b"filed").unwrap()
    );
}

#[test]
fn equals_sign_in_a_password_is_kept_as_getopt_keeps_it() {
    assert_eq!(
        vhost(&["-p=love"]).election.key,
        Key::new(b"=love").unwrap()
    );
    assert_eq!(
        vhost(&["--pass==love"]).election.key,
        Key::new(b"=love").unwrap()
    );
}

#[test]
fn bad_value_is_refused_naming_option_value_and_what_is_accepted() {
    let table = [
        ("-v", "0", "--vhid", "1 to 255"),
        ("-v", "256", "--vhid", "1 to 255"),
        ("-v", "-1", "--vhid", "1 to 255"),
        ("-v", "0x100", "--vhid", "1 to 255"),
        ("-v", "seven", "--vhid", "1 to 255"),
        ("-v", "010", "--vhid", "write 10 for the decimal number"),
        ("-b", "256", "--advbase", "0 to 255"),
        ("-k", "1000", "--advskew", "0 to 255"),
        ("-r", "0", "--deadratio", "1 to 255"),
        ("-r", "257", "--deadratio", "1 to 255"),
        ("-s", "eth0", "--srcip", "an IPv4 address"),
        ("-s", "::1", "--srcip", "an IPv4 address"),
        ("-a", "10.0.0", "--addr", "an IPv4 address"),
        ("-a", "10.0.0.1/33", "--addr", "1 to 32"),
        (
            "-a",
            "2001:db8::1",
            "--addr",
            "IPv6 virtual addresses are not served yet",
        ),
        ("-m", "10.0.0.1", "--mcast", "224.0.0.0 to 239.255.255.255"),
        (
            "-i",
            &"much-too-long-a-name".repeat(7),
            "--interface",
            "1 to 127 bytes",
        ),
        ("-i", "../etc", "--interface", "without '/'"),
        ("-f", "local8", "--facility", "local7"),
        ("--datapath", "ebpf", "--datapath", "xdp-native"),
        ("--profile", "netbsd", "--profile", "openbsd"),
        ("--script-timeout", "0", "--script-timeout", "1 to 86400"),
        ("--state-dir", "", "--state-dir", "a value is required"),
    ];
    for (option, value, name, accepted) in table {
        let mut line = REQUIRED.to_vec();
        line.extend([option, value]);
        let text = refused(&line);
        for part in [name, value, accepted] {
            assert!(
                text.contains(part),
                "{option} {value}: {part:?} must be in {text:?}"
            );
        }
    }
}

#[test]
fn unusable_password_file_is_named_with_its_cause() {
    for (path, cause) in [
        ("/nowhere/pass", "No such file"),
        ("/proc", "Is a directory"),
    ] {
        let text = refused(&["carpd", "-i", "eth0", "-v1", "-a", "10.0.0.1", "-o", path]);
        for part in ["--passfile", path, cause] {
            assert!(text.contains(part), "{part:?} must be in {text:?}");
        }
    }
}

#[test]
fn missing_options_are_asked_for_in_ucarps_words() {
    let table: [(&[&str], &str, &str); 4] = [
        (
            &["-p", "love", "-a", "10.0.0.1"],
            "You must supply a valid virtual host id",
            "--vhid",
        ),
        (
            &["-v", "7", "-a", "10.0.0.1"],
            "You must supply a password",
            "--passfile",
        ),
        (
            &["-v", "7", "-p", "love"],
            "You must supply a virtual host address",
            "--addr",
        ),
        (
            &["-v", "7", "-p", "love", "-a", "10.0.0.1", "-b0"],
            "You must supply an advertisement time base",
            "--advskew",
        ),
    ];
    for (options, words, option) in table {
        let line: Vec<_> = ["carpd", "-i", "eth0"]
            .iter()
            .chain(options)
            .copied()
            .collect();
        let text = refused(&line);
        assert!(text.contains(words) && text.contains(option), "{text}");
    }
}

#[test]
fn words_that_are_no_options_and_unknown_options_are_refused_by_name() {
    for word in ["word", "--syslog", "-Q"] {
        let text = refused(&["carpd", "--interface=eth0", "-o", "/dev/null", word]);
        assert!(
            text.contains(word) && text.contains("--help") && !text.contains("Usage"),
            "{text}"
        );
    }
}

#[test]
fn errors_never_show_a_password() {
    let long = "correct horse battery staple";
    let text = refused(&["carpd", "-i", "eth0", "-v1", "-a", "10.0.0.1", "-p", long]);
    assert!(
        text.contains("28 bytes") && text.contains("--pass"),
        "{text}"
    );
    assert!(!text.contains("horse"), "{text}");
    let debug = format!("{:?}", parsed(&[]).unwrap());
    assert!(!debug.contains("love"), "{debug}");
}

#[test]
fn help_prints_the_usage_and_version_the_version_and_no_arguments_are_an_error() {
    let printed = |line: &[&str]| match parse(line.iter().map(OsString::from).collect()) {
        Ok(Task::Print(text)) => text,
        other => panic!("{line:?}: {other:?}"),
    };
    let usage = printed(&["carpd", "-h"]);
    assert_eq!(refused(&["carpd"]), usage.trim_end());
    assert_eq!(printed(&["carpd", "-i", "eth0", "--help"]), usage);
    for (name, _) in UCARP_OPTIONS {
        assert!(
            usage.contains(&format!("--{name}")) || usage.contains(&format!("[aliases: --{name}]")),
            "{name}: {usage}"
        );
    }
    assert_eq!(
        printed(&["carpd", "--version"]),
        format!("carpd {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn one_script_without_the_other_is_warned_about_as_ucarp_does() {
    let warned = |more: &[&str], text: &str| {
        parsed(more)
            .unwrap()
            .warnings
            .iter()
            .any(|line| line.contains(text))
    };
    let (up, down) = (
        "no script called when going up",
        "no script called when going down",
    );
    assert!(
        !warned(&[], up) && !warned(&[], down),
        "native mode is not a mistake"
    );
    assert!(warned(&["-d", "/down"], up) && !warned(&["-d", "/down"], down));
    assert!(warned(&["-u", "/up"], down) && !warned(&["-u", "/up"], up));
    assert!(
        !warned(&["-u", "/up", "-d", "/down"], up) && !warned(&["-u", "/up", "-d", "/down"], down)
    );
}

#[test]
fn relative_script_is_the_one_the_operator_sees() {
    let expected = std::env::current_dir().unwrap().join("vip-up.sh");
    assert_eq!(vhost(&["-u", "vip-up.sh"]).scripts.up, Some(expected));
}

#[test]
fn detach_needs_nothing_but_an_interface() {
    let request = parse(["carpd", "--detach", "eth0"].map(OsString::from).to_vec());
    assert!(matches!(request, Ok(Task::Detach(interface)) if interface == "eth0"));
    assert!(parse(["carpd", "--detach", "a/b"].map(OsString::from).to_vec()).is_err());
    let text = refused(&["carpd", "--detach", "eth0", "-i", "eth0", "-v", "7"]);
    assert!(
        text.contains("--interface") && text.contains("--detach"),
        "{text}"
    );
}
