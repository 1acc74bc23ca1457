//! Which hosts may answer for the addresses, as the kernels know it.

use std::time::Duration;

use super::super::duty;
use super::super::model::index;
use super::super::packet::{Packet, read};
use super::super::scenario::{Member, STEP, interval};
use super::super::station::Body;
use super::super::watch::Violation;
use super::{FAMILIES, World};

impl World<'_> {
    /// Notes that a host advertises, which no host has heard yet.
    pub(super) fn says(&mut self, from: usize, packet: &Packet) {
        let family = index(packet.family);
        for station in &mut self.stations {
            station.counted[family].remove(&packet.source);
        }
        self.stations[from].said[family] = Some((self.now, packet.payload.clone()));
    }

    /// Checks a host that becomes MASTER because of silence: no other host whose last advertisement reached it
    /// answers for the addresses any more, however it was stopped.
    pub(super) fn check_owners(&mut self, successor: usize) -> Result<(), Violation> {
        for number in 0..self.stations.len() {
            if number == successor || !self.was_heard_out(number, successor) {
                continue;
            }
            self.count("looked at an owner who was silent");
            let station = &self.stations[number];
            if station.owns_until > self.now {
                return Err(format!(
                    "{} takes over while {} answers for the addresses, for {:?} more",
                    self.stations[successor].name,
                    station.name,
                    station.owns_until.saturating_duration_since(self.now)
                ));
            }
            self.check_silence(number)?;
        }
        Ok(())
    }

    /// Checks that the kernel of a host whose process is stopped or dead answers no request for the addresses.
    fn check_silence(&mut self, number: usize) -> Result<(), Violation> {
        let is_native = self.scenario.members[number].script.is_zero();
        let station = &mut self.stations[number];
        if !station.hung && !matches!(station.body, Body::Dead) {
            return Ok(());
        }
        let name = station.name.clone();
        let Some(machine) = station.machine() else {
            return Ok(());
        };
        duty::check_succeeded(machine, &self.scenario.group, is_native, self.now)
            .map_err(|what| format!("{name}: {what}"))?;
        self.count("looked at whether a predecessor answers");
        Ok(())
    }

    /// Whether the last advertisement that the host sent as MASTER counted for the other one, in every family, and
    /// the other one is patient enough: its master-down time is no shorter than the time for which an advertisement
    /// makes its sender the owner.
    fn was_heard_out(&self, number: usize, by: usize) -> bool {
        let (member, station) = (&self.scenario.members[number], &self.stations[number]);
        let families = FAMILIES
            .into_iter()
            .filter(|family| self.scenario.group.uses(*family));
        let mut last = None;
        for family in families.map(index) {
            let Some((at, payload)) = &station.said[family] else {
                return false;
            };
            let counted = self.stations[by].counted[family].get(&member.sources[family]);
            let is_of_this_reign = *at >= station.reigns_since;
            if counted != Some(payload) || !is_of_this_reign || last.is_some_and(|last| last != at)
            {
                return false;
            }
            last = Some(at);
        }
        let payload = station.said.iter().flatten().next();
        let Some(ad) = payload.and_then(|(_, payload)| read(payload)) else {
            return false;
        };
        let patience = self.scenario.members[by].master_down();
        member.is_carpd() && worth(member, interval(ad.advbase, ad.advskew)) <= patience
    }
}

/// Returns how long, at most, an advertisement with this interval makes its sender the owner: half-way to the
/// earliest takeover by an equal host with advskew 0, or a quarter longer than the interval if that is later.
fn worth(member: &Member, interval: Duration) -> Duration {
    let takeover = match member.advbase {
        0 => STEP * u32::from(member.deadratio),
        advbase => Duration::from_secs(advbase.into()) * u32::from(member.deadratio),
    };
    ((interval + takeover) / 2).max(interval * 5 / 4)
}
