//! The order of a transition's actions.

use carp_common::proto::Action;
use carp_common::units::State;

use super::Violation;

/// Whether a transition's actions come in the order that peers and clients must see.
///
/// # Errors
/// Returns the order in which they came.
pub fn check_order(from: State, to: State, actions: &[Action]) -> Result<(), Violation> {
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
    let datapath = place(|action| matches!(action, Action::ProgramDatapath(_)));
    let claim = place(|action| matches!(action, Action::ClaimAddresses));
    let release = place(|action| matches!(action, Action::ReleaseAddresses));
    let send = place(|action| matches!(action, Action::SendAdvertisement { .. }));
    let announce = place(|action| matches!(action, Action::Announce(_)));
    let ordered = if to == State::Master {
        // Datapath programmed, addresses claimed, advertisement sent, addresses announced.
        datapath.is_some()
            && datapath < claim
            && claim < send
            && send < announce
            && release.is_none()
    } else if from == State::Master {
        release.is_some() && claim.is_none() && announce.is_none()
    } else {
        claim.is_none() && send.is_none() && announce.is_none()
    };
    if ordered {
        Ok(())
    } else {
        Err(format!("{from} -> {to} in this order: {actions:?}"))
    }
}
