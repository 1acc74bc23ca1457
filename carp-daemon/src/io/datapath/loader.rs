//! Loads the kernel program when it is first wanted.

use super::entries::Entries;
use super::error::KernelError;
use super::layouts::OtherLayouts;
use super::pins::Pins;
use super::program::{Options, Program};
use crate::lock;

/// The kernel program, and where it is pinned.
pub struct Loader {
    options: Options,
    /// `None` before it is loaded.
    pub program: Option<Program>,
    pub pins: Pins,
    pub others: OtherLayouts,
}

impl Loader {
    /// Returns a loader that has loaded nothing yet, for a program with these options.
    #[must_use]
    pub const fn new(options: Options, pins: Pins, others: OtherLayouts) -> Self {
        Self {
            options,
            program: None,
            pins,
            others,
        }
    }

    /// Returns the kernel program and its pins. Loads it first if it is not loaded, and gives its maps to the entries.
    ///
    /// # Errors
    /// Returns what prevents loading, and what the operator can do.
    pub fn program(&mut self, entries: &mut Entries) -> Result<(&mut Program, &Pins), KernelError> {
        if self.program.is_none() {
            self.load(entries)?;
        }
        let program = self.program.as_mut();
        let program = program.ok_or(KernelError::Missing("the kernel program"))?;
        Ok((program, &self.pins))
    }

    fn load(&mut self, entries: &mut Entries) -> Result<(), KernelError> {
        self.pins = Pins::open(self.pins.outbox.clone());
        let (program, mut tables, slots) = Program::load(&self.options, &self.pins)?;
        // If it is unknown which daemons are alive, every entry stays.
        if let Ok(held) = lock::Held::look() {
            tables.remove_dead(|ifindex, vhid| held.serves(ifindex, vhid));
        }
        self.program = Some(program);
        entries.use_maps(tables, slots);
        self.adopt_addresses(entries);
        Ok(())
    }

    /// Fences in our tables what dead carpds of other layouts fence. Call it before a program of theirs is replaced.
    pub fn adopt_addresses(&self, entries: &mut Entries) {
        if let Some(tables) = &mut entries.tables {
            self.others.adopt_addresses(&self.pins, tables);
        }
    }
}
