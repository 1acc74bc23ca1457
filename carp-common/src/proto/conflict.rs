//! Claims of other hosts to a virtual address, by ARP or neighbour discovery, and the answers to them.
//!
//! Only a MASTER watches for claims, after a moment in which the previous MASTER may still answer. The answers of another
//! host to its neighbours do not reach this one, so this host asks for its own addresses now and then. It answers a claim
//! with an announcement, so that clients come back. Two CARP MASTERs would answer each other without end, so another CARP
//! MASTER is answered rarely, and any other host each time. No claim is answered while the advertisements of another MASTER
//! are heard, because the election will settle the conflict.

use crate::time::{Duration, Instant};
use crate::units::Vhid;
use crate::wire::ether::MacAddress;

/// Time for the MASTER before us to stop answering.
const GRACE: Duration = Duration::from_millis(500);
/// Time between two questions for our own addresses.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two answers to another CARP MASTER (`DEFEND_INTERVAL`, RFC 5227, 2.4).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// Time for which a station counts as a CARP MASTER after it showed that it is one. Each of its answers shows it.
const CARP_MEMORY: Duration = Duration::from_secs(60);

/// Another host's claim to one of the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The Ethernet address of the other host.
    pub station: MacAddress,
    /// Whether its padding marks it as an announcement of carpd.
    pub is_marked: bool,
}

/// The kind of a station that claims a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// It showed that it is MASTER of the same vhid.
    CarpMaster,
    /// It showed no such sign.
    Other,
}

/// The response to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Do nothing, because the election will settle it.
    Leave,
    /// Report it only, because it was answered lately.
    Tell,
    /// Report it, and announce the address.
    Answer,
}

/// A question for our own addresses that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The question that begins the watch.
    First,
    /// A later question.
    Next,
}

#[derive(Clone, Copy, Debug, Default)]
enum Watch {
    /// The host is not MASTER.
    #[default]
    Off,
    /// Claims count from this time on.
    From(Instant),
    /// Claims count.
    On {
        /// Time of the next question.
        next_probe: Instant,
    },
}

/// The claims of others to the addresses of one virtual host.
#[derive(Debug, Default)]
pub struct Conflicts {
    watch: Watch,
    /// The last claimant that showed that it is a CARP MASTER, and the time of that.
    carp_master: Option<(MacAddress, Instant)>,
    /// Time of the last answer to a CARP MASTER.
    defended_at: Option<Instant>,
}

impl Conflicts {
    /// Begins the watch: the host is MASTER from now on.
    pub fn begin(&mut self, now: Instant) {
        self.watch = Watch::From(now + GRACE);
    }

    /// Ends the watch, because the host is no longer MASTER. Returns whether claims counted.
    pub fn end(&mut self) -> bool {
        matches!(core::mem::take(&mut self.watch), Watch::On { .. })
    }

    /// Returns whether claims count.
    #[must_use]
    pub const fn is_watching(&self) -> bool {
        matches!(self.watch, Watch::On { .. })
    }

    /// Returns the time of the next question.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.watch {
            Watch::Off => None,
            Watch::From(at) | Watch::On { next_probe: at } => Some(at),
        }
    }

    /// Returns the question that is due, if any. It is to be asked with a probe (RFC 5227), which changes no neighbour's
    /// tables.
    pub fn timeout(&mut self, now: Instant) -> Option<Question> {
        let question = match self.watch {
            Watch::From(at) if at <= now => Question::First,
            Watch::On { next_probe } if next_probe <= now => Question::Next,
            Watch::Off | Watch::From(_) | Watch::On { .. } => return None,
        };
        self.watch = Watch::On {
            next_probe: now + PROBE_INTERVAL,
        };
        Some(question)
    }

    /// Returns the kind of station that makes a claim. A CARP MASTER of this vhid shows itself by its announcement or by its
    /// MAC address (FreeBSD, OpenBSD), and is then remembered for some time.
    pub fn claimant(&mut self, claim: Claim, vhid: Vhid, now: Instant) -> Claimant {
        let Claim { station, is_marked } = claim;
        let [a, b, c, d, kind, id] = station.0;
        let is_virtual = [a, b, c, d] == [0, 0, 0x5e, 0] && kind <= 1 && id == vhid.get();
        if is_marked || is_virtual {
            self.carp_master = Some((station, now));
        }
        match self.carp_master {
            Some((known, at)) if known == station && now < at + CARP_MEMORY => Claimant::CarpMaster,
            Some(_) | None => Claimant::Other,
        }
    }

    /// Returns the response to a claim. `hears_a_master` is the result of
    /// [`VirtualHost::hears_a_master`](super::VirtualHost::hears_a_master): another MASTER advertised lately.
    pub fn respond(&mut self, claimant: Claimant, hears_a_master: bool, now: Instant) -> Response {
        if hears_a_master {
            return Response::Leave;
        }
        if claimant == Claimant::Other {
            return Response::Answer;
        }
        let rests = self
            .defended_at
            .is_some_and(|at| now < at + DEFEND_INTERVAL);
        if rests {
            return Response::Tell;
        }
        self.defended_at = Some(now);
        Response::Answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_carp_master_shows_by_its_mark_or_its_address_and_is_remembered() {
        let vhid = Vhid::new(7).unwrap();
        let mut conflicts = Conflicts::default();
        let mut is_one = |station, is_marked, seconds: u64| {
            let claim = Claim { station, is_marked };
            conflicts.claimant(claim, vhid, at(seconds * 1000)) == Claimant::CarpMaster
        };
        assert!(!is_one(MAC, false, 1));
        assert!(is_one(MAC, true, 2));
        assert!(is_one(MAC, false, 61) && !is_one(MAC, false, 62));
        for (kind, id, expected) in [(0, 7, true), (1, 7, true), (1, 8, false), (2, 7, false)] {
            let mac = MacAddress([0, 0, 0x5e, 0, kind, id]);
            assert_eq!(is_one(mac, false, 100), expected, "{mac}");
        }
    }

    #[test]
    fn a_carp_master_is_answered_once_in_ten_seconds_and_others_each_time() {
        let mut conflicts = Conflicts::default();
        let mut answered = |claimant| {
            let responses =
                (0..30).map(|second| conflicts.respond(claimant, false, at(second * 1000)));
            responses.filter(|it| *it == Response::Answer).count()
        };
        assert_eq!(answered(Claimant::CarpMaster), 3);
        assert_eq!(answered(Claimant::Other), 30);
    }

    #[test]
    fn a_claim_is_left_to_an_election_that_is_under_way() {
        let mut conflicts = Conflicts::default();
        for claimant in [Claimant::CarpMaster, Claimant::Other] {
            assert_eq!(conflicts.respond(claimant, true, at(0)), Response::Leave);
        }
        let response = conflicts.respond(Claimant::CarpMaster, false, at(1));
        assert_eq!(response, Response::Answer, "nothing was answered before");
        let response = conflicts.respond(Claimant::CarpMaster, false, at(2));
        assert_eq!(response, Response::Tell);
    }

    #[test]
    fn a_master_watches_after_a_moment_and_asks_every_ten_seconds_until_it_leaves() {
        let mut conflicts = Conflicts::default();
        assert_eq!(
            (conflicts.deadline(), conflicts.timeout(at(0))),
            (None, None)
        );
        conflicts.begin(at(0));
        assert_eq!(conflicts.deadline(), Some(at(500)));
        assert_eq!(conflicts.timeout(at(499)), None);
        assert!(!conflicts.is_watching());
        assert_eq!(conflicts.timeout(at(500)), Some(Question::First));
        assert!(conflicts.is_watching());
        assert_eq!(conflicts.timeout(at(10_499)), None);
        assert_eq!(conflicts.timeout(at(10_500)), Some(Question::Next));
        assert!(conflicts.end() && !conflicts.is_watching());
        conflicts.begin(at(20_000));
        assert!(!conflicts.end(), "it had not begun");
    }
}
