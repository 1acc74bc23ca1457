use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use carp_common::proto::{AddressSet, Key};
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Profile, Vhid};
use proptest::prelude::*;
use zeroize::Zeroize as _;

use super::*;
use crate::config::example::plain;
use crate::config::{Datapath, Fence, Lease, Ownership, StateDirectory, VirtualAddress};

const SETTINGS: [Setting; 22] = [
    Setting::Advbase,
    Setting::Advskew,
    Setting::Deadratio,
    Setting::Preempt,
    Setting::Profile,
    Setting::Addresses,
    Setting::Password,
    Setting::StrictCounter,
    Setting::NoOpenbsd,
    Setting::AnnounceRefresh,
    Setting::Source,
    Setting::Group,
    Setting::Broadcast,
    Setting::OwnMac,
    Setting::IgnoreCarrier,
    Setting::Ownership,
    Setting::UpScript,
    Setting::DownScript,
    Setting::Xparam,
    Setting::ScriptTimeout,
    Setting::ReleaseAtExit,
    Setting::Neutral,
];

const PROCESS_SETTINGS: [ProcessSetting; 7] = [
    ProcessSetting::Datapath,
    ProcessSetting::Fence,
    ProcessSetting::Lease,
    ProcessSetting::WaitInterface,
    ProcessSetting::Realtime,
    ProcessSetting::StateDirectory,
    ProcessSetting::Debug,
];

fn vhid(number: u8) -> Vhid {
    Vhid::new(number).unwrap()
}

/// Returns a virtual host that differs in every setting.
fn another(interface: &str, number: u8) -> VhostConfig {
    let address = IpAddr::V4(Ipv4Addr::new(10, 9, 1, number));
    VhostConfig {
        interface: interface.to_owned(),
        election: Settings {
            vhid: vhid(number),
            advbase: AdvBase(2),
            advskew: AdvSkew(100),
            deadratio: DeadRatio::new(5).unwrap(),
            preempt: true,
            profile: Profile::OpenBsd,
            addresses: AddressSet::new([address]),
            key: Key::new(b"hate").unwrap(),
            strict_counter: true,
            no_openbsd: true,
            announce_refresh: Some(Duration::from_secs(60)),
        },
        source: Some(Ipv4Addr::new(10, 9, 0, 1)),
        group: Ipv4Addr::new(239, 1, 2, 3),
        broadcast: true,
        own_mac: true,
        ignore_carrier: true,
        addresses: vec![VirtualAddress {
            address,
            prefix: 32,
        }],
        ownership: Ownership::Scripts,
        scripts: Scripts {
            up: Some(PathBuf::from("/up")),
            down: Some(PathBuf::from("/down")),
            xparam: Some(OsString::from("x")),
            timeout: Duration::from_secs(5),
        },
        release_at_exit: true,
        neutral: true,
    }
}

fn config(vhosts: Vec<VhostConfig>) -> Config {
    Config {
        vhosts,
        datapath: Datapath::Auto,
        fence: Fence::Arp,
        lease: Lease::Auto,
        wait_interface: false,
        realtime: false,
        state_directory: None,
        debug: false,
    }
}

/// Returns the configuration of a process that differs in every setting.
fn another_process(vhosts: Vec<VhostConfig>) -> Config {
    Config {
        vhosts,
        datapath: Datapath::Tcx,
        fence: Fence::All,
        lease: Lease::Off,
        wait_interface: true,
        realtime: true,
        state_directory: Some(StateDirectory {
            path: PathBuf::from("/var/lib/carpd"),
            create: true,
        }),
        debug: true,
    }
}

/// Copies one setting.
fn take(config: &mut VhostConfig, setting: Setting, from: &VhostConfig) {
    let (ours, theirs) = (&mut config.election, &from.election);
    match setting {
        Setting::Advbase => ours.advbase = theirs.advbase,
        Setting::Advskew => ours.advskew = theirs.advskew,
        Setting::Deadratio => ours.deadratio = theirs.deadratio,
        Setting::Preempt => ours.preempt = theirs.preempt,
        Setting::Profile => ours.profile = theirs.profile,
        Setting::Addresses => {
            ours.addresses.clone_from(&theirs.addresses);
            config.addresses.clone_from(&from.addresses);
        }
        Setting::Password => ours.key = theirs.key.clone(),
        Setting::StrictCounter => ours.strict_counter = theirs.strict_counter,
        Setting::NoOpenbsd => ours.no_openbsd = theirs.no_openbsd,
        Setting::AnnounceRefresh => ours.announce_refresh = theirs.announce_refresh,
        Setting::Source => config.source = from.source,
        Setting::Group => config.group = from.group,
        Setting::Broadcast => config.broadcast = from.broadcast,
        Setting::OwnMac => config.own_mac = from.own_mac,
        Setting::IgnoreCarrier => config.ignore_carrier = from.ignore_carrier,
        Setting::Ownership => config.ownership = from.ownership,
        Setting::UpScript => config.scripts.up.clone_from(&from.scripts.up),
        Setting::DownScript => config.scripts.down.clone_from(&from.scripts.down),
        Setting::Xparam => config.scripts.xparam.clone_from(&from.scripts.xparam),
        Setting::ScriptTimeout => config.scripts.timeout = from.scripts.timeout,
        Setting::ReleaseAtExit => config.release_at_exit = from.release_at_exit,
        Setting::Neutral => config.neutral = from.neutral,
    }
}

/// Copies one setting of the process.
fn take_in_process(config: &mut Config, setting: ProcessSetting, from: &Config) {
    match setting {
        ProcessSetting::Datapath => config.datapath = from.datapath,
        ProcessSetting::Fence => config.fence = from.fence,
        ProcessSetting::Lease => config.lease = from.lease,
        ProcessSetting::WaitInterface => config.wait_interface = from.wait_interface,
        ProcessSetting::Realtime => config.realtime = from.realtime,
        ProcessSetting::StateDirectory => {
            config.state_directory.clone_from(&from.state_directory);
        }
        ProcessSetting::Debug => config.debug = from.debug,
    }
}

/// Carries out the plan. Only the settings that it names change.
fn apply(plan: &Plan, old: &Config, new: &Config) -> Config {
    let mut result = old.clone();
    for setting in &plan.process {
        take_in_process(&mut result, *setting, new);
    }
    let before = std::mem::take(&mut result.vhosts);
    let mut seen = Vec::new();
    for (id, step) in &plan.vhosts {
        assert!(!seen.contains(id), "{id} twice");
        seen.push(id.clone());
        let present = before.iter().find(|it| it.id() == *id);
        let vhost = match (step, present) {
            (Step::Keep, Some(present)) => present.clone(),
            (Step::Change { what, to }, Some(present)) => {
                assert!(!what.is_empty());
                assert!(what.iter().all(|it| it.restart_reason().is_none()));
                changed_by(present, what, to)
            }
            (Step::Restart { what, to }, Some(present)) => {
                assert!(what.iter().any(|it| it.restart_reason().is_some()));
                changed_by(present, what, to)
            }
            (Step::Add(vhost), None) => (**vhost).clone(),
            (Step::Remove, Some(_)) => continue,
            other => panic!("{id}: {other:?}"),
        };
        result.vhosts.push(vhost);
    }
    assert!(before.iter().all(|it| seen.contains(&it.id())), "{plan:?}");
    result
}

fn changed_by(present: &VhostConfig, what: &[Setting], to: &VhostConfig) -> VhostConfig {
    let mut vhost = present.clone();
    for setting in what {
        take(&mut vhost, *setting, to);
    }
    vhost
}

fn any_vhosts() -> impl Strategy<Value = Vec<VhostConfig>> {
    let id = (prop_oneof![Just("eth0"), Just("eth1")], 1..4u8);
    // In most cases few settings differ, in some many.
    let which = prop_oneof![
        2 => Just(0),
        4 => (0..SETTINGS.len()).prop_map(|bit| 1_u32 << bit),
        1 => any::<u32>(),
    ];
    proptest::collection::btree_map(id, which, 0..6)
        .prop_map(|vhosts| {
            let vhosts = vhosts.into_iter();
            vhosts
                .map(|((interface, number), which)| {
                    let other = another(interface, number);
                    let settings = (0..).zip(SETTINGS);
                    let mut vhost = plain(interface, number);
                    for (_, setting) in settings.filter(|(bit, _)| which >> bit & 1 == 1) {
                        take(&mut vhost, setting, &other);
                    }
                    vhost
                })
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn any_config() -> impl Strategy<Value = Config> {
    (any_vhosts(), prop_oneof![Just(0), any::<u8>()]).prop_map(|(vhosts, which)| {
        let other = another_process(Vec::new());
        let mut config = config(vhosts);
        for (_, setting) in (0..)
            .zip(PROCESS_SETTINGS)
            .filter(|(bit, _)| which >> bit & 1 == 1)
        {
            take_in_process(&mut config, setting, &other);
        }
        config
    })
}

/// Wipes the passwords, as a running daemon has done.
fn wiped(mut config: Config) -> Config {
    for vhost in &mut config.vhosts {
        vhost.election.key.zeroize();
    }
    config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn carrying_out_the_plan_gives_the_new_configuration(old in any_config(), new in any_config()) {
        let old = wiped(old);
        let plan = diff(&old, &new);
        prop_assert_eq!(apply(&plan, &old, &new), new);
    }

    #[test]
    fn nothing_is_to_be_done_for_the_same_configuration(config in any_config()) {
        let plan = diff(&wiped(config.clone()), &config);
        prop_assert!(plan.is_empty(), "{:?}", plan);
        prop_assert_eq!(plan.restart_reasons().count(), 0);
        prop_assert_eq!(plan.to_string(), "");
        prop_assert_eq!(plan.vhosts.len(), config.vhosts.len());
    }

    #[test]
    fn the_order_of_virtual_hosts_does_not_matter(
        vhosts in any_vhosts().prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle()))
    ) {
        let (one, other) = vhosts;
        prop_assert!(diff(&config(one), &config(other)).is_empty());
    }
}

#[test]
fn each_setting_alone_is_found_and_only_three_need_a_restart() {
    for setting in SETTINGS {
        let old = plain("eth0", 7);
        let mut new = old.clone();
        take(&mut new, setting, &another("eth0", 7));
        let plan = diff(&config(vec![old]), &config(vec![new.clone()]));
        let (what, to) = (vec![setting], Box::new(new.clone()));
        let restarts = [Setting::Profile, Setting::Group, Setting::Ownership].contains(&setting);
        let expected = if restarts {
            Step::Restart { what, to }
        } else {
            Step::Change { what, to }
        };
        assert_eq!(plan.vhosts, [(new.id(), expected)]);
        assert!(!plan.is_empty() && plan.process.is_empty());
    }
}

#[test]
fn each_setting_of_the_process_alone_is_found_and_most_need_another_process() {
    for setting in PROCESS_SETTINGS {
        let (old, mut new) = (config(Vec::new()), config(Vec::new()));
        take_in_process(&mut new, setting, &another_process(Vec::new()));
        let plan = diff(&old, &new);
        assert_eq!(plan.process, [setting]);
        assert!(!plan.is_empty());
        let in_place = [ProcessSetting::Lease, ProcessSetting::WaitInterface].contains(&setting);
        assert_eq!(plan.restart_reasons().count(), usize::from(!in_place));
    }
}

#[test]
fn a_prefix_length_alone_is_a_change_of_the_addresses() {
    let old = plain("eth0", 7);
    let mut new = old.clone();
    new.addresses[0].prefix = 25;
    let plan = diff(&config(vec![old]), &config(vec![new]));
    let [(_, Step::Change { what, .. })] = &plan.vhosts[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(what, &[Setting::Addresses]);
}

#[test]
fn another_vhid_or_interface_is_another_virtual_host() {
    for (interface, number) in [("eth0", 8), ("eth1", 7)] {
        let (old, new) = (plain("eth0", 7), plain(interface, number));
        let plan = diff(&config(vec![old.clone()]), &config(vec![new.clone()]));
        assert_eq!(
            plan.vhosts,
            [(new.id(), Step::Add(new.into())), (old.id(), Step::Remove)]
        );
    }
}

#[test]
fn a_plan_is_told_in_a_line_for_each_thing_to_do_without_values() {
    let mut changed = plain("eth0", 7);
    take(&mut changed, Setting::Advskew, &another("eth0", 7));
    take(&mut changed, Setting::Password, &another("eth0", 7));
    let mut restarted = plain("eth0", 8);
    take(&mut restarted, Setting::Profile, &another("eth0", 8));
    take(&mut restarted, Setting::Advskew, &another("eth0", 8));
    let old = ["eth0", "eth1"].map(|interface| (1..=4).map(move |it| plain(interface, it)));
    let old: Vec<_> = old
        .into_iter()
        .flatten()
        .chain([plain("eth0", 7), plain("eth0", 8), plain("eth2", 1)])
        .collect();
    let mut new = config(old[..8].to_vec());
    new.vhosts.extend([changed, restarted, plain("eth3", 1)]);
    new.lease = Lease::Off;
    new.realtime = true;
    assert_eq!(
        diff(&config(old), &new).to_string(),
        "lease: changed in place\n\
         realtime: needs a restart of carpd: the capabilities for it are given up when the start is over\n\
         eth0 id 7: changed in place: advskew, password\n\
         eth0 id 8: restarted: advskew, profile (the profiles differ in digests, ties and demotion, \
         so peers must elect again)\n\
         eth3 id 1: added\n\
         eth2 id 1: removed\n"
    );
}
