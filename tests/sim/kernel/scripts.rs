//! The up and down scripts of one virtual host: one at a time; the latest request wins.

use carp_daemon::io::scripts::Which;

/// The running and the waiting script.
#[derive(Debug, Default)]
pub struct Scripts {
    running: Option<Which>,
    wanted: Option<Which>,
}

impl Scripts {
    /// Requests a script. Returns whether it starts now.
    pub fn ask(&mut self, which: Which) -> bool {
        match self.running {
            None => {
                self.running = Some(which);
                true
            }
            Some(running) => {
                self.wanted = (running != which).then_some(which);
                false
            }
        }
    }

    /// Ends the running script. Returns it, and whether another one starts now.
    pub fn end(&mut self) -> (Option<Which>, bool) {
        let ended = self.running.take();
        self.running = self.wanted.take();
        (ended, self.running.is_some())
    }

    /// Whether no script runs.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.running.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_waits_for_the_one_before_and_the_latest_wish_wins() {
        let mut scripts = Scripts::default();
        assert!(scripts.ask(Which::Up) && !scripts.ask(Which::Down));
        assert!(!scripts.ask(Which::Up), "it runs already");
        assert_eq!(scripts.end(), (Some(Which::Up), false));
        assert!(scripts.is_idle() && scripts.ask(Which::Down));
        assert!(!scripts.ask(Which::Up));
        assert_eq!(scripts.end(), (Some(Which::Down), true));
        assert_eq!(scripts.end(), (Some(Which::Up), false));
    }
}
