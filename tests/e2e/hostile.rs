//! Packets that carpd must not believe: the election continues and the right counter rises.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::datapath;
use carp_tests::packet::{CARP_LEN, checksum};
use carp_tests::{Daemon, Dump, Forgery, Injector, Lab, Mac, eventually, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// How often each packet is sent.
const TIMES: u64 = 20;

/// A pair in which a is MASTER and b is BACKUP, and a stranger c.
struct Scene {
    a: Daemon,
    b: Daemon,
    pair: Pair,
}

impl Scene {
    fn new(lab: Lab) -> Result<Self> {
        let pair = Pair::new(lab)?;
        let a = pair.master(&pair.a, FAST)?;
        let b = pair.carpd(&pair.b, SLOW)?;
        pair.stays_the_only_master(&pair.a, 2)?;
        Ok(Self { a, b, pair })
    }

    /// An advertisement that would depose the MASTER (it is better) if it were believed.
    fn better(&self) -> Forgery {
        Forgery::new(self.pair.c.address(), 7, "secret", ADDRESS).with(|forgery| {
            forgery.advbase = 0;
            forgery.advskew = 1;
        })
    }

    /// c sends `frame` [`TIMES`] times: both hosts count it under `counter`, and nothing else happens.
    fn is_counted_and_ignored(&self, frame: &[u8], counter: &str) -> Result<()> {
        self.is_counted_and_ignored_from(&[Injector::open(&self.pair.c)?], frame, counter)
    }

    /// The same for a frame that reaches both hosts unchanged, including VLAN tags.
    fn is_counted_and_ignored_tagged(&self, frame: &[u8], counter: &str) -> Result<()> {
        let both = [
            Injector::towards(&self.pair.a)?,
            Injector::towards(&self.pair.b)?,
        ];
        self.is_counted_and_ignored_from(&both, frame, counter)
    }

    fn is_counted_and_ignored_from(
        &self,
        injectors: &[Injector],
        frame: &[u8],
        counter: &str,
    ) -> Result<()> {
        let before = [self.a.dump()?, self.b.dump()?];
        let mark = self.pair.capture.mark();
        for _ in 0..TIMES {
            for injector in injectors {
                injector.send(frame)?;
            }
        }
        self.pair.capture.advertisements_reach(mark, "a", 8, LONG)?;
        for captured in self.pair.capture.after(mark) {
            ensure!(captured.carp_from("b").is_none(), "the BACKUP spoke");
        }
        for (daemon, before) in [&self.a, &self.b].into_iter().zip(before) {
            let after = daemon.dump()?;
            ensure!(
                after.state == before.state,
                "{} became {}",
                before.state,
                after.state
            );
            let risen = after.counter(counter)? - before.counter(counter)?;
            ensure!(
                risen == TIMES,
                "{counter} rose by {risen}, not {TIMES}: {:?}",
                after.risen_since(&before)
            );
            only_expected_rose(&after, &before, counter)?;
        }
        Ok(())
    }
}

/// Apart from `counter`, only counters that rise in a quiet election may have risen.
fn only_expected_rose(after: &Dump, before: &Dump, counter: &str) -> Result<()> {
    for name in after.risen_since(before).keys() {
        // One packet per second that is not authentic reaches the daemon, which counts it. A delay on a busy
        // machine does not change the sum.
        let usual = [
            "received-inet-packets",
            "delivered",
            "suspects-delivered",
            "sent-inet-packets",
            "event-loop-stalls",
        ]
        .contains(&name.as_str());
        ensure!(
            usual || name == counter,
            "{name} rose too: {:?}",
            after.risen_since(before)
        );
    }
    Ok(())
}

#[test]
fn a_wrong_password_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.password = "wrong".into())
        .frame();
    scene.is_counted_and_ignored(&frame, "dropped-bad-authentication")?;
    // One line names the problem; a flood of packets causes no flood of lines.
    scene.b.wait_for("Bad digest", LONG)?;
    let lines = scene.b.lines_with("Bad digest");
    ensure!(
        (1..=2).contains(&lines.len()),
        "{} lines for {TIMES} packets",
        lines.len()
    );
    ensure!(
        lines[0]
            .text
            .contains("Check vhid, password and virtual IP address"),
        "{}",
        lines[0].text
    );
    Ok(())
}

#[test]
fn a_wrong_address_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.addresses = vec![[10, 9, 0, 101].into()])
        .frame();
    scene.is_counted_and_ignored(&frame, "dropped-bad-authentication")
}

#[test]
fn another_vhid_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene.better().with(|forgery| forgery.vhid = 8).frame();
    scene.is_counted_and_ignored(&frame, "passed-unknown-vhid")
}

#[test]
fn another_group_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.destination = [224, 0, 0, 19].into())
        .frame();
    scene.is_counted_and_ignored(&frame, "passed-other-group")
}

#[test]
fn unicast_of_a_bsd_is_counted_ignored_and_warned_of() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let host = &scene.pair.a;
    // What FreeBSD sends with `ifconfig eth0 vhid 7 peer`: its own Ethernet source, TOS 0xe0, identification 0, DF.
    let mut frame = [host.mac().0, [2, 0, 0, 0, 0, 0x77]].concat();
    frame.extend([8, 0, 0x45, 0xe0, 0, 56, 0, 0, 0x40, 0, 255, 112, 0, 0]);
    frame.extend(scene.pair.c.address().octets());
    frame.extend(host.address().octets());
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let carp = scene.better().with(|forgery| forgery.advbase = 1).frame();
    frame.extend(&carp[34..]);
    scene.is_counted_and_ignored_tagged(&frame, "passed-unicast")?;
    // There is not one line per packet.
    for daemon in [&scene.a, &scene.b] {
        daemon.wait_for("by unicast, which carpd does not hear yet", LONG)?;
    }
    scene.is_counted_and_ignored_tagged(&frame, "passed-unicast")?;
    scene.pair.stays_the_only_master(host, 12)?;
    for daemon in [&scene.a, &scene.b] {
        let lines = daemon.lines_with("by unicast");
        ensure!(lines.len() == 1, "{} lines", lines.len());
        ensure!(
            lines[0].text.contains("carppeer") && lines[0].text.contains("`peer`"),
            "{}",
            lines[0].text
        );
    }
    Ok(())
}

#[test]
fn ttl_254_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene.better().with(|forgery| forgery.ttl = 254).frame();
    scene.is_counted_and_ignored(&frame, "dropped-wrong-ttl")
}

#[test]
fn a_broken_checksum_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.checksum_error = 1)
        .frame();
    scene.is_counted_and_ignored(&frame, "dropped-bad-checksum")
}

#[test]
fn another_version_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.version_type = 0x41)
        .frame();
    scene.is_counted_and_ignored(&frame, "dropped-bad-version")
}

#[test]
fn a_packet_of_35_bytes_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.payload_len = CARP_LEN - 1)
        .frame();
    scene.is_counted_and_ignored(&frame, "passed-malformed")
}

#[test]
fn a_packet_of_64_bytes_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.payload_len = CARP_LEN + 28)
        .frame();
    scene.is_counted_and_ignored(&frame, "passed-malformed")
}

#[test]
fn a_frame_that_ends_before_its_ip_header_says_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let mut frame = scene.better().frame();
    frame.truncate(frame.len() - 1);
    scene.is_counted_and_ignored(&frame, "dropped-short-packet")
}

#[test]
fn a_wrong_password_behind_ip_options_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene.better().with(|forgery| {
        forgery.password = "wrong".into();
        forgery.ip_options = vec![1; 8];
    });
    scene.is_counted_and_ignored(&frame.frame(), "dropped-bad-authentication")
}

#[test]
fn a_vlan_tagged_advertisement_is_counted_and_ignored() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.vlans = vec![5])
        .frame();
    scene.is_counted_and_ignored_tagged(&frame, "passed-other-vlan")
}

#[test]
fn a_double_tagged_advertisement_is_ignored_and_xdp_counts_it() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene
        .better()
        .with(|forgery| forgery.vlans = vec![5, 6])
        .frame();
    if datapath() == "socket" {
        // The socket's filter rejects it, which is cheaper than counting it.
        for host in [&scene.pair.a, &scene.pair.b] {
            Injector::towards(host)?.send(&frame)?;
        }
        return scene.pair.stays_the_only_master(&scene.pair.a, 8);
    }
    scene.is_counted_and_ignored_tagged(&frame, "passed-other-vlan")
}

/// Known limit: if the device moves the tag out of the frame into metadata (a veth from a bridge, as here;
/// a NIC with `rx-vlan-offload`), an XDP program does not see it, and the frame counts as untagged. tcx and the socket path
/// do see it. The digest still keeps other groups' packets out.
#[test]
fn a_vlan_tag_carried_beside_the_frame_is_seen_by_all_but_xdp() -> Result<()> {
    let scene = Scene::new(lab!())?;
    let frame = scene.better().with(|forgery| {
        forgery.vlans = vec![5];
        forgery.password = "wrong".into();
    });
    let counter = match datapath().as_str() {
        "socket" | "tcx" => "passed-other-vlan",
        _ => "dropped-bad-authentication",
    };
    scene.is_counted_and_ignored(&frame.frame(), counter)
}

#[test]
fn a_right_advertisement_behind_ip_options_is_believed() -> Result<()> {
    believed(Scene::new(lab!())?, |forgery| {
        forgery.ip_options = vec![1; 40]
    })
}

#[test]
fn a_right_advertisement_in_a_broadcast_frame_is_believed() -> Result<()> {
    believed(Scene::new(lab!())?, |forgery| {
        forgery.ether_destination = Mac::BROADCAST
    })
}

#[test]
fn a_right_advertisement_in_a_priority_tagged_frame_is_believed() -> Result<()> {
    believed(Scene::new(lab!())?, |forgery| forgery.vlans = vec![0])
}

/// The same better advertisement that every test above makes wrong in one way. When it is correct and comes from a
/// host that has heard the MASTER, the MASTER yields.
fn believed(scene: Scene, change: impl FnOnce(&mut Forgery)) -> Result<()> {
    let injector = Injector::open(&scene.pair.c)?;
    let mark = scene.a.mark();
    let (_, last) = scene
        .pair
        .capture
        .advertisement(scene.pair.capture.mark(), "a", LONG)?;
    let better = scene.better().with(|forgery| {
        // Above what the MASTER may have sent meanwhile, too.
        forgery.counter = last.counter + 3;
    });
    injector.send(&better.with(change).frame())?;
    scene
        .a
        .wait_for_after(mark, "Switching to state: BACKUP", LONG)?;
    Ok(())
}

#[test]
fn a_flood_of_broken_packets_is_counted_and_makes_no_flood_of_lines_even_with_debug() -> Result<()>
{
    const FLOOD: u64 = 5_000;
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, &format!("{FAST} -D"))?;
    let broken = Forgery::new(pair.c.address(), 7, "secret", ADDRESS);
    let frames = [
        broken.clone().with(|forgery| forgery.ttl = 254).frame(),
        broken
            .with(|forgery| forgery.password = "wrong".into())
            .frame(),
    ];
    let (start, injector) = (Instant::now(), Injector::open(&pair.c)?);
    for _ in 0..FLOOD {
        for frame in &frames {
            injector.send(frame)?;
        }
    }
    pair.capture
        .advertisements_reach(pair.capture.mark(), "a", 5, LONG)?;
    eventually("both are counted", LONG, || {
        let dump = a.dump()?;
        let lost = dump.counter("datapath-events-lost")?;
        let counted =
            dump.counter("dropped-bad-authentication")? + dump.counter("dropped-wrong-ttl")? + lost;
        Ok((counted >= 2 * FLOOD).then_some(()))
    })?;
    let lines = a.lines().len() - a.lines_with("[INFO]").len();
    let most = 50 + 50 * usize::try_from(start.elapsed().as_secs())?;
    ensure!(lines <= most, "{lines} lines in {:?}", start.elapsed());
    Ok(())
}

#[test]
fn noise_of_every_length_leaves_the_daemon_running() -> Result<()> {
    let mut scene = Scene::new(lab!())?;
    let injector = Injector::open(&scene.pair.c)?;
    let frame = scene
        .better()
        .with(|forgery| forgery.password = "wrong".into())
        .frame();
    // Every truncation, and every byte of the IP and CARP headers inverted.
    for length in 14..frame.len() {
        injector.send(&frame[..length]).context("a short frame")?;
    }
    for index in 12..frame.len() {
        let mut broken = frame.clone();
        broken[index] ^= 0xff;
        injector.send(&broken)?;
    }
    scene
        .pair
        .settles_on(&scene.pair.a, Duration::from_secs(1))?;
    ensure!(scene.a.is_running()? && scene.b.is_running()?);
    Ok(())
}
