//! The mutants. Each one breaks the protocol in one place, and names the tests that must notice.

mod coming;
mod daemon;
mod fence;
mod time;

/// A change in one place of the sources that a test must notice.
pub struct Mutant {
    /// The fault that it causes.
    pub name: &'static str,
    /// The file, from the top of the repository.
    pub file: &'static str,
    /// A text that occurs in the file exactly once. Of a part in «» only that part is replaced: an expression, or statements.
    pub find: &'static str,
    /// The text that replaces it, behind a switch of its own.
    pub replace: &'static str,
    /// Tests that must each fail with the mutant: below `core::` unit tests of the core, below `engine::` those of the
    /// daemon's engine, and all others are the simulation's.
    pub caught_by: &'static [&'static str],
}

const ELECTION: &str = "carp-common/src/proto/election.rs";
const RECEIVE: &str = "carp-common/src/proto/vhost/receive.rs";
const SEQUENCE: &str = "carp-common/src/proto/sequence.rs";
const EVIDENCE: &str = "carp-common/src/proto/evidence.rs";
const PEER: &str = "carp-common/src/proto/peer.rs";
const DOUBT: &str = "carp-common/src/proto/doubt.rs";
const ANNOUNCER: &str = "carp-common/src/proto/vhost/announcer.rs";
const CHALLENGER: &str = "carp-common/src/proto/vhost/challenger.rs";
const HISTORY: &str = "carp-common/src/proto/vhost/history.rs";
const LISTENER: &str = "carp-common/src/proto/vhost/listener.rs";
const MACHINE: &str = "carp-common/src/proto/vhost/machine.rs";
const SPEAKER: &str = "carp-common/src/proto/vhost/speaker.rs";
const SUSPICION: &str = "carp-common/src/proto/vhost/suspicion.rs";
const VHOST: &str = "carp-common/src/proto/vhost.rs";
const DEMOTION: &str = "carp-common/src/proto/demotion.rs";
const SEND_ERRORS: &str = "carp-common/src/proto/send_errors.rs";
const UNITS: &str = "carp-common/src/units.rs";
/// The daemon's loop, which the simulation runs.
const LOOP: &str = "carp-daemon/src/engine/mod.rs";
const RECEPTION: &str = "carp-daemon/src/engine/reception.rs";

/// The test with seeds that found such a fault.
const FOUND: &str = "seeds::seeds_that_found_a_fault_hold";

/// Returns all mutants.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    MUTANTS
        .iter()
        .chain(time::MUTANTS)
        .chain(daemon::MUTANTS)
        .chain(coming::MUTANTS)
        .chain(fence::MUTANTS)
}

/// Mutants of the election and of evidence.
const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no tie-break: of two equals both stay",
        file: ELECTION,
        find: "Ordering::Equal if «tie.is_won(profile)» =>",
        replace: "true",
        caught_by: &[
            "equal_hosts_settle_on_the_lowest_address_as_ucarp_reads_it",
            "equal_hosts_with_the_bsd_rule_settle_on_one_master",
        ],
    },
    Mutant {
        name: "the tie-break compares addresses as numbers, not as ucarp does",
        file: ELECTION,
        find: "u32::from_le_bytes(address.octets())",
        replace: "u32::from_be_bytes(address.octets())",
        caught_by: &["equal_hosts_settle_on_the_lowest_address_as_ucarp_reads_it"],
    },
    Mutant {
        name: "preempts without being told",
        file: ELECTION,
        find: "} else if «preempt» && ours.priority",
        replace: "true",
        caught_by: &["the_better_host_takes_over_only_if_it_preempts"],
    },
    Mutant {
        name: "never preempts",
        file: ELECTION,
        find: "} else if «preempt» && ours.priority",
        replace: "false",
        caught_by: &[
            "the_better_host_takes_over_only_if_it_preempts",
            "a_demoted_master_gives_way_and_comes_back",
        ],
    },
    Mutant {
        name: "ignores a bow-out",
        file: LISTENER,
        find: "self.plan(cx, Reason::MasterWillTimeOut, origin, turn);",
        replace: "",
        caught_by: &["an_ordered_stop_hands_over_at_once"],
    },
    Mutant {
        name: "all backups act on a bow-out at the same moment",
        file: LISTENER,
        find: "let turn = at + «rank» + ",
        replace: "rank * 0",
        caught_by: &["an_ordered_stop_hands_over_at_once"],
    },
    Mutant {
        name: "sends no bow-out when it is stopped",
        file: MACHINE,
        find: "self.enter(cx, State::Init, Reason::Shutdown);\n            «speaker::bow_out(cx, &mut self.history);»",
        replace: "",
        caught_by: &[
            "an_ordered_stop_hands_over_at_once",
            "foreign_backups_honour_our_bow_out",
        ],
    },
    Mutant {
        name: "counts silence from when it was told, not from the arrival",
        file: LISTENER,
        find: "self.listen(cx, family, arrival);",
        replace: "self.listen(cx, family, cx.now);",
        caught_by: &["a_hung_backup_counts_the_silence_from_the_last_arrival"],
    },
    Mutant {
        name: "the loop fires its timers before it drains its queue",
        file: LOOP,
        find: "let oldest = «self.reception.hear(served, cx)»;",
        replace: "{ served.fire_timers(looked_at, cx); self.reception.hear(served, cx) }",
        caught_by: &["a_hung_backup_never_mistakes_its_own_pause_for_a_dead_master"],
    },
    Mutant {
        name: "the loop says nothing of what its full queue lost",
        file: RECEPTION,
        find: "if stopped && «lost > 0» {",
        replace: "false",
        caught_by: &["a_backup_whose_ring_overflowed_while_it_hung_listens_again"],
    },
    Mutant {
        name: "one family's advertisement restarts both families' timers",
        file: LISTENER,
        find: "self.listen(cx, family, arrival);",
        replace: "for family in cx.active_families() {\n            self.listen(cx, family, arrival);\n        }",
        caught_by: &["silence_in_one_family_is_silence"],
    },
    Mutant {
        name: "only the IPv4 timer counts",
        file: LISTENER,
        find: "let due = «self.master_down_at()».filter(",
        replace: "self.master_down_at[Family::Inet]",
        caught_by: &["silence_in_one_family_is_silence"],
    },
    Mutant {
        name: "keeps the addresses when it yields",
        file: MACHINE,
        find: "self.enter(cx, State::Backup, reason);\n        «self.release(cx);»",
        replace: "",
        caught_by: &["a_healed_partition_leaves_exactly_one_master_whom_the_clients_know"],
    },
    Mutant {
        name: "keeps the addresses when the link is lost",
        file: MACHINE,
        find: "                self.enter(cx, State::Init, reason);\n                «self.release(cx);»",
        replace: "",
        caught_by: &["a_master_without_a_link_releases_and_comes_back"],
    },
    Mutant {
        name: "sends no last advertisement when it yields",
        file: MACHINE,
        find: "speaker::last_word(cx, &mut self.history);",
        replace: "",
        caught_by: &["a_healed_partition_leaves_exactly_one_master_whom_the_clients_know"],
    },
    Mutant {
        name: "the winner of a healed partition does not announce again",
        file: ANNOUNCER,
        find: "self.again_at = Some(due);",
        replace: "",
        caught_by: &["a_healed_partition_leaves_exactly_one_master_whom_the_clients_know"],
    },
    Mutant {
        name: "answers every worse advertisement at once, however many there are",
        file: ANNOUNCER,
        find: "Some(at) => «cx.now.max(at + cx.interval())»,",
        replace: "cx.now",
        caught_by: &["a_replayed_worse_master_makes_no_storm"],
    },
    Mutant {
        name: "whoever announces after the MASTER keeps its clients for two intervals",
        file: ANNOUNCER,
        find: "self.again_at = Some(due);",
        replace: "let rest = due.saturating_duration_since(cx.now);\n        self.again_at = Some(due + rest);",
        caught_by: &["recordings::altered_bow_outs_mislead_a_backup_once"],
    },
    Mutant {
        name: "the master-down time is one advertisement interval",
        file: UNITS,
        find: "seconds(self.advbase) * factor + self.advskew.duration()",
        replace: "seconds(self.advbase) + self.advskew.duration() + seconds(self.advbase) * (factor - factor)",
        caught_by: &["the_best_of_three_is_master_and_the_next_follows_a_crash"],
    },
    Mutant {
        name: "the master-down time multiplies advskew too",
        file: UNITS,
        find: "seconds(self.advbase) * factor + self.advskew.duration()",
        replace: "(seconds(self.advbase) + self.advskew.duration()) * factor",
        caught_by: &["the_best_of_three_is_master_and_the_next_follows_a_crash"],
    },
    Mutant {
        name: "takes whatever comes from its own group's address for its own",
        file: RECEIVE,
        find: "«cx.sources[family] == Some(source)\n        \
            && (!is_shared || history.memory.sent_lately(family, advertisement.counter))»;",
        replace: "is_shared || cx.sources[family] == Some(source)",
        caught_by: &["a_peer_may_use_the_virtual_address_as_its_source"],
    },
    Mutant {
        name: "its counters do not rise",
        file: SEQUENCE,
        find: "self.next.saturating_add(stride)",
        replace: "self.next.saturating_add(stride).min(7)",
        caught_by: &["the_best_of_three_is_master_and_the_next_follows_a_crash"],
    },
    Mutant {
        name: "strict counters believe what does not rise",
        file: RECEIVE,
        find: "let stale = «cx.settings.strict_counter»",
        replace: "false",
        caught_by: &["recordings::recordings_from_before_its_start_change_nothing"],
    },
    Mutant {
        name: "strict counters measure what waited in the queue by what was sent after it arrived",
        file: SEQUENCE,
        find: "        if «arrival > sent.at» {",
        replace: "true",
        caught_by: &[
            "a_strict_master_that_hung_hears_more_than_the_first_of_its_successors_advertisements",
        ],
    },
    Mutant {
        name: "counts silence from before what it was too late to hear",
        file: MACHINE,
        find: "Input::AdvertisementsLost => {\n                if «self.state() == State::Backup» {",
        replace: "false",
        caught_by: &["a_backup_whose_ring_overflowed_while_it_hung_listens_again"],
    },
    Mutant {
        name: "two strict masters in lockstep stay there",
        file: HISTORY,
        find: "Some(IpAddr::V4(source)) => «stride_of(&source.octets(), next)»,",
        replace: "0",
        caught_by: &["equal_hosts_with_strict_counters_settle_on_one_master"],
    },
    Mutant {
        name: "takes over from a worse master while a better one lives",
        file: LISTENER,
        find: "if decision != BackupDecision::Stay && «self.better.lives(family, origin)» {",
        replace: "false",
        caught_by: &["a_host_that_yielded_does_not_take_over_from_a_worse_ucarp_that_yields"],
    },
    Mutant {
        name: "demotion changes nothing",
        file: DEMOTION,
        find: "demoted.max(configured)",
        replace: "demoted.min(configured)",
        caught_by: &["a_demoted_master_gives_way_and_comes_back"],
    },
    Mutant {
        name: "a rise in demotion is told with the next advertisement only",
        file: MACHINE,
        find: "if self.state() == State::Master && «cx.demotions.sum() > before» {",
        replace: "false",
        caught_by: &["a_demoted_master_gives_way_and_comes_back"],
    },
    Mutant {
        name: "send errors do not demote",
        file: SEND_ERRORS,
        find: "            self.suppressed = «failed»;\n",
        replace: "false",
        caught_by: &["send_errors_demote_and_successes_undo"],
    },
    Mutant {
        name: "steps down for no longer than it is told",
        file: LISTENER,
        find: "self.listen_until(cx, family, since.max(self.held_until) + silence);",
        replace: "self.listen_until(cx, family, since + silence);",
        caught_by: &["stepping_down_keeps_away_for_the_hold_and_a_master_down_time"],
    },
    Mutant {
        name: "advertises before it has the addresses",
        file: MACHINE,
        find: "        cx.act(Action::ClaimAddresses);\n        self.advertise(cx);",
        replace: "        self.advertise(cx);\n        cx.act(Action::ClaimAddresses);",
        caught_by: &["a_single_host_becomes_master"],
    },
    Mutant {
        name: "an OpenBSD that was restarted is none any more",
        file: EVIDENCE,
        find: "«peer.unrelated > UNRELATED_MAX» {\n            return",
        replace: "peer.unrelated > 2",
        caught_by: &["bsds::an_openbsd_is_recognized_after_three_short_lives"],
    },
    Mutant {
        name: "what was heard before counts again",
        file: EVIDENCE,
        find: "None => «Evidence::Heard»,\n        }\n    }\n\n    /// A counter that nobody",
        replace: "Evidence::New",
        caught_by: &["recordings::recordings_do_not_keep_a_dead_master_alive"],
    },
    Mutant {
        name: "a counting source may repeat itself",
        file: PEER,
        find: "Single { counter: last, .. } if last != counter => «Evidence::Heard»,",
        replace: "Evidence::New",
        caught_by: &["recordings::a_recording_under_its_own_source_changes_nothing"],
    },
    Mutant {
        name: "the last of a dead one keeps it alive",
        file: PEER,
        find: "Single { shown: before, .. } if before == shown => «Evidence::Duplicate»,",
        replace: "Evidence::New",
        caught_by: &["recordings::recordings_do_not_keep_a_dead_master_alive"],
    },
    Mutant {
        name: "of two versions of one counter the first decides",
        file: LISTENER,
        find: "self.call_off(suspense, |planned| is_it(planned));",
        replace: "",
        caught_by: &["recordings::altered_bow_outs_mislead_a_backup_once"],
    },
    Mutant {
        name: "does not challenge",
        file: SPEAKER,
        find: "self.next_at = Some(at);",
        replace: "",
        caught_by: &["recordings::masters_with_distant_counters_recognize_each_other_at_once"],
    },
    Mutant {
        name: "challenges its successor after it was stopped",
        file: CHALLENGER,
        find: "Evidence::New if «cx.now >= sequence.sent_at(family) + cx.master_down_time()» =>",
        replace: "false",
        caught_by: &[
            "recordings::a_master_that_was_stopped_makes_way_for_a_successor_that_never_heard_it",
        ],
    },
    Mutant {
        name: "takes what was sent before it ran for something new",
        file: EVIDENCE,
        find: "if «!follows» && is_near_above(peer.first(), counter) {",
        replace: "false",
        caught_by: &["recordings::recordings_from_before_its_start_change_nothing"],
    },
    Mutant {
        name: "believes whichever version of an answer is better",
        file: CHALLENGER,
        find: "self.count >= «DOUBTFUL_ENOUGH»",
        replace: "1",
        caught_by: &["recordings::an_altered_last_advertisement_deposes_nobody"],
    },
    Mutant {
        name: "takes another version of what made it MASTER for an answer",
        file: CHALLENGER,
        find: "if «since < reign.since» => return false,",
        replace: "false",
        caught_by: &["recordings::a_bow_out_that_is_sent_again_as_something_better_deposes_nobody"],
    },
    Mutant {
        name: "lets a copy call a bow-out back",
        file: LISTENER,
        find: "if «suspense > Duration::ZERO» {",
        replace: "true",
        caught_by: &["recordings::a_copy_does_not_cancel_a_bow_out"],
    },
    Mutant {
        name: "with strict counters loses the second of two versions",
        file: RECEIVE,
        find: ".is_last_of_somebody(family, «counter»);",
        replace: "!counter",
        caught_by: &["recordings::altered_bow_outs_mislead_a_backup_once"],
    },
    Mutant {
        name: "answers a faster MASTER as seldom as a recording",
        file: SPEAKER,
        find: "answers.last + pace / «NEW_DIVISOR»",
        replace: "1",
        caught_by: &["recordings::a_worse_master_asks_a_far_faster_one_at_once"],
    },
    Mutant {
        name: "leaves out no counters for an equal ucarp",
        file: CHALLENGER,
        find: "let is_bsd = «cx.settings.profile != Profile::Ucarp»;",
        replace: "true",
        caught_by: &[
            "recordings::the_loser_of_a_tie_with_ucarp_yields_even_if_advertisements_cross",
        ],
    },
    Mutant {
        name: "forgets what it asked when it asks again",
        file: CHALLENGER,
        find: "self.asked[family] = [Some(counter), «last»];",
        replace: "None",
        caught_by: &[
            "recordings::the_loser_of_a_tie_with_ucarp_yields_even_if_advertisements_cross",
        ],
    },
    Mutant {
        name: "says a last word to a BSD that won a tie",
        file: MACHINE,
        find: "true => «cx.settings.profile == Profile::Ucarp && !cx.is_bsd(winner)»,",
        replace: "cx.settings.profile == Profile::Ucarp || !cx.is_bsd(winner)",
        caught_by: &["bsds::a_tie_with_a_bsd_leaves_one_master_at_once"],
    },
    Mutant {
        name: "does not read byte 4",
        file: ELECTION,
        find: "ours.demotion.cmp(&theirs.demotion)",
        replace: "Ordering::Equal",
        caught_by: &["bsds::a_demoted_openbsd_makes_way_for_every_profile"],
    },
    Mutant {
        name: "gives a BSD's ticks no time",
        file: LISTENER,
        find: "cx.master_down_time().max(self.bsd_patience[family])",
        replace: "cx.master_down_time()",
        caught_by: &["bsds::an_openbsd_at_the_shortest_interval_is_no_flapping_master"],
    },
    Mutant {
        name: "two equal BSDs follow a bow-out together",
        file: LISTENER,
        find: "Duration::from_millis(u64::from(last & «15»))",
        replace: "0",
        caught_by: &["bsds::one_of_two_equal_bsds_follows_a_bow_out"],
    },
    Mutant {
        name: "takes what its last word left out for its own",
        file: EVIDENCE,
        find: "counter > last && counter - last < LAST_LEAVES_OUT",
        replace: "is_near_above(counter, last)",
        caught_by: &[
            "recordings::a_counter_that_a_last_advertisement_skipped_proves_the_life_of_a_host_that_missed_it",
        ],
    },
    Mutant {
        name: "knows no gaps in what it sent before it asked",
        file: EVIDENCE,
        find: "&& let Some(older) = «own.before.replace(ended)»",
        replace: "Some(ended)",
        caught_by: &[FOUND],
    },
    Mutant {
        name: "lets a copy that shows a long interval keep a new life out",
        file: EVIDENCE,
        find: "peer.latest.last_at + ours.believes(peer.shortest)",
        replace: "peer.latest.last_at + peer.latest.shown.interval()",
        caught_by: &[FOUND],
    },
    Mutant {
        name: "takes copies of one answer for several",
        file: CHALLENGER,
        find: "self.to < to && «self.with < with»",
        replace: "true",
        caught_by: &["recordings::an_altered_last_advertisement_deposes_nobody"],
    },
    Mutant {
        name: "takes an altered last word for an answer",
        file: CHALLENGER,
        find: "if is_doubtful && «yields» {",
        replace: "yields && counter == 0",
        caught_by: &[FOUND],
    },
    Mutant {
        name: "bows out with a counter that a peer may have used",
        file: SPEAKER,
        find: "«history.sequence.jump(LAST_LEAVES_OUT);»\n    send(cx, history, Priority::BOW_OUT);",
        replace: "",
        caught_by: &[
            "core::proto::vhost::tests::bow_outs::a_bow_out_leaves_out_what_a_peer_that_was_not_heard_may_have_used",
        ],
    },
    Mutant {
        name: "a copy of a bow-out puts off whoever was overdue",
        file: LISTENER,
        find: ".is_none_or(|planned| «!is_it(&planned)»)",
        replace: "true",
        caught_by: &[FOUND],
    },
    Mutant {
        name: "takes genuine answers for a sign that nothing was altered",
        file: SUSPICION,
        find: "let seems = «cx.now < soon»",
        replace: "false",
        caught_by: &[
            "recordings::altered_bow_outs_mislead_a_backup_twice_when_answers_stay_genuine",
        ],
    },
    Mutant {
        name: "is deposed again by what was sent in another part",
        file: LISTENER,
        find: "asks: suspect.is_some() || «has_just_yielded»,",
        replace: "false",
        caught_by: &[
            "recordings::recordings_of_a_dead_host_with_higher_counters_depose_a_master_once",
        ],
    },
    Mutant {
        name: "believes an OpenBSD at the address only where it was heard first",
        file: EVIDENCE,
        find: "if self.peers[before].is_constant() {\n            return «self.peers[before].source»;",
        replace: "source",
        caught_by: &["bsds::an_openbsd_is_believed_whatever_is_sent_in_its_name"],
    },
    Mutant {
        name: "moves an OpenBSD to another address at once",
        file: EVIDENCE,
        find: "silence.min(«ours.master_down»)",
        replace: "ours.interval / 64",
        caught_by: &[
            "recordings::the_first_counter_heard_from_a_master_is_not_taken_for_an_openbsds",
        ],
    },
    Mutant {
        name: "asks about each of several suspects as if it was the first",
        file: DOUBT,
        find: "if «asked_at.is_some_and(|at| now < at + within)» {",
        replace: "false",
        caught_by: &["recordings::each_answer_of_a_ucarp_doubles_the_time_until_it_is_asked_again"],
    },
    Mutant {
        name: "forgets an OpenBSD for a recording in its name",
        file: EVIDENCE,
        find: "if «!peer.returns_to_former(shown, arrival, ours)» {",
        replace: "true",
        caught_by: &["bsds::an_openbsd_is_believed_despite_recordings_of_another_life"],
    },
    Mutant {
        name: "takes its own reflected advertisements for a peer's",
        file: RECEIVE,
        find: "«cx.sources[family] == Some(source)\n        \
            && (!is_shared || history.memory.sent_lately(family, advertisement.counter))»;",
        replace: "false",
        caught_by: &[
            "core::proto::vhost::tests::table::every_state_and_event_pair_has_the_listed_outcome",
        ],
    },
    Mutant {
        name: "what was sent under its own address makes peers stale",
        file: RECEIVE,
        find: "history.sequence.go_beyond(advertisement.counter);",
        replace: "history.sequence.observe(family, advertisement.counter);",
        caught_by: &[
            "core::proto::vhost::tests::rivals::advertisements_from_our_own_address_make_no_peer_stale",
        ],
    },
    Mutant {
        name: "announces when its up script ends, whatever it is by then",
        file: MACHINE,
        find: "Input::ClaimCompleted if «is_master» =>",
        replace: "self.state() != State::Init",
        caught_by: &[
            "core::proto::vhost::tests::table::every_state_and_event_pair_has_the_listed_outcome",
        ],
    },
    Mutant {
        name: "in INIT takes what an earlier run left for a MASTER's addresses",
        file: VHOST,
        find: "State::Init => «true»,",
        replace: "false",
        caught_by: &[
            "core::proto::vhost::tests::scenarios::the_addresses_are_lost_in_init_and_once_another_master_is_heard",
        ],
    },
    Mutant {
        name: "takes the addresses for lost before it has heard a MASTER",
        file: VHOST,
        find: "«self.last_heard().is_some()» && self.next_deadline()",
        replace: "true",
        caught_by: &[
            "core::proto::vhost::tests::scenarios::the_addresses_are_lost_in_init_and_once_another_master_is_heard",
        ],
    },
    Mutant {
        name: "takes the addresses for lost at the moment it takes over",
        file: VHOST,
        find: "self.last_heard().is_some() && «self.next_deadline().is_none_or(|due| due > now)»",
        replace: "true",
        caught_by: &[
            "core::proto::vhost::tests::scenarios::the_addresses_are_lost_in_init_and_once_another_master_is_heard",
        ],
    },
    Mutant {
        name: "takes a MASTER's own addresses for lost",
        file: VHOST,
        find: "State::Master => «false»,",
        replace: "true",
        caught_by: &[
            "core::proto::vhost::tests::scenarios::the_addresses_are_lost_in_init_and_once_another_master_is_heard",
        ],
    },
];
