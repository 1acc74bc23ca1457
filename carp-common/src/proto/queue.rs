//! The queue of actions that the daemon has yet to carry out.

use alloc::collections::VecDeque;

use super::Action;

/// The most actions for one input or timeout: those of a takeover in both families (report, datapath, claim, two
/// advertisements, two announcements) and a notice.
pub(super) const ACTIONS_MAX: usize = 8;

/// A first-in, first-out queue. It allocates once if it is drained after every input.
#[derive(Debug)]
pub(super) struct ActionQueue {
    actions: VecDeque<Action>,
    /// Number of actions pushed since [`ActionQueue::begin`].
    pushed: usize,
}

impl ActionQueue {
    pub(super) fn new() -> Self {
        Self {
            actions: VecDeque::with_capacity(ACTIONS_MAX),
            pushed: 0,
        }
    }

    /// Begins the count of a new input, to which the bound applies.
    pub(super) fn begin(&mut self) {
        self.pushed = 0;
    }

    pub(super) fn push(&mut self, action: Action) {
        self.pushed += 1;
        debug_assert!(
            self.pushed <= ACTIONS_MAX,
            "more actions for one input than there can be: {:?}",
            self.actions
        );
        self.actions.push_back(action);
    }

    pub(super) fn pop(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
