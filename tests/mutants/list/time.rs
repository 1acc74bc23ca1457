//! Mutants of the rules about time: when silence counts.

use super::{Mutant, VHOST};

const PATIENCE: &str = "carp-common/src/proto/patience.rs";

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "takes silence that it slept through for the end of the MASTER",
        file: PATIENCE,
        find: "if is_late(slept, interval) {",
        replace: "if is_late(slept, interval) && false {",
        caught_by: &[
            "a_backup_that_slept_through_the_master_down_time_waits_for_one_more_advertisement",
            "a_backup_whose_machine_was_paused_lets_a_living_master_be",
        ],
    },
    Mutant {
        name: "waits again after each sleep",
        file: PATIENCE,
        find: "if self.given_until.take() == Some(due) {",
        replace: "if self.given_until.take() == Some(due) && false {",
        caught_by: &["a_machine_that_is_paused_again_and_again_has_no_endless_patience"],
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
        file: VHOST,
        find: "for timer in FAMILIES.map(Timer::MasterDown) {\n            if",
        replace: "for timer in [Timer::MasterDown(Family::Inet)] {\n            if",
        caught_by: &["a_backup_whose_machine_was_paused_lets_a_living_master_be"],
    },
];
