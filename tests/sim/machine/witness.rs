//! The hooks through which the checks see the virtual hosts of the engine.

use carp_common::proto::{Action, Command, DemotionCause, Input, VirtualHost};
use carp_common::units::Vhid;
use carp_daemon::config::VhostConfig;
use carp_daemon::engine::registry::InstanceId;

use super::super::kernel::scripts::Scripts;
use super::super::watch::{Violation, Watch};
use super::others::host_prefix;
use super::{Machine, Request, Seen};

pub fn observe(
    machine: &mut Machine,
    id: InstanceId,
    look: impl FnOnce(&mut Watch) -> Result<(), Violation>,
) {
    if let Some(seen) = machine.seen.get_mut(&id)
        && let Err(what) = look(&mut seen.watch)
    {
        machine.violation.get_or_insert(what);
    }
}

/// Returns the prefix of lines about a virtual host.
pub fn name_of(machine: &Machine, id: InstanceId) -> String {
    let vhid = machine.seen.get(&id).map(|seen| seen.watch.vhid());
    let first = machine.groups.first().map(|group| group.vhid);
    match vhid.filter(|_| machine.trace.is_wanted() && vhid != first) {
        Some(_) => format!("{} second", machine.name),
        None => machine.name.clone(),
    }
}

pub fn told(machine: &mut Machine, id: InstanceId, input: &Input<'_>) {
    let now = machine.now;
    machine.touched.insert(id);
    if !matches!(input, Input::Advertisement { .. }) {
        let name = name_of(machine, id);
        machine.trace.note(now, &name, || format!("{input:?}"));
    }
    if let Input::Command(Command::StepDown { hold }) = *input {
        machine.requests.push(Request::StaysAway(hold));
    }
    if let Input::DemotionChanged { cause, .. } = input
        && *cause != DemotionCause::Administrator
    {
        machine.requests.push(Request::Demoted);
    }
    observe(machine, id, |watch| watch.told(now, input));
}

pub fn decided(machine: &mut Machine, id: InstanceId, action: &Action) {
    let now = machine.now;
    let name = name_of(machine, id);
    machine.trace.action(now, &name, action);
    let vhid = machine.seen.get(&id).map(|seen| seen.watch.vhid());
    if let Some(vhid) = vhid.and_then(Vhid::new) {
        if let Action::ProgramDatapath(standing) = action {
            machine.requests.push(Request::Programmed(vhid, *standing));
        }
        if let Action::Report(change) = action {
            machine
                .requests
                .push(Request::Became(vhid, change.to, change.reason));
        }
    }
    observe(machine, id, |watch| watch.decided(now, action));
}

pub fn settled(machine: &mut Machine, id: InstanceId, core: &VirtualHost) {
    let now = machine.now;
    observe(machine, id, |watch| watch.judged(now, core));
}

pub fn enlist_seen(machine: &mut Machine, id: InstanceId, config: &VhostConfig) {
    let vhid = config.election.vhid.get();
    let Some(group) = machine.groups.iter().find(|group| group.vhid == vhid) else {
        return;
    };
    // The virtual host whose place it takes may still be there.
    let mut before = machine.seen.values_mut();
    let before = before.find(|seen| seen.watch.vhid() == vhid);
    let before = before.map(|seen| seen.watch.take_sent());
    let mut sent = before
        .or_else(|| machine.sent.remove(&vhid))
        .unwrap_or_default();
    sent.restart(config.election.strict_counter);
    let watch = Watch::new(&config.election, group, machine.sources, sent, machine.now);
    // With a shorter prefix, the kernel would remove addresses of one script together with those of another.
    let addresses = config.addresses.iter();
    let addresses = addresses.map(|it| (it.address, host_prefix(it.address)));
    let scripts = config.scripts.up.is_some().then(Scripts::default);
    let seen = Seen {
        watch,
        addresses: addresses.collect(),
        scripts,
        is_meddled_with: config
            .addresses
            .iter()
            .any(|it| machine.namespace.has(it.address)),
    };
    machine.seen.insert(id, seen);
}

/// Notes that a virtual host was let go. Its scripts must have ended.
pub fn dismissed(machine: &mut Machine, id: InstanceId) {
    let Some(mut seen) = machine.seen.remove(&id) else {
        return;
    };
    let sent = seen.watch.take_sent();
    machine.sent.insert(seen.watch.vhid(), sent);
    if seen.scripts.as_ref().is_some_and(|it| !it.is_idle()) {
        let what = "let a virtual host go while its script runs";
        machine.violation.get_or_insert(what.to_owned());
    }
}
