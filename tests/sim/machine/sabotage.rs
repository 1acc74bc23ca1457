//! The present faults of a host.

/// The present faults of a host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sabotage {
    /// Orders fail with this error.
    pub orders: Option<i32>,
    /// Another process holds the kernel's lock for links, so orders and questions take too long.
    pub is_slow: bool,
    /// Links and addresses cannot be listed.
    pub lists: bool,
    /// Another process holds the locks of the virtual hosts.
    pub locks: bool,
    /// Programs and sockets cannot be attached.
    pub attaching: bool,
    /// The tables of the program have no room for another entry.
    pub tables: bool,
    /// The tables of the program refuse every change of what is there, except to remove an entry.
    pub changes: bool,
    /// The tables of the program refuse to remove an entry.
    pub removals: bool,
    /// The device refuses to send.
    pub sending: bool,
    /// Up scripts fail.
    pub scripts: bool,
}

impl Sabotage {
    /// Whether carpd may be unable to remove an address.
    #[must_use]
    pub const fn keeps_addresses(&self) -> bool {
        self.orders.is_some() || self.is_slow || self.lists || self.locks || self.attaching
    }

    /// Whether a MASTER may be unable to restore an address.
    #[must_use]
    pub const fn prevents_repair(&self) -> bool {
        self.orders.is_some() || self.is_slow || self.lists
    }

    /// Whether a host may be unable to serve or to hear, although it has a network.
    #[must_use]
    pub const fn troubles(&self) -> bool {
        self.attaching || self.tables || self.changes || self.locks || self.lists || self.is_slow
    }
}
