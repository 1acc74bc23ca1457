//! The corpus of `virtual_host`: one seed for each part of the protocol, written here as a story and stored as bytes.
//!
//! With these seeds a fuzzer need not discover first how a host becomes MASTER. After a change of what the target
//! reads, `cargo test --manifest-path tests/fuzz/Cargo.toml --test seeds -- --ignored` writes them again.

use std::fs;
use std::path::{Path, PathBuf};

use carp_common::units::State::{self, Backup, Init, Master};
use carp_fuzz::virtual_host::{Outcome, play};

/// Choices of the target, by their position in its lists.
const INET: u8 = 0;
const BOTH: u8 = 2;
const UCARP: u8 = 0;
const FREEBSD: u8 = 1;
const OPENBSD: u8 = 2;
const OURS: u8 = 0;
const PEER: u8 = 1;
const LOW_PEER: u8 = 2;
const PEER6: u8 = 5;
const FAILED: u8 = 0;
const SENT: u8 = 1;

/// The settings that differ between stories.
struct Settings {
    addresses: u8,
    advskew: u8,
    preempt: bool,
    profile: u8,
    strict: bool,
}

const PLAIN: Settings = Settings {
    addresses: INET,
    advskew: 100,
    preempt: false,
    profile: UCARP,
    strict: false,
};

/// The bytes of a play, step after step.
struct Story(Vec<u8>);

impl Story {
    /// Begins a story with advbase 1, deadratio 3 and no refresh of the announcement, on a link that is up and has
    /// addresses.
    fn of(settings: &Settings) -> Self {
        let mut bytes = vec![settings.addresses];
        bytes.extend(number(1));
        bytes.extend(number(settings.advskew));
        bytes.extend(number(3));
        bytes.extend([settings.preempt.into(), settings.profile, 0]);
        bytes.extend([settings.strict.into(), 0, 0, 1]);
        Self(bytes)
    }

    fn then(mut self, step: &[u8]) -> Self {
        self.0.extend(step);
        self
    }

    /// Waits for the next deadline.
    fn waits(self) -> Self {
        self.then(&[0])
    }

    /// Lets the master-down time pass in silence.
    fn becomes_master(self) -> Self {
        self.waits()
    }

    fn time_passes(self, millis: u16) -> Self {
        let [low, high] = millis.to_le_bytes();
        self.then(&[8, 1, low, high])
    }

    /// Hears a peer's advertisement with its next counter.
    fn hears(self, source: u8, advbase: u8, advskew: u8) -> Self {
        self.hears_with(&[0], source, (advbase, advskew, 0))
    }

    /// Hears an advertisement. `counter` is how the target chooses the counter. The last of `shown` is the index of a
    /// demotion.
    fn hears_with(mut self, counter: &[u8], source: u8, shown: (u8, u8, u8)) -> Self {
        self.0.push(11);
        self.0.extend(counter);
        self.0.extend(number(shown.0));
        self.0.extend(number(shown.1));
        // The advertisement is sound and arrives at this moment.
        self.0.extend([shown.2, 2, 1, source]);
        self
    }

    /// Hears an advertisement with one wrong field: `what` chooses the digest (0) or the vhid (1).
    fn hears_wrong(mut self, what: u8, value: u8) -> Self {
        self.0.extend([11, 0]);
        self.0.extend(number(1));
        self.0.extend(number(0));
        self.0.extend([0, what, value, 1, PEER]);
        self
    }

    fn link(self, up: bool) -> Self {
        self.then(&[21, if up { 0 } else { 2 }])
    }

    fn sends(self, outcome: u8, times: usize) -> Self {
        self.then(&[24, 0, outcome].repeat(times))
    }

    fn step_down(self) -> Self {
        self.then(&[30, 0])
    }

    fn shutdown(self) -> Self {
        self.then(&[31, 255])
    }
}

/// Returns a priority in the form that the target reads.
fn number(value: u8) -> Vec<u8> {
    const LIKELY: [u8; 7] = [1, 0, 2, 3, 100, 200, 255];
    match LIKELY.iter().position(|likely| *likely == value) {
        Some(index) => vec![u8::try_from(index).expect("seven")],
        None => vec![7, value],
    }
}

/// A name, the bytes, the states that the seed leads through, and the counter that it is about.
type Seed = (
    &'static str,
    Story,
    &'static [State],
    Option<(&'static str, u64)>,
);

fn seeds() -> Vec<Seed> {
    let plain = || Story::of(&PLAIN);
    let with = |change: fn(&mut Settings)| {
        let mut settings = PLAIN;
        change(&mut settings);
        Story::of(&settings)
    };
    let master = &[Backup, Master];
    let yields = &[Backup, Master, Backup];
    vec![
        ("start", plain(), &[Backup], None),
        (
            "takeover",
            plain().becomes_master().waits().then(&[27]).waits(),
            master,
            Some(("transitions-to-master", 1)),
        ),
        (
            "backup",
            plain()
                .hears(PEER, 1, 0)
                .time_passes(1000)
                .hears(PEER, 1, 0)
                .time_passes(1000),
            &[Backup],
            None,
        ),
        (
            "crash-of-the-master",
            plain()
                .hears(PEER, 1, 0)
                .time_passes(1000)
                .hears(PEER, 1, 0)
                .waits(),
            master,
            None,
        ),
        (
            "better-master",
            plain().becomes_master().hears(PEER, 1, 0),
            yields,
            Some(("conflicting-masters", 1)),
        ),
        (
            "worse-master",
            plain().becomes_master().hears(PEER, 1, 200).waits().waits(),
            master,
            Some(("conflicting-masters", 1)),
        ),
        (
            "preempt",
            with(|it| it.preempt = true).hears(PEER, 1, 200).waits(),
            master,
            None,
        ),
        (
            "bow-out",
            plain()
                .hears(PEER, 1, 0)
                .time_passes(500)
                .hears(PEER, 255, 255)
                .waits(),
            master,
            None,
        ),
        (
            "bow-out-revoked",
            plain().hears(PEER, 255, 255).hears(PEER, 1, 0).waits(),
            master,
            None,
        ),
        (
            "tie-lost",
            plain().becomes_master().hears(LOW_PEER, 1, 100),
            yields,
            None,
        ),
        (
            "tie-won",
            plain().becomes_master().hears(PEER, 1, 100).waits(),
            master,
            None,
        ),
        (
            "tie-freebsd",
            with(|it| it.profile = FREEBSD)
                .becomes_master()
                .hears(PEER, 1, 100),
            yields,
            None,
        ),
        (
            "openbsd-demoted",
            with(|it| it.profile = OPENBSD)
                .hears_with(&[0], PEER, (1, 0, 4))
                .waits(),
            master,
            None,
        ),
        (
            "demoted",
            with(|it| it.profile = OPENBSD)
                .becomes_master()
                .then(&[23, 0, 7, 32])
                .hears(PEER, 1, 0),
            yields,
            None,
        ),
        (
            "send-errors",
            plain()
                .becomes_master()
                .sends(FAILED, 3)
                .hears(PEER, 1, 200)
                .sends(SENT, 3),
            yields,
            Some(("send-failed", 3)),
        ),
        (
            "replay",
            plain()
                .hears(PEER, 1, 0)
                .hears_with(&[5, 0], PEER, (1, 0, 0)),
            &[Backup],
            Some(("dropped-duplicate", 1)),
        ),
        (
            "tampered",
            plain()
                .hears(PEER, 1, 0)
                .hears(PEER, 1, 0)
                .hears(PEER, 1, 0)
                .hears_with(&[5, 1], PEER, (255, 255, 0)),
            &[Backup],
            Some(("dropped-unproven", 1)),
        ),
        (
            "strict",
            with(|it| it.strict = true)
                .hears(PEER, 1, 0)
                .time_passes(1000)
                .hears_with(&[5, 3], PEER, (1, 0, 0)),
            &[Backup],
            Some(("dropped-stale-counter", 1)),
        ),
        (
            "counter-at-its-end",
            plain()
                .hears_with(
                    &[7, 255, 255, 255, 255, 255, 255, 255, 255],
                    PEER,
                    (1, 0, 0),
                )
                .becomes_master()
                .waits(),
            master,
            None,
        ),
        (
            "own-echo",
            plain().becomes_master().then(&[19, OURS]),
            master,
            Some(("dropped-own-echo", 1)),
        ),
        (
            "wrong-digest",
            plain().hears_wrong(0, 1),
            &[Backup],
            Some(("dropped-bad-authentication", 1)),
        ),
        (
            "wrong-vhid",
            plain().hears_wrong(1, 43),
            &[Backup],
            Some(("dropped-bad-vhid", 1)),
        ),
        (
            "truncated",
            plain().then(&[20, 3, PEER, 0x21, 42, 0]),
            &[Backup],
            Some(("dropped-short-packet", 1)),
        ),
        (
            "link-flaps",
            plain().becomes_master().link(false).link(true).waits(),
            &[Backup, Master, Init, Backup, Master],
            None,
        ),
        (
            "source-lost",
            plain().becomes_master().then(&[22, 0, PEER6, 0]),
            &[Backup, Master, Init],
            None,
        ),
        (
            "step-down",
            plain().becomes_master().step_down().waits(),
            &[Backup, Master, Backup, Master],
            None,
        ),
        (
            "shutdown",
            plain().becomes_master().shutdown(),
            &[Backup, Master, Init],
            None,
        ),
        (
            "both-families",
            with(|it| it.addresses = BOTH)
                .hears(PEER, 1, 0)
                .hears(PEER6, 1, 0)
                .time_passes(1000)
                .hears(PEER6, 1, 0)
                .waits()
                .waits(),
            master,
            None,
        ),
    ]
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus/virtual_host")
        .join(name)
}

#[test]
fn every_seed_leads_where_its_name_says() {
    for (name, story, states, counter) in seeds() {
        let Outcome {
            states: entered,
            counters,
        } = play(&story.0);
        assert_eq!(entered, states, "{name}");
        if let Some((counter, value)) = counter {
            let found = counters.iter().find(|(known, _)| *known == counter);
            assert_eq!(found, Some((counter, value)), "{name}");
        }
    }
}

#[test]
fn the_corpus_is_what_is_written_here() {
    for (name, story, ..) in seeds() {
        let kept = fs::read(file(name)).unwrap_or_default();
        assert_eq!(kept, story.0, "{name}");
    }
}

#[test]
#[ignore = "writes the corpus"]
fn write_the_corpus() {
    for (name, story, ..) in seeds() {
        let file = file(name);
        fs::create_dir_all(file.parent().expect("a directory")).expect("to make it");
        fs::write(file, story.0).expect("to write it");
    }
}
