//! Mutants of what the daemon tells the kernel program about a virtual host, and of the fence. Its unit tests must notice them.

use super::Mutant;

const TENURE: &str = "carp-daemon/src/engine/instance/tenure.rs";

/// Mutants of the fence.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "tenure: does not care that the kernel program has no room",
        file: TENURE,
        find: "told.is_err()",
        replace: "told.is_err() && false",
        caught_by: &[
            "engine::tests::machine::a_virtual_host_for_which_there_is_no_room_is_in_init_until_there_is",
        ],
    },
    Mutant {
        name: "tenure: does not care that its entry could not be renewed",
        file: TENURE,
        find: "told.is_ok()",
        replace: "told.is_ok() || true",
        caught_by: &[
            "engine::tests::machine::a_master_that_yields_falls_silent_even_if_the_kernel_program_has_no_memory_to_learn_that",
            "engine::tests::machine::a_master_whose_entry_can_be_neither_renewed_nor_replaced_gives_way_until_it_can",
        ],
    },
    Mutant {
        name: "tenure: does not care that the datapath refused to fence its addresses, or to lift the fence",
        file: TENURE,
        find: "outcome.is_err()",
        replace: "outcome.is_err() && false",
        caught_by: &[
            "engine::tests::machine::a_fence_that_is_refused_at_the_takeover_is_closed_with_the_next_advertisement",
            "engine::tests::machine::a_fence_that_cannot_be_lifted_is_lifted_a_second_later",
        ],
    },
    Mutant {
        name: "tenure: leaves its entry in the kernel when it goes",
        file: TENURE,
        find: "site.cx.effects.withdraw(key)",
        replace: "Ok(())",
        caught_by: &[
            "engine::tests::coming::a_removed_master_bows_out_and_nothing_of_it_is_left_and_the_other_notices_nothing",
        ],
    },
    Mutant {
        name: "tenure: does not tell the kernel program that its source is another one",
        file: TENURE,
        find: "site.cx.effects.set_endpoints(key, endpoints)",
        replace: "{ let _: Endpoints = endpoints; Ok(()) }",
        caught_by: &[
            "engine::tests::link::a_master_whose_source_address_is_replaced_goes_on_from_the_new_one",
        ],
    },
    Mutant {
        name: "tenure: becomes MASTER and does not fence its addresses",
        file: TENURE,
        find: "self.tell(who, site, KernelProgram::own);",
        replace: "",
        caught_by: &[
            "engine::tests::process::a_killed_master_falls_silent_before_a_backup_takes_over_and_its_address_goes_after_that",
        ],
    },
    Mutant {
        name: "tenure: lets this host answer for what an up script may still add",
        file: TENURE,
        find: "is_awaited || is_there || is_unknown",
        replace: "is_there || is_unknown",
        caught_by: &[
            "engine::tests::scripts::a_host_that_yields_while_its_up_script_runs_stays_silent_until_the_down_script_has_run",
        ],
    },
    Mutant {
        name: "tenure: trusts tables that are out of date, and lets this host answer",
        file: TENURE,
        find: "namespace.is_stale()",
        replace: "namespace.is_stale() && false",
        caught_by: &[
            "engine::tests::scripts::while_it_is_unknown_what_a_script_has_added_the_host_stays_silent",
        ],
    },
    Mutant {
        name: "tenure: lifts the fence of an address that may still be there",
        file: TENURE,
        find: "!who.leftovers(site.interface.ifindex, namespace).is_empty()",
        replace: "who.leftovers(site.interface.ifindex, namespace).is_empty() && false",
        caught_by: &[
            "engine::tests::leaving::a_host_stays_silent_while_another_address_with_its_number_is_there",
        ],
    },
    Mutant {
        name: "tenure: lets this host answer while the down script runs",
        file: TENURE,
        find: "addresses.any(|wanted| namespace.has(wanted.address))",
        replace: "addresses.any(|wanted| namespace.has(wanted.address)) && false",
        caught_by: &[
            "engine::tests::scripts::the_address_is_silent_until_the_down_script_has_removed_it",
        ],
    },
    Mutant {
        name: "tenure: does not remember an entry that the datapath refused to remove",
        file: TENURE,
        find: "removed.is_err().then_some(key)",
        replace: "removed.is_err().then_some(key).filter(|_| false)",
        caught_by: &[
            "engine::tests::leaving::a_removed_virtual_host_whose_entry_the_datapath_keeps_is_silent_until_the_entry_is_gone",
            "engine::tests::leaving::an_orderly_stop_tries_again_to_remove_what_the_datapath_knows_and_says_what_it_leaves",
        ],
    },
    Mutant {
        name: "rooms: does not close the fence with the entry of a MASTER that leaves, which the datapath may refuse to remove",
        file: "carp-daemon/src/engine/instance/rooms.rs",
        find: "is_wanted || before.state == State::Master",
        replace: "is_wanted",
        caught_by: &[
            "engine::tests::leaving::a_removed_virtual_host_whose_entry_the_datapath_keeps_is_silent_until_the_entry_is_gone",
        ],
    },
    Mutant {
        name: "rooms: lifts the fence of an address that the down script could not remove at the end",
        file: "carp-daemon/src/engine/instance/rooms.rs",
        find: "self.is_closed && self.leaves_addresses",
        replace: "self.is_closed",
        caught_by: &[
            "engine::tests::leaving::an_address_that_the_down_script_left_at_the_end_stays_silent",
        ],
    },
    Mutant {
        name: "tenure: does not close the fence again when an address of ours comes back",
        file: TENURE,
        find: "if «!is_ours» || site",
        replace: "true",
        caught_by: &[
            "engine::tests::leaving::an_address_of_ours_that_comes_while_this_host_is_not_master_is_silent",
        ],
    },
    Mutant {
        name: "tenure: never lifts the fence",
        file: TENURE,
        find: "std::mem::take(&mut self.fenced)",
        replace: "self.fenced && false",
        caught_by: &[
            "engine::tests::process::an_address_of_a_killed_run_goes_when_another_master_is_heard",
            "engine::tests::scripts::the_address_is_silent_until_the_down_script_has_removed_it",
        ],
    },
];
