//! The preconditions of a virtual host for taking part in the election.

use super::context::CoreContext;
use crate::proto::outlook::Lack;
use crate::proto::{DatapathState, LinkState};

/// The link and the kernel side, as they were last reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    pub(super) link: LinkState,
    pub(super) datapath: DatapathState,
    /// After [`Input::Shutdown`](crate::proto::Input::Shutdown) the host does not start again.
    pub(super) is_stopped: bool,
}

impl Conditions {
    /// Creates the conditions of a host that was told nothing yet.
    pub(super) const fn new() -> Self {
        Self {
            link: LinkState::Down,
            datapath: DatapathState::Works,
            is_stopped: false,
        }
    }

    /// Returns the first thing that is lacking.
    pub(super) fn lack(self, cx: &CoreContext) -> Option<Lack> {
        if self.is_stopped {
            Some(Lack::Stopped)
        } else if self.link == LinkState::Down {
            Some(Lack::Link)
        } else if self.datapath == DatapathState::Refuses {
            Some(Lack::Datapath)
        } else if cx.active_families().next().is_none() {
            Some(Lack::Source)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, settings};
    use super::*;
    use crate::units::{Family, Profile};

    #[test]
    fn missing_conditions_are_named_in_order() {
        let mut cx = context(settings(Profile::Ucarp));
        let source = cx.sources[Family::Inet].take();
        let mut conditions = Conditions {
            datapath: DatapathState::Refuses,
            ..Conditions::new()
        };
        assert_eq!(conditions.lack(&cx), Some(Lack::Link));
        conditions.link = LinkState::Up;
        assert_eq!(conditions.lack(&cx), Some(Lack::Datapath));
        conditions.datapath = DatapathState::Works;
        assert_eq!(conditions.lack(&cx), Some(Lack::Source));
        cx.sources[Family::Inet] = source;
        assert_eq!(conditions.lack(&cx), None);
        conditions.is_stopped = true;
        assert_eq!(conditions.lack(&cx), Some(Lack::Stopped));
    }
}
