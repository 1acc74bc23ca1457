//! Mutants of how the daemon adds and removes virtual hosts while it serves others. Its unit tests must notice them.

use super::Mutant;

const SEGMENT: &str = "carp-daemon/src/engine/segment/mod.rs";
const FOLLOW: &str = "carp-daemon/src/engine/segment/follow.rs";
const SERVED: &str = "carp-daemon/src/engine/served.rs";
const DEPARTURES: &str = "carp-daemon/src/engine/departures.rs";
const REMOVALS: &str = "carp-daemon/src/engine/instance/removals.rs";

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "coming: one that is removed keeps its locks",
        file: SEGMENT,
        find: "gone.unlock(&mut cx.effects);",
        replace: "",
        caught_by: &[
            "engine::tests::coming::a_removed_master_bows_out_and_nothing_of_it_is_left_and_the_other_notices_nothing",
            "engine::tests::coming::an_addition_that_fails_holds_no_locks_and_the_next_one_takes_its_own",
        ],
    },
    Mutant {
        name: "coming: the last one of a group does not leave it",
        file: SEGMENT,
        find: "cx.effects.leave(ifindex, *group);",
        replace: "",
        caught_by: &[
            "engine::tests::coming::a_group_is_joined_with_its_first_virtual_host_and_left_with_its_last",
        ],
    },
    Mutant {
        name: "coming: takes a renamed interface for another one",
        file: SERVED,
        find: "known.ifindex == at",
        replace: "known.ifindex == at && false",
        caught_by: &[
            "engine::tests::coming::an_interface_that_was_renamed_is_the_same_one_by_its_present_name",
        ],
    },
    Mutant {
        name: "coming: opens an interface again by another name",
        file: FOLLOW,
        find: "cx.open.contains(&link.index)",
        replace: "cx.open.contains(&link.index) && false",
        caught_by: &[
            "engine::tests::coming::an_interface_that_gets_the_name_of_an_awaited_one_is_opened_once",
        ],
    },
    Mutant {
        name: "coming: one that is removed is let go while its address is still there",
        file: DEPARTURES,
        find: "!instance.rooms.leaves_something()",
        replace: "(instance.rooms.leaves_something() || true)",
        caught_by: &[
            "engine::tests::leaving::a_removed_virtual_host_whose_down_script_fails_is_silent_until_the_address_is_gone",
            "engine::tests::leaving::a_removed_virtual_host_whose_address_cannot_be_removed_is_let_go_when_it_is_gone",
        ],
    },
    Mutant {
        name: "coming: one that is removed is let go while its scripts run",
        file: DEPARTURES,
        find: "filter(|_| «!cx.effects.runs(id)»)",
        replace: "true",
        caught_by: &[
            "engine::tests::leaving::a_removed_virtual_host_is_silent_for_addresses_that_its_running_up_script_adds",
        ],
    },
    Mutant {
        name: "coming: one that is added again does not wait for the scripts of the old one",
        file: DEPARTURES,
        find: "before.is_some_and(|before| cx.effects.runs(before))",
        replace: "before.is_some_and(|before| cx.effects.runs(before)) && false",
        caught_by: &[
            "engine::tests::leaving::a_virtual_host_that_is_added_again_begins_when_the_scripts_of_the_old_one_have_ended",
        ],
    },
    Mutant {
        name: "coming: one that is added again opens the fence around what is left",
        file: DEPARTURES,
        find: "served.leave(before, FenceFate::Inherited, cx);",
        replace: "let _ = FenceFate::Inherited; served.leave(before, FenceFate::Lifted, cx);",
        caught_by: &[
            "engine::tests::leaving::a_virtual_host_that_is_added_again_inherits_the_fence_around_leftover_addresses",
        ],
    },
    Mutant {
        name: "coming: one that is added again forgets what the old one could not remove",
        file: DEPARTURES,
        find: "instance.rooms.removals.inherit(removals);",
        replace: "",
        caught_by: &[
            "engine::tests::leaving::an_heir_with_another_address_goes_on_removing_the_old_one_without_a_fence",
        ],
    },
    Mutant {
        name: "removals: tries only once",
        file: REMOVALS,
        find: "self.retry_at = Some(now + RETRY_INTERVAL);",
        replace: "",
        caught_by: &[
            "engine::tests::leaving::an_address_that_cannot_be_removed_is_silent_and_tried_again_every_second",
        ],
    },
    Mutant {
        name: "removals: removes what the host is MASTER of again",
        file: REMOVALS,
        find: "!kept.iter().any(|it| it.is_same(address))",
        replace: "(!kept.iter().any(|it| it.is_same(address)) || true)",
        caught_by: &[
            "engine::tests::leaving::an_address_that_could_not_be_removed_is_kept_by_a_host_that_is_master_again",
        ],
    },
    Mutant {
        name: "removals: removes what somebody put in the place of its address",
        file: REMOVALS,
        find: "namespace.known(address).is_some_and(|it| !is_theirs(it))",
        replace: "namespace.known(address).is_some_and(|it| !is_theirs(it) || true)",
        caught_by: &[
            "engine::tests::leaving::an_address_that_could_not_be_removed_and_is_somebody_elses_by_now_is_left_there",
        ],
    },
];
