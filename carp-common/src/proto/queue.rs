//! Actions on their way out.

use alloc::collections::VecDeque;

use super::Action;

/// Most actions that one input or timeout leads to: a take-over in both families (report, datapath, claim, two
/// advertisements, two announcements) and a notice.
pub(super) const ACTIONS_MAX: usize = 8;

/// First in, first out. Allocates once, as long as it is drained after every input.
#[derive(Debug)]
pub(super) struct ActionQueue {
    actions: VecDeque<Action>,
    /// Pushed since [`ActionQueue::begin`].
    pushed: usize,
}

impl ActionQueue {
    pub(super) fn new() -> Self {
        Self {
            actions: VecDeque::with_capacity(ACTIONS_MAX),
            pushed: 0,
        }
    }

    /// A new input: the bound applies from here.
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
