//! What does not work on a host.

/// What is broken at present.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sabotage {
    /// Orders fail with this error.
    pub orders: Option<i32>,
    /// Programs and sockets cannot be attached.
    pub attaching: bool,
    /// The tables of the program have no room.
    pub tables: bool,
    /// The device refuses to send.
    pub sending: bool,
    /// Up scripts fail.
    pub scripts: bool,
}

impl Sabotage {
    /// Whether carpd may be unable to remove an address.
    #[must_use]
    pub const fn keeps_addresses(&self) -> bool {
        self.orders.is_some() || self.attaching
    }
}
