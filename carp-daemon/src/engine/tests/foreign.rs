//! Virtual addresses that another program adds as well, and orders whose answers are lost or that come too late.

use carp_common::units::State;

use super::addresses::without_lease;
use super::host::OURS;
use super::*;

/// Lets a MASTER, whose orders are not answered, be one for a while, and end. It must touch the address of another program
/// by no order but one to add it.
fn leaves_the_foreign_one_alone(mut scene: Scene) {
    scene.forget();
    scene.pass(ms(20_000));
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("addresses-cannot-be-added"), 0);
    let host = scene.stop();
    let touched = |it: &&String| it.starts_with("renew ") || it.starts_with("delete ");
    assert_eq!(host.asked.iter().find(touched), None);
    assert!(host.addresses.contains(&(foreign(), None)));
}

#[test]
fn an_address_of_another_program_is_not_taken_for_ours_because_an_answer_was_lost() {
    let mut scene = without_lease();
    scene.host().assign(foreign());
    scene.host().faults.unanswered = true;
    scene.become_master();
    leaves_the_foreign_one_alone(scene);
}

#[test]
fn an_address_of_another_program_that_only_a_refusal_reveals_is_left_alone() {
    let mut scene = without_lease();
    scene.host().addresses.push((foreign(), None));
    scene.become_master();
    leaves_the_foreign_one_alone(scene);
}

#[test]
fn any_number_of_the_kernel_shows_whose_an_address_is() {
    let mut host = host();
    let loopback = Address::new(1, [127, 0, 0, 1].into(), 8, 1);
    host.addresses.push((loopback, None));
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    scene.host().faults.add = Some(libc::ENOBUFS);
    scene.become_master();
    scene.host().assign(foreign());
    scene.turn();
    leaves_the_foreign_one_alone(scene);
}

/// Starts a MASTER whose order changed or deleted the address of another program, which the kernel refuses to take back.
fn indebted(takes: fn(&mut Recorder)) -> Scene {
    let mut scene = Scene::master(vhost(1));
    let host = scene.host();
    host.assign(foreign());
    takes(host);
    host.faults.add = Some(libc::ENOBUFS);
    scene.turn();
    assert_eq!(scene.told("address-leave-failed"), 1);
    scene
}

fn renewed_late(host: &mut Recorder) {
    let ends = host.now + ms(4_000);
    host.put(tagged(101), Some(ends));
}

fn deleted_late(host: &mut Recorder) {
    assert!(host.take_away(&foreign(), OURS));
}

const ORDERS: [&str; 3] = ["add", "renew", "delete"];
const GIVES_BACK: &str = "renew 10.0.0.101/32 for good as 0";

#[test]
fn an_address_that_an_order_of_ours_took_is_given_back_as_soon_as_the_kernel_allows_that() {
    for takes in [renewed_late, deleted_late] {
        let mut scene = indebted(takes);
        // Longer than the lease that our order gave it.
        scene.pass(ms(5_100));
        assert_eq!(scene.asked(&ORDERS), [GIVES_BACK; 6]);
        scene.host().faults.add = None;
        scene.pass(ms(1_000));
        assert!(scene.host().addresses.contains(&(foreign(), None)));
        assert_eq!(scene.told("address-left"), 1);
        assert_eq!(scene.told("address-leave-failed"), 0, "told once");
        scene.pass(ms(5_000));
        assert_eq!(scene.asked(&ORDERS), [GIVES_BACK]);
    }
}

#[test]
fn an_address_that_an_order_of_ours_took_is_given_back_at_the_end_of_the_process() {
    for takes in [renewed_late, deleted_late] {
        let mut scene = indebted(takes);
        scene.engine.shut_down();
        scene.host().faults.add = None;
        let (host, orphans) = scene.engine.close();
        assert!(host.addresses.contains(&(foreign(), None)));
        assert_eq!(orphans, []);
    }
}

#[test]
fn an_address_whose_owner_removes_it_is_not_given_back() {
    let mut scene = indebted(renewed_late);
    scene.host().remove(VIP);
    scene.host().faults.add = None;
    scene.forget();
    scene.pass(ms(1_500));
    assert_eq!(scene.asked(&["add"]), ["add 10.0.0.101/32 for 4 s"]);
    assert!(
        scene
            .host()
            .addresses
            .iter()
            .any(|(it, _)| *it == tagged(101))
    );
}
