//! Lines of the election's events.

use std::time::Duration;

use carp_common::proto::conflict::Claimant;
use carp_common::proto::{Notice, Reason};
use carp_common::units::State;
use carp_common::wire::ether::MacAddress;

use super::*;
use crate::api::event::election::{Cause, Conflict, Election, Transmit, Unheard};

const STATION: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

fn becomes(to: State, cause: Cause, line: &'static str) -> Row {
    let from = State::Backup;
    of_vhost(Election::StateChanged { from, to, cause }, line)
}

fn claimed(claimant: Claimant, unheard: Option<Unheard>, line: &'static str) -> Row {
    let (address, station) = (ip("10.9.0.100"), STATION);
    let claim = Conflict::Claimed {
        address,
        station,
        claimant,
        unheard,
    };
    of_vhost(claim, line)
}

pub(super) fn rows() -> Vec<Row> {
    let source = ip("10.9.0.7");
    let address = ip("10.9.0.100");
    vec![
        becomes(
            State::Master,
            Cause::Election(Reason::MasterTimedOut),
            "[NOTICE] Switching to state: MASTER interface=eth0 vhid=7 from=BACKUP \
             reason=\"no MASTER was heard for the master-down time\"",
        ),
        becomes(
            State::Init,
            Cause::InterfaceGone,
            "[NOTICE] Switching to state: INIT interface=eth0 vhid=7 from=BACKUP reason=\"the interface is gone\"",
        ),
        of_vhost(
            Election::BadDigest { source },
            "[WARNING] Bad digest - eth0 id 7: advertisement from 10.9.0.7. Check vhid, password and virtual IP address",
        ),
        of_vhost(
            Election::EqualSettings { source },
            "[WARNING] eth0 id 7: 10.9.0.7 advertises the same advbase and advskew; give the hosts different ones, so that it \
             is clear who is to be MASTER",
        ),
        of_vhost(
            Election::OwnEcho { source },
            "[WARNING] eth0 id 7: our own advertisement came back (source 10.9.0.7): the switch, bond or bridge reflects it, \
             an attacker replays it, or another host sends from our address",
        ),
        of_vhost(
            Election::WorseMaster { source },
            "[WARNING] eth0 id 7: 10.9.0.7 is MASTER too, with a worse priority; we stay",
        ),
        of_vhost(
            Election::Tampered { source },
            "[WARNING] eth0 id 7: an advertisement from 10.9.0.7 was altered on its way or replayed with another priority",
        ),
        of_vhost(
            Election::StaleCounter { source },
            "[WARNING] eth0 id 7: replayed advertisement, source 10.9.0.7: its counter did not rise",
        ),
        of_vhost(
            Election::Unproven { source },
            "[WARNING] eth0 id 7: took over although 10.9.0.7 advertises: its counters were heard before, so it may be a \
             recording of a dead MASTER; a living one that is better answers, and this host yields",
        ),
        of_vhost(
            Election::Unanswered { source },
            "[WARNING] eth0 id 7: 10.9.0.7 claims to be a better MASTER and does not answer our advertisements: a recording, \
             or a host that does not hear this one",
        ),
        of_vhost(
            Election::SendingFails,
            "[ERROR] eth0 id 7: advertisements cannot be sent: advertising a worse priority until they can",
        ),
        of_vhost(
            Election::SendingWorks,
            "[INFO] eth0 id 7: advertisements can be sent again",
        ),
        of_vhost(
            Election::SteppingDownAlone {
                lasts: Duration::from_millis(6391),
            },
            "[WARNING] eth0 id 7: stepping down, although no other host was ever heard: unless one takes over, nobody has the \
             address for 6.4 s",
        ),
        of_vhost(
            Election::NobodyTookOver {
                lasted: Duration::from_millis(6391),
            },
            "[WARNING] eth0 id 7: nobody took over after SIGUSR2: no host had the address for 6.4 s",
        ),
        of_vhost(
            Election::NotServed { error: error() },
            "[ERROR] eth0 id 7: cannot be served, now that the virtual host before it has ended: No such device",
        ),
        of_vhost(
            Election::AddressStays,
            "[WARNING] eth0 id 7: the address stays on this host, although another one takes over now: nothing removes it \
             without --shutdown (-z)",
        ),
        of_vhost(
            Transmit::AdvertisementFailed { error: error() },
            "[DEBUG] eth0 id 7: failed to send an advertisement: No such device",
        ),
        of_vhost(
            Transmit::AnnouncementFailed {
                address,
                error: error(),
            },
            "[DEBUG] eth0 id 7: failed to announce 10.9.0.100: No such device",
        ),
        claimed(
            Claimant::CarpMaster,
            None,
            "[WARNING] eth0 id 7: 10.9.0.100 is also at 02:00:00:00:00:09: another CARP MASTER answers ARP for it",
        ),
        claimed(
            Claimant::Other,
            Some(Unheard::PortSecurity),
            "[WARNING] eth0 id 7: 10.9.0.100 is also at 02:00:00:00:00:09: another host answers ARP for it, and no \
             advertisement was ever heard here: if it runs CARP, a port on the way lets only the network card's own MAC \
             address pass, as VMware, Proxmox, Hyper-V and OpenStack do: give every host --own-mac, or allow forged MAC \
             addresses on its port",
        ),
        claimed(
            Claimant::Other,
            Some(Unheard::PeerWithoutOwnMac),
            "[WARNING] eth0 id 7: 10.9.0.100 is also at 02:00:00:00:00:09: another host answers ARP for it, and no \
             advertisement was ever heard here: if it runs CARP, give it --own-mac too, and see whether the port or a \
             firewall drops IP protocol 112",
        ),
        of_vhost(
            Conflict::ProbeFailed {
                address,
                error: error(),
            },
            "[DEBUG] eth0 id 7: failed to send an ARP request for 10.9.0.100: No such device",
        ),
        of_vhost(
            Conflict::ProbeFailed {
                address: ip("2001:db8::100"),
                error: error(),
            },
            "[DEBUG] eth0 id 7: failed to send a neighbour solicitation for 2001:db8::100: No such device",
        ),
        of_vhost(
            Conflict::Claimed {
                address: ip("2001:db8::100"),
                station: STATION,
                claimant: Claimant::Other,
                unheard: None,
            },
            "[WARNING] eth0 id 7: 2001:db8::100 is also at 02:00:00:00:00:09: another host answers neighbour discovery for \
             it",
        ),
        of_interface(
            Conflict::ReceiveFailed { error: error() },
            "[DEBUG] eth0: failed to receive ARP: No such device",
        ),
        of_interface(
            Conflict::WatchFailed { error: error() },
            "[WARNING] eth0: failed to watch ARP: No such device",
        ),
    ]
}

#[test]
fn every_cause_has_its_own_words() {
    let causes = [
        (Cause::InterfaceGone, "the interface is gone"),
        (
            Cause::PortOfAnother,
            "the interface is a port of another one",
        ),
        (Cause::FixedSourceGone, "the --srcip address is gone"),
        (
            Cause::Election(Reason::Started),
            "link and source address are there",
        ),
        (
            Cause::Election(Reason::MasterTimedOut),
            "no MASTER was heard for the master-down time",
        ),
        (
            Cause::Election(Reason::PreemptingWorseMaster),
            "preempting a worse MASTER",
        ),
        (
            Cause::Election(Reason::PreemptingMoreDemotedMaster),
            "preempting a more demoted MASTER",
        ),
        (
            Cause::Election(Reason::MasterWillTimeOut),
            "the MASTER bowed out or advertises too rarely",
        ),
        (
            Cause::Election(Reason::BetterMasterAdvertised),
            "a better MASTER advertised",
        ),
        (
            Cause::Election(Reason::TieLost),
            "an equal MASTER advertised and won the tie",
        ),
        (Cause::Election(Reason::Requested), "SIGUSR2 asked for it"),
        (Cause::Election(Reason::LinkDown), "link down"),
        (
            Cause::Election(Reason::DatapathRefused),
            "advertisements cannot be received",
        ),
        (
            Cause::Election(Reason::NoSourceAddress),
            "no source address",
        ),
        (Cause::Election(Reason::Shutdown), "shutting down"),
    ];
    for (given, text) in causes {
        assert_eq!(cause(given), text);
    }
}

#[test]
fn each_notice_of_the_core_is_an_event_of_its_own() {
    let source = ip("10.9.0.7");
    let suppressed = 5;
    for (notice, name, left_out) in [
        (Notice::BadDigest { source, suppressed }, "bad-digest", 5),
        (Notice::EqualSettings { source }, "equal-settings", 0),
        (Notice::OwnEcho { source, suppressed }, "own-echo", 5),
        (
            Notice::WorseMasterAdvertised { source, suppressed },
            "worse-master",
            5,
        ),
        (
            Notice::Tampered { source, suppressed },
            "advertisement-tampered",
            5,
        ),
        (
            Notice::StaleCounter { source, suppressed },
            "stale-counter",
            5,
        ),
        (
            Notice::Unproven { source, suppressed },
            "master-unproven",
            5,
        ),
        (
            Notice::Unanswered { source, suppressed },
            "challenge-unanswered",
            5,
        ),
        (Notice::Suppressed, "sending-fails", 0),
        (Notice::Unsuppressed, "sending-works", 0),
    ] {
        let event = Event::of_notice(vhost(), notice);
        assert_eq!((event.what.name(), event.suppressed), (name, left_out));
    }
}
