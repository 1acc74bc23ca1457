//! The hosts that may answer for the addresses, according to their kernels.

use std::time::Duration;

use super::super::duty;
use super::super::model::index;
use super::super::packet::{FAMILIES, Packet, read};
use super::super::scenario::{Member, STEP, interval};
use super::super::station::Body;
use super::super::watch::Violation;
use super::World;

/// Notes that a host advertises, which no host has heard yet.
pub(super) fn says(world: &mut World<'_>, from: usize, packet: &Packet) {
    let family = index(packet.family);
    for station in &mut world.stations {
        station.counted[family].remove(&packet.source);
    }
    world.stations[from].said[family] = Some((world.now, packet.payload.clone()));
}

/// Checks a host that becomes MASTER because of silence: no other host whose last advertisement reached it
/// answers for the addresses any more, however it was stopped.
pub(super) fn check_owners(world: &mut World<'_>, successor: usize) -> Result<(), Violation> {
    for number in 0..world.stations.len() {
        if number == successor || !was_heard_out(world, number, successor) {
            continue;
        }
        world.count("looked at an owner who was silent");
        let station = &world.stations[number];
        if station.owns_until > world.now {
            return Err(format!(
                "{} takes over while {} answers for the addresses, for {:?} more",
                world.stations[successor].name,
                station.name,
                station.owns_until.saturating_duration_since(world.now)
            ));
        }
        check_silence(world, number)?;
    }
    Ok(())
}

/// Checks that the kernel of a host whose process is stopped or dead answers no request for the addresses.
fn check_silence(world: &mut World<'_>, number: usize) -> Result<(), Violation> {
    let is_native = world.scenario.members[number].script.is_zero();
    let station = &mut world.stations[number];
    if !station.hung && !matches!(station.body, Body::Dead) {
        return Ok(());
    }
    let name = station.name.clone();
    let Some(machine) = station.machine() else {
        return Ok(());
    };
    duty::check_succeeded(machine, &world.scenario.group, is_native, world.now)
        .map_err(|what| format!("{name}: {what}"))?;
    world.count("looked at whether a predecessor answers");
    Ok(())
}

/// Whether the last advertisement that the host sent as MASTER counted for the other one, in every family, and
/// the other one is patient enough: its master-down time is no shorter than the time for which an advertisement
/// makes its sender the owner.
fn was_heard_out(world: &World<'_>, number: usize, by: usize) -> bool {
    let (member, station) = (&world.scenario.members[number], &world.stations[number]);
    let families = FAMILIES
        .into_iter()
        .filter(|family| world.scenario.group.uses(*family));
    let mut last = None;
    for family in families.map(index) {
        let Some((at, payload)) = &station.said[family] else {
            return false;
        };
        let counted = world.stations[by].counted[family].get(&member.sources[family]);
        let is_of_this_reign = *at >= station.reigns_since;
        if counted != Some(payload) || !is_of_this_reign || last.is_some_and(|last| last != at) {
            return false;
        }
        last = Some(at);
    }
    let payload = station.said.iter().flatten().next();
    let Some(ad) = payload.and_then(|(_, payload)| read(payload)) else {
        return false;
    };
    let patience = world.scenario.members[by].master_down();
    member.is_carpd() && worth(member, interval(ad.advbase, ad.advskew)) <= patience
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
