//! Scripts that own the address: which ones are requested, and the consequences if they fail.

use carp_common::units::State;

use super::host::FenceState;
use super::*;

/// The address as an up script adds it.
fn scripted_address() -> Address {
    address(101)
}

/// A MASTER whose up script has worked.
fn serving() -> Scene {
    let mut scene = Scene::master(scripted(1));
    scene.host().assign(scripted_address());
    scene.end_script(Which::Up, Outcome::Succeeded);
    scene.forget();
    scene
}

fn advertised(scene: &Scene) -> u8 {
    let instance = scene.engine.instances().next().unwrap();
    instance.machine().advertised().advskew.0
}

#[test]
fn the_scripts_of_each_state_are_asked_for_and_the_address_is_theirs() {
    let mut scene = Scene::start(config(vec![scripted(1)]), host());
    assert_eq!(scene.asked(&["run"]), ["run down on eth0 as BACKUP"]);
    scene.become_master();
    assert_eq!(scene.asked(&["run", "add"]), ["run up on eth0 as MASTER"]);
    scene.end_script(Which::Up, Outcome::Succeeded);
    assert_eq!(
        scene.asked(&["announce"]).last().unwrap(),
        "announce 10.0.0.101"
    );
    scene.hear(&mut Peer::new(0, 0));
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(
        scene.asked(&["run", "delete"]),
        ["run down on eth0 as BACKUP"]
    );
}

#[test]
fn a_neutral_start_runs_no_down_script_until_it_was_master() {
    let mut config = scripted(1);
    config.neutral = true;
    let mut scene = Scene::start(super::config(vec![config]), host());
    assert_eq!(scene.asked(&["run"]), Vec::<String>::new());
    scene.become_master();
    scene.turn_with([Arrival::StepDown]);
    let expected = ["run up on eth0 as MASTER", "run down on eth0 as BACKUP"];
    assert_eq!(scene.asked(&["run"]), expected);
}

#[test]
fn a_down_script_alone_leaves_the_address_to_carpd() {
    let mut config = vhost(1);
    config.scripts.down = Some(PathBuf::from("/down"));
    let mut scene = Scene::master(config);
    assert!(scene.host().has(VIP));
    scene.turn_with([Arrival::StepDown]);
    assert!(!scene.host().has(VIP));
    assert_eq!(scene.asked(&["run"]), ["run down on eth0 as BACKUP"]);
}

#[test]
fn a_failed_up_script_without_the_address_makes_the_host_give_way_and_runs_every_ten_seconds() {
    for outcome in [Outcome::Failed, Outcome::TimedOut, Outcome::NotStarted] {
        let mut scene = Scene::master(scripted(1));
        scene.end_script(Which::Up, outcome);
        assert_eq!(scene.told("up-script-failed"), 1);
        assert_eq!(advertised(&scene), 240);
        for _ in 0..3 {
            scene.forget();
            scene.pass(ms(10_000));
            assert_eq!(scene.asked(&["run"]), ["run up on eth0 as MASTER"]);
            scene.end_script(Which::Up, outcome);
            assert_eq!(scene.told("up-script-failed"), 0, "told once");
        }
        scene.pass(ms(10_000));
        scene.host().assign(scripted_address());
        scene.end_script(Which::Up, Outcome::Succeeded);
        assert_eq!(scene.told("up-script-worked"), 1);
        assert_eq!(advertised(&scene), 0);
    }
}

#[test]
fn an_up_script_that_fails_although_the_address_is_there_has_worked() {
    let mut scene = Scene::master(scripted(1));
    scene.host().assign(scripted_address());
    scene.turn();
    scene.end_script(Which::Up, Outcome::Failed);
    assert_eq!(advertised(&scene), 0);
    assert_eq!(scene.told("up-script-failed"), 0);
}

#[test]
fn a_host_that_is_master_no_longer_is_eligible_again_a_minute_after_the_last_failure() {
    let mut scene = Scene::master(scripted(1));
    scene.end_script(Which::Up, Outcome::Failed);
    let mut peer = Peer::new(2, 100);
    scene.hear(&mut peer);
    assert_eq!(scene.state(), State::Backup);
    scene.forget();
    scene.hear_for(&mut peer, ms(59_000));
    assert_eq!(advertised(&scene), 240);
    scene.hear_for(&mut peer, ms(2_000));
    assert_eq!(advertised(&scene), 0);
    assert_eq!(scene.told("up-script-failure-expired"), 1);
    assert_eq!(scene.asked(&["run"]), Vec::<String>::new());
}

#[test]
fn a_script_that_ends_when_its_state_is_over_changes_nothing() {
    let mut scene = Scene::master(scripted(1));
    scene.turn_with([Arrival::StepDown]);
    scene.forget();
    scene.end_script(Which::Up, Outcome::Failed);
    assert_eq!(advertised(&scene), 0);
    scene.end_script(Which::Down, Outcome::Failed);
    assert_eq!(advertised(&scene), 0);
    assert_eq!(scene.asked(&["announce", "run"]), Vec::<String>::new());
}

#[test]
fn while_it_is_unknown_what_a_script_has_added_the_host_stays_silent() {
    let mut scene = Scene::start(config(vec![scripted(1)]), host());
    scene.end_script(Which::Down, Outcome::Succeeded);
    scene.become_master();
    let mut better = Peer::new(0, 0);
    scene.hear(&mut better);
    assert_eq!(scene.state(), State::Backup);
    // The up script adds the address. The notification is lost, and addresses cannot be listed.
    scene.host().assign(scripted_address());
    scene.host().notifications.clear();
    scene.host().overrun = true;
    scene.host().faults.list = Some(libc::ENOBUFS);
    scene.end_script(Which::Up, Outcome::Succeeded);
    assert!(!scene.host().answers_for(VIP));
    scene.host().faults.list = None;
    scene.hear_for(&mut better, ms(2_000));
    assert!(!scene.host().answers_for(VIP), "the address is there");
    scene.host().remove(VIP);
    scene.end_script(Which::Down, Outcome::Succeeded);
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn while_the_link_flaps_scripts_are_asked_for_and_nobody_waits_for_them() {
    let mut scene = serving();
    for _ in 0..20 {
        scene.host().change(ETH0, |link| link.running = false);
        scene.pass(ms(100));
        scene.host().change(ETH0, |link| link.running = true);
        scene.pass(ms(100));
    }
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
    let asked = scene.asked(&["run"]);
    assert_eq!(asked.last().unwrap(), "run up on eth0 as MASTER");
}

#[test]
fn the_address_is_silent_until_the_down_script_has_removed_it() {
    let mut scene = serving();
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.pass(ms(1_000));
    assert_eq!(
        scene.host().fence(VIP),
        Some(FenceState::Closed),
        "the script is slow"
    );
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn an_up_script_that_still_runs_when_the_host_yields_adds_no_address_that_it_answers_for() {
    let mut scene = Scene::master(scripted(1));
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().assign(scripted_address());
    scene.end_script(Which::Up, Outcome::Succeeded);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().remove(VIP);
    scene.end_script(Which::Down, Outcome::Succeeded);
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn a_host_that_yields_while_its_up_script_runs_stays_silent_until_the_down_script_has_run() {
    let mut scene = Scene::master(scripted(1));
    scene.turn_with([Arrival::StepDown]);
    assert_eq!(
        scene.host().fence(VIP),
        Some(FenceState::Closed),
        "it may come"
    );
    scene.host().assign(scripted_address());
    scene.end_script(Which::Up, Outcome::Succeeded);
    assert_eq!(
        scene.host().fence(VIP),
        Some(FenceState::Closed),
        "it is there"
    );
    scene.host().remove(VIP);
    scene.end_script(Which::Down, Outcome::Succeeded);
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn a_host_that_yields_before_its_first_down_script_has_ended_is_let_go_after_any_number_of_cycles()
{
    let mut scene = Scene::start(config(vec![scripted(1)]), host());
    let id = scene.id();
    let mut better = Peer::new(0, 0);
    for _ in 0..3 {
        // The up script waits for the down script, and is not needed any more.
        scene.become_master();
        scene.hear(&mut better);
        assert_eq!(scene.state(), State::Backup);
        scene.end_script(Which::Down, Outcome::Succeeded);
        assert_eq!(scene.host().fence(VIP), None);
        scene.turn_with([Arrival::StepDown]);
    }
    scene.engine.remove(id);
    scene.turn();
    assert_eq!(scene.states(), []);
}

#[test]
fn an_address_present_at_the_start_is_silent_until_the_down_script_has_removed_it() {
    let mut host = host();
    host.addresses.push((scripted_address(), None));
    let mut scene = Scene::start(config(vec![scripted(1)]), host);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn an_address_of_a_killed_run_stays_silent_until_it_is_gone() {
    let mut config = scripted(1);
    config.neutral = true;
    let mut scene = Scene::master(config.clone());
    scene.host().assign(scripted_address());
    scene.turn();
    let host = scene.kill();
    let mut scene = Scene::start(super::config(vec![config]), host);
    let mut peer = Peer::new(2, 0);
    scene.hear_for(&mut peer, ms(10_000));
    assert!(scene.host().has(VIP) && !scene.host().answers_for(VIP));
    scene.host().remove(VIP);
    scene.hear(&mut peer);
    assert_eq!(scene.host().fence(VIP), None);
}

#[test]
fn an_address_that_somebody_removes_is_the_scripts_business() {
    let mut scene = serving();
    scene.host().remove(VIP);
    scene.turn();
    assert_eq!(scene.told("scripted-address-removed"), 1);
    scene.pass(ms(5_000));
    assert!(!scene.host().has(VIP));
    assert_eq!(advertised(&scene), 0);
}

#[test]
fn a_stop_runs_the_down_script_only_where_that_was_asked_for() {
    let mut scene = serving();
    scene.engine.shut_down();
    assert_eq!(scene.asked(&["run"]), Vec::<String>::new());
    assert_eq!(scene.told("address-stays"), 1);

    let mut config = scripted(1);
    config.release_at_exit = true;
    let mut scene = Scene::master(config);
    scene.engine.shut_down();
    assert_eq!(scene.asked(&["run"]), ["run down on eth0 as INIT"]);
    assert_eq!(scene.told("address-stays"), 0);
}
