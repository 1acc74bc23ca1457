//! Two MASTERs with equal advbase and advskew after a healed partition. ucarp compares the raw 32-bit source
//! addresses, so that on a little-endian host the last octet counts most.

use std::time::Duration;

use anyhow::Result;
use carp_tests::{Lab, Ucarp, lab};

use crate::support::{ADDRESS, LONG, Pair};

/// Interval 156 ms, master-down time 469 ms.
const EQUAL: &str = "-b 0 -k 40";
/// Equal settings that work with ucarp.
const EQUAL_FOR_UCARP: &str = "-b 1 -k 0 -r 4";

/// Which of two equal hosts must remain.
#[derive(Clone, Copy)]
enum Winner {
    A,
    B,
}

/// What runs on the hosts.
#[derive(Clone, Copy)]
enum Daemons {
    TwoCarpd,
    CarpdAndUcarp,
}

/// Makes both MASTER while separated, lets them meet, and checks which one remains.
fn meet(lab: Lab, a: &str, b: &str, winner: Winner, daemons: Daemons) -> Result<()> {
    let pair = Pair::with_addresses(lab, a, b)?;
    pair.b.isolate()?;
    let equal = match daemons {
        Daemons::TwoCarpd => EQUAL,
        Daemons::CarpdAndUcarp => EQUAL_FOR_UCARP,
    };
    let _first = pair.master(&pair.a, equal)?;
    let mark = pair.capture.mark();
    let second = match daemons {
        Daemons::TwoCarpd => pair.carpd(&pair.b, equal)?,
        Daemons::CarpdAndUcarp => Ucarp::new(&pair.b, ADDRESS, equal).start(&pair.b)?,
    };
    second.wait_for("Switching to state: MASTER", LONG)?;
    pair.capture.advertisement(mark, "b", LONG)?;
    pair.b.rejoin()?;
    let winner = match winner {
        Winner::A => &pair.a,
        Winner::B => &pair.b,
    };
    pair.settles_on(winner, Duration::from_millis(2500))
}

#[test]
fn between_equals_the_lower_raw_address_stays_though_it_is_numerically_higher() -> Result<()> {
    meet(
        lab!(),
        "10.9.1.0/16",
        "10.9.0.1/16",
        Winner::A,
        Daemons::TwoCarpd,
    )
}

#[test]
fn between_equals_the_higher_raw_address_yields_though_it_is_numerically_lower() -> Result<()> {
    meet(
        lab!(),
        "10.9.0.1/16",
        "10.9.1.0/16",
        Winner::B,
        Daemons::TwoCarpd,
    )
}

#[test]
fn between_equals_that_differ_in_the_last_octet_the_lower_stays() -> Result<()> {
    meet(
        lab!(),
        "10.9.0.9/16",
        "10.9.0.8/16",
        Winner::B,
        Daemons::TwoCarpd,
    )
}

#[test]
fn carpd_stays_against_an_equal_ucarp_when_its_raw_address_is_lower() -> Result<()> {
    meet(
        lab!(),
        "10.9.1.0/16",
        "10.9.0.1/16",
        Winner::A,
        Daemons::CarpdAndUcarp,
    )
}

#[test]
fn carpd_yields_to_an_equal_ucarp_when_its_raw_address_is_higher() -> Result<()> {
    meet(
        lab!(),
        "10.9.0.1/16",
        "10.9.1.0/16",
        Winner::B,
        Daemons::CarpdAndUcarp,
    )
}
