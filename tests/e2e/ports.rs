//! An interface that is a port of another one, on which carpd cannot serve.

use anyhow::{Result, ensure};
use carp_tests::{Carpd, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// The line about it.
const PORT: &str = "eth0 is a port of bridge br0, which takes all that arrives there";

#[test]
fn a_master_whose_interface_becomes_a_port_of_a_bridge_makes_way_until_it_leaves() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let _b = pair.carpd(&pair.b, SLOW)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    pair.a.ip("link add br0 type bridge")?;
    let (mark, line) = (pair.capture.mark(), a.mark());
    pair.a.ip("link set eth0 master br0")?;
    a.wait_for_after(line, PORT, LONG)?;
    a.wait_for_after(line, "Switching to state: INIT", LONG)?;
    pair.a.wait_for_address(ADDRESS, false, LONG)?;
    pair.capture.advertisements_reach(mark, "b", 3, LONG)?;
    pair.is_owned_by(&pair.b)?;
    ensure!(a.dump()?.state == "INIT");
    let why = a.says_once("why on eth0 id 7: INIT for ")?.text;
    for part in [
        "the interface is a port of another one",
        "when the interface is no port",
    ] {
        ensure!(why.contains(part), "{why}");
    }
    let line = a.mark();
    pair.a.ip("link set eth0 nomaster")?;
    a.wait_for_after(line, "no longer a port", LONG)?;
    a.wait_for_after(line, "Switching to state: BACKUP", LONG)?;
    a.says_once(PORT)?;
    Ok(())
}

#[test]
fn a_port_of_a_bridge_is_named_at_the_start_and_not_served() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("link add br0 type bridge")?;
    pair.a.ip("link set eth0 master br0")?;
    let carpd = Carpd::for_address(ADDRESS, FAST)?.spawn(&pair.a)?;
    let line = carpd.wait_for(PORT, LONG)?;
    ensure!(line.text.contains("run carpd on br0"), "{}", line.text);
    pair.a.ip("link set eth0 nomaster")?;
    carpd.wait_for("Switching to state: MASTER", LONG)?;
    Ok(())
}
