//! Mutants of the rules beside the election itself: when silence counts, how long a host is MASTER and how long alive, what
//! follows when the kernel refuses to know, and how claims of others to the addresses are answered.

use super::{EVIDENCE, LISTENER, MACHINE, Mutant, VHOST};

const CONDITIONS: &str = "carp-common/src/proto/vhost/conditions.rs";
const CONFLICT: &str = "carp-common/src/proto/conflict.rs";
const TENURE: &str = "carp-common/src/proto/tenure.rs";
const PATIENCE: &str = "carp-common/src/proto/patience.rs";

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "a recording that its source did not go on with is forgotten",
        file: EVIDENCE,
        find: "|| «peer.stray.is_some_and(goes_on)»)",
        replace: "false",
        caught_by: &[
            "core::proto::vhost::tests::recordings::a_peer_is_believed_that_goes_on_with_a_recording_in_the_name_of_another",
        ],
    },
    Mutant {
        name: "takes every loss for one while the process was stopped",
        file: PATIENCE,
        find: "since.is_some_and(|since| now > since + STOPPED)",
        replace: "since.is_some_and(|since| now > since + STOPPED) || true",
        caught_by: &[
            "core::proto::patience::tests::losses_count_only_after_a_tenth_of_a_second_without_a_look",
        ],
    },
    Mutant {
        name: "gives addresses a lease that ends before an equal peer takes over",
        file: TENURE,
        find: "u64::from(takeover.subsec_nanos() > 0) + 1",
        replace: "u64::from(takeover.subsec_nanos() > 0)",
        caught_by: &[
            "core::proto::tenure::tests::a_lease_is_a_second_longer_than_the_fastest_takeover_and_2_s_at_least",
        ],
    },
    Mutant {
        name: "takes silence that it slept through for the end of the MASTER",
        file: PATIENCE,
        find: "if «is_late(slept, interval)» {",
        replace: "false",
        caught_by: &[
            "a_backup_that_slept_through_the_master_down_time_waits_for_one_more_advertisement",
            "a_backup_whose_machine_was_paused_does_not_depose_a_living_master",
        ],
    },
    Mutant {
        name: "waits again after each sleep",
        file: PATIENCE,
        find: "if «self.given_until.take() == Some(due)» {",
        replace: "self.given_until.take() == Some(due) && false",
        caught_by: &["a_backup_whose_machine_is_paused_again_and_again_still_takes_over"],
    },
    Mutant {
        name: "waits a whole master-down time after a sleep",
        file: PATIENCE,
        find: "(interval * 3 / 2).min(master_down)",
        replace: "master_down",
        caught_by: &[
            "a_backup_that_slept_through_the_master_down_time_waits_for_one_more_advertisement",
        ],
    },
    Mutant {
        name: "counts the time that it was meant to sleep as slept through",
        file: PATIENCE,
        find: "now.saturating_duration_since(due.max(looked_at))",
        replace: "now.saturating_duration_since(looked_at)",
        caught_by: &["a_hung_backup_counts_the_silence_from_the_last_arrival"],
    },
    Mutant {
        name: "after a sleep waits in one family only",
        file: LISTENER,
        find: "for family in «FAMILIES» {\n            if let Some(at)",
        replace: "[Family::Inet; 2]",
        caught_by: &["a_backup_whose_machine_was_paused_does_not_depose_a_living_master"],
    },
    Mutant {
        name: "an advertisement makes a host MASTER until others take over",
        file: TENURE,
        find: "interval + margin / 2",
        replace: "interval + margin * 3 / 2",
        caught_by: &["reigns::a_hung_master_is_silent_before_its_backup_takes_over"],
    },
    Mutant {
        name: "an advertisement makes a host MASTER until the next one is due",
        file: TENURE,
        find: "interval + margin / 2",
        replace: "interval",
        caught_by: &["reigns::a_hung_master_is_silent_before_its_backup_takes_over"],
    },
    Mutant {
        name: "goes on as MASTER by an earlier advertisement that announced more",
        file: TENURE,
        find: "self.owns_until = «now + lasts»;",
        replace: "self.owns_until.max(now + lasts)",
        caught_by: &[
            "core::proto::vhost::tests::scenarios::a_master_owns_its_addresses_as_long_as_its_last_advertisement_announced",
        ],
    },
    Mutant {
        name: "is MASTER as long as the next advertisement will announce",
        file: MACHINE,
        find: "self.standing.advertised(cx.now, «self.speaker.lasts»);",
        replace: "cx.lasting().advertisement",
        caught_by: &[
            "core::proto::vhost::tests::scenarios::a_master_owns_its_addresses_as_long_as_its_last_advertisement_announced",
        ],
    },
    Mutant {
        name: "advertisements prolong nothing",
        file: MACHINE,
        find: "if «outcome == SendOutcome::Sent» {",
        replace: "outcome != SendOutcome::Sent",
        caught_by: &["reigns::a_hung_master_is_silent_before_its_backup_takes_over"],
    },
    Mutant {
        name: "an advertisement that nobody can have heard prolongs the ownership",
        file: MACHINE,
        find: "if «outcome == SendOutcome::Sent» {",
        replace: "true",
        caught_by: &["reigns::a_master_that_cannot_send_is_silent_before_its_backup_takes_over"],
    },
    Mutant {
        name: "goes on answering when it leaves",
        file: TENURE,
        find: "State::Backup | State::Init => «Instant::ZERO»,",
        replace: "self.owns_until",
        caught_by: &["reigns::a_master_that_leaves_is_silent_before_it_says_so"],
    },
    Mutant {
        name: "falls silent only after everything else that a transition does",
        file: MACHINE,
        find: "«self.program_datapath(cx);»\n    }\n\n    /// An input was handled",
        replace: "",
        caught_by: &[
            "reigns::a_master_that_leaves_is_silent_before_it_says_so",
            "an_ordered_stop_hands_over_at_once",
        ],
    },
    Mutant {
        name: "renews its life when it is nearly over",
        file: TENURE,
        find: "remaining < lasts.life * 5 / 8",
        replace: "remaining < lasts.life / 8",
        caught_by: &["the_best_of_three_is_master_and_the_next_follows_a_crash"],
    },
    Mutant {
        name: "counts as alive long after its death",
        file: TENURE,
        find: "life: «master_down.max(advertised.interval()) * 2»,",
        replace: "master_down.max(advertised.interval()) * 20",
        caught_by: &["the_best_of_three_is_master_and_the_next_follows_a_crash"],
    },
    Mutant {
        name: "goes on although its kernel refuses it",
        file: MACHINE,
        find: "«self.start_or_stop(cx, Reason::DatapathRefused);»",
        replace: "if datapath == crate::proto::DatapathState::Works {\n                    \
            self.start_or_stop(cx, Reason::DatapathRefused);\n                }",
        caught_by: &["reigns::a_host_whose_kernel_refuses_it_is_in_init_until_that_works"],
    },
    Mutant {
        name: "starts while its kernel refuses it",
        file: CONDITIONS,
        find: "} else if «self.datapath == DatapathState::Refuses» {",
        replace: "false",
        caught_by: &["reigns::a_host_whose_kernel_refuses_it_is_in_init_until_that_works"],
    },
    Mutant {
        name: "does not start again when its kernel accepts it",
        file: MACHINE,
        find: "«self.start_or_stop(cx, Reason::DatapathRefused);»",
        replace: "if datapath != crate::proto::DatapathState::Works {\n                    \
            self.start_or_stop(cx, Reason::DatapathRefused);\n                }",
        caught_by: &["reigns::a_host_whose_kernel_refuses_it_is_in_init_until_that_works"],
    },
    Mutant {
        name: "takes the MASTER before it for an intruder",
        file: CONFLICT,
        find: "Watch::From(now + GRACE)",
        replace: "Watch::From(now)",
        caught_by: &["claims::a_claim_does_not_count_right_after_a_takeover_or_for_a_backup"],
    },
    Mutant {
        name: "goes on answering claims as BACKUP",
        file: CONFLICT,
        find: "matches!(core::mem::take(&mut self.watch), Watch::On { .. })",
        replace: "false",
        caught_by: &["claims::a_master_that_stepped_down_answers_no_claim"],
    },
    Mutant {
        name: "two CARP MASTERs answer each other without end",
        file: CONFLICT,
        find: "self.defended_at = Some(now);",
        replace: "",
        caught_by: &[
            "claims::a_master_answers_an_ordinary_host_each_time_and_another_carp_master_once_in_ten_seconds",
        ],
    },
    Mutant {
        name: "answers an ordinary host as seldom as a CARP MASTER",
        file: CONFLICT,
        find: "if «claimant == Claimant::Other» {",
        replace: "false",
        caught_by: &[
            "claims::a_master_answers_an_ordinary_host_each_time_and_another_carp_master_once_in_ten_seconds",
        ],
    },
    Mutant {
        name: "does not know a carpd by its mark",
        file: CONFLICT,
        find: "if «is_marked» || is_virtual {",
        replace: "false",
        caught_by: &[
            "claims::a_master_answers_an_ordinary_host_each_time_and_another_carp_master_once_in_ten_seconds",
        ],
    },
    Mutant {
        name: "disputes what the election is about to settle",
        file: CONFLICT,
        find: "if «hears_a_master» {",
        replace: "false",
        caught_by: &["claims::a_claim_is_not_answered_while_another_master_is_heard"],
    },
    Mutant {
        name: "takes a MASTER for heard whenever it was",
        file: VHOST,
        find: "last.is_some_and(|last| now < last + self.master_down_time())",
        replace: "last.is_some()",
        caught_by: &["claims::a_claim_is_not_answered_while_another_master_is_heard"],
    },
];
