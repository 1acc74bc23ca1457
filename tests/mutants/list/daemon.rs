//! Mutants of the daemon's rooms: what it does about addresses, scripts and claims of others. Its unit tests must notice
//! them.
//!
//! Each replaces an expression, or statements. A constant cannot have a switch.

use super::Mutant;

const PROBATION: &str = "carp-common/src/proto/probation.rs";
const NAMESPACE: &str = "carp-daemon/src/engine/namespace.rs";
const HOLDINGS: &str = "carp-daemon/src/engine/instance/holdings.rs";
const LEASE: &str = "carp-daemon/src/engine/instance/lease.rs";
const PLACE: &str = "carp-daemon/src/engine/instance/place.rs";
const RESTORE: &str = "carp-daemon/src/engine/instance/restore.rs";
const CONFLICT: &str = "carp-daemon/src/engine/instance/conflict.rs";
const PREDECESSOR: &str = "carp-daemon/src/engine/instance/predecessor.rs";
const SCRIPT: &str = "carp-daemon/src/engine/instance/script.rs";
const SOURCE: &str = "carp-daemon/src/engine/instance/source.rs";
const RENEWALS: &str = "carp-daemon/src/engine/renewals.rs";
const HEARING: &str = "carp-daemon/src/engine/segment/hearing.rs";
const CLAIMS: &str = "carp-daemon/src/engine/segment/claims.rs";
const STRANGERS: &str = "carp-daemon/src/engine/segment/strangers.rs";

const CONTEXT: &str = "carp-daemon/src/engine/context.rs";
const IDENTITY: &str = "carp-daemon/src/engine/instance/identity.rs";
const INTERFACE: &str = "carp-daemon/src/engine/interface.rs";
const ROOMS: &str = "carp-daemon/src/engine/instance/rooms.rs";
const UPLINK: &str = "carp-daemon/src/engine/instance/uplink.rs";

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "namespace: trusts its tables after a loss as soon as it watches anew",
        file: NAMESPACE,
        find: "self.blind = false;",
        replace: "(self.blind, self.stale) = (false, false);",
        caught_by: &[
            "engine::tests::addresses::addresses_are_listed_before_one_is_removed_until_that_has_worked_after_a_loss",
        ],
    },
    Mutant {
        name: "holdings: takes an address of somebody else for its own",
        file: HOLDINGS,
        find: "known.is_none_or(|known| known.protocol != ADDRESS_PROTOCOL)",
        replace: "false",
        caught_by: &[
            "engine::tests::foreign::an_address_of_another_program_that_only_a_refusal_reveals_is_left_alone",
        ],
    },
    Mutant {
        name: "holdings: gives an order to add what another program has added",
        file: HOLDINGS,
        find: "self.is_anothers(index, address, site)",
        replace: "false",
        caught_by: &[
            "engine::tests::foreign::an_address_of_another_program_is_not_taken_for_ours_because_an_answer_was_lost",
        ],
    },
    Mutant {
        name: "debts: gives back only once",
        file: CONTEXT,
        find: "self.namespace.debts().retry();",
        replace: "",
        caught_by: &[
            "engine::tests::foreign::an_address_that_an_order_of_ours_took_is_given_back_as_soon_as_the_kernel_allows_that",
            "engine::tests::foreign::an_address_that_an_order_of_ours_took_is_given_back_at_the_end_of_the_process",
        ],
    },
    Mutant {
        name: "debts: takes an address for one of ours that it could not give back",
        file: NAMESPACE,
        find: "self.debts.incur(*theirs);\n            return;",
        replace: "self.debts.incur(*theirs);",
        caught_by: &[
            "engine::namespace::tests::an_address_of_somebody_else_that_an_order_of_ours_met_was_taken",
        ],
    },
    Mutant {
        name: "holdings: leaves its addresses when it is not MASTER any more",
        file: HOLDINGS,
        find: "removals.remove(who, &address, site);",
        replace: "",
        caught_by: &[
            "engine::tests::link::a_master_whose_carrier_goes_releases_and_comes_back_as_a_backup",
            "engine::tests::process::an_orderly_stop_of_a_master_silences_bows_out_and_removes_in_this_order",
        ],
    },
    Mutant {
        name: "holdings: removes what somebody put in the place of its address a moment ago",
        file: HOLDINGS,
        find: "site.cx.catch_up();",
        replace: "",
        caught_by: &[
            "engine::tests::addresses::an_address_that_somebody_replaces_as_the_host_leaves_is_left_there",
        ],
    },
    Mutant {
        name: "holdings: removes addresses by what was known before notifications were lost",
        file: HOLDINGS,
        find: "site.cx.catch_up();",
        replace: "site.cx.listen();",
        caught_by: &[
            "engine::tests::addresses::an_address_that_somebody_replaced_while_notifications_were_lost_is_left_there",
        ],
    },
    Mutant {
        name: "holdings: leaves an address with its number that it does not know to hold",
        file: HOLDINGS,
        find: "left.iter().any(|known| known.is_same(&address))",
        replace: "false",
        caught_by: &[
            "engine::tests::addresses::an_address_with_our_number_goes_whatever_is_believed_about_it",
        ],
    },
    Mutant {
        name: "holdings: takes a lost answer for a refusal",
        file: HOLDINGS,
        find: "error.raw_os_error() == Some(libc::ENOBUFS)",
        replace: "false && error.raw_os_error().is_some()",
        caught_by: &[
            "engine::tests::addresses::an_address_whose_addition_was_not_answered_is_held_or_removed",
        ],
    },
    Mutant {
        name: "holdings: does not renew what it takes over from an earlier run",
        file: HOLDINGS,
        find: "site.cx.give(Order::Renew(*address, lease))",
        replace: "Ok::<(), io::Error>(())",
        caught_by: &[
            "engine::tests::process::an_address_of_a_killed_run_is_silent_until_the_election_and_its_heir_adds_nothing_anew",
        ],
    },
    Mutant {
        name: "holdings: leaves what it takes over ahead of the host's own addresses",
        file: HOLDINGS,
        find: "site.interface.unplaced = true;",
        replace: "",
        caught_by: &[
            "engine::tests::addresses::an_address_taken_over_from_an_earlier_run_is_put_behind_the_hosts_own",
        ],
    },
    Mutant {
        name: "holdings: takes a kernel that is slow for one that refuses",
        file: HOLDINGS,
        find: "std::mem::replace(holding, Holding::Ordered)",
        replace: "std::mem::replace(holding, Holding::None)",
        caught_by: &[
            "engine::tests::addresses::while_the_kernel_takes_long_a_master_advertises_and_announces_once_the_address_is_there",
            "engine::tests::addresses::an_address_that_was_ordered_and_is_not_wanted_any_more_is_removed_when_it_comes",
        ],
    },
    Mutant {
        name: "lease: renews when it is over",
        file: LEASE,
        find: "if complete { lease / 2 } else { lease / 8 }",
        replace: "if complete { lease } else { lease / 8 }",
        caught_by: &[
            "engine::tests::addresses::a_lease_is_renewed_at_half_of_it_and_only_while_master",
        ],
    },
    Mutant {
        name: "lease: waits as long after a failed renewal as after any other",
        file: LEASE,
        find: "if complete { lease / 2 } else { lease / 8 }",
        replace: "lease / 2",
        caught_by: &["engine::tests::addresses::a_renewal_that_fails_is_tried_again_in_time"],
    },
    Mutant {
        name: "lease: goes on renewing when it is not MASTER any more",
        file: LEASE,
        find: "*self = Self::default();",
        replace: "",
        caught_by: &[
            "engine::instance::lease::tests::a_lease_that_has_ended_is_not_renewed_and_does_not_run_out",
        ],
    },
    Mutant {
        name: "lease: never runs out",
        file: LEASE,
        find: "self.until.is_some_and(|until| until <= now)",
        replace: "self.until.is_some_and(|until| until <= now) && false",
        caught_by: &[
            "engine::tests::addresses::a_lease_that_ran_out_while_the_process_was_stopped_counts_as_no_removal",
        ],
    },
    Mutant {
        name: "place: adds no route although no own address brings one",
        file: PLACE,
        find: "neighbour.is_none()",
        replace: "neighbour.is_none() && false",
        caught_by: &[
            "engine::tests::addresses::without_an_own_address_in_its_subnet_a_route_comes_and_goes_with_the_address",
        ],
    },
    Mutant {
        name: "place: believes that routes outlive a link that goes down",
        file: PLACE,
        find: "route.take_if(|is_there| *is_there).is_some()",
        replace: "route.is_none()",
        caught_by: &[
            "engine::tests::addresses::a_route_that_the_kernel_dropped_with_the_link_is_added_again",
        ],
    },
    Mutant {
        name: "restore: fights for an address without end",
        file: RESTORE,
        find: "restored.len() < LIMIT",
        replace: "restored.len() < usize::MAX",
        caught_by: &[
            "engine::instance::restore::tests::three_restorations_within_ten_seconds_and_then_we_give_way",
            "engine::tests::addresses::an_address_that_is_removed_a_fourth_time_makes_the_host_give_way_until_it_is_left_alone",
        ],
    },
    Mutant {
        name: "restore: counts removals that are long ago",
        file: RESTORE,
        find: "restored.retain(|at| now < *at + WINDOW);",
        replace: "",
        caught_by: &["engine::instance::restore::tests::slow_removals_are_always_restored"],
    },
    Mutant {
        name: "engine: sleeps on changes that were read after orders",
        file: "carp-daemon/src/engine/mod.rs",
        find: "cx.busy |= «cx.namespace.has_changes()»;",
        replace: "false",
        caught_by: &[
            "engine::tests::link::an_interface_that_goes_while_its_addresses_are_removed_is_missed_at_once",
        ],
    },
    Mutant {
        name: "restore: puts an address back while a flush still runs",
        file: RESTORE,
        find: "restored.push_back(now);\n            self.retry_at.get_or_insert(now + DELAY);",
        replace: "restored.push_back(now); self.retry_at.get_or_insert(now);",
        caught_by: &[
            "engine::instance::restore::tests::a_restoration_waits_a_moment_and_no_longer_than_100_ms",
        ],
    },
    Mutant {
        name: "restore: ends the minute although there was another removal",
        file: RESTORE,
        find: "«self.probation.fail(now);»\n            self.retry_at.get_or_insert",
        replace: "",
        caught_by: &[
            "engine::instance::restore::tests::after_giving_way_it_tries_every_ten_seconds_until_a_quiet_minute",
        ],
    },
    Mutant {
        name: "restore: keeps the priority although an address cannot be added",
        file: RESTORE,
        find: "wishes.demoted = self.make_way(who, site);",
        replace: "self.make_way(who, site);",
        caught_by: &[
            "engine::tests::addresses::an_address_that_cannot_be_added_makes_the_host_give_way_and_is_tried_every_second",
        ],
    },
    Mutant {
        name: "restore: takes a lease that ran out for a removal",
        file: RESTORE,
        find: "holdings.has_run_out(site.cx.effects.now())",
        replace: "holdings.has_run_out(Instant::ZERO)",
        caught_by: &[
            "engine::tests::addresses::a_lease_that_ran_out_while_the_process_was_stopped_counts_as_no_removal",
        ],
    },
    Mutant {
        name: "restore: puts an address back and announces nothing",
        file: RESTORE,
        find: "self.count += u64::from(held && !was_ordered && !is_there);\n                wishes.claimed |= held;",
        replace: "self.count += u64::from(held && !was_ordered && !is_there);",
        caught_by: &[
            "engine::tests::addresses::a_removed_address_is_restored_and_announced_within_100_ms_up_to_three_times",
        ],
    },
    Mutant {
        name: "restore: leaves alone what a late order brought back",
        file: RESTORE,
        find: "if is_there && «is_settled» {",
        replace: "!was_ordered",
        caught_by: &[
            "engine::tests::addresses::an_address_that_a_late_renewal_brought_back_is_held_and_restored_again",
        ],
    },
    Mutant {
        name: "script: waits for the end of an up script that does not run",
        file: SCRIPT,
        find: "self.pending.pop_back();",
        replace: "",
        caught_by: &["engine::tests::scripts::\
             a_host_that_yields_before_its_first_down_script_has_ended_is_let_go_after_any_number_of_cycles"],
    },
    Mutant {
        name: "script: lifts the fence while an up script may still add the address",
        file: SCRIPT,
        find: "self.pending.extend(admission.accepted.then_some(which));",
        replace: "",
        caught_by: &[
            "engine::tests::scripts::an_up_script_that_still_runs_when_the_host_yields_adds_no_address_that_it_answers_for",
        ],
    },
    Mutant {
        name: "restore: gives way and never tries again",
        file: PROBATION,
        find: "self.until.take_if(|until| *until <= now).is_some()",
        replace: "self.until.is_none_or(|until| until > now) && false",
        caught_by: &[
            "core::proto::probation::tests::a_demotion_begins_once_and_ends_a_minute_after_the_last_failure",
            "engine::tests::addresses::a_host_that_gave_way_and_is_backup_becomes_eligible_again_after_a_minute",
            "engine::instance::restore::tests::a_backup_tries_nothing_and_still_becomes_eligible_again",
        ],
    },
    Mutant {
        name: "restore: takes an address that somebody replaced for its own",
        file: RESTORE,
        find: "site.cx.namespace.is_theirs(known)",
        replace: "site.cx.namespace.is_theirs(known) && false",
        caught_by: &[
            "engine::tests::addresses::an_address_that_another_program_replaces_is_left_alone",
        ],
    },
    Mutant {
        name: "conflict: answers for the address of another virtual host",
        file: CONFLICT,
        find: "who.addresses().all(|it| it != address)",
        replace: "false",
        caught_by: &[
            "engine::tests::arp::of_two_virtual_hosts_the_one_whose_address_it_is_answers",
        ],
    },
    Mutant {
        name: "conflict: takes this host's own ARP for another's",
        file: CLAIMS,
        find: "!links.values().any(|link| link.mac == sender)",
        replace: "links.values().all(|link| link.mac == sender || link.mac != sender)",
        caught_by: &["engine::tests::arp::a_frame_of_this_host_itself_is_no_claim"],
    },
    Mutant {
        name: "predecessor: does not see what an earlier run left",
        file: PREDECESSOR,
        find: "self.has_leftovers = !leftovers.is_empty();",
        replace: "self.has_leftovers = false;",
        caught_by: &[
            "engine::tests::process::an_address_of_a_killed_run_goes_when_another_master_is_heard",
        ],
    },
    Mutant {
        name: "predecessor: says nothing of somebody else's address",
        file: PREDECESSOR,
        find: "known.protocol != ADDRESS_PROTOCOL",
        replace: "known.protocol != ADDRESS_PROTOCOL && false",
        caught_by: &[
            "engine::tests::addresses::an_address_that_is_there_at_the_start_is_left_alone_and_told",
        ],
    },
    Mutant {
        name: "predecessor: forgets the fence that an earlier run's scripts need",
        file: PREDECESSOR,
        find: "tenure.inherit();",
        replace: "",
        caught_by: &[
            "engine::tests::scripts::an_address_of_a_killed_run_stays_silent_until_it_is_gone",
        ],
    },
    Mutant {
        name: "predecessor: answers for what the first down script is to remove",
        file: PREDECESSOR,
        find: "will_be_removed && addresses.any(|address| site.cx.namespace.has(address))",
        replace: "will_be_removed && false",
        caught_by: &[
            "engine::tests::scripts::an_address_present_at_the_start_is_silent_until_the_down_script_has_removed_it",
        ],
    },
    Mutant {
        name: "predecessor: a MASTER removes the address that it has just taken over",
        file: PREDECESSOR,
        find: "!held.iter().any(|held| held.is_same(&address))",
        replace: "true || held.is_empty()",
        caught_by: &[
            "engine::tests::process::an_address_of_a_killed_run_is_silent_until_the_election_and_its_heir_adds_nothing_anew",
        ],
    },
    Mutant {
        name: "script: does not run a failed up script again",
        file: SCRIPT,
        find: "self.retry_at = Some(now + RETRY);",
        replace: "",
        caught_by: &[
            "engine::tests::scripts::a_failed_up_script_without_the_address_makes_the_host_give_way_and_runs_every_ten_seconds",
        ],
    },
    Mutant {
        name: "script: runs the up script again on a host that is not MASTER any more",
        file: SCRIPT,
        find: "(wishes, retry && is_master)",
        replace: "(wishes, retry || is_master)",
        caught_by: &[
            "engine::tests::scripts::a_failed_up_script_without_the_address_makes_the_host_give_way_and_runs_every_ten_seconds",
        ],
    },
    Mutant {
        name: "source: gives up an address that was never here",
        file: SOURCE,
        find: "site.interface.is_virtual(address) || here || !was_here",
        replace: "site.interface.is_virtual(address) || here",
        caught_by: &[
            "engine::tests::link::a_srcip_that_never_was_on_this_host_is_used_all_the_same",
        ],
    },
    Mutant {
        name: "source: goes on with an address that is gone",
        file: SOURCE,
        find: "site.interface.is_virtual(address) || here || !was_here",
        replace: "true",
        caught_by: &[
            "engine::tests::link::the_address_of_srcip_takes_a_master_along_when_it_goes_and_back_when_it_returns",
        ],
    },
    Mutant {
        name: "renewals: take somebody else's address along",
        file: RENEWALS,
        find: "!holdings.is_ours(index, &address, &cx.namespace)",
        replace: "address.prefix == 0 && index == usize::MAX",
        caught_by: &[
            "engine::tests::addresses::an_address_that_another_program_replaces_is_left_alone",
        ],
    },
    Mutant {
        name: "renewals: take a failed one for a success",
        file: RENEWALS,
        find: "complete = false;",
        replace: "",
        caught_by: &["engine::tests::addresses::a_renewal_that_fails_is_tried_again_in_time"],
    },
    Mutant {
        name: "hearing: trusts a silence without a look at the attachment",
        file: HEARING,
        find: "waits == Some(true) && !hears(segment, id, cx)",
        replace: "waits == Some(true) && false",
        caught_by: &[
            "engine::tests::machine::a_backup_looks_whether_it_hears_before_it_trusts_a_silence",
            "engine::tests::machine::an_entry_that_another_program_changed_is_written_anew_before_a_silence_counts",
        ],
    },
    Mutant {
        name: "hearing: writes a changed entry anew and trusts the silence before it",
        file: HEARING,
        find: "instance.miss_advertisements(site);",
        replace: "",
        caught_by: &[
            "engine::tests::machine::an_entry_that_another_program_changed_is_written_anew_before_a_silence_counts",
        ],
    },
    Mutant {
        name: "hearing: fights with another program for the interface",
        file: HEARING,
        find: "hearing.mended_at.is_some_and(soon)",
        replace: "hearing.mended_at.is_some_and(soon) && false",
        caught_by: &[
            "engine::tests::machine::a_program_that_is_taken_off_again_at_once_is_left_off_for_a_moment",
        ],
    },
    Mutant {
        name: "hearing: does not try again what it could not attach",
        file: HEARING,
        find: "cx.retry_soon();",
        replace: "",
        caught_by: &[
            "engine::tests::machine::where_nothing_can_be_attached_the_host_is_in_init_and_tries_every_second",
        ],
    },
    Mutant {
        name: "strangers: leave what a dead carpd of another vhid left",
        file: STRANGERS,
        find: "cx.delete(&place, known)",
        replace: "Ok::<(), std::io::Error>(())",
        caught_by: &[
            "engine::tests::process::addresses_of_a_dead_carpd_of_another_vhid_are_removed_and_those_of_a_living_one_are_not",
        ],
    },
    Mutant {
        name: "strangers: count what an earlier run left as a living one's when the start fails",
        file: STRANGERS,
        find: "segment.interface.ifindex.or_else(named)",
        replace: "segment.interface.ifindex.or_else(|| named().filter(|_| false))",
        caught_by: &[
            "engine::tests::process::a_start_whose_kernel_program_is_refused_touches_no_address_and_leaves_the_fence_as_it_was",
        ],
    },
    Mutant {
        name: "families: sends from an IPv6 address that another host may have",
        file: INTERFACE,
        find: "!address.is_usable()",
        replace: "!address.is_usable() && false",
        caught_by: &[
            "engine::tests::families::an_ipv6_source_is_used_once_duplicate_address_detection_has_ended",
        ],
    },
    Mutant {
        name: "families: uses the address of --srcip in both",
        file: UPLINK,
        find: "family == Family::Inet",
        replace: "true",
        caught_by: &["engine::tests::families::a_srcip_is_the_source_of_one_family_only"],
    },
    Mutant {
        name: "families: joins the groups of broadcasts",
        file: IDENTITY,
        find: "!self.config.broadcast",
        replace: "true",
        caught_by: &[
            "engine::tests::families::the_ipv6_group_is_joined_with_its_first_virtual_host_and_left_with_its_last",
        ],
    },
    Mutant {
        name: "families: listens in IPv4 only",
        file: ROOMS,
        find: "self.uplink.endpoints(who, family, site.interface)",
        replace: "self.uplink.endpoints(who, Family::Inet, site.interface)",
        caught_by: &["engine::tests::families::each_family_in_use_is_listened_to_and_no_other"],
    },
];
