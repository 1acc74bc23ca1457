//! The requests of processes, and their scripts.

use std::net::IpAddr;

use carp_common::proto::Reason;
use carp_common::time::Instant;
use carp_common::units::{Family, State};
use carp_daemon::engine::registry::InstanceId;

use super::super::bare;
use super::super::machine::Request;
use super::super::model::index;
use super::super::station::Body;
use super::super::watch::Violation;
use super::mishaps::RESTORED_AT_LAST;
use super::{Event, World};

impl World<'_> {
    /// Notes until when the process has nothing left to do.
    pub(super) fn sleep(&mut self, number: usize, until: Option<Instant>) {
        if let Some(until) = until {
            let late = self.latency();
            self.wake(number, until + late);
        }
    }

    /// Carries out the requests of a process, and traces what it says.
    pub(super) fn take_requests(&mut self, number: usize) {
        let Some(machine) = self.stations[number].machine() else {
            return;
        };
        let requests = std::mem::take(&mut machine.requests);
        self.trace.absorb(&mut machine.trace);
        for request in requests {
            if let Err(what) = self.carry_out(number, request) {
                self.violation.get_or_insert(what);
            }
        }
        self.expect_ends(number);
    }

    pub(super) fn carry_out(&mut self, number: usize, request: Request) -> Result<(), Violation> {
        let main = self.scenario.group.vhid;
        match request {
            Request::Transmit(packet) => self.transmit(number, packet),
            Request::Refused(packet) if packet.payload.get(1) != Some(&main) => {}
            Request::Refused(packet) => self.remember(number, packet.payload, false),
            Request::ScriptStarted(instance) => self.script_starts(number, Some(instance)),
            Request::OrdersGiven => self.give_orders(number),
            Request::Announced(address) if !self.scenario.group.has(address) => {}
            Request::Announced(address) => {
                let family = match address {
                    IpAddr::V4(_) => Family::Inet,
                    IpAddr::V6(_) => Family::Inet6,
                };
                self.announced(number, family);
            }
            Request::Overflowed { was_stopped } => self.overflowed(was_stopped),
            Request::Became(vhid, state, _) if vhid.get() != main => {
                self.count(format!("the second became {state}"));
            }
            Request::Became(_, state, reason) => self.became(number, state, reason)?,
            Request::Demoted => {
                self.calm.disturb(self.now);
                let station = &mut self.stations[number];
                station.repaired_by = station.repaired_by.max(self.now + RESTORED_AT_LAST);
            }
            Request::Programmed(vhid, _) if vhid.get() != main => {}
            Request::Programmed(_, standing) => {
                self.stations[number].owns_until = standing.owns_until;
            }
            Request::StaysAway(hold) => self.calm.disturb(self.now + hold),
        }
        Ok(())
    }

    pub(super) fn carry_out_bare(
        &mut self,
        number: usize,
        request: bare::Request,
    ) -> Result<(), Violation> {
        match request {
            bare::Request::Transmit(packet) => self.transmit(number, packet),
            bare::Request::Refused(packet) => self.remember(number, packet.payload, false),
            bare::Request::ScriptStarted => self.script_starts(number, None),
            bare::Request::Announced(family) => self.announced(number, family),
            bare::Request::Overflowed { was_stopped } => self.overflowed(was_stopped),
            bare::Request::Became(state, reason) => self.became(number, state, reason)?,
            bare::Request::Programmed(standing) => {
                self.stations[number].owns_until = standing.owns_until;
            }
            bare::Request::StaysAway(hold) => self.calm.disturb(self.now + hold),
            bare::Request::Exited => {
                let station = &mut self.stations[number];
                self.trace.note(self.now, &station.name, || "exits".into());
                station.die();
            }
        }
        Ok(())
    }

    pub(super) fn announced(&mut self, number: usize, family: Family) {
        self.stations[number].announced_at[index(family)] = Some(self.now);
        self.announcements.push((self.now, number));
    }

    pub(super) fn overflowed(&mut self, was_stopped: bool) {
        self.count(if was_stopped {
            "lost packets while hung"
        } else {
            "lost packets while running"
        });
        self.calm.packets_are_lost(self.now);
    }

    pub(super) fn became(
        &mut self,
        number: usize,
        state: State,
        reason: Reason,
    ) -> Result<(), Violation> {
        if reason == Reason::MasterTimedOut {
            self.check_owners(number)?;
            self.calm.asks(self.now, number, &self.stations);
        }
        self.stations[number].seen = state;
        self.transitions.push((self.now, number, state));
        if state == State::Master {
            self.new_masters.push(number);
        }
        self.count(format!("carpd became {state}"));
        Ok(())
    }

    pub(super) fn script_starts(&mut self, station: usize, instance: Option<InstanceId>) {
        let end = self.now + self.scenario.members[station].script;
        let incarnation = self.stations[station].incarnation;
        self.push(
            end,
            Event::ScriptEnds {
                station,
                incarnation,
                instance,
            },
        );
    }

    pub(super) fn script_ends(
        &mut self,
        number: usize,
        incarnation: u32,
        instance: Option<InstanceId>,
    ) {
        let station = &mut self.stations[number];
        if station.incarnation != incarnation {
            return;
        }
        let another = match (&mut station.body, instance) {
            (Body::Carpd(host), Some(id)) => {
                host.machine().advance(self.now);
                host.end_script(id)
            }
            (Body::Bare(host), _) => host.script_ended(),
            (Body::Carpd(_) | Body::Model(_) | Body::Dead, _) => return,
        };
        self.wake_soon(number);
        if another {
            self.script_starts(number, instance);
        }
    }
}
