//! tcx on a real link, where packet buffers differ from those of test runs: the kernel has removed a VLAN tag, or the
//! headers are not in the linear part.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::TCX_PROGRAM;
use nix::sched::{CloneFlags, unshare};

use crate::bpf::FrameSocket;
use crate::datapath::{Datapath, Hook};
use crate::frames::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn tcx_finds_advertisements_behind_stripped_tags_and_outside_of_the_linear_part() {
    // A namespace of its own for this thread, so that nothing has to be cleaned up.
    thread::spawn(on_a_link).join().unwrap();
}

fn on_a_link() {
    if !nix::unistd::geteuid().is_root() {
        // Prints that it is skipped, or fails.
        assert!(Datapath::load(Hook::Tcx).is_none());
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link add near mtu 9000 type veth peer name far mtu 9000");
    ip("link set near up");
    ip("link set far up");
    let near = nix::net::if_::if_nametoindex("near").unwrap();
    let far = nix::net::if_::if_nametoindex("far").unwrap();
    let Some(mut datapath) = Datapath::load_for(near, Hook::Tcx, &[]) else {
        return;
    };
    let tcx: &mut SchedClassifier = datapath
        .program
        .program_mut(TCX_PROGRAM)
        .unwrap()
        .try_into()
        .unwrap();
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    match tcx.attach_with_options("near", TcAttachType::Ingress, order) {
        Ok(_) => {}
        Err(error) if !crate::kernel_is_at_least(6, 6) => {
            eprintln!("SKIPPED: no tcx before Linux 6.6: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let socket = FrameSocket::open(far);
    let counter = |offset: u64| authentic(VHID, COUNTER + offset);

    let plain = carrying(&counter(1));
    socket.send(&plain);
    assert_eq!(next(&mut datapath).payload(), &plain[CARP..]);

    let in_vlan = tagged(carrying(&counter(2)), &[[0x81, 0, 0xe0, 5]]);
    socket.send(&in_vlan);
    let event = next(&mut datapath);
    assert_eq!((event.key.vlan, event.key.inner_vlan), (5, 0));
    assert_eq!(event.payload(), &in_vlan[CARP + 4..]);

    // The packet socket puts everything behind the Ethernet header beyond a page into fragments.
    let mut paged = carrying(&counter(3));
    let payload = paged[CARP..].to_vec();
    paged.resize(8000, 0);
    socket.send(&paged);
    assert_eq!(next(&mut datapath).payload(), payload);
}

/// Returns the next advertisement that is delivered.
fn next(datapath: &mut Datapath) -> AdvertisementEvent {
    let begin = Instant::now();
    loop {
        let events = datapath.drain();
        if let [event] = events.as_slice() {
            return *event;
        }
        assert!(events.is_empty(), "{events:?}");
        assert!(begin.elapsed() < PATIENCE, "{:?}", datapath.moved());
        thread::sleep(Duration::from_millis(1));
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}
