//! The status that the engine shows on request.

use carp_common::abi::counters::Counter;

use super::*;
use crate::api::status::DatapathCounters;

fn of(counters: &DatapathCounters, counter: Counter) -> u64 {
    let counters = counters.as_ref().expect("they can be read");
    let found = counters.iter().find(|(name, _)| *name == counter.name());
    found.expect("every counter is there").1
}

#[test]
fn a_status_has_the_frames_of_each_virtual_host_and_those_that_were_for_none() {
    let mut scene = Scene::start(config(vec![vhost(1), vhost(2)]), host());
    // The peer sends for vhid 1.
    scene.hear(&mut Peer::new(2, 0));
    scene.host().count_one(Counter::PassedVrrp);
    scene.turn_with([Arrival::Report]);
    let status = scene.host().statuses.pop().expect("one was shown");
    let frames = status.virtual_hosts.iter().map(|it| it.frames.as_ref());
    let delivered: Vec<_> = frames
        .map(|frames| of(frames.expect("there is an interface"), Counter::Delivered))
        .collect();
    assert_eq!(delivered, [1, 0]);
    let [interface] = status.interfaces.as_slice() else {
        panic!("{status:?}");
    };
    assert_eq!(of(&interface.others, Counter::PassedVrrp), 1);
    assert_eq!(of(&interface.others, Counter::Delivered), 0);
}

#[test]
fn a_status_without_the_interface_has_no_frames() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().unplug(ETH0);
    scene.turn();
    scene.turn_with([Arrival::Report]);
    let status = scene.host().statuses.pop().expect("one was shown");
    assert!(status.virtual_hosts[0].frames.is_none() && status.interfaces.is_empty());
}
