//! The acts of the show.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::client::owners;
use carp_tests::{Capture, Captured, Carpd, Client, Daemon, Host, Lab, Mark};

use crate::timeline::{Act, Timeline, outage_text, span, span_exact};

/// The address that r1 and r2 share.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// Time between two requests of the client.
const PACE: Duration = Duration::from_millis(10);
/// A time limit that nothing here reaches unless it fails.
const LONG: Duration = Duration::from_secs(15);
/// How long the network stays quiet for the audience before the next deed.
const QUIET: Duration = Duration::from_millis(1500);

/// Time in which an ARP request may be answered.
const ARP_WINDOW: Duration = Duration::from_millis(100);

/// ucarp's own defaults: an advertisement a second, and dead after three. r1 is to be MASTER whenever it can.
const R1: &str = "-b 1 -k 0 -P";
/// A worse priority: the better host takes the address back.
const R2: &str = "-b 1 -k 100 -P";
/// The silence after which r2 takes over: deadratio × advbase + advskew / 256 s.
const R2_MASTER_DOWN: Duration = Duration::from_nanos(3 * 1_000_000_000 + 100 * 3_906_250);

/// The hosts and tools of the show.
struct Stage {
    timeline: Timeline,
    capture: Capture,
    r1: Host,
    r2: Host,
    /// The host that asks which hosts answer ARP. If the client asked, the answers would change the host that it
    /// talks to.
    neighbour: Host,
    client: Client,
    // The lab is dropped last.
    _lab: Lab,
}

/// Plays every act and prints the table.
///
/// # Errors
/// Returns an error if something does not happen in time, with what happened instead.
pub fn run() -> Result<()> {
    println!(
        "Two hosts r1 and r2 share {ADDRESS}; a client asks it for an answer every {}.\n",
        span(PACE)
    );
    let lab = Lab::new()?;
    let capture = lab.capture()?;
    let (r1, r2) = (
        lab.host("r1", "10.9.0.1/16")?,
        lab.host("r2", "10.9.0.2/16")?,
    );
    let client = lab.host("client", "10.9.0.3/16")?;
    let neighbour = lab.host("neighbour", "10.9.0.4/16")?;
    println!("Network namespaces: {}.\n", lab.names().join(", "));

    let timeline = Timeline::start();
    let begin = Instant::now();
    let mark = capture.mark();
    timeline.deed(
        begin,
        &format!("r1: carpd {R1} (better), r2: carpd {R2}, native XDP"),
    );
    let mut on_r1 = start(&r1, R1)?;
    let mut on_r2 = start(&r2, R2)?;
    let (first, _) = capture
        .advertisement(mark, "r1", LONG)
        .with_context(|| on_r1.transcript())?;
    timeline.result(first.at, "r1 is MASTER, r2 is BACKUP");

    let client = Client::start(&client, ADDRESS, PACE)?;
    client.wait_for_answer(LONG)?;
    let stage = Stage {
        timeline,
        capture,
        r1,
        r2,
        neighbour,
        client,
        _lab: lab,
    };
    stage.quiet()?;

    let mut acts = Vec::new();

    let deed = stage.deed("SIGKILL to carpd on r1; its host lives");
    on_r1.kill()?;
    acts.push(stage.takeover("process killed (SIGKILL)", deed, &stage.r2, &on_r2)?);
    stage.explain_silence(deed)?;

    let deed = stage.deed("carpd starts on r1 again, and preempts");
    on_r1 = start(&stage.r1, R1)?;
    acts.push(stage.takeover("better host returns (--preempt)", deed, &stage.r1, &on_r1)?);

    let deed = stage.deed("SIGTERM to carpd on r1: it bows out and releases the address");
    let status = on_r1.terminate(LONG)?;
    ensure!(
        status == 0,
        "carpd ended with status {status}\n{}",
        on_r1.transcript()
    );
    acts.push(stage.takeover("orderly stop (SIGTERM)", deed, &stage.r2, &on_r2)?);

    let deed = stage.deed("carpd starts on r1 once more");
    on_r1 = start(&stage.r1, R1)?;
    stage.takeover("", deed, &stage.r1, &on_r1)?;

    let deed = stage.deed("r1's cable is pulled: the whole host is out of reach");
    stage.r1.unplug()?;
    acts.push(stage.takeover("host lost (cable pulled)", deed, &stage.r2, &on_r2)?);
    stage.explain_silence(deed)?;

    on_r1.terminate(LONG)?;
    on_r2.terminate(LONG)?;
    stage.timeline.table(&acts);
    Ok(())
}

fn start(host: &Host, arguments: &str) -> Result<Daemon> {
    let carpd = Carpd::for_address(ADDRESS, arguments)?.datapath("xdp-native");
    Ok(carpd.start(host)?.quiet())
}

impl Stage {
    /// Prints what is done to the MASTER, and returns the moment.
    fn deed(&self, text: &str) -> Instant {
        let now = Instant::now();
        self.timeline.deed(now, text);
        now
    }

    /// Waits until `winner` is MASTER and the client is served, prints that, and returns the measurements. `carpd` is
    /// the winner's daemon.
    fn takeover(
        &self,
        name: &'static str,
        deed: Instant,
        winner: &Host,
        carpd: &Daemon,
    ) -> Result<Act> {
        let what = format!("an advertisement of {}", winner.name());
        let since_deed = |captured: &Captured| {
            captured
                .carp_from(winner.name())
                .filter(|_| captured.at >= deed)
                .cloned()
        };
        let (first, _) = self
            .capture
            .wait_after(Mark::default(), &what, LONG, since_deed)
            .with_context(|| carpd.transcript())?;
        let takeover = first.at.duration_since(deed);
        self.timeline.result(
            first.at,
            &format!("{} is MASTER, after {}", winner.name(), span(takeover)),
        );
        self.client.wait_for_answer(LONG)?;
        self.quiet()?;
        let outage = self.client.longest_outage(deed);
        let owners = self.owners()?;
        self.timeline.detail(&format!(
            "the client got no answer for {}; {owners} answers ARP",
            outage_text(outage)
        ));
        Ok(Act {
            name,
            takeover,
            outage,
        })
    }

    /// Prints how long r2 waited for r1, and how long it had to.
    fn explain_silence(&self, deed: Instant) -> Result<()> {
        let advertisements = |host| self.capture.advertisements(Mark::default(), host);
        let first = advertisements("r2").into_iter().find(|(at, _)| *at >= deed);
        let (first, _) = first.context("r2 has advertised")?;
        let last = advertisements("r1")
            .into_iter()
            .rfind(|(at, _)| *at < first);
        let (last, _) = last.context("r1 has advertised")?;
        self.timeline.detail(&format!(
            "r2 waited {} from r1's last advertisement on; its master-down time is {}",
            span_exact(first.duration_since(last)),
            span_exact(R2_MASTER_DOWN),
        ));
        Ok(())
    }

    /// Returns the names of the hosts that answer ARP for the address.
    fn owners(&self) -> Result<String> {
        let macs = owners(&self.neighbour, &self.capture, ADDRESS, ARP_WINDOW)?;
        let name = |mac| {
            [&self.r1, &self.r2]
                .into_iter()
                .find(|host| host.mac() == mac)
                .map(Host::name)
        };
        let names: Vec<_> = macs
            .into_iter()
            .map(|mac| name(mac).unwrap_or("a stranger"))
            .collect();
        Ok(if names.is_empty() {
            "nobody".to_owned()
        } else {
            names.join(" as well as ")
        })
    }

    /// Lets the network run for a while, and checks that it serves the client at the end.
    fn quiet(&self) -> Result<()> {
        std::thread::sleep(QUIET);
        self.client.wait_for_answer(LONG)
    }
}
