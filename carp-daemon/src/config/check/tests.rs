use carp_common::units::{AdvBase, AdvSkew, Profile};
use zeroize::Zeroizing;

use super::*;
use crate::config::raw::{Origin, Password, Secret};
use crate::config::{Datapath, Fence, Lease, Ownership};

fn at<T>(location: &Location, name: &str, value: T) -> Option<Word<T>> {
    Some(Word {
        value,
        origin: Origin {
            location: location.clone(),
            name: name.to_owned(),
            position: 1,
        },
    })
}

fn text(location: &Location, name: &str, value: &str) -> Option<Word<String>> {
    at(location, name, value.to_owned())
}

fn line(line: usize) -> Location {
    Location::Line {
        path: Path::new("/etc/carpd.vhosts").into(),
        line,
    }
}

/// Returns a virtual host with only the required settings.
fn least(location: &Location, vhid: &str, address: &str) -> raw::VirtualHost {
    let password = Secret::from(Zeroizing::new(b"love".to_vec()));
    raw::VirtualHost {
        location: location.clone(),
        interface: text(location, "interface", "eth0"),
        vhid: text(location, "vhid", vhid),
        password: at(location, "password", password).map(Password::Inline),
        addresses: text(location, "address", address).into_iter().collect(),
        ..raw::VirtualHost::default()
    }
}

fn checked(vhosts: Vec<raw::VirtualHost>, process: raw::Process) -> Result<Checked, Vec<String>> {
    let checked = check(Raw { vhosts, process });
    checked.map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

#[test]
fn absent_options_have_ucarps_defaults() {
    let location = Location::CommandLine;
    let vhosts = vec![least(&location, "7", "10.0.0.1")];
    let mut config = checked(vhosts, raw::Process::default()).unwrap().config;
    assert_eq!(
        (config.datapath, config.fence, config.lease),
        (Datapath::Auto, Fence::Arp, Lease::Auto)
    );
    let vhost = config.vhosts.remove(0);
    assert_eq!(
        (vhost.election.advbase, vhost.election.advskew),
        (AdvBase(1), AdvSkew(0))
    );
    assert_eq!(vhost.election.profile, Profile::Ucarp);
    assert_eq!(vhost.ownership, Ownership::Native);
    assert!(
        vhost
            .election
            .addresses
            .contains(vhost.addresses[0].address)
    );
}

#[test]
fn every_mistake_is_found_with_its_place_and_what_would_be_right() {
    let (second, third) = (line(2), line(3));
    let mut wrong = least(&second, "300", "10.0.0");
    wrong.deadratio = text(&second, "deadratio", "0");
    wrong.profile = text(&second, "profile", "netbsd");
    wrong.mcast = text(&second, "mcast", "10.0.0.1");
    wrong.password = None;
    let mut idle = least(&third, "8", "10.0.0.8");
    idle.advbase = text(&third, "advbase", "0");
    idle.advskew = text(&third, "advskew", "0");
    let process = raw::Process {
        fence: text(&Location::CommandLine, "--fence", "on"),
        lease: text(&Location::CommandLine, "--lease", "1"),
        ..raw::Process::default()
    };
    let found = checked(vec![wrong, idle], process).unwrap_err();
    let expected = [
        "/etc/carpd.vhosts:2: invalid value '300' for 'vhid': out of range: 1 to 255 are accepted",
        "/etc/carpd.vhosts:2: invalid value 'netbsd' for 'profile': unknown: ucarp, freebsd, openbsd are accepted",
        "/etc/carpd.vhosts:2: You must supply a password",
        "/etc/carpd.vhosts:2: invalid value '10.0.0' for 'address': Invalid address: an IPv4 address is accepted",
        "/etc/carpd.vhosts:2: invalid value '0' for 'deadratio': out of range: 1 to 255 are accepted",
        "/etc/carpd.vhosts:2: invalid value '10.0.0.1' for 'mcast': not a multicast group",
        "/etc/carpd.vhosts:3: You must supply an advertisement time base",
        "invalid value 'on' for '--fence': unknown: arp, all, off are accepted",
        "invalid value '1' for '--lease': too short",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn two_virtual_hosts_share_neither_a_vhid_nor_an_address() {
    let vhosts = [
        (1, "7", "10.0.0.7"),
        (2, "8", "10.0.0.7"),
        (4, "7", "10.0.0.9"),
    ];
    let vhosts = vhosts.map(|(number, vhid, address)| least(&line(number), vhid, address));
    assert_eq!(
        checked(vhosts.to_vec(), raw::Process::default()).unwrap_err(),
        [
            "/etc/carpd.vhosts:2: the address 10.0.0.7 is in line 1 already: one of them needs another --addr",
            "/etc/carpd.vhosts:4: vhid 7 on eth0 is in line 1 already: one of them needs another --vhid or --interface",
        ]
    );
}

#[test]
fn no_virtual_host_at_all_is_a_mistake() {
    let found = checked(Vec::new(), raw::Process::default()).unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("You must supply a virtual host (--vhosts)"));
}

#[test]
fn a_mistake_of_several_virtual_hosts_is_reported_once() {
    let vhosts = ["7", "8"].map(|vhid| {
        let mut vhost = least(&Location::CommandLine, vhid, &format!("10.0.0.{vhid}"));
        vhost.upscript = at(&Location::CommandLine, "--upscript", PathBuf::from("/up"));
        vhost
    });
    let checked = checked(vhosts.to_vec(), raw::Process::default()).unwrap();
    assert_eq!(checked.notes.len(), 1, "{:?}", checked.notes);
    assert_eq!(checked.warnings, ["no script called when going down"]);
}

#[test]
fn a_password_is_in_no_mistake_and_in_no_debug_output() {
    let location = Location::CommandLine;
    let secret = Secret::from(Zeroizing::new(b"correct horse battery staple".to_vec()));
    let mut vhost = least(&location, "7", "10.0.0.1");
    vhost.password = at(&location, "--pass", secret).map(Password::Inline);
    let raw = Raw {
        vhosts: vec![vhost],
        process: raw::Process::default(),
    };
    let mut shown = format!("{raw:?}");
    let mistakes = check(raw).unwrap_err();
    shown.push_str(&format!("{mistakes:?} {}", mistakes[0]));
    assert!(
        shown.contains("28 bytes") && !shown.contains("horse"),
        "{shown}"
    );
}
