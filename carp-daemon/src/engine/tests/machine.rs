//! The machine refuses: buffers are full, netlink fails, others take the program off, there is no room and no memory.

use carp_common::units::State;

use super::host::{FenceState, failed};
use super::*;
use crate::io::datapath::{HookLoss, Survival};

#[test]
fn the_wall_clock_moves_nothing() {
    let mut scene = Scene::backup(vhost(1));
    let mut peer = Peer::new(2, 0);
    for year in 0..10 {
        scene.host().wall_clock = year * 31_557_600_000_000_000;
        scene.hear_for(&mut peer, ms(2_000));
        assert_eq!(scene.state(), State::Backup);
    }
    scene.hear(&mut peer);
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn a_full_buffer_while_stopped_makes_a_backup_listen_for_a_whole_master_down_time() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    scene.sleep(ms(10_000));
    scene.host().lost = 5;
    scene.turn();
    assert_eq!(scene.told("advertisements-lost"), 1);
    scene.pass(MASTER_DOWN - ms(1));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn a_full_buffer_of_a_process_that_was_in_time_puts_nothing_off() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    for _ in 0..30 {
        scene.host().lost = 5;
        scene.pass(ms(100));
    }
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("advertisements-lost"), 0);
}

#[test]
fn a_memory_that_cannot_be_read_is_told_once_and_keeps_nobody_from_serving() {
    let mut host = host();
    host.keeps = true;
    host.faults.recall = true;
    let mut scene = Scene::start(config(vec![vhost(1), vhost(2)]), host);
    assert_eq!(scene.told("memory-ignored"), 1);
    assert_eq!(scene.states(), [State::Backup; 2]);
}

#[test]
fn heard_counters_are_written_now_and_then_and_recalled_by_the_next_run() {
    let mut host = host();
    host.keeps = true;
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    let mut peer = Peer::new(2, 0);
    scene.hear_for(&mut peer, ms(599_000));
    assert!(scene.host().memories.is_empty());
    scene.hear_for(&mut peer, ms(2_000));
    assert_eq!(scene.host().memories.len(), 1);
    let now = scene.host().now;
    let recorded = peer.advertise(now);
    scene.host().arrived.push_back(recorded);
    scene.turn();
    scene.engine.shut_down();
    let memories = scene.engine.take_memories();
    assert_eq!(memories.len(), 1, "there is something new since");
    let mut host = scene.kill();
    for (name, bytes) in memories {
        host.memories.insert(format!("{name:?}"), bytes);
    }
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    assert_eq!(scene.told("memory-recalled"), 1);
    // A recording of an advertisement that the earlier run heard does not delay the takeover.
    for _ in 0..30 {
        let mut again = recorded;
        again.arrival_ns = scene.host().now.as_nanos();
        scene.host().arrived.push_back(again);
        scene.pass(ms(100));
    }
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn lost_notifications_are_made_up_for_by_listing_everything() {
    let mut scene = Scene::master(vhost(1));
    let host = scene.host();
    host.addresses.retain(|(it, _)| it.address != VIP);
    host.overrun = true;
    scene.turn();
    assert_eq!(scene.told("netlink-overrun"), 1);
    assert_eq!(scene.asked(&["watch", "list"]), ["watch", "list"]);
    scene.pass(ms(100));
    assert!(scene.host().has(VIP));
}

#[test]
fn while_netlink_fails_the_engine_goes_on_and_lists_every_second() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.watch = Some(libc::EBADF);
    scene.turn();
    scene.pass(ms(5_500));
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.told("netlink-failed"), 1);
    let attempts = scene.asked(&["watch"]).len();
    assert!((5..=7).contains(&attempts), "{attempts}");
    // The list shows the changes that happened meanwhile.
    let host = scene.host();
    host.links.get_mut(&ETH0).unwrap().running = false;
    host.faults.watch = None;
    scene.pass(ms(1_100));
    assert_eq!(scene.state(), State::Init);
}

#[test]
fn links_that_cannot_be_listed_are_listed_again_every_second() {
    let mut scene = Scene::master(vhost(1));
    let host = scene.host();
    host.overrun = true;
    host.faults.list = Some(libc::ENOBUFS);
    scene.turn();
    scene.pass(ms(3_500));
    assert_eq!(scene.state(), State::Master);
    assert!(scene.asked(&["list"]).len() >= 4);
    scene.host().faults.list = None;
    scene.pass(ms(1_100));
    scene.forget();
    scene.pass(ms(10_000));
    assert_eq!(scene.asked(&["list"]), Vec::<String>::new());
}

#[test]
fn three_failures_to_send_make_the_host_give_way_and_three_successes_end_that() {
    for errno in [libc::ENOBUFS, libc::ENETDOWN] {
        let mut scene = Scene::master(vhost(1));
        scene.host().faults.send = Some(errno);
        scene.pass(ms(3_100));
        assert_eq!(scene.told("sending-fails"), 1);
        scene.host().faults.send = None;
        scene.forget();
        scene.pass(ms(10_000));
        let sent = scene.asked(&["advertise"]);
        let worse = sent.iter().filter(|it| it.starts_with("advertise 1/240"));
        assert_eq!(worse.count(), 3, "{sent:?}");
        assert_eq!(scene.told("sending-works"), 1);
        assert_eq!(sent.last().unwrap(), "advertise 1/0 from 10.0.0.1");
    }
}

#[test]
fn a_mute_master_yields_to_the_backup_that_took_over() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.send = Some(libc::ENOBUFS);
    scene.pass(ms(3_500));
    assert!(
        !scene.host().answers_for(VIP),
        "what was not sent extends nothing"
    );
    scene.hear(&mut Peer::new(2, 100));
    assert_eq!(scene.state(), State::Backup);
    assert!(!scene.host().has(VIP));
}

#[test]
fn a_program_that_was_taken_off_is_attached_again_and_a_backup_listens_anew() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    scene.pass(ms(2_900));
    let host = scene.host();
    host.losses.insert(ETH0, HookLoss::Detached);
    host.suspicious = true;
    scene.turn();
    assert_eq!(
        scene.asked(&["attach", "configure"]),
        ["attach eth0", "configure 1"]
    );
    assert_eq!(scene.told("datapath-lost"), 1);
    scene.pass(MASTER_DOWN - ms(1));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn a_backup_looks_whether_it_hears_before_it_trusts_a_silence() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    // The engine did not notice.
    scene.host().losses.insert(ETH0, HookLoss::Detached);
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(&["attach"]), ["attach eth0"]);
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn a_master_whose_program_was_taken_off_stays_master() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(1));
    let host = scene.host();
    host.losses.insert(ETH0, HookLoss::Detached);
    host.suspicious = true;
    scene.turn();
    assert_eq!(scene.state(), State::Master);
    assert_eq!(scene.asked(&["attach"]), ["attach eth0"]);
    assert!(scene.host().answers_for(VIP));
}

#[test]
fn where_nothing_can_be_attached_the_host_is_in_init_and_tries_every_second() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(1));
    let host = scene.host();
    host.losses.insert(ETH0, HookLoss::Replaced);
    host.suspicious = true;
    host.faults.attach = true;
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert!(!scene.host().has(VIP));
    scene.forget();
    scene.pass(ms(5_500));
    assert_eq!(scene.asked(&["attach"]).len(), 5);
    scene.host().faults.attach = false;
    scene.pass(INTERVAL);
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_program_that_is_taken_off_again_at_once_is_left_off_for_a_moment() {
    let mut scene = Scene::backup(vhost(1));
    for _ in 0..2 {
        let host = scene.host();
        host.losses.insert(ETH0, HookLoss::Detached);
        host.suspicious = true;
        scene.pass(ms(100));
    }
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.asked(&["attach"]).len(), 1);
    assert_eq!(scene.told("datapath-lost"), 1);
    scene.pass(ms(1_000));
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_virtual_host_for_which_there_is_no_room_is_in_init_until_there_is() {
    let mut host = host();
    host.faults.configure = true;
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.told("datapath-refused"), 1);
    scene.forget();
    scene.pass(ms(10_000));
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.asked(&["configure"]).len(), 10);
    assert_eq!(scene.told("datapath-refused"), 0, "once");
    scene.host().faults.configure = false;
    scene.pass(INTERVAL);
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.host().entries.len(), 1);
}

#[test]
fn a_virtual_host_for_which_there_was_no_room_begins_when_its_interface_comes_back() {
    for is_full in [false, true] {
        let mut host = host();
        host.faults.configure = true;
        let mut scene = Scene::start(config(vec![vhost(1)]), host);
        scene.host().unplug(ETH0);
        // Meanwhile nothing can be tried again.
        scene.pass(ms(5_000));
        scene.host().faults.configure = is_full;
        scene.host().plug(Link::up(7, "eth0"));
        let new = Address {
            ifindex: 7,
            ..address(1)
        };
        scene.host().assign(new);
        scene.pass(ms(1_500));
        let state = if is_full { State::Init } else { State::Backup };
        assert_eq!(scene.state(), state);
        scene.host().faults.configure = false;
        scene.pass(ms(1_000));
        assert_eq!(scene.state(), State::Backup);
    }
}

#[test]
fn a_master_that_yields_falls_silent_even_if_the_kernel_program_has_no_memory_to_learn_that() {
    for no_room in [false, true] {
        let mut scene = Scene::start(config(vec![scripted(1)]), host());
        scene.end_script(Which::Down, Outcome::Succeeded);
        scene.become_master();
        scene.host().assign(address(101));
        scene.end_script(Which::Up, Outcome::Succeeded);
        scene.pass(ms(500));
        assert!(scene.host().answers_for(VIP));
        scene.forget();
        scene.host().faults.renew = true;
        scene.host().faults.configure = no_room;
        let mut better = Peer::new(0, 0);
        scene.hear(&mut better);
        assert!(!scene.host().answers_for(VIP));
        // Without an entry it would hear nothing, and must not wait for a silence.
        let state = if no_room { State::Init } else { State::Backup };
        assert_eq!(scene.state(), state);
        assert_eq!(scene.told("datapath-refused"), 1);
        scene.host().faults.configure = false;
        scene.hear_for(&mut better, ms(2_000));
        assert_eq!(scene.state(), State::Backup);
        assert_eq!(scene.host().entries.len(), 1);
        assert!(!scene.host().answers_for(VIP));
    }
}

#[test]
fn a_master_whose_entry_cannot_be_renewed_gets_a_new_one_and_goes_on() {
    let mut scene = Scene::master(vhost(1));
    scene.pass(ms(500));
    scene.forget();
    scene.host().faults.renew = true;
    for _ in 0..40 {
        scene.pass(ms(500));
        assert_eq!(scene.state(), State::Master);
        assert!(scene.host().answers_for(VIP));
    }
    assert_eq!(scene.told("datapath-refused"), 2, "once in ten seconds");
}

#[test]
fn a_master_whose_entry_can_be_neither_renewed_nor_replaced_gives_way_until_it_can() {
    let mut scene = Scene::master(vhost(1));
    for _ in 0..2 {
        scene.pass(ms(15_000));
        assert_eq!(scene.state(), State::Master);
        assert!(scene.host().answers_for(VIP));
        scene.forget();
        scene.host().faults.renew = true;
        scene.host().faults.configure = true;
        scene.pass(INTERVAL);
        assert_eq!(scene.state(), State::Init);
        assert!(!scene.host().has(VIP));
        scene.pass(ms(30_000));
        assert_eq!(scene.state(), State::Init);
        assert_eq!(scene.told("datapath-refused"), 1, "once each time");
        scene.host().faults.renew = false;
        scene.host().faults.configure = false;
    }
}

#[test]
fn a_fence_that_is_refused_at_the_takeover_is_closed_with_the_next_advertisement() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().faults.own = true;
    scene.become_master();
    assert_eq!(scene.host().fence(VIP), None);
    assert_eq!(scene.told("datapath-refused"), 1);
    let survives = |scene: &mut Scene| {
        scene.turn_with([Arrival::Report]);
        let status = scene.host().statuses.pop().expect("it was shown");
        status.virtual_hosts[0].fence_survives_kill
    };
    assert_eq!(survives(&mut scene), Some(Survival::No));
    scene.host().faults.own = false;
    scene.pass(INTERVAL);
    assert!(scene.host().answers_for(VIP));
    assert_eq!(survives(&mut scene), Some(Survival::Yes));
    // The process hangs.
    scene.sleep(MASTER_DOWN);
    assert!(!scene.host().answers_for(VIP));
}

#[test]
fn a_fence_that_is_refused_at_the_start_is_closed_a_second_later() {
    let mut host = Scene::master(vhost(1)).kill();
    // Another program lifted the fence.
    host.owners.clear();
    host.faults.own = true;
    let mut scene = Scene::start(config(vec![vhost(1)]), host);
    assert!(scene.host().answers_for(VIP));
    scene.host().faults.own = false;
    scene.pass(ms(1_000));
    assert_eq!(scene.state(), State::Backup);
    assert!(!scene.host().answers_for(VIP));
}

#[test]
fn a_fence_that_cannot_be_lifted_is_lifted_a_second_later() {
    let mut scene = Scene::master(vhost(1));
    scene.host().faults.disown = true;
    let mut better = Peer::new(0, 0);
    scene.hear(&mut better);
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.host().fence(VIP), Some(FenceState::Closed));
    scene.hear_for(&mut better, ms(3_000));
    let asked = scene.asked(&["disown"]).len();
    assert!((3..6).contains(&asked), "{asked}");
    scene.host().faults.disown = false;
    scene.hear_for(&mut better, ms(1_000));
    assert_eq!(scene.host().fence(VIP), None);
    scene.forget();
    scene.hear_for(&mut better, ms(5_000));
    assert_eq!(scene.asked(&["disown"]), Vec::<String>::new());
}

#[test]
fn an_entry_that_another_program_changed_is_written_anew_before_a_silence_counts() {
    let mut scene = Scene::backup(vhost(1));
    scene.hear(&mut Peer::new(2, 0));
    for entry in scene.host().entries.values_mut() {
        entry.intact = false;
    }
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.told("datapath-entry-changed"), 1);
    assert!(scene.host().entries.values().all(|entry| entry.intact));
    scene.pass(MASTER_DOWN - ms(1));
    assert_eq!(scene.state(), State::Backup);
    scene.pass(ms(1));
    assert_eq!(scene.state(), State::Master);
}

#[test]
fn an_entry_that_is_gone_and_finds_no_room_leaves_the_host_in_init() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().entries.clear();
    scene.host().faults.configure = true;
    scene.pass(MASTER_DOWN);
    assert_eq!(scene.state(), State::Init);
}

#[test]
fn a_socket_that_fails_is_opened_again_and_if_it_fails_at_once_the_host_is_in_init() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().failures.push((ETH0, failed(libc::EIO)));
    scene.turn();
    assert_eq!(scene.state(), State::Backup);
    assert_eq!(scene.asked(&["attach"]), ["attach eth0"]);
    scene.host().failures.push((ETH0, failed(libc::EIO)));
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.asked(&["detach"]).len(), 1);
    scene.pass(ms(1_000));
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn a_socket_that_fails_because_its_interface_is_gone_waits_for_netlink() {
    let mut scene = Scene::backup(vhost(1));
    scene.host().links.remove(&ETH0);
    scene.host().failures.push((ETH0, failed(libc::ENODEV)));
    scene.turn();
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.asked(&["attach"]), Vec::<String>::new());
}

#[test]
fn an_interface_that_comes_when_there_are_no_descriptors_is_served_once_there_are() {
    let mut scene = Scene::master(vhost(1));
    scene.host().unplug(ETH0);
    scene.host().faults.open = Some(libc::EMFILE);
    let new = Link::up(7, "eth0");
    scene.host().plug(new);
    let new = Address {
        ifindex: 7,
        ..address(1)
    };
    scene.host().assign(new);
    scene.turn();
    assert_eq!(scene.told("interface-unservable"), 1);
    scene.pass(ms(5_500));
    assert_eq!(scene.state(), State::Init);
    assert_eq!(scene.told("interface-unservable"), 0, "once");
    scene.host().faults.open = None;
    scene.pass(INTERVAL);
    assert_eq!(scene.state(), State::Backup);
}

#[test]
fn the_program_takes_an_idle_backup_and_a_busy_master_to_be_alive() {
    let mut scene = Scene::backup(vhost(1));
    let alive = |scene: &mut Scene| {
        let host = scene.host();
        host.entries
            .values()
            .all(|entry| entry.standing.alive_until > host.now)
    };
    let mut peer = Peer::new(2, 0);
    for _ in 0..100 {
        scene.hear(&mut peer);
        scene.pass(INTERVAL);
        assert!(alive(&mut scene));
    }
    scene.become_master();
    for _ in 0..100 {
        scene.pass(INTERVAL);
        assert!(alive(&mut scene));
    }
    scene.sleep(ms(10_000));
    assert!(!alive(&mut scene), "a process that is stopped is not");
}
